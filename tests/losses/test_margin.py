"""What every loss on pairs has to satisfy. A new loss is a new line in `pair_cases.py` and gets all of these checks."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from alignjax import losses
from alignjax.cli import catalogue
from alignjax.config import ConfigError, Fn, fn
from alignjax.pair_layout import all_pairs
from alignjax.types import Array, Batch
from tests.support.pair_cases import LOSSES, Case
from tests.support.tiny import all_finite, ragged, standin

pytestmark = pytest.mark.usefixtures("quick_compile")
every = pytest.mark.parametrize("case", LOSSES, ids=lambda case: f"{case.loss.__name__}-{case.hyper}")
MODULES = ("pairwise", "anchored", "divergences", "reference_free", "transport", "logic")


def test_every_pairwise_loss_is_listed() -> None:
    public = set(catalogue.public(losses).values()) - {losses.pairwise, losses.with_divergence}
    of_pairs = {loss for loss in public if hasattr(loss, "per_pair")}
    of_pairs |= {loss for loss in public if loss.__module__.removeprefix("alignjax.losses.") in MODULES}
    assert of_pairs == {case.loss for case in LOSSES}


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
    mean, _ = case.loss(standin(policy=logps), batch, **{**case.hyper, **more})
    return mean.value()


def policy_logps(batch: Batch, seed: int = 9) -> Array:
    draw = np.random.default_rng(seed).normal(-2, 1, batch.tokens.shape)
    return jnp.asarray(draw, batch.mask.dtype)


@every
def test_policy_at_its_reference(case: Case) -> None:
    batch = jax.tree.map(jnp.asarray, ragged(rows=6))
    hard = jnp.round(batch.preference[:, 0, 1])
    batch = batch.replace(preference=batch.preference.at[:, 0, 1].set(hard).at[:, 1, 0].set(1 - hard))
    if case.absolute:
        batch = batch.with_logps(reference=jnp.zeros_like(batch.mask))
    np.testing.assert_allclose(value(case, batch.logps["reference"], batch), case.at_zero, rtol=1e-6)


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


@every
@pytest.mark.parametrize("p", [0.05, 0.3, 0.6, 0.9])
def test_the_minimiser_is_the_closed_form(case: Case, p: float, float64: None) -> None:
    logps, batch = pairs_batch([0.0], [p], np.float64, case.base)
    loss = jax.jit(jax.value_and_grad(lambda moved: value(case, logps.at[0, :, 0].add(moved), batch)))
    if case.minimiser is None:
        hard = pairs_batch([0.0], [1.0], np.float64, case.base)[1]
        grad = jax.jit(jax.grad(lambda moved: value(case, logps.at[0, :, 0].add(moved), hard)))
        for point in np.random.default_rng(0).uniform(-3, 3, (20, 2)):
            np.testing.assert_array_equal(np.sign(grad(point)), case.slopes(*point))
        return
    expected = case.minimiser(p)
    if isinstance(expected, tuple):
        found = minimize(loss, np.zeros(2), jac=True, tol=1e-9).x
    else:
        bounds = (-40, 40 if case.base == 0 else min(40, -case.base))  # a probability is at most 1
        along = lambda moved: float(loss(jnp.array([moved, 0.0]))[0])  # noqa: E731
        found = minimize_scalar(along, bounds=bounds, options={"xatol": 1e-9}).x
    np.testing.assert_allclose(found, expected, atol=2e-5)


@every
def test_gradient_against_finite_differences(case: Case, float64: None) -> None:
    batch = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float64) if leaf.dtype == np.float32 else jnp.asarray(leaf), ragged(rows=6)
    )
    logps = policy_logps(batch)
    # What the formula holds constant is held at its value.
    _, metrics = case.loss(standin(policy=logps), batch, **case.hyper)
    held = {"shift": metrics["shift"].value()} if "shift" in metrics else {}
    loss = jax.jit(lambda x: value(case, x, batch, **held))
    direction = jnp.asarray(np.random.default_rng(1).normal(size=logps.shape))
    slope = jnp.sum(jax.grad(lambda x: value(case, x, batch))(logps) * direction)
    h = 1e-5
    expected = (loss(logps + h * direction) - loss(logps - h * direction)) / (2 * h)
    np.testing.assert_allclose(slope, expected, rtol=1e-7)


@every
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_extremes_are_finite(case: Case, dtype: str) -> None:
    sizes = [-1e4, -1.0, 0.0, 1.0, 1e4]
    margins, others, labels = zip(*itertools.product(sizes, sizes, [0.0, 0.5, 1.0]), strict=True)
    logps, batch = pairs_batch(margins, labels, others=others)
    loss, grad = jax.value_and_grad(lambda x: value(case, x, batch))(logps.astype(dtype))
    assert all_finite((loss, grad))
    assert loss.dtype == jnp.float32


@every
def test_empty_and_padded_rows(case: Case) -> None:
    """Without any token a completion has log-prob 0, whatever stands in its padding."""
    batch = jax.tree.map(jnp.asarray, ragged(rows=6))
    empty = batch.mask.at[0, 1].set(0).at[1].set(0)  # one completion of pair 0, both of pair 1
    batch = batch.replace(mask=empty, valid=batch.valid & (empty > 0))
    logps = policy_logps(batch)
    loss, grad = jax.value_and_grad(lambda x: value(case, x, batch))(logps)
    assert all_finite((loss, grad))
    assert not np.any(grad[1])
    assert not np.any(np.where(batch.mask == 0, grad, 0))
    noise = jnp.where(batch.mask == 0, jnp.nan, logps)
    loss_noise, grad_noise = jax.value_and_grad(lambda x: value(case, x, batch))(noise)
    np.testing.assert_array_equal(loss, loss_noise)
    np.testing.assert_array_equal(grad, grad_noise)
    nothing = batch.replace(mask=jnp.zeros_like(batch.mask))
    assert all_finite(jax.value_and_grad(lambda x: value(case, x, nothing, normalize="length"))(logps))


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
    if not case.coupled:
        np.testing.assert_allclose(together, np.mean(apart), rtol=1e-6)


@every
def test_the_order_of_the_rows_does_not_matter(case: Case) -> None:
    batch = jax.tree.map(jnp.asarray, ragged(rows=6))
    logps, order = policy_logps(batch), jnp.array([3, 0, 5, 1, 4, 2])
    loss, grad = jax.value_and_grad(lambda x: value(case, x, batch))(logps)
    other, other_grad = jax.value_and_grad(lambda x: value(case, x, batch.take(order)))(logps[order])
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    np.testing.assert_allclose(grad[order], other_grad, rtol=1e-5, atol=1e-6 * float(jnp.abs(grad).max()))


@every
def test_hyperparameters_are_arguments_of_a_jitted_function(case: Case) -> None:
    """Every number of a loss is a leaf, so that none of them can decide what is compiled."""
    batch = jax.tree.map(jnp.asarray, ragged(rows=6))
    logps, loss = policy_logps(batch), fn(case.loss, **case.hyper)
    assert set(loss.leaves) == {name for name, given in loss.kwargs.items() if isinstance(given, (float, Fn))}
    jitted = jax.jit(lambda loss, x: loss(standin(policy=x), batch)[0].value())
    np.testing.assert_allclose(jitted(loss, logps), value(case, logps, batch), rtol=1e-5)


@every
def test_reference(case: Case) -> None:
    """`reference=None` is a reference of log-prob 0; a reference that nobody filed is scored."""
    batch = jax.tree.map(jnp.asarray, ragged(rows=6))
    logps, given = policy_logps(batch), {**case.hyper, "reference": "reference"}
    zero = batch.with_logps(reference=jnp.zeros_like(logps))
    np.testing.assert_allclose(
        value(case, logps, batch.replace(logps={}), reference=None),
        value(case, logps, zero, reference="reference"),
        rtol=1e-6,
    )
    asked, _ = case.loss(standin(policy=logps, reference=batch.logps["reference"]), batch.replace(logps={}), **given)
    assert float(asked.value()) == float(value(case, logps, batch, reference="reference"))


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
    if case.of_means:
        expected = value(case, logps, batch, normalize="length")
    else:  # the score of the doubled sum, over twice the length
        expected = value(case, 2 * logps, double, normalize="length", beta=case.hyper["beta"] / 2)
    np.testing.assert_allclose(value(case, logps, twice, normalize="length"), expected, rtol=1e-5)


@every
def test_metrics_are_of_the_preferred_completion(case: Case) -> None:
    logps, batch = pairs_batch([2.0, -3.0, 1.0, 5.0], [1.0, 0.0, 0.25, 0.5])
    _, metrics = case.loss(standin(policy=logps), batch, **case.hyper, normalize="none")
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
    name = next(iter(case.hyper))
    with pytest.raises(ConfigError, match=f"Did you mean '{name}'"):
        fn(case.loss, **{name + "s": 0.1})


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
