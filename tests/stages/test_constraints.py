"""Verifiers against plain Python on random completions; routing and pairs by configuration on batches made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses, stages
from alignjax.config import ConfigError, fn
from alignjax.evaluate.text_metrics import cosa_score
from alignjax.types import Batch, Context
from tests.support.tiny import as_jax, measure, ragged, run, standin

KEY = jax.random.key(0)


def context() -> Context:
    made: Any = SimpleNamespace(metrics={})
    return made


def some(**prompts: Any) -> Batch:
    """Completions of few different tokens, some empty, with noise in the padding."""
    batch = as_jax(ragged(rows=40, n=3, vocab=6))
    valid = batch.valid.at[:3, 1].set(False)
    return batch.replace(valid=valid, prompts=jax.tree.map(jnp.asarray, prompts))


def texts(batch: Batch) -> list[list[list[int]]]:
    return [
        [np.asarray(tokens)[np.asarray(valid)].tolist() for tokens, valid in zip(row, on, strict=True)]
        for row, on in zip(batch.tokens, batch.valid, strict=True)
    ]


def first(text: list[int], token: int) -> float:
    return text.index(token) if token in text else float("inf")


WANTED = np.random.default_rng(3).integers(2, 6, 40)
CHECKS: dict[str, tuple[Any, Any]] = {
    "length": (fn(stages.length_within, least=2, most=4), lambda text, wanted: len(text) in (2, 3, 4)),
    "required": (fn(stages.required_token, token=3), lambda text, wanted: 3 in text),
    "twice": (fn(stages.required_token, token=3, times=2), lambda text, wanted: text.count(3) >= 2),
    "forbidden": (fn(stages.forbidden_token, token=3), lambda text, wanted: 3 not in text),
    "order": (fn(stages.in_order, first=3, then=4), lambda text, wanted: first(text, 3) < first(text, 4) < 99),
    "wanted": (fn(stages.required_token, token="wanted"), lambda text, wanted: wanted in text),
    "unwanted": (fn(stages.forbidden_token, token="wanted"), lambda text, wanted: wanted not in text),
    "wanted_first": (
        fn(stages.in_order, first="wanted", then=4), lambda text, wanted: first(text, wanted) < first(text, 4) < 99,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_verifiers(name: str) -> None:
    check, plain = CHECKS[name]
    batch = some(wanted=WANTED)
    got = jax.jit(lambda given: check(given))(batch)
    expected = [[plain(text, WANTED[row]) for text in group] for row, group in enumerate(texts(batch))]
    np.testing.assert_array_equal(got, expected)
    assert 0 < np.mean(expected) < 1


def test_rates_are_shares_of_what_a_prompt_asks_for() -> None:
    applies = np.random.default_rng(1).integers(0, 2, (40, 3))
    applies[0] = 0
    batch = some(applies=applies)
    checks = tuple(CHECKS[name][0] for name in ("length", "required", "order"))
    every, metrics = stages.constraint_rate(context(), batch, KEY, constraints=checks)
    apart = np.stack([check(batch) for check in checks], -1)
    np.testing.assert_allclose(every.reward, apart.mean(-1), rtol=1e-6)
    np.testing.assert_allclose(metrics["constraint_rate"].value(), apart.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["all_satisfied"].value(), apart.all(-1).mean(), rtol=1e-6)
    got, metrics = stages.constraint_rate(context(), batch, KEY, constraints=checks, applies="applies")
    for row in range(40):
        chosen = apart[row][:, applies[row] > 0]
        np.testing.assert_allclose(got.reward[row], chosen.mean(-1) if chosen.size else 1, rtol=1e-6)
    assert float(metrics["constraint_rate"].weight) == 3 * (applies.sum(-1) > 0).sum()


def test_constraints_that_cannot_be_checked() -> None:
    batch = some(flags=np.ones((40, 2)))
    check = CHECKS["length"][0]
    with pytest.raises(ConfigError, match="needs constraints"):
        stages.constraint_rate(context(), batch, KEY, constraints=())
    with pytest.raises(ConfigError, match=r"shape \(40, 2\); with 1 constraints it must be \[B,1\]"):
        stages.constraint_rate(context(), batch, KEY, constraints=(check,), applies="flags")
    with pytest.raises(ConfigError, match=r"constraint_rate needs batch\.prompts\[.flag.\].*Did you mean 'flags'"):
        stages.constraint_rate(context(), batch, KEY, constraints=(check,), applies="flag")


# ------------------------------------------------------------------------------------------------------- routing


def test_targets_by_class_are_what_sft_sees() -> None:
    """Class 0 learns completion 0, class 1 completion 1; a class that the table does not have, nothing."""
    batch = as_jax(ragged(rows=6, n=2))
    kind = jnp.array([0, 1, 1, 0, 2, -1])
    batch = batch.replace(prompts={"factual": kind})
    logps = -jnp.abs(jnp.asarray(np.random.default_rng(0).normal(size=batch.tokens.shape)))
    routed = stages.route_targets(context(), batch, KEY, targets=((0,), (1,)))
    got, _ = losses.sft(standin(policy=logps), routed)
    rows = jnp.arange(4)
    chosen = batch.take(rows).pick(kind[rows][:, None])
    expected, _ = losses.sft(standin(policy=jnp.take_along_axis(logps[rows], kind[rows][:, None, None], 1)), chosen)
    np.testing.assert_allclose(got.value(), expected.value(), rtol=1e-6)
    with pytest.raises(ConfigError, match="do not fit a batch with 2 completions"):
        stages.route_targets(context(), batch, KEY, targets=((0,), (2,)))
    with pytest.raises(ConfigError, match="Did you mean 'factual'"):
        stages.route_targets(context(), batch, KEY, by="factua", targets=((0,), (1,)))


def test_pairs_by_class_are_what_dpo_sees() -> None:
    batch = ragged(rows=6, n=4).replace(prompts={"factual": np.array([0, 1, 1, 0, 1, 5])})
    logps = -np.abs(np.random.default_rng(0).normal(size=batch.tokens.shape)).astype(np.float32)
    routed = run(stages.route_pairs, Context(), batch, KEY, pairs=(((0, 1),), ((1, 0), (2, 3))))
    for pair, rows in (((0, 1), [0, 1, 2, 3, 4]), ((2, 3), [1, 2, 4])):
        loss = fn(losses.dpo, beta=0.3, pairs=(pair,))
        index = np.array(rows)
        got, weight = measure(loss, routed, policy=logps)[""]
        expected, _ = measure(loss, batch.take(index), policy=logps[index])[""]
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        assert weight == len(rows)
    again = run(stages.route_pairs, Context(), routed, KEY, pairs=(((0, 1),), ((2, 3),)))
    assert float(again.pair_weight[:, 0, 1].sum()) == 2  # weights that stand there are kept
    with pytest.raises(ConfigError, match="do not fit"):
        stages.route_pairs(context(), batch, KEY, pairs=(((0, 0),),))


# ------------------------------------------------------------------------------------------ safety configurations


def configured() -> Batch:
    """Three completions, helpful with risk 0, helpful without, and a refusal, under three configurations."""
    risks = jnp.zeros((3, 3, 2)).at[:, 0, 0].set(1)
    return Batch(
        tokens=jnp.zeros((3, 3, 1), jnp.int32),
        completions={"risks": risks, "answered": jnp.tile(jnp.array([1.0, 1.0, 0.0]), (3, 1))},
        prompts={"allowed": jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])},
    )


def test_the_configuration_decides_which_of_two_wins() -> None:
    batch, metrics = stages.prefer_configured(context(), configured(), KEY)
    for row, order in enumerate([[1, 0, 2], [1, 2, 0], [1, 0, 2]]):  # best first
        assert np.argsort(-np.asarray(batch.reward[row])).tolist() == order
    assert batch.preference[:, 0, 2].tolist() == [1, 0, 1]
    np.testing.assert_array_equal(batch.preference + batch.preference.swapaxes(1, 2), 1)
    np.testing.assert_array_equal(batch.pair_weight, np.broadcast_to(1 - np.eye(3), (3, 3, 3)))
    np.testing.assert_allclose(metrics["breaches"].value(), 1 / 9, rtol=1e-6)
    wide, _ = stages.prefer_configured(context(), configured(), KEY, gap=0.5)
    assert wide.pair_weight[:, 0, 1].tolist() == [0, 1, 0]
    with pytest.raises(ConfigError, match=r"prefer_configured needs batch\.completions\[.risk.\]"):
        stages.prefer_configured(context(), configured(), KEY, risks="risk", allowed="allow")


def test_cosa_score() -> None:
    assert cosa_score([1.0, 0.5, 0.0], [True, True, False]) == 0.5
    assert cosa_score([1.0, 0.5], [True, False]) == -cosa_score([1.0, 0.5], [False, True]) == 0.25
    assert cosa_score([0.0], [False]) == 0
    for helpfulness, allowed in (([], []), ([1.0], [True, False]), ([1.5], [True])):
        with pytest.raises(ConfigError, match="cosa_score"):
            cosa_score(helpfulness, allowed)
