"""Sampling: its log-probs are the scorer's, its tokens depend on nothing they should not, and it ends as it should."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from alignjax import stages
from alignjax.config import ConfigError, fn
from alignjax.sampling import History, Stream, mixture
from alignjax.types import Batch
from tests.support.tiny import as_jax, context_of, model, parameters, ragged, scorer

NETWORK = model()
POLICY, REFERENCE = parameters(NETWORK, 0), parameters(NETWORK, 1)
PROMPTS = Batch(**{name: getattr(as_jax(ragged(seed=2)), name) for name in ("prompt", "prompt_valid", "example_id")})
TOKENS = 6
# Several stop tokens, so that some rows of a random policy stop and others do not.
STOP = (2, 5, 9)


def _sample(policy: Any, reference: Any, batch: Batch, key: Any, stage: Any) -> Batch:
    return stage(context_of(NETWORK, policy=policy, reference=reference), batch, key)[0]


_jitted = jax.jit(_sample)  # float hyper-parameters of the stage are arguments, so few programs serve all tests


def generate(
    batch: Batch = PROMPTS, *, seed: int = 0, policy: Any = None, reference: Any = None, **changes: Any
) -> Batch:
    stage = fn(stages.generate, **{"n": 3, "max_tokens": TOKENS, "stop": STOP, **changes})
    policy, reference = (POLICY if policy is None else policy), (REFERENCE if reference is None else reference)
    return _jitted(policy, reference, batch, jax.random.key(seed), stage)


def completions(batch: Batch) -> list[list[int]]:
    shown = np.where(np.asarray(batch.valid), np.asarray(batch.tokens), -1)
    return [[token for token in row if token >= 0] for row in shown.reshape(-1, shown.shape[-1]).tolist()]


@pytest.fixture(scope="module")
def sampled() -> Batch:
    return generate()


def test_log_probs_are_the_scorers(sampled: Batch) -> None:
    scores = scorer(NETWORK)(POLICY, sampled)
    assert float(jnp.abs(scores).max()) > 1
    np.testing.assert_allclose(sampled.logps["policy"], scores, atol=1e-5)
    np.testing.assert_allclose(sampled.logps["sampler"], sampled.logps["policy"], atol=1e-6)


def test_log_probs_are_the_scorers_in_bfloat16() -> None:
    network = model(dtype="bfloat16")
    stage = fn(stages.generate, n=3, max_tokens=TOKENS, stop=STOP)
    sampled, _ = jax.jit(lambda p, b: stage(context_of(network, policy=p), b, jax.random.key(0)))(POLICY, PROMPTS)
    np.testing.assert_allclose(sampled.logps["policy"], scorer(network)(POLICY, sampled), atol=0.1)


def test_windows_and_long_completions_agree_with_the_scorer() -> None:
    """Completions longer than the window, so that shared and own keys both fall out of it."""
    network = model(window=4)
    stage = fn(stages.generate, n=2, max_tokens=9, stop=())
    sampled, _ = jax.jit(lambda p, b: stage(context_of(network, policy=p), b, jax.random.key(0)))(POLICY, PROMPTS)
    assert bool(jnp.all(sampled.valid))
    np.testing.assert_allclose(sampled.logps["policy"], scorer(network)(POLICY, sampled), atol=1e-5)


def test_the_end_is_sampled_valid_and_learned(sampled: Batch) -> None:
    rows = completions(sampled)
    stopped = [row for row in rows if len(row) < TOKENS]
    assert stopped
    assert len(stopped) < len(rows)
    assert all(row[-1] in STOP for row in stopped)
    assert not any(token in STOP for row in rows for token in row[:-1])
    np.testing.assert_array_equal(sampled.mask, sampled.valid)
    valid = np.asarray(sampled.valid)
    assert np.all(valid == (np.arange(TOKENS) < valid.sum(-1, keepdims=True)))
    for name, logps in sampled.logps.items():
        assert np.all((np.asarray(logps) < 0) == valid), name
    assert not np.any(np.asarray(sampled.tokens)[~valid])


def test_without_stop_tokens_nothing_stops() -> None:
    assert bool(jnp.all(generate(stop=()).valid))


def test_the_loop_ends_when_every_row_has_stopped() -> None:
    """The number of turns, counted by a behaviour that calls back to the host."""
    turns: list[int] = []

    def counting(logits: Any, history: History, *, stream: str = "policy", forced: int = 2) -> Any:
        jax.debug.callback(lambda step: turns.append(int(step)), history.step)
        last = history.step >= 2
        return jnp.where(last & (jnp.arange(logits[stream].shape[-1]) != forced), -1e30, logits[stream])

    sampled = generate(max_tokens=50, stop=(2,), behaviour=fn(counting))
    jax.effects_barrier()
    assert sorted(turns) == [0, 1, 2]
    assert max(map(len, completions(sampled))) == 3


def test_top_1_is_temperature_0_is_greedy() -> None:
    one = generate(top_k=1, stop=())
    cold = generate(temperature=0.0, stop=())
    np.testing.assert_array_equal(one.tokens, cold.tokens)
    np.testing.assert_allclose(one.logps["sampler"], 0, atol=1e-6)
    np.testing.assert_allclose(one.logps["policy"], scorer(NETWORK)(POLICY, one), atol=1e-5)
    # Every other token in the place of a chosen one is less likely by the scorer.
    for slot in range(TOKENS):
        others = jnp.broadcast_to(one.tokens[:, :1], (4, 23, TOKENS)).at[..., slot].set(jnp.arange(23))
        scores = scorer(NETWORK)(POLICY, one.replace(tokens=others, valid=jnp.ones(others.shape, bool)))[..., slot]
        np.testing.assert_array_equal(scores.argmax(-1), one.tokens[:, 0, slot])


def test_truncation_changes_what_is_sampled_and_not_what_is_reported() -> None:
    sampled = generate(top_k=4, top_p=0.9, min_p=0.05)
    np.testing.assert_allclose(sampled.logps["policy"], scorer(NETWORK)(POLICY, sampled), atol=1e-5)
    valid = np.asarray(sampled.valid)
    assert np.all(np.asarray(sampled.logps["sampler"] - sampled.logps["policy"])[valid] > 0)


@pytest.mark.parametrize(("beta", "alone"), [(0.0, "policy"), (1.0, "reference")])
def test_the_ends_of_a_mixture(beta: float, alone: str, sampled: Batch) -> None:
    """beta = 0 samples the policy's tokens, 1 the reference's, token for token; both are scored either way."""
    mixed = generate(behaviour=fn(mixture, beta=beta))
    other = sampled if alone == "policy" else generate(policy=REFERENCE)
    np.testing.assert_array_equal(mixed.tokens, other.tokens)
    np.testing.assert_allclose(mixed.logps["sampler"], other.logps["sampler"], atol=1e-5)
    np.testing.assert_allclose(mixed.logps["policy"], scorer(NETWORK)(POLICY, mixed), atol=1e-5)
    np.testing.assert_allclose(mixed.logps["reference"], scorer(NETWORK)(REFERENCE, mixed), atol=1e-5)


def test_a_mixture_is_normalised_at_every_token() -> None:
    """sampler - ((1 - beta) policy + beta reference) is minus the log of a sum that Hoelder bounds by 1, and positive
    where the two differ. That a mixture is not a coin flip per sequence shows in its ratios."""
    beta = 0.4
    mixed = generate(behaviour=fn(mixture, beta=beta))
    policy, reference, sampler = (np.asarray(mixed.logps[name]) for name in ("policy", "reference", "sampler"))
    slack = (sampler - (1 - beta) * policy - beta * reference)[np.asarray(mixed.valid)]
    assert slack.min() > 1e-3
    same = generate(behaviour=fn(mixture, beta=beta), reference=POLICY)
    np.testing.assert_array_equal(same.tokens, generate().tokens)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_samples_follow_the_distribution(beta: float) -> None:
    """One prompt, two tokens of three possible ones: the frequency of every completion against the product of
    token-by-token mixtures, computed from the scorer."""
    prompt, count, allowed = PROMPTS.take(jnp.array([0])), 4000, jnp.array([2, 5, 7])

    def narrow(
        logits: Any, history: History, *, beta: float, policy: str = "policy", reference: str = "reference"
    ) -> Any:
        possible = jnp.isin(jnp.arange(23), allowed)
        return jnp.where(possible, mixture(logits, history, beta=beta), -1e30)

    sampled = generate(prompt, n=count, max_tokens=2, stop=(2,), behaviour=fn(narrow, beta=beta))
    every = [(2, 0)] + [(a, b) for a in (5, 7) for b in (2, 5, 7)]
    index = {completion: place for place, completion in enumerate(every)}
    seen = np.bincount([index[tuple(row)] for row in np.asarray(sampled.tokens[0]).tolist()], minlength=len(every))
    grid = jnp.array([[(a, b) for a in (2, 5, 7) for b in (2, 5, 7)]])
    one = prompt.replace(tokens=grid, valid=jnp.ones(grid.shape, bool))
    scores = {name: scorer(NETWORK)(params, one)[0] for name, params in (("p", POLICY), ("r", REFERENCE))}
    weight = np.asarray(jnp.exp((1 - beta) * scores["p"] + beta * scores["r"]), np.float64).reshape(3, 3, 2)
    first = weight[:, 0, 0] / weight[:, 0, 0].sum()
    second = weight[:, :, 1] / weight[:, :, 1].sum(-1, keepdims=True)
    expected = np.array([first[0], *(first[1:, None] * second[1:]).reshape(-1)])
    assert stats.chisquare(seen, expected * count).pvalue > 1e-3


def test_samples_depend_on_neither_the_batch_nor_its_order(sampled: Batch) -> None:
    order = jnp.array([2, 0, 3, 1])
    moved = generate(PROMPTS.take(order))
    np.testing.assert_array_equal(moved.tokens, sampled.tokens[order])
    some = generate(PROMPTS.take(jnp.array([3])))
    np.testing.assert_array_equal(some.tokens, sampled.tokens[3:])


def test_more_completions_leave_the_first_alone(sampled: Batch) -> None:
    np.testing.assert_array_equal(generate(n=5).tokens[:, :3], sampled.tokens)
    assert len({tuple(row) for row in completions(sampled)}) > 6


def test_another_key_or_example_gives_other_samples(sampled: Batch) -> None:
    assert np.any(generate(seed=1).tokens != sampled.tokens)
    assert np.any(generate(PROMPTS.replace(example_id=PROMPTS.example_id + 1)).tokens != sampled.tokens)


def test_a_second_generate_appends(sampled: Batch) -> None:
    """Opponents of another length after the first completions; only log-probs known for both are kept."""
    opponents = {"n": 1, "max_tokens": TOKENS + 2, "behaviour": fn(mixture, beta=1.0), "seed": 4}
    both = generate(sampled.with_logps(extra=sampled.logps["policy"]), **opponents)
    alone = generate(**opponents)
    assert both.tokens.shape == (4, 4, TOKENS + 2)
    np.testing.assert_array_equal(both.tokens[:, :3, :TOKENS], sampled.tokens)
    np.testing.assert_array_equal(both.tokens[:, 3:], alone.tokens)
    assert not np.any(both.valid[:, :3, TOKENS:])
    assert set(both.logps) == {"policy", "sampler"}
    np.testing.assert_allclose(both.logps["policy"], scorer(NETWORK)(POLICY, both), atol=1e-5)


def test_streams_of_another_view() -> None:
    """Contrastive prompts: the same role on two prompts, in lockstep."""
    other = as_jax(ragged(seed=5))
    view = Batch(prompt=other.prompt, prompt_valid=other.prompt_valid)
    streams = (Stream("policy", "policy"), Stream("reference", "policy", view="asked"))
    sampled = generate(PROMPTS.replace(views={"asked": view}), behaviour=fn(mixture, beta=0.5), streams=streams)
    asked = sampled.replace(prompt=view.prompt, prompt_valid=view.prompt_valid)
    np.testing.assert_allclose(sampled.logps["policy"], scorer(NETWORK)(POLICY, sampled), atol=1e-5)
    np.testing.assert_allclose(sampled.logps["reference"], scorer(NETWORK)(POLICY, asked), atol=1e-5)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"role 'refrence', which does not exist\. Did you mean 'reference'\?(\n|$)"):
        generate(behaviour=fn(mixture, beta=0.5, reference="refrence"))
    with pytest.raises(ConfigError, match="view 'askd'"):
        generate(streams=(Stream("policy", "policy", view="askd"),))
