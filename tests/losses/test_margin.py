"""What every loss on pairs has to satisfy. A case of `cases.py` that has a `Pair` gets these checks,
beside those of `test_conformance.py`: finite differences, extremes, padding, hyper-parameters."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from alignjax import losses
from alignjax.config import ConfigError, fn
from alignjax.pair_layout import all_pairs
from alignjax.types import Array, Batch
from tests.support.cases import CASES, CLOSED_FORMS, Case, public_losses
from tests.support.tiny import ragged, standin

LOSSES = [case for case in CASES + CLOSED_FORMS if case.pair is not None]
every = pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)
in_closed_form = [case for case in LOSSES if case.pair.at_zero is not None]
known = pytest.mark.parametrize("case", in_closed_form, ids=lambda case: case.name)
MODULES = ("margin", "anchored", "divergences", "reference_free", "optimal_transport", "logic")


def test_every_loss_of_single_pairs_is_held_to_these_checks() -> None:
    public = set(public_losses().values()) - {losses.with_divergence}
    of_pairs = {loss for loss in public if hasattr(loss, "per_pair")}
    of_pairs |= {loss for loss in public if loss.__module__.removeprefix("alignjax.losses.") in MODULES}
    assert of_pairs == {case.loss.function for case in LOSSES}


def pairs_batch(margins: Any, labels: Any, dtype: Any = np.float32, others: Any = 0.0) -> tuple[Array, Batch]:
    """Policy log-probs [B,2,T] and a batch in which pair b has the given margin against the reference. `others`: the
    log-ratio of the second completion, from which the margin is measured."""
    margins, labels = np.asarray(margins, dtype), np.asarray(labels, dtype)
    policy = np.zeros((len(margins), 2, 2), dtype)
    policy[:, 1, 0] = others
    policy[:, 0, 0] = margins + policy[:, 1, 0]
    preference = np.full((len(margins), 2, 2), 0.5, dtype)
    preference[:, 0, 1], preference[:, 1, 0] = labels, 1 - labels
    on = np.ones(policy.shape, bool)
    given = Batch(
        tokens=np.zeros(policy.shape, np.int32), valid=on, mask=on.astype(dtype), preference=preference,
        logps={"reference": np.zeros_like(policy)},
    )  # fmt: skip
    return jnp.asarray(policy), jax.tree.map(jnp.asarray, given)


def value(case: Case, logps: Array, batch: Batch, **more: Any) -> Array:
    mean, _ = case.loss(standin(policy=logps), batch, **more)
    return mean.value()


def policy_logps(batch: Batch, seed: int = 9) -> Array:
    draw = np.random.default_rng(seed).normal(-2, 1, batch.tokens.shape)
    return jnp.asarray(draw, batch.mask.dtype)


@known
def test_policy_at_its_reference(case: Case) -> None:
    batch = jax.tree.map(jnp.asarray, ragged(rows=6))
    hard = jnp.round(batch.preference[:, 0, 1])
    batch = batch.replace(preference=batch.preference.at[:, 0, 1].set(hard).at[:, 1, 0].set(1 - hard))
    if case.pair.absolute:
        batch = batch.with_logps(reference=jnp.zeros_like(batch.mask))
    np.testing.assert_allclose(value(case, batch.logps["reference"], batch), case.pair.at_zero, rtol=1e-6)


@every
def test_exchanging_the_completions_and_the_label_changes_nothing(case: Case) -> None:
    batch = jax.tree.map(jnp.asarray, ragged(rows=6))
    logps = policy_logps(batch)
    swapped = batch.pick(jnp.tile(jnp.array([1, 0]), (6, 1)))
    assert not np.array_equal(swapped.preference, batch.preference)
    loss, grad = jax.value_and_grad(lambda x: value(case, x, batch))(logps)
    other, other_grad = jax.value_and_grad(lambda x: value(case, x, swapped))(logps[:, ::-1])
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    np.testing.assert_allclose(grad, other_grad[:, ::-1], rtol=1e-5, atol=1e-6 * float(jnp.abs(grad).max()))
    assert float(jnp.abs(grad).max()) > 1e-3


@functools.cache
def loss_of_one_pair(name: str) -> Any:
    """(moved [2] or a number, label) -> (loss, its gradient by `moved`) of one pair in float64; compiled once."""
    case = next(case for case in LOSSES if case.name == name)
    logps, batch = pairs_batch([0.0], [0.5], np.float64, case.pair.base)

    def loss(moved: Any, p: Any) -> Array:
        labelled = batch.replace(preference=batch.preference.at[0, 0, 1].set(p).at[0, 1, 0].set(1 - p))
        return value(case, logps.at[0, :, 0].add(moved), labelled)

    return jax.jit(jax.value_and_grad(loss))


@known
@pytest.mark.parametrize("p", [0.05, 0.3, 0.6, 0.9])
def test_the_minimiser_is_the_closed_form(case: Case, p: float, float64: None) -> None:
    loss, pair = loss_of_one_pair(case.name), case.pair
    if pair.minimiser is None:
        for point in np.random.default_rng(0).uniform(-3, 3, (20, 2)):
            np.testing.assert_array_equal(np.sign(loss(point, 1.0)[1]), pair.slopes(*point))
        return
    expected = pair.minimiser(p)
    if isinstance(expected, tuple):
        minimum = minimize(lambda moved: loss(moved, p), np.zeros(2), jac=True, tol=1e-9).x
    else:
        bounds = (-40, 40 if pair.base == 0 else min(40, -pair.base))  # a probability is at most 1
        along = lambda moved: float(loss(np.array([moved, 0.0]), p)[0])  # noqa: E731
        minimum = minimize_scalar(along, bounds=bounds, options={"xatol": 1e-9}).x
    np.testing.assert_allclose(minimum, expected, atol=2e-5)


@every
def test_pairs_without_a_label_do_not_count(case: Case) -> None:
    batch = jax.tree.map(jnp.asarray, ragged(rows=6))
    logps = policy_logps(batch)
    weight = jnp.zeros((6, 2, 2)).at[jnp.array([0, 3])].set(1.0)
    some = batch.replace(pair_weight=weight)
    loss, grad = jax.value_and_grad(lambda x: value(case, x, some))(logps)
    rows = jnp.array([0, 3])
    np.testing.assert_allclose(loss, value(case, logps[rows], batch.take(rows)), rtol=1e-6)
    assert not np.any(np.delete(np.asarray(grad), [0, 3], axis=0))
    unknown = some.replace(preference=jnp.where(weight > 0, batch.preference, jnp.nan))
    wild = jnp.full_like(logps, -1e4).at[rows].set(logps[rows])
    wild_loss, wild_grad = jax.value_and_grad(lambda x: value(case, x, unknown))(wild)
    np.testing.assert_array_equal(wild_loss, loss)
    np.testing.assert_array_equal(wild_grad, grad)
    none = batch.replace(pair_weight=jnp.zeros((6, 2, 2)))
    loss, grad = jax.value_and_grad(lambda x: value(case, x, none))(logps)
    assert float(loss) == 0
    assert not np.any(grad)


@every
def test_all_pairs_of_a_group_are_one_mean_over_pairs(case: Case) -> None:
    """The same as a batch in which every pair is a row of its own."""
    batch = jax.tree.map(jnp.asarray, ragged(rows=6, n=3))
    logps = policy_logps(batch)
    together = value(case, logps, batch, pairs=all_pairs(3))
    batches = [batch.with_logps(policy=logps).pick(jnp.tile(jnp.array(pair), (6, 1))) for pair in all_pairs(3)]
    rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
    np.testing.assert_allclose(together, value(case, rows.logps["policy"], rows), rtol=1e-6)
    apart = [float(value(case, logps, batch, pairs=(pair,))) for pair in all_pairs(3)]
    assert np.std(apart) > 0
    if not case.pair.coupled:
        np.testing.assert_allclose(together, np.mean(apart), rtol=1e-6)


@every
def test_reference(case: Case) -> None:
    """`reference=None` is a reference of log-prob 0; a reference that nobody stored is scored."""
    batch = jax.tree.map(jnp.asarray, ragged(rows=6))
    logps = policy_logps(batch)
    zero = batch.with_logps(reference=jnp.zeros_like(logps))
    np.testing.assert_allclose(
        value(case, logps, batch.replace(logps={}), reference=None),
        value(case, logps, zero, reference="reference"),
        rtol=1e-6,
    )
    both = standin(policy=logps, reference=batch.logps["reference"])
    scored, _ = case.loss(both, batch.replace(logps={}), reference="reference")
    assert float(scored.value()) == float(value(case, logps, batch, reference="reference"))


@every
def test_mask_weights_tokens_and_length_normalises(case: Case) -> None:
    """Counting every token twice doubles a margin of sums and leaves one of means alone."""
    batch = jax.tree.map(jnp.asarray, ragged(rows=6))
    logps = policy_logps(batch)
    twice = batch.replace(mask=2 * batch.mask)
    double = batch.with_logps(reference=2 * batch.logps["reference"])
    np.testing.assert_allclose(
        value(case, logps, twice, normalize="none"), value(case, 2 * logps, double, normalize="none"), rtol=1e-5
    )
    if case.pair.of_means:
        expected = value(case, logps, batch, normalize="length")
    else:  # the score of the doubled sum, over twice the length
        expected = value(case, 2 * logps, double, normalize="length", beta=case.loss.kwargs["beta"] / 2)
    np.testing.assert_allclose(value(case, logps, twice, normalize="length"), expected, rtol=1e-5)


@every
def test_metrics_are_of_the_preferred_completion(case: Case) -> None:
    logps, batch = pairs_batch([2.0, -3.0, 1.0, 5.0], [1.0, 0.0, 0.25, 0.5])
    _, metrics = case.loss(standin(policy=logps), batch, normalize="none")
    assert float(metrics["accuracy"].value()) == pytest.approx(2 / 3)  # the draw does not count
    assert float(metrics["margin"].value()) == pytest.approx((2 + 3 - 1) / 3)
    assert float(metrics["chosen_logps"].value()) == pytest.approx((2 + 0 + 0) / 3)


@every
def test_mistakes_are_named(case: Case) -> None:
    logps, batch = pairs_batch([0.0], [1.0])
    with pytest.raises(ConfigError, match=r"pairs=\(\(0, 2\),\).*2 completions"):
        value(case, logps, batch, pairs=((0, 2),))
    with pytest.raises(ConfigError, match=r"needs batch\.preference"):
        value(case, logps, batch.replace(preference=None))
    with pytest.raises(ConfigError, match="normalize='words'"):
        value(case, logps, batch, normalize="words")
    name = next(iter(case.loss.kwargs))
    with pytest.raises(ConfigError, match=f"Did you mean '{name}'"):
        fn(case.loss.function, **{name + "s": 0.1})


def test_a_new_loss_gets_what_it_asks_for() -> None:
    @losses.pairwise
    def lengths(length_i: Array, length_j: Array, logps_i: Array, ratio_j: Array, *, by: float = 1.0) -> Array:
        return by * (length_i - length_j) + 100 * (logps_i - ratio_j)

    logps, batch = pairs_batch([3.0], [1.0])
    batch = batch.replace(mask=batch.mask.at[0, 1, 1].set(0)).with_logps(reference=jnp.ones_like(logps))
    mean, _ = lengths(standin(policy=logps), batch, by=7.0)
    assert float(mean.value()) == 7 * (2 - 1) + 100 * (3 - (0 - 1))
    with pytest.raises(ConfigError, match="asks for magin"):
        losses.pairwise(lambda magin: magin)
