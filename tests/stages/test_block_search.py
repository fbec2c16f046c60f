"""Searches by blocks against what they must equal: best-of-n of whole completions and of tokens, beam search, and what
a look-ahead sees."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax

from alignjax import games, stages
from alignjax.config import ConfigError, fn
from alignjax.evaluate.best_of_n import best_of_n, best_of_n_value
from alignjax.evaluate.intervals import interval
from alignjax.games.strings import walk
from alignjax.types import Batch, Context, Key
from tests.sampling.test_generate import PROMPTS, TOKENS
from tests.stages.test_searches import NETWORK, PARAMS, SAMPLES, _ran, assert_same, best_of, values
from tests.support.tiny import context_of, scorer

GAME = games.sequence_game(0.3, seed=4, vocab=3, length=3)
LANGUAGE, TABLE = GAME.language, games.table_policy(GAME)
TABLES = 12
LOGITS = np.random.default_rng(5).normal(size=(TABLES, 1, LANGUAGE.prefixes, 3)) * 1.5
WORTH = np.random.default_rng(6).normal(size=(TABLES, LANGUAGE.nodes))
STRINGS, ON = (np.asarray(part) for part in LANGUAGE.strings)
NODES = walk(LANGUAGE, jnp.zeros(len(STRINGS), jnp.int32), jnp.asarray(STRINGS), jnp.asarray(ON))
BEFORE, AFTER = map(np.asarray, NODES)  # each token
LOGPS = log_softmax(LOGITS, axis=-1)[:, 0]
LOG_PI = np.where(ON, LOGPS[:, np.minimum(BEFORE, LANGUAGE.prefixes - 1), STRINGS], 0).sum(-1)


def worth(context: Context, batch: Batch, key: Key) -> Batch:
    """A number for every prefix."""
    tokens, valid = batch.need("tokens", of="a test"), batch.need("valid", of="a test")
    after = walk(LANGUAGE, jnp.zeros(tokens.shape[:2], jnp.int32), tokens, valid)[1]
    return batch.replace(reward=context.params("worth")[after[..., -1]])


@jax.jit
def _found(logits: Any, worth: Any, prompts: Batch, stage: Any) -> Batch:
    return stage(context_of(TABLE, policy={"logits": logits}, worth=worth), prompts, jax.random.key(0))[0]


def found(table: int, *, n: int, rows: int = 1, **hyper: Any) -> np.ndarray:
    """The numbers of the strings that a search finds."""
    prompts = Batch(prompt=jnp.zeros((rows, 1), jnp.int32), prompt_valid=jnp.ones((rows, 1), bool))
    samples = fn(stages.generate, n=n, max_tokens=3, stop=LANGUAGE.stop)
    search = fn(stages.block_search, **{"generate": samples, "reward": fn(worth), "every": 1, **hyper})
    batch = _found(LOGITS[table], WORTH[table], prompts, search)
    tokens = np.where(batch.valid, batch.tokens, 0)[:, 0]
    same = (tokens[:, None] == np.where(ON, STRINGS, 0)) & (np.asarray(batch.valid)[:, 0, None] == ON)
    return np.argmax(same.all(-1), axis=1)


def searched(**hyper: Any) -> Batch:
    return _ran(
        PARAMS, fn(stages.block_search, **{"generate": SAMPLES, "reward": fn(stages.reward), **hyper}), PROMPTS
    )[0]


def test_one_block_is_best_of_n() -> None:
    for every in (TOKENS, TOKENS + 3):
        assert_same(searched(every=every), best_of(6))
    assert_same(searched(every=TOKENS, keep=3), best_of(6))


def test_copies_go_on_from_their_own_caches() -> None:
    """Log-probs of what is found are the scorer's, also behind a look-ahead that was forgotten."""
    for hyper in ({"every": 2, "keep": 2}, {"every": 1, "keep": 3, "ahead": 2}):
        batch = searched(**hyper)
        assert batch.need("tokens", of="a test").shape == (4, 1, TOKENS)
        np.testing.assert_allclose(batch.logps["policy"], scorer(NETWORK)(PARAMS["policy"], batch), atol=1e-5)
        rated = _ran(PARAMS, fn(stages.reward), batch)[0]
        np.testing.assert_allclose(batch.need("reward", of="a test"), rated.reward, atol=1e-5)


