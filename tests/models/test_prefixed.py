"""A model behind a prefix is the model on prompts that have it: to the scorer, the sampler, and as a teacher."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses, sampling, scoring, stages
from alignjax.config import ConfigError, fn
from alignjax.models import prefixed_model
from alignjax.sampling import combined_model
from alignjax.train.run_record import config_json
from alignjax.types import Batch
from tests.sampling.test_generate import PROMPTS, STOP, TOKENS
from tests.support.tiny import VOCAB, as_jax, model, parameters, ragged

NETWORK, PREFIX = model(), (7, 3, 11)
PARAMS = parameters(NETWORK, 0)
BEHIND = prefixed_model(NETWORK, PREFIX)
SAMPLES = fn(stages.generate, n=3, max_tokens=TOKENS, stop=STOP)


def told(batch: Batch) -> Batch:
    """The batch with the prefix written into its prompts, by hand."""
    kept = zip(*(np.asarray(batch.need(name, of="a test")) for name in ("prompt", "prompt_valid")), strict=True)
    rows = [tokens[on].tolist() for tokens, on in kept]
    length = len(PREFIX) + max(map(len, rows))
    prompt, valid = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), bool)
    for number, row in enumerate(rows):
        whole = [row[0], *PREFIX, *row[1:]]
        prompt[number, -len(whole) :], valid[number, -len(whole) :] = whole, True
    return batch.replace(prompt=jnp.asarray(prompt), prompt_valid=jnp.asarray(valid))


@jax.jit
def _scored(params: Any, batch: Batch, by_hand: Batch) -> Any:
    context = scoring.context({"behind": BEHIND, "plain": NETWORK}, {"behind": params, "plain": params})
    return [context.score(*asked) for asked in (("behind", batch), ("plain", by_hand), ("plain", batch))]


@jax.jit
def _drawn(params: Any, batch: Batch, by_hand: Batch) -> tuple[Batch, Batch]:
    context = scoring.context({"behind": BEHIND, "plain": NETWORK}, {"behind": params, "plain": params})
    of = [fn(stages.generate, n=3, max_tokens=TOKENS, stop=STOP, behaviour=fn(sampling.own, stream=name))
          for name in ("behind", "plain")]  # fmt: skip
    return of[0](context, batch, jax.random.key(0))[0], of[1](context, by_hand, jax.random.key(0))[0]


def test_it_scores_and_samples_as_on_prompts_with_the_prefix() -> None:
    assert prefixed_model(NETWORK, PREFIX) is BEHIND
    batch = as_jax(ragged(seed=3))
    found, expected, without = (next(iter(one.values())) for one in _scored(PARAMS, batch, told(batch)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - without).max() > 0.3, "the prefix says something"
    drawn, by_hand = _drawn(PARAMS, PROMPTS, told(PROMPTS))
    np.testing.assert_array_equal(drawn.tokens, by_hand.tokens)
    np.testing.assert_allclose(drawn.logps["behind"], by_hand.logps["plain"], atol=1e-5)


def test_experts_that_were_kept_are_those_of_the_prompt_behind_the_prefix() -> None:
    """Scored with the experts of the sampler, whether the prompt's are known or left to routers."""
    network = model(experts=4, experts_per_token=2)
    behind = prefixed_model(network, PREFIX)

    @jax.jit
    def both(params: Any, batch: Batch) -> Any:
        context = scoring.context({"policy": behind}, {"policy": params})
        drawn = SAMPLES.replace(keep_experts=True)(context, batch, jax.random.key(0))[0]
        other = {name: (experts + 1) % 4 for name, experts in drawn.prompts.items()}
        of = [drawn, drawn.replace(prompts={}), drawn.replace(prompts=other)]
        return drawn, [context.score("policy", each)["policy"] for each in of]

    drawn, (kept, free, others) = both(parameters(network, 0), PROMPTS)
    np.testing.assert_allclose(kept, drawn.logps["policy"], atol=1e-5)
    np.testing.assert_allclose(free, kept, atol=1e-5)
    assert np.abs(others - kept).max() > 1e-3, "the prompt's experts are read"


def test_padding_on_the_right_is_where_the_state_is_looked_for() -> None:
    """Prompts that end before their row does: the next token is that behind their last."""
    turned = {name: PROMPTS.need(name, of="a test")[:, ::-1] for name in ("prompt", "prompt_valid")}
    prompts = PROMPTS.replace(**turned)
    drawn, by_hand = _drawn(PARAMS, prompts, told(prompts))
    np.testing.assert_array_equal(drawn.tokens, by_hand.tokens)


def test_what_a_student_learns_is_the_divergence_from_the_teacher_behind_the_prefix() -> None:
    """Context distillation: `gkd` against KLs over all next tokens, each scored as a completion of its own."""
    rows = len(PROMPTS.ids())
    every = jnp.broadcast_to(jnp.arange(VOCAB, dtype=jnp.int32)[None, :, None], (rows, VOCAB, 1))
    batch = PROMPTS.replace(tokens=every, valid=every >= 0, mask=jnp.ones(every.shape))
    found, _, without = (next(iter(one.values()))[..., 0] for one in _scored(PARAMS, batch, told(batch)))
    models = {"policy": NETWORK, "teacher": BEHIND}
    for divergence, q, p in (("forward", found, without), ("reverse", without, found)):
        loss = fn(losses.gkd, divergence=divergence)
        value = jax.jit(
            lambda params, loss=loss: loss(scoring.context(models, dict.fromkeys(models, params)), batch)[0]
        )
        np.testing.assert_allclose(value(PARAMS).value(), (np.exp(q) * (q - p)).sum(1).mean(), rtol=1e-4)


def test_records_and_caches_know_it_by_its_prefix() -> None:
    """A cache of log-probs is found by the JSON of the config; what makes a model anew from its config is refused."""
    lam = {name: combined_model(fn(sampling.dera, lam=lam), {"policy": NETWORK, "reference": NETWORK})
           for name, lam in (("one", 1.0), ("two", 2.0))}  # fmt: skip
    models = [NETWORK, BEHIND, prefixed_model(NETWORK, PREFIX[:2]), *lam.values()]
    assert len({json.dumps(config_json(each.config)) for each in models}) == len(models)
    assert all(each.config.vocab == VOCAB for each in models)
    context = scoring.context({"policy": BEHIND}, {"policy": PARAMS})
    with pytest.raises(ConfigError, match="is no transformer; leave `weights` out"):
        jax.eval_shape(lambda: SAMPLES.replace(weights="bfloat16")(context, PROMPTS, jax.random.key(0)))


def test_a_behavior_does_not_mix_prompts() -> None:
    whole = combined_model(fn(sampling.mixture, beta=0.3), {"policy": NETWORK, "reference": BEHIND})
    params = {"policy": {"policy": PARAMS, "reference": PARAMS}}
    with pytest.raises(ConfigError, match="has a prefix in front"):
        jax.eval_shape(
            lambda params: SAMPLES(scoring.context({"policy": whole}, params), PROMPTS, jax.random.key(0)), params
        )
