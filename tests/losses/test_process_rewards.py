"""Process rewards: where steps end, rows of a step against a row of steps, and recovery of a planted truth."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses, stages
from alignjax.config import ConfigError
from alignjax.numerics import step_ends
from alignjax.types import Batch
from tests.support.tiny import context_of, model, parameters, standin

KEY = jax.random.key(0)
BREAK, END = 7, 1
SEPARATORS = (BREAK, END)
TEXT = [5, 9, BREAK, BREAK, 4, BREAK, 8, 8, 6, END]
ENDS = [1, 4, 8]  # the last token of each step


def rows(texts: Any, **fields: Any) -> Any:
    """Completions of prompts of one token, one a prompt."""
    length = max(map(len, texts))
    valid = np.array([[n < len(text) for n in range(length)] for text in texts])[:, None]
    tokens = np.array([[*text, *[9] * (length - len(text))] for text in texts], np.int32)[:, None]
    prompt = np.full((len(texts), 1), 3, np.int32)
    tokenized: Any = {"prompt": prompt, "prompt_valid": prompt == 3, "tokens": tokens, "valid": valid}
    return Batch(**tokenized, **fields)


def test_steps_end_before_separators_and_runs_of_them_are_none() -> None:
    batch = rows([[BREAK, *TEXT], TEXT[:-1], [BREAK, END]])
    ends = [np.flatnonzero(row).tolist() for row in step_ends(batch.tokens, batch.valid, SEPARATORS)[:, 0]]
    assert ends == [[n + 1 for n in ENDS], ENDS, []]
    assert np.flatnonzero(step_ends(batch.tokens, batch.valid, ())[1]).tolist() == [len(TEXT) - 2]


def test_a_row_of_three_steps_is_three_rows_of_a_step() -> None:
    """The layout `stepwise` holds each step behind those before it; nothing of it is lost in one pass over all."""
    label = (1.0, 0.3, 0.0)
    marked = np.full((1, 1, len(TEXT)), np.nan, np.float32)
    marked[0, 0, ENDS] = label
    whole = rows([TEXT], completions={"step_label": marked})
    parts = rows([[*TEXT[: end + 1], END] for end in ENDS], reward=np.array(label, np.float32)[:, None])
    network = model(outputs=("reward",))

    @jax.jit
    def loss(params: Any, batch: Batch) -> Any:
        return losses.process_supervision(context_of(network, reward=params), batch, separators=SEPARATORS)

    (one, metrics), (several, _) = (loss(parameters(network), batch) for batch in (whole, parts))
    np.testing.assert_allclose(one.total, several.total, rtol=1e-5)
    assert float(one.weight) == float(several.weight) == float(metrics["steps"].value()) == 3
    counts = np.array([[2], [0], [0.5]], np.float32)  # how much each of three completions does
    some = loss(parameters(network), parts.replace(completions={"weight": counts}))[0]
    each = [loss(parameters(network), rows([[*TEXT[: end + 1], END]], reward=np.array([[s]], np.float32)))[0].total
            for end, s in zip(ENDS, label, strict=True)]  # fmt: skip
    np.testing.assert_allclose(some.total, np.array(each) @ counts[:, 0], rtol=1e-5)
    assert float(some.weight) == 2.5
    with pytest.raises(
        ConfigError, match=r'process_supervision without completions\["step_label"\] needs batch.reward'
    ):
        losses.process_supervision(standin(), rows([TEXT]))


def reward_of(chances: np.ndarray, reduction: Any) -> np.ndarray:
    """What the stage makes of solutions whose steps of one token have these probabilities [B,K]."""
    texts = [[token for _ in row for token in (5, BREAK)] for row in chances]
    logit = np.full((len(texts), 1, 2 * chances.shape[1]), -9.0, np.float32)
    logit[:, 0, ::2] = np.log(chances / (1 - chances))
    context: Any = standin(reward_reward=logit)
    batch: Any = stages.process_reward(context, rows(texts), KEY, separators=(BREAK,), reduction=reduction)[0]
    return np.asarray(batch.reward[:, 0])


def test_the_product_is_the_probability_that_no_step_is_wrong() -> None:
    """By enumeration of which steps are right; a wrong step spoils those behind it."""
    chances = np.random.default_rng(0).uniform(0.1, 0.9, (4, 3)).astype(np.float32)
    for row, product in zip(chances, reward_of(chances, "product"), strict=True):
        worlds = [np.prod(np.where(right, row, 1 - row)) for right in itertools.product([True, False], repeat=3)]
        assert product == pytest.approx(1 - sum(worlds[1:]), rel=1e-5)
    np.testing.assert_allclose(reward_of(chances, "min"), chances.min(axis=1), rtol=1e-5)
    np.testing.assert_allclose(reward_of(chances, "last"), chances[:, -1], rtol=1e-5)


def test_a_completion_without_a_step_has_no_reward() -> None:
    context: Any = standin(reward_reward=np.ones((2, 1, 1), np.float32))
    batch, metrics = stages.process_reward(context, rows([[BREAK], [5]]), KEY, separators=(BREAK,))
    assert batch.completions["weight"].tolist() == [[0], [1]]
    assert float(metrics["steps"].value()) == 0.5


def test_the_value_of_every_prefix_is_recovered_from_labels_of_steps_and_not_of_ends() -> None:
    """A solution is three steps, each one of two tokens, and is right with a planted probability of its own. Labels of
    a step are how one random continuation of it came out (Math-Shepherd with one rollout). A table of all prefixes that
    learns them is the planted mean of all continuations, to the noise of its labels; one that learns ends alone knows
    nothing of prefixes."""
    draw = np.random.default_rng(1)
    solutions = np.array(list(itertools.product([0, 1], repeat=3)))
    truth = draw.uniform(0.05, 0.95, 8)
    number = np.array([[2**k - 2 + int("".join(map(str, s[:k])), 2) for k in (1, 2, 3)] for s in solutions])
    planted = np.array([truth[(number == node).any(1)].mean() for node in range(14)])
    rollouts = 400
    label = np.stack([draw.binomial(rollouts, planted[number[:, k]]) / rollouts for k in range(3)], 1)

    @jax.jit
    def learned(label: Any) -> Any:
        batch = rows([[4, BREAK, 5, BREAK, 6]] * 8, completions={"step_label": label})

        def loss(table: Any) -> Any:
            logit = jnp.zeros((8, 1, 5)).at[:, 0, ::2].set(table[number])
            return losses.process_supervision(standin(reward_reward=logit), batch, separators=(BREAK,))[0].value()

        def step(table: Any, _: Any) -> Any:
            return table - 8 * jax.grad(loss)(table), None

        return jax.nn.sigmoid(jax.lax.scan(step, jnp.zeros(14), None, length=300)[0])

    marked = np.full((8, 1, 5), np.nan, np.float32)
    marked[:, 0, ::2] = label
    found = np.asarray(learned(marked))
    error = np.sqrt(planted * (1 - planted) / rollouts)
    assert np.max(np.abs(found - planted) / error) < 4
    marked[:, 0, :4] = np.nan
    blind = np.asarray(learned(marked))
    np.testing.assert_allclose(blind[:6], 0.5)
    np.testing.assert_allclose(blind[6:], found[6:], atol=0.02)
