"""A table is a model: what it scores is what it samples, through the stages that language models go through."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import games, losses, stages
from alignjax.config import ConfigError, fn
from alignjax.models.kv_cache import share
from alignjax.sampling import mixture, own
from alignjax.types import Batch
from tests.support.tiny import as_jax, context_of

LANGUAGE = games.Language(3, 2, (2,))  # c, ac, bc, aa, ab, ba, bb


def everything(language: games.Language, contexts: int) -> Batch:
    """Every string as a completion of every context."""
    tokens, valid = (np.repeat(part[None], contexts, axis=0) for part in language.strings)
    return as_jax(
        Batch(
            prompt=np.arange(contexts, dtype=np.int32)[:, None], prompt_valid=np.ones((contexts, 1), bool),
            tokens=tokens, valid=valid, mask=valid.astype(np.float32),
        )
    )  # fmt: skip


def table(game: games.TabularGame, seed: int) -> Any:
    """Params far from uniform, float64 where that is on."""
    shape = jax.eval_shape(games.table_policy(game).init, jax.random.key(0))["logits"].shape
    return {"logits": jnp.asarray(1.5 * np.random.default_rng(seed).normal(size=shape), float)}


@pytest.fixture(params=[1, 3], ids=["one context", "three contexts"])
def game(request: Any, float64: None) -> games.TabularGame:
    return games.sequence_game(0.3, seed=2, vocab=3, length=3, contexts=request.param)


@pytest.mark.parametrize(
    "language", [games.Language(4), LANGUAGE, games.Language(2, 3), games.Language(3, 3, (0, 2))], ids=str
)
def test_a_language_has_each_of_its_strings_once(language: games.Language) -> None:
    tokens, valid = language.strings
    assert len({tuple(t[v]) for t, v in zip(tokens, valid, strict=True)}) == language.size == len(tokens)
    for string in (tuple(t[v]) for t, v in zip(tokens, valid, strict=True)):
        assert not set(string[:-1]) & set(language.stop)
        assert len(string) == language.length or string[-1] in language.stop
    assert sorted(language.action[language.action >= 0]) == list(range(language.size))


def test_a_distribution_and_its_table_are_each_others_inverse() -> None:
    distribution = np.random.default_rng(0).dirichlet(np.ones(LANGUAGE.size), size=(4, 2))
    table = games.conditionals(LANGUAGE, distribution)
    np.testing.assert_allclose(np.exp(games.log_distribution(LANGUAGE, table)), distribution, rtol=1e-13)
    np.testing.assert_allclose(np.exp(games.log_distribution(LANGUAGE, jnp.asarray(table))), distribution, rtol=1e-5)


def test_scores_are_the_log_probs_of_the_table(game: games.TabularGame) -> None:
    params = table(game, 1)
    batch = everything(game.language, game.contexts)
    score = context_of(games.table_policy(game), policy=params).score
    scores = jax.jit(lambda batch: score("policy", batch)["policy"])(batch)
    expected = games.log_distribution(game.language, np.asarray(params["logits"]))
    np.testing.assert_allclose(scores.sum(-1), np.broadcast_to(expected, (game.contexts, game.actions)), rtol=1e-13)
    np.testing.assert_allclose(np.exp(scores.sum(-1)).sum(-1), 1, rtol=1e-13)


def test_a_start_is_the_reference(game: games.TabularGame) -> None:
    params = games.start(game).function(jax.random.key(0))
    assert params["logits"].dtype == jnp.float64
    found = np.exp(games.log_distribution(game.language, np.asarray(params["logits"])))
    np.testing.assert_allclose(found, game.reference.reshape(game.contexts, -1), rtol=1e-13)


def test_reading_a_string_in_pieces_is_reading_it_at_once(game: games.TabularGame) -> None:
    model, params = games.table_policy(game), table(game, 1)
    batch = everything(game.language, game.contexts)
    whole = model.hidden(params, batch)
    assert model.extend is not None
    _, cache, _ = model.extend(params, None, batch.prompt[:, None], batch.prompt_valid[:, None])
    cache = share(cache)
    parts = []
    for piece in (slice(0, 1), slice(1, 3)):
        states, cache, _ = model.extend(params, cache, batch.tokens[..., piece], batch.valid[..., piece])
        parts.append(states)
    np.testing.assert_array_equal(jnp.concatenate(parts, axis=2), whole.after)


@pytest.mark.parametrize("behaviour", [fn(own), fn(mixture, beta=0.4)], ids=["own", "mixture"])
def test_samples_are_drawn_and_scored_as_they_are_by_a_language_model(behaviour: Any, game: games.TabularGame) -> None:
    """What generate says of its samples is what scoring says, in float64; and they come as often as they should."""
    context = context_of(games.table_policy(game), policy=table(game, 1), reference=table(game, 2))
    rows = 4096
    contexts = jnp.arange(rows, dtype=jnp.int32)[:, None] % game.contexts
    prompts = Batch(prompt=contexts, prompt_valid=jnp.ones_like(contexts, bool), example_id=jnp.arange(rows))
    streams = ("policy", "reference") if behaviour.name == "mixture" else ("policy",)
    found, _ = jax.jit(
        lambda key: stages.generate(
            context, prompts, key, n=4, max_tokens=3, stop=game.language.stop, behaviour=behaviour
        )
    )(jax.random.key(3))
    for name in streams:
        scores = jax.jit(lambda found, name=name: context.score(name, found)[name])(found)
        np.testing.assert_allclose(found.logps[name], scores, rtol=1e-12, atol=1e-14)
        assert found.logps[name].dtype == jnp.float64
    number = games.strings.string_numbers(game.language, found.tokens, found.valid)
    assert int(number.min()) >= 0
    for x in range(game.contexts):
        rows_of_x = np.asarray(contexts[:, 0] == x)
        drawn = np.asarray(number)[rows_of_x].reshape(-1)
        probability = np.zeros(game.actions)  # what the sampler says of itself, which sums to 1 over all strings
        probability[drawn] = np.exp(np.asarray(found.logps["sampler"])[rows_of_x].sum(-1).reshape(-1))
        share_ = np.bincount(drawn, minlength=game.actions) / len(drawn)
        np.testing.assert_allclose(probability.sum(), 1, atol=0.02)
        error = np.sqrt(probability * (1 - probability) / len(drawn))
        assert np.all(np.abs(share_ - probability) <= 5 * error + 1e-3)


def test_other_heads_are_tables_too(float64: None) -> None:
    game = games.sequence_game(0.3, seed=0, contexts=2)
    model = games.table_policy(game, outputs=("reward",))
    assert model is games.table_policy(game, outputs=("reward",))
    params = model.init(jax.random.key(0))
    assert params["reward"].shape == (2, game.language.nodes, 1)
    batch = everything(game.language, 2).replace(
        preference=jnp.full((2, game.actions, game.actions), 0.5).at[:, 0, 1].set(0.9).at[:, 1, 0].set(0.1)
    )

    def loss(params: Any) -> Any:
        return losses.bradley_terry(context_of(model, reward=params), batch)[0].value()

    pull = -jax.jit(jax.grad(loss))(params)["reward"][..., 0]
    ends = game.language.action
    assert np.all(pull[:, ends == 0] > 0)
    assert np.all(pull[:, ends == 1] < 0)
    assert not np.any(pull[:, ends > 1])


def test_what_does_not_fit_is_said() -> None:
    game = games.sequence_game(0.3, seed=0, length=2)
    model = games.table_policy(game)
    long = as_jax(
        Batch(
            prompt=np.zeros((1, 1), np.int32), prompt_valid=np.ones((1, 1), bool),
            tokens=np.zeros((1, 1, 3), np.int32), valid=np.ones((1, 1, 3), bool),
        )
    )  # fmt: skip
    with pytest.raises(ConfigError, match="3 tokens in a game of at most 2"):
        model.hidden(model.init(jax.random.key(0)), long)
    with pytest.raises(ConfigError, match="reward"):
        games.table_policy(game, outputs=("rewards",))
    with pytest.raises(ConfigError, match="too many"):
        games.Language(10, 5)
