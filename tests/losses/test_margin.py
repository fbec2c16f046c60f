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
from tests.support.cases import CASES, CLOSED_FORMS, public_losses
from tests.support.loss_case import Case
from tests.support.tiny import as_jax, ragged, standin

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


@jax.jit
def _every_loss(logps: Array, batch: Batch) -> list[tuple[Array, Array]]:
    return [jax.value_and_grad(functools.partial(value, case))(logps, batch) for case in LOSSES]


SIX = ragged(rows=6)
SIX_LOGPS = np.asarray(policy_logps(SIX))


def six(name: str) -> tuple[Array, Batch]:
    """Log-probs [6,2,T] and a batch of a setting below. Of every pair it is said how much it counts."""
    all_count = np.ones((6, 2, 2), np.float32)
    batch, logps = SIX.replace(pair_weight=all_count), SIX_LOGPS
    hard = np.round(batch.preference)
    zero = np.zeros_like(batch.mask)
    some = np.isin(np.arange(6), (0, 3))
    weight = all_count * some[:, None, None]
    match name:
        case "exchanged":
            flipped = {"tokens", "valid", "mask"}
            sides = {field: getattr(batch, field)[:, ::-1] for field in flipped}
            batch = batch.replace(**sides, preference=batch.preference[:, ::-1, ::-1])
            return logps[:, ::-1], batch.with_logps(reference=batch.logps["reference"][:, ::-1])
        case "at its reference":
            return batch.logps["reference"], batch.replace(preference=hard)
        case "at a reference of 0":
            return zero, batch.replace(preference=hard).with_logps(reference=zero)
        case "some":
            return logps, batch.replace(pair_weight=weight)
        case "some, the others wild":
            unknown = np.where(weight > 0, batch.preference, np.nan)
            wild = np.where(some[:, None, None], logps, np.float32(-1e4))
            return wild, batch.replace(pair_weight=weight, preference=unknown)
        case "only those":
            rows = np.tile([0, 3], 3)
            return logps[rows], jax.tree.map(lambda leaf: leaf[rows], batch)
        case "none":
            return logps, batch.replace(pair_weight=0 * all_count)
    return logps, batch


@functools.cache
def answers(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(value, gradient by the policy's log-probs) of every loss in a setting, all from one compiled program."""
    return jax.tree.map(np.asarray, _every_loss(*six(name)))


def answer(case: Case, name: str) -> tuple[np.ndarray, np.ndarray]:
    return answers(name)[LOSSES.index(case)]


@known
def test_policy_at_its_reference(case: Case) -> None:
    loss, _ = answer(case, "at a reference of 0" if case.pair.absolute else "at its reference")
    np.testing.assert_allclose(loss, case.pair.at_zero, rtol=1e-6)


@every
def test_exchanging_the_completions_and_the_label_changes_nothing(case: Case) -> None:
    assert not np.array_equal(six("exchanged")[1].preference, SIX.preference)
    (loss, grad), (other, other_grad) = answer(case, "plain"), answer(case, "exchanged")
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    np.testing.assert_allclose(grad, other_grad[:, ::-1], rtol=1e-5, atol=1e-6 * np.abs(grad).max())
    assert np.abs(grad).max() > 1e-3


@jax.jit
def _loss_of_one_pair(number: Any, moved: Any, p: Any) -> tuple[Array, Array]:
    def of(case: Case) -> Any:
        logps, batch = pairs_batch([0.0], [0.5], np.float64, case.pair.base)

        def loss(moved: Any, p: Any) -> Array:
            labelled = batch.replace(preference=batch.preference.at[0, 0, 1].set(p).at[0, 1, 0].set(1 - p))
            return value(case, logps.at[0, :, 0].add(moved), labelled)

        return jax.value_and_grad(loss)

    return jax.lax.switch(number, [of(case) for case in in_closed_form], moved, p)


def loss_of_one_pair(case: Case) -> Any:
    """(moved [2], label) -> (loss, its gradient by `moved`) of one pair in float64; one program for all losses."""
    return functools.partial(_loss_of_one_pair, in_closed_form.index(case))


@known
@pytest.mark.parametrize("p", [0.05, 0.3, 0.6, 0.9])
def test_the_minimiser_is_the_closed_form(case: Case, p: float, float64: None) -> None:
    loss, pair = loss_of_one_pair(case), case.pair
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
    loss, grad = answer(case, "some")
    np.testing.assert_allclose(loss, answer(case, "only those")[0], rtol=1e-6)
    assert not np.any(np.delete(grad, [0, 3], axis=0))
    wild_loss, wild_grad = answer(case, "some, the others wild")
    np.testing.assert_array_equal(wild_loss, loss)
    np.testing.assert_array_equal(wild_grad, grad)
    loss, grad = answer(case, "none")
    assert loss == 0
    assert not np.any(grad)


# Which completions are compared, against what, and how tokens count is the decorator's, and the same for every loss
# that it makes: all of those beyond a few are of the slow tier.
FEW = ("dpo", "dpo_per_token", "ln_dpo", "cpo", "simpo", "orpo")
WIRED = {
    few: [case for case in LOSSES if few == (case.name in FEW or not hasattr(case.loss.function, "per_pair"))]
    for few in (True, False)
}
wiring = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=[] if case in WIRED[True] else pytest.mark.slow) for case in LOSSES],
)