def test_blocks_of_a_token_are_best_of_n_of_each(float64: None) -> None:
    """Chi-square against enumeration: n = 3 of every token by the worth of the prefix that it makes, and that it would
    notice another n."""
    rows = 20_000
    seen = np.bincount(found(0, n=3, rows=rows), minlength=len(STRINGS))
    assert chance(seen, 3) > 1e-3 > 1e-9 > chance(seen, 2)


def chance(seen: np.ndarray, n: int) -> float:
    """How likely counts of strings are if every token is the best of n."""
    probability = np.ones(len(STRINGS))
    for node in range(LANGUAGE.prefixes):
        here, at = np.nonzero((node == BEFORE) & ON)
        children = np.zeros(3, int)
        children[STRINGS[here, at]] = AFTER[here, at]
        best = best_of_n(np.exp(LOGPS[0, node]), WORTH[0, children], n=n)
        probability[here] *= best[STRINGS[here, at]]
    assert abs(probability.sum() - 1) < 1e-9
    expected = seen.sum() * probability
    often = expected > 5
    counts, chances = (np.append(each[often], each[~often].sum()) for each in (seen, expected))
    return float(stats.chisquare(counts, chances).pvalue)


def beam(table: int, keep: int, likelihood: float, ahead: int) -> Any:
    """The string that a beam search over all tokens finds, in plain Python."""
    child: Any = {(BEFORE[k, t], STRINGS[k, t]): AFTER[k, t] for k, t in np.argwhere(ON)}
    beams: Any = [((), 0, 0.0)]  # tokens, node, log-prob

    def ended(tokens: Any) -> bool:
        return len(tokens) == LANGUAGE.length or tokens[-1:] == LANGUAGE.stop

    def seen(tokens: Any, node: Any) -> Any:
        for _ in range(ahead):
            if not ended(tokens):
                token = int(np.argmax(LOGPS[table, node]))
                tokens, node = (*tokens, token), child[node, token]
        return WORTH[table, node]

    while not all(ended(tokens) for tokens, _, _ in beams):
        wider: Any = []
        for tokens, node, logp in beams:
            on = [] if ended(tokens) else range(3)
            longer = [((*tokens, k), child[node, k], logp + LOGPS[table, node, k]) for k in on]
            wider += longer or [(tokens, node, logp)]
        beams = sorted(wider, key=lambda one: -(seen(*one[:2]) + likelihood * one[2]))[:keep]
    return next(k for k in range(len(STRINGS)) if tuple(STRINGS[k][ON[k]]) == beams[0][0])


def whole_only(context: Context, batch: Batch, key: Key) -> Batch:
    """A reward that knows nothing of a string before it has ended."""
    tokens, valid = batch.need("tokens", of="a test"), batch.need("valid", of="a test")
    ended = jnp.all(valid, axis=-1) | jnp.any(valid & (tokens == LANGUAGE.stop[0]), axis=-1)
    known = {**batch.completions, "weight": ended * 1.0}
    return worth(context, batch, key).replace(completions=known)


def test_copies_of_what_has_ended_do_not_take_the_place_of_what_nothing_is_known_of(float64: None) -> None:
    """Three strings end within two tokens and are known; the fourth place is that of one that is not known yet."""
    strings = [int(found(table, n=12, keep=4, likeliest=True, reward=fn(whole_only))[0]) for table in range(TABLES)]
    assert max(ON[string].sum() for string in strings) == LANGUAGE.length


