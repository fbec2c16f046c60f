"""Searches against what they must equal: best-of-n, and the rewards of the samples that they give up."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from alignjax import games, stages
from alignjax.config import ConfigError, Fn, fn
from alignjax.evaluate.best_of_n import best_of_n, best_of_n_value
from alignjax.evaluate.intervals import interval
from alignjax.types import Array, Batch, Context, Key, with_metrics
from tests.sampling.test_generate import PROMPTS, STOP, TOKENS
from tests.support.tiny import context_of, model, parameters, scorer

NETWORK = model(outputs=("reward",))
PARAMS = {"policy": parameters(NETWORK, 0), "reward": parameters(NETWORK, 1)}
SAMPLES = fn(stages.generate, n=6, max_tokens=TOKENS, stop=STOP)


def first_token(context: Context, batch: Batch, key: Key) -> Batch:
    """A reward that partial completions know already."""
    return batch.replace(reward=batch.need("tokens", of="a test")[..., 0] % 7 * 1.0)


@jax.jit
def _ran(params: Any, stage: Any, batch: Batch) -> Any:
    return stage(context_of(NETWORK, **params), batch, jax.random.key(2))


def searched(**hyper: Any) -> Batch:
    stage = fn(stages.speculative_rejection, **{"generate": SAMPLES, "reward": fn(stages.reward), "every": 2, **hyper})
    return _ran(PARAMS, stage, PROMPTS)[0]


def best(context: Context, batch: Batch, key: Key, *, generate: Fn, reward: Fn) -> Batch:
    """Best-of-n by parts, with the key of the search."""
    judged, _ = with_metrics(reward(context, generate(context, batch, key)[0], key))
    return stages.ranked(context, judged, key, keep=1)


def best_of(count: int, reward: Any = stages.reward) -> Batch:
    return _ran(PARAMS, fn(best, generate=SAMPLES.replace(n=count), reward=fn(reward)), PROMPTS)


def assert_same(one: Batch, other: Batch) -> None:
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.valid, other.valid)
    for name in ("policy", "sampler"):
        np.testing.assert_allclose(one.logps[name], other.logps[name], atol=1e-5)
    np.testing.assert_allclose(one.reward, other.reward, atol=1e-5)


def test_where_nothing_is_rejected_it_is_best_of_n() -> None:
    found = searched(keep=(6, 6))
    assert found.tokens.shape == (4, 1, TOKENS)
    assert_same(found, best_of(6))


def test_where_the_beginning_says_all_it_is_best_of_n() -> None:
    assert_same(searched(keep=(3, 1), reward=fn(first_token)), best_of(6, first_token))


def test_what_goes_on_is_what_it_would_have_been() -> None:
    """Survivors are samples of `generate`, scored by the scorer, never better than the best of all, and the caches
    of those that went on were their own: the first round keeps the one with the largest reward so far."""
    found, whole = searched(keep=(1,)), _ran(PARAMS, SAMPLES, PROMPTS)[0]
    cut = whole.replace(tokens=whole.tokens[..., :2], valid=whole.valid[..., :2], mask=whole.mask[..., :2], logps={})
    scored, _ = _ran(PARAMS, fn(stages.reward), cut)
    kept = whole.pick(jnp.argmax(scored.reward, axis=1)[:, None])
    assert_same(found, _ran(PARAMS, fn(stages.reward), kept)[0])
    np.testing.assert_allclose(found.logps["policy"], scorer(NETWORK)(PARAMS["policy"], found), atol=1e-5)
    best = best_of(6)
    assert np.all(found.reward <= best.reward + 1e-5)
    assert np.any(found.reward < best.reward - 0.1)


def unknown_threes(context: Context, batch: Batch, key: Key) -> Batch:
    """`first_token` less 7, so that 0, which stands where nothing is known, is above all; it knows no multiple of 3."""
    first = batch.need("tokens", of="a test")[..., 0]
    known = (first % 3 != 0) * 1.0
    return batch.replace(reward=known * (first % 7 - 7.0), completions={**batch.completions, "weight": known})


def test_completions_of_which_nothing_is_known_are_given_up_first() -> None:
    found = searched(keep=(3, 1), reward=fn(unknown_threes))
    assert_same(found, best_of(6, unknown_threes))
    judged = unknown_threes(Context(), _ran(PARAMS, SAMPLES, PROMPTS)[0], jax.random.key(0))
    some = np.asarray(judged.completions["weight"]).max(axis=1)
    assert np.any((some == 1) & (np.asarray(judged.completions["weight"]).min(axis=1) == 0)), "of some both"
    np.testing.assert_array_equal(np.asarray(found.completions["weight"])[:, 0], some)


def test_the_best_of_n_is_distributed_as_enumeration_says() -> None:
    """By the stages, on a table of five tokens of which two are worth the same: chi-square, and that it would notice
    one sample more."""
    game = games.intransitive(np.array([0.1, 0.3, 0.2, 0.25, 0.15]), 0.3, seed=0)
    worth, rows = jnp.array([0.5, -1.0, 0.5, 2.0, 0.0]), 20_000

    def told(context: Context, batch: Batch, key: Key) -> Batch:
        return batch.replace(reward=worth[batch.need("tokens", of="a test")[..., 0]])

    @jax.jit
    def drawn(key: Key) -> Array:
        start = {"logits": jnp.log(jnp.asarray(game.reference, jnp.float32))[None]}
        context = context_of(games.table_policy(game), policy=start)
        prompts = Batch(prompt=jnp.zeros((rows, 1), jnp.int32), prompt_valid=jnp.ones((rows, 1), bool))
        samples = fn(stages.generate, n=3, max_tokens=1, stop=())
        return best(context, prompts, key, generate=samples, reward=fn(told)).need("tokens", of="a test")[:, 0, 0]

    seen = np.bincount(np.asarray(drawn(jax.random.key(4))), minlength=5)
    chance = {n: stats.chisquare(seen, rows * best_of_n(game.reference, worth, n=n)).pvalue for n in (3, 4)}
    assert chance[3] > 1e-3 > 1e-9 > chance[4]


def values(language: games.Language, probability: np.ndarray, scales: tuple[float, ...]) -> Array:
    """What each prefix comes to on average, of rewards that tokens add to by their place: a perfect value function."""
    tokens, valid = language.strings
    worth = np.random.default_rng(7).normal(size=language.nodes)
    path = np.stack([*games.strings.walk(language, jnp.zeros(len(tokens), jnp.int32), tokens, valid)[1].T])
    reward = sum(np.where(valid[:, t], worth[path[t]] * scale, 0) for t, scale in enumerate(scales))
    mass, total = np.zeros(language.nodes), np.zeros(language.nodes)
    for t in range(len(scales)):
        np.add.at(mass, path[t][valid[:, t]], probability[valid[:, t]])
        np.add.at(total, path[t][valid[:, t]], (probability * reward)[valid[:, t]])
    return jnp.asarray(total / np.maximum(mass, 1e-30))


def test_what_it_loses_against_best_of_n(float64: None) -> None:
    """n = 8 kept to 4 and 2, with a perfect value function as the reward of prefixes: 14 tokens a prompt. Where the
    first tokens decide it is worth more than best-of-5 (15 tokens), where the last do less than best-of-4 (12)."""
    game = games.sequence_game(0.3, seed=4, vocab=3, length=3)
    language, table, rows = game.language, games.table_policy(game), 4096
    prompts = Batch(prompt=jnp.zeros((rows, 1), jnp.int32), prompt_valid=jnp.ones((rows, 1), bool))
    samples = fn(stages.generate, n=8, max_tokens=3, stop=language.stop)
    start = {"logits": jnp.asarray(games.conditionals(language, game.reference[None]))}

    @jax.jit
    def drawn(key: Key, worth: Array) -> tuple[Array, Array]:
        def expected(context: Context, batch: Batch, key: Key) -> Batch:
            ids, on = batch.need("tokens", of="a test"), batch.need("valid", of="a test")
            nodes = games.strings.walk(language, jnp.zeros(ids.shape[:2], jnp.int32), ids, on)[1]
            return batch.replace(reward=worth[nodes[..., -1]])

        context = context_of(table, policy=start)
        search = fn(stages.speculative_rejection, generate=samples, reward=fn(expected), every=1, keep=(4, 2))
        few = search(context, prompts, key)[0].reward[:, 0]
        return few, expected(context, samples(context, prompts, key)[0], key).reward

    for scales, early in (((1.0, 0.5, 0.25), True), ((0.25, 0.5, 1.0), False)):
        worth = values(language, game.reference, scales)
        few, rewards = map(np.asarray, drawn(jax.random.key(0), worth))
        assert np.all(few <= rewards.max(1) + 1e-12)
        same_cost = best_of_n_value(rewards, n=5 if early else 4)
        low, high = (interval(few - same_cost)[end] for end in ("low", "high"))
        assert low > 0 if early else high < 0


def test_demonstrations_are_rewarded_by_what_they_change() -> None:
    whole = _ran(PARAMS, SAMPLES, PROMPTS)[0]
    views = {"shown": Batch(prompt=PROMPTS.prompt[::-1], prompt_valid=PROMPTS.prompt_valid[::-1]), "same": PROMPTS}
    batch = whole.replace(views=views, mask=whole.mask.at[:, 1].multiply(0.5))
    found = _ran(PARAMS, fn(stages.in_context_reward, view="shown"), batch)[0]
    told = whole.replace(prompt=views["shown"].prompt, prompt_valid=views["shown"].prompt_valid)
    gap = scorer(NETWORK)(PARAMS["policy"], told) - scorer(NETWORK)(PARAMS["policy"], whole)
    np.testing.assert_allclose(found.reward, (gap * batch.mask).sum(-1), atol=1e-4)
    assert np.abs(found.reward).min(axis=1).max() > 0.1
    back = _ran(PARAMS, fn(stages.in_context_reward, view="same", against="shown"), batch)[0]
    np.testing.assert_allclose(back.reward, -found.reward, atol=1e-4)
    with pytest.raises(ConfigError, match=r"view 'shwn'\. Did you mean 'shown'"):
        _ran(PARAMS, fn(stages.in_context_reward, view="shwn"), batch)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="keep must fall from n"):
        searched(keep=(2, 4))
    with pytest.raises(ConfigError, match="stay below the tokens"):
        searched(keep=(4, 2, 1))
    with pytest.raises(ConfigError, match="the batch has completions"):
        _ran(PARAMS, fn(stages.speculative_rejection, generate=SAMPLES, reward=fn(stages.reward), every=2, keep=(3,)),
             best_of(2))  # fmt: skip
    with pytest.raises(ConfigError, match="leave slots out"):
        searched(generate=SAMPLES.replace(slots=4), keep=(3,))