@functools.cache
def wired(evaluate: Any, few: bool) -> list[Any]:
    """evaluate(case) of the few losses, or of all others, in one program."""
    return jax.tree.map(np.asarray, jax.jit(lambda: [evaluate(case) for case in WIRED[few]])())


def of_wired(evaluate: Any, case: Case) -> Any:
    few = case in WIRED[True]
    return wired(evaluate, few)[WIRED[few].index(case)]


def groups(case: Case) -> Any:
    batch = as_jax(ragged(rows=6, n=3))
    logps = policy_logps(batch)
    batches = [batch.with_logps(policy=logps).pick(jnp.tile(jnp.array(pair), (6, 1))) for pair in all_pairs(3)]
    rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
    apart = [value(case, logps, batch, pairs=(pair,)) for pair in all_pairs(3)]
    return value(case, logps, batch, pairs=all_pairs(3)), value(case, rows.logps["policy"], rows), apart


@wiring
def test_all_pairs_of_a_group_are_one_mean_over_pairs(case: Case) -> None:
    """The same as a batch in which every pair is a row of its own."""
    together, rows, apart = of_wired(groups, case)
    np.testing.assert_allclose(together, rows, rtol=1e-6)
    assert np.std(apart) > 0
    if not case.pair.coupled:
        np.testing.assert_allclose(together, np.mean(apart), rtol=1e-6)


def references(case: Case) -> Any:
    batch, logps = as_jax((SIX, SIX_LOGPS))
    bare, zero = batch.replace(logps={}), batch.with_logps(reference=jnp.zeros_like(logps))
    scored, _ = case.loss(standin(policy=logps, reference=batch.logps["reference"]), bare, reference="reference")
    none = value(case, logps, bare, reference=None), value(case, logps, zero, reference="reference")
    return none, (scored.value(), value(case, logps, batch, reference="reference"))


@wiring
def test_reference(case: Case) -> None:
    """`reference=None` is a reference of log-prob 0; a reference that nobody stored is scored."""
    (none, zero), (scored, stored) = of_wired(references, case)
    np.testing.assert_allclose(none, zero, rtol=1e-6)
    assert scored == stored


def doubled(case: Case) -> Any:
    batch, logps = as_jax((SIX, SIX_LOGPS))
    twice = batch.replace(mask=2 * batch.mask)
    double = batch.with_logps(reference=2 * batch.logps["reference"])
    sums = [value(case, *of, normalize="none") for of in ((logps, twice), (2 * logps, double))]
    if case.pair.of_means:
        expected = value(case, logps, batch, normalize="length")
    else:  # the score of the doubled sum, over twice the length
        expected = value(case, 2 * logps, double, normalize="length", beta=case.loss.kwargs["beta"] / 2)
    return sums, (value(case, logps, twice, normalize="length"), expected)


@wiring
def test_mask_weights_tokens_and_length_normalises(case: Case) -> None:
    """Counting every token twice doubles a margin of sums and leaves one of means alone."""
    sums, means = of_wired(doubled, case)
    np.testing.assert_allclose(*sums, rtol=1e-5)
    np.testing.assert_allclose(*means, rtol=1e-5)


def metrics_of_four(case: Case) -> Any:
    logps, batch = pairs_batch([2.0, -3.0, 1.0, 5.0], [1.0, 0.0, 0.25, 0.5])
    _, metrics = case.loss(standin(policy=logps), batch, normalize="none")
    return {name: metric.value() for name, metric in metrics.items()}


@wiring
def test_metrics_are_of_the_preferred_completion(case: Case) -> None:
    metrics = of_wired(metrics_of_four, case)
    assert metrics["accuracy"] == pytest.approx(2 / 3)  # the draw does not count
    assert metrics["margin"] == pytest.approx((2 + 3 - 1) / 3)
    assert metrics["chosen_logps"] == pytest.approx((2 + 0 + 0) / 3)


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