@pytest.mark.parametrize(("keep", "ahead"), [(1, 0), (2, 0), (1, 2), (2, 1)])
def test_with_the_likeliest_tokens_it_is_a_beam_search(float64: None, keep: int, ahead: int) -> None:
    """Of reward and log-prob, with a greedy look-ahead; several weights find several strings."""
    strings = set()
    for table in range(TABLES):
        for likelihood in (0.0, 0.4, 30.0):
            (string,) = found(table, n=3 * keep, keep=keep, likelihood=likelihood, ahead=ahead, likeliest=True)
            assert string == beam(table, keep, likelihood, ahead)
            strings.add((table, string))
    assert len(strings) > TABLES


def test_a_wide_beam_finds_the_best_of_all(float64: None) -> None:
    for likelihood in (0.0, 0.4, 30.0):
        (string,) = found(1, n=27, keep=9, likelihood=likelihood, likeliest=True)
        assert string == np.argmax(WORTH[1, AFTER[:, -1]] + likelihood * LOG_PI[1])


def test_what_it_gains_and_loses_against_best_of_n(float64: None) -> None:
    """n = 4 of every token by what the policy makes of the prefix on average, against best-of-4 of the same key: worth
    more where the first tokens decide; where the last do, less, for what the search makes of a prefix is not known."""
    rows, n = 4096, 4
    prompts = Batch(prompt=jnp.zeros((rows, 1), jnp.int32), prompt_valid=jnp.ones((rows, 1), bool))
    samples = fn(stages.generate, n=n, max_tokens=3, stop=LANGUAGE.stop)
    search = fn(stages.block_search, generate=samples, reward=fn(worth), every=1)
    start = games.conditionals(LANGUAGE, GAME.reference[None])

    @jax.jit
    def drawn(expected: Any) -> Any:
        context = context_of(TABLE, policy={"logits": jnp.asarray(start)}, worth=expected)
        key = jax.random.key(0)
        return search(context, prompts, key)[0].reward, worth(context, samples(context, prompts, key)[0], key).reward

    for scales, early in (((1.0, 0.5, 0.25), True), ((0.25, 0.5, 1.0), False)):
        few, rewards = map(np.asarray, drawn(values(LANGUAGE, GAME.reference, scales)))
        gain = interval(few[:, 0] - best_of_n_value(rewards, n=n))
        assert gain["low"] > 0.05 if early else gain["high"] < -0.3


def test_a_log_ratio_is_a_reward(float64: None) -> None:
    """The reward of weak-to-strong search: of every string what two tables say of its tokens."""
    ratio = LOGPS[1] - LOGPS[0]
    rated = np.where(ON, ratio[np.minimum(BEFORE, LANGUAGE.prefixes - 1), STRINGS], 0).sum(-1)

    @jax.jit
    def rewards(batch: Batch) -> Any:
        tables = {name: {"logits": jnp.asarray(LOGITS[k])} for k, name in enumerate(("reference", "weak"))}
        return stages.implicit_reward(context_of(TABLE, **tables), batch, jax.random.key(0), role="weak")

    prompt = jnp.zeros((1, 1), jnp.int32)
    known = {"weight": jnp.zeros((1, len(STRINGS)))}
    tokens, valid = jnp.asarray(STRINGS)[None], jnp.asarray(ON)[None]
    prompts = Batch(prompt=prompt, prompt_valid=prompt == 0, completions=known)
    batch, told = rewards(prompts.replace(tokens=tokens, valid=valid, mask=valid * 1.0))
    np.testing.assert_allclose(batch.reward[0], rated, atol=1e-9)
    np.testing.assert_allclose(told["reward"].value(), rated.mean(), atol=1e-9)
    assert not batch.completions, "what is known of another reward"


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="divide n"):
        searched(every=2, keep=4)
    with pytest.raises(ConfigError, match="the batch has completions"):
        _ran(PARAMS, fn(stages.block_search, generate=SAMPLES, reward=fn(stages.reward), every=2), best_of(2))
    with pytest.raises(ConfigError, match="leave slots out"):
        searched(generate=SAMPLES.replace(slots=4), every=2)
