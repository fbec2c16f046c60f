"""A behavior as a model: what it scores is what is sampled from, in lockstep and by the scorer, and by enumeration."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import games, sampling, scoring, stages
from alignjax.config import ConfigError, fn
from alignjax.sampling import Stream, combined_model
from alignjax.types import Batch
from tests.sampling.test_generate import PROMPTS, STOP, TOKENS
from tests.support.tiny import model, parameters

LARGE, SMALL = model(), model(width=8, layers=1)
PARAMS = {"policy": parameters(LARGE, 0), "expert": parameters(SMALL, 1), "anti_expert": parameters(SMALL, 2)}
MODELS = {"policy": LARGE, "expert": SMALL, "anti_expert": SMALL}


def test_it_scores_and_samples_as_the_behavior_does() -> None:
    """Of models of several sizes, with caches and without."""
    behaviour = fn(sampling.proxy_tuning, alpha=1.3)
    whole = combined_model(behaviour, MODELS)

    @jax.jit
    def both(params: Any, batch: Batch) -> tuple[Batch, Batch, jax.Array]:
        options = {"n": 3, "max_tokens": TOKENS, "stop": STOP}
        streams = scoring.context(MODELS, params)
        drawn, _ = stages.generate(streams, batch, jax.random.key(0), behaviour=behaviour, **options)
        one = scoring.context({"policy": whole}, {"policy": params})
        again, _ = stages.generate(one, batch, jax.random.key(0), **options)
        return drawn, again, one.score("policy", drawn)["policy"]

    drawn, again, scores = both(PARAMS, PROMPTS)
    np.testing.assert_array_equal(drawn.tokens, again.tokens)
    np.testing.assert_allclose(drawn.logps["sampler"], again.logps["policy"], atol=1e-5)
    np.testing.assert_allclose(drawn.logps["sampler"], scores, atol=1e-5)
    assert np.abs(drawn.logps["sampler"] - drawn.logps["policy"]).max() > 0.5


def test_of_tables_it_is_the_table_of_their_realignment(float64: None) -> None:
    game = games.sequence_game(0.3, seed=4, vocab=3, length=3)
    language, table = game.language, games.table_policy(game)
    one, other = jnp.asarray(np.random.default_rng(3).normal(size=(2, 1, language.prefixes, 3)))
    mixed = 1.5 * one - 0.5 * other
    whole = combined_model(fn(sampling.dera, lam=1.5), {"policy": table, "reference": table})
    tokens, valid = (jnp.asarray(part)[None] for part in language.strings)
    prompt = jnp.zeros((1, 1), jnp.int32)
    batch = Batch(prompt=prompt, prompt_valid=prompt == 0, tokens=tokens, valid=valid)
    params = {"dera": {"policy": {"logits": one}, "reference": {"logits": other}}, "mixed": {"logits": mixed}}
    context = scoring.context({"dera": whole, "mixed": table}, params)
    scores = {name: np.asarray(context.score(name, batch)[name]).sum(-1)[0] for name in params}
    np.testing.assert_allclose(scores["dera"], scores["mixed"], atol=1e-9)
    np.testing.assert_allclose(np.exp(scores["dera"]).sum(), 1, atol=1e-9)


def test_what_one_model_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="another view or head"):
        combined_model(fn(sampling.own), MODELS, streams=(Stream("policy", "policy", view="told"),))
    with pytest.raises(ConfigError, match="reads role 'expert', which has no model"):
        combined_model(fn(sampling.proxy_tuning, alpha=1.3), {"policy": LARGE})
    whole = combined_model(fn(sampling.pluralistic, streams=("expert", "anti_expert")), MODELS)
    with pytest.raises(ConfigError, match="looks back at the completion"):
        jax.eval_shape(
            lambda params: stages.generate(
                scoring.context({"policy": whole}, {"policy": params}), PROMPTS, jax.random.key(0), n=1, max_tokens=2,
                stop=STOP,
            ),
            PARAMS,
        )  # fmt: skip
