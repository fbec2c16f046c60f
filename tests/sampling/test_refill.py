"""Slots that are refilled: the samples of lockstep, in the turns that a queue takes."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import stages
from alignjax.config import ConfigError, fn
from alignjax.sampling import History, Stream, mixture
from alignjax.types import Batch, Metrics
from tests.support.tiny import as_jax, context_of, model, parameters, ragged, scorer

NETWORK = model(
    window=5, layers=1
)  # what has fallen out of a window, and what a slot holds of its last completion, is not seen
POLICY, REFERENCE = parameters(NETWORK, 0), parameters(NETWORK, 1)
VIEW = as_jax(ragged(seed=5))
PROMPTS = Batch(
    **{name: getattr(as_jax(ragged(seed=2)), name) for name in ("prompt", "prompt_valid", "example_id")},
    views={"asked": Batch(prompt=VIEW.prompt, prompt_valid=VIEW.prompt_valid)},
)
STOP = (2, 5, 9)


def _sample(policy: Any, reference: Any, batch: Batch, key: Any, stage: Any) -> tuple[Batch, Metrics]:
    return stage(context_of(NETWORK, policy=policy, reference=reference), batch, key)


_jitted = jax.jit(_sample)


def generate(batch: Batch = PROMPTS, *, seed: int = 0, **changes: Any) -> Batch:
    stage = fn(stages.generate, **{"n": 3, "max_tokens": 6, "stop": STOP, **changes})
    return _jitted(POLICY, REFERENCE, batch, jax.random.key(seed), stage)[0]


def assert_same(one: Batch, other: Batch) -> None:
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.valid, other.valid)
    assert one.logps.keys() == other.logps.keys()
    for name, logps in one.logps.items():
        np.testing.assert_allclose(logps, other.logps[name], atol=1e-5, err_msg=name)


def switching(logits: Any, history: History, *, first: str = "policy", then: str = "reference") -> Any:
    """Reads all of the history: from the second token on the other stream, and what was said before less likely."""
    vocabulary = jnp.arange(logits[first].shape[-1]).reshape(1, 1, 1, -1)
    said = jnp.any(history.tokens[..., None] == vocabulary, axis=-2)
    lag = sum(jnp.sum(value, axis=-1, keepdims=True) for value in history.logps.values())
    return jnp.where(history.step >= 1, logits[then], logits[first]) - said * (1 + 0.01 * jnp.abs(lag))


VIEWS = (Stream("policy", "policy"), Stream("reference", "policy", view="asked"))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"temperature": 0.0, "top_k": 3, "stop": tuple(range(2, 12))}, marks=pytest.mark.slow),
        {"behaviour": fn(mixture, beta=0.4), "temperature": 0.7, "top_p": 0.9, "min_p": 0.02},
        {"behaviour": fn(switching)},
        {"behaviour": fn(mixture, beta=0.4), "streams": VIEWS, "stop": ()},
    ],
    ids=["greedy", "mixture", "history", "views"],
)
def test_refilled_slots_sample_what_lockstep_samples(changes: dict[str, Any]) -> None:
    plain, refilled = generate(**changes), generate(slots=5, **changes)
    assert_same(refilled, plain)
    if changes.get("stop") != ():
        lengths = np.asarray(plain.valid).sum(-1)
        assert lengths.min() < lengths.max()


@pytest.mark.parametrize("slots", [1, pytest.param(11, marks=pytest.mark.slow)])
def test_any_number_of_slots_and_any_keys(slots: int) -> None:
    """One slot is sampling one completion after the other."""
    plain = generate(seed=1)
    assert_same(generate(seed=1, slots=slots), plain)
    np.testing.assert_allclose(plain.logps["policy"], scorer(NETWORK)(POLICY, plain), atol=1e-5)


def test_turns_are_those_of_a_queue() -> None:
    """The number of turns against a queue played by hand from the lengths."""
    turns: list[int] = []

    def counting(logits: Any, history: History, *, stream: str = "policy") -> Any:
        jax.debug.callback(lambda step: turns.append(step.size), history.step)
        return logits[stream]

    refilled = generate(slots=3, behaviour=fn(counting), seed=2)
    jax.effects_barrier()
    lengths = np.asarray(refilled.valid).sum(-1).reshape(-1).tolist()
    ready = [0, 0, 0]  # when each slot is free again
    for length in lengths:
        place = ready.index(min(ready))
        ready[place] += length
    assert turns == [3] * max(ready)
    assert max(ready) < 4 * max(lengths)  # fewer turns than four batches of three in lockstep at their worst


@pytest.mark.usefixtures("full_compile")
@pytest.mark.parametrize("slots", [None, 3])
def test_a_step_copies_no_cache(slots: int | None) -> None:
    """In the compiled program, which is what counts: XLA is free to copy a buffer that is written and read."""
    stage = fn(stages.generate, n=1, max_tokens=37, stop=(2,), slots=slots)
    text = _jitted.lower(POLICY, REFERENCE, PROMPTS, jax.random.key(0), stage).compile().as_text()
    turn = max(re.findall(r"(?ms)^%?\S+ \(.*?\{$(.*?)^\}", text), key=lambda body: body.count(" dot("))
    assert "37,4]" in turn  # the caches are there
    assert not re.findall(r"= f32\[[\d,]*37,4\]\S* copy\(.*", turn)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"slots is 0"):
        generate(slots=0)
    few = PROMPTS.replace(views={"asked": jax.tree.map(lambda leaf: leaf[:2], PROMPTS.views["asked"])})
    with pytest.raises(ConfigError, match="view 'asked' has 2 prompts, the batch 4"):
        generate(few, slots=5, behaviour=fn(mixture, beta=0.4), streams=VIEWS)
