"""How losses on pairs are related: limits, reductions, bounds and sums."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import ConfigError, Fn, fn
from alignjax.losses import divergences
from alignjax.types import Array, Batch
from tests.support.tiny import as_jax, evaluate, measure, ragged, standin

pytestmark = pytest.mark.usefixtures("float64")
ROWS = 8


def given(seed: int = 0, rows: int = ROWS, hard: bool = False, equal: bool = False) -> tuple[np.ndarray, Batch]:
    """Token log-probs below 0 and a batch in float64. equal: every completion has 3 tokens that count."""
    batch = ragged(seed, rows=rows)
    if equal:
        on = np.broadcast_to(np.arange(batch.mask.shape[-1]) < 3, batch.mask.shape)
        batch = batch.replace(valid=on, mask=on.astype(np.float32))
    if hard:
        first = (np.arange(rows) % 3 > 0).astype(np.float32)
        batch.preference[:, 0, 1], batch.preference[:, 1, 0] = first, 1 - first
    batch = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, batch)
    return -np.random.default_rng(seed + 1).gamma(2, 1, batch.tokens.shape), batch


def run(loss: Fn, logps: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient by the token log-probs."""
    return evaluate(loss, batch, policy=logps)


def rows_of(batch: Batch, rows: Any) -> Batch:
    return jax.tree.map(lambda leaf: leaf[rows], batch)


def assert_same(one: Fn, other: Fn, logps: Array, batch: Batch, factor: float = 1.0, rtol: float = 1e-9) -> None:
    for a, b in zip(run(one, logps, batch), run(other, logps, batch), strict=True):
        np.testing.assert_allclose(a, factor * b, rtol=rtol, atol=rtol)


DPO = fn(losses.dpo, beta=0.4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (fn(losses.h_dpo, beta=0.4, alpha=1.0), DPO),
        (fn(losses.f_dpo, beta=0.4, divergence=divergences.reverse_kl), DPO),
        (fn(losses.f_dpo, beta=0.4, divergence=fn(divergences.alpha_divergence, alpha=0.0)), DPO),
        (fn(losses.dpo_positive, beta=0.4, lam=0.0), DPO),
        (fn(losses.robust_dpo, beta=0.4, epsilon=0.0), DPO),
        (fn(losses.ln_dpo, beta=0.4), DPO.replace(normalize="length")),
        (fn(losses.logical, beta=0.4), DPO),
        (fn(losses.cpo, beta=0.4, alpha=0.0), DPO.replace(reference=None)),
        (
            fn(losses.f_dpo, beta=0.4, divergence=fn(divergences.alpha_divergence, alpha=1.0)),
            fn(losses.f_dpo, beta=0.4, divergence=divergences.forward_kl),
        ),
        (fn(losses.simpo, beta=0.4, gamma=0.0), fn(losses.cpo, beta=0.4, alpha=0.0, normalize="length")),
        (
            fn(losses.alpha_po, beta=0.4, gamma=0.3, alpha=0.0),
            fn(losses.simpo, beta=0.4, gamma=0.3),
        ),
    ],
    ids=lambda loss: loss.name,
)
def test_reductions(one: Fn, other: Fn) -> None:
    assert_same(one, other, *given())


@pytest.mark.parametrize(
    ("loss", "limit"),
    [
        (
            lambda a: fn(losses.f_dpo, beta=0.4, divergence=fn(divergences.alpha_divergence, alpha=a)),
            DPO,
        ),
        (lambda a: fn(losses.alpha_po, beta=0.4, gamma=0.3, alpha=a), fn(losses.simpo, beta=0.4, gamma=0.3)),
    ],
)
def test_small_alpha_is_on_the_way_to_the_limit(loss: Any, limit: Fn) -> None:
    """The distance falls in proportion to alpha, from both sides, and at 1e-7 nothing has been lost to cancellation."""
    logps, batch = given()
    end = run(limit, logps, batch)[0]
    gaps = [float(run(loss(alpha), logps, batch)[0] - end) for alpha in (1e-3, 1e-4, -1e-4, 1e-7)]
    assert abs(gaps[0]) > 1e-6
    np.testing.assert_allclose(np.array(gaps[:3]) / gaps[0], [1, 0.1, -0.1], rtol=0.05)
    np.testing.assert_allclose(gaps[3] / gaps[0], 1e-4, rtol=0.05)


def test_equal_lengths_rescale_beta() -> None:
    logps, batch = given(equal=True)
    assert_same(fn(losses.ln_dpo, beta=1.2), DPO, logps, batch)
    without = fn(losses.cpo, beta=0.4, alpha=0.0)
    assert_same(fn(losses.simpo, beta=1.2, gamma=0.0), without, logps, batch)
    logps, batch = given()
    assert abs(run(fn(losses.ln_dpo, beta=1.2), logps, batch)[0] - run(DPO, logps, batch)[0]) > 1e-3


def test_slic_hf_without_its_likelihood_is_a_hinge() -> None:
    loss = fn(losses.slic_hf, gamma=2.5, lam=0.0)
    assert_same(loss, fn(losses.slic, beta=1 / 2.5, reference=None), *given(), factor=2.5)


def test_robust_dpo_is_unbiased_over_flips() -> None:
    """All ways to flip the labels of five pairs, by their probability: the mean is DPO on the true labels."""
    logps, batch = given(rows=5, hard=True)
    epsilon, robust = 0.2, fn(losses.robust_dpo, beta=0.4, epsilon=0.2)
    values, grads, chances = [], [], []
    for flips in itertools.product([False, True], repeat=5):
        flip = np.array(flips)[:, None, None]
        noisy = batch.replace(preference=np.where(flip, 1 - batch.preference, batch.preference))
        value, grad = run(robust, logps, noisy)
        values.append(value)
        grads.append(grad)
        chances.append(math.prod(epsilon if f else 1 - epsilon for f in flips))
    clean, clean_grad = run(DPO, logps, batch)
    np.testing.assert_allclose(np.average(values, weights=chances), clean, rtol=1e-12)
    np.testing.assert_allclose(np.average(grads, axis=0, weights=chances), clean_grad, atol=1e-12)
    assert abs(values[1] - clean) > 1e-3


def test_discopop_is_logistic_below_and_exponential_above() -> None:
    at = lambda x: float(losses.discopop.per_pair(jnp.array(x / 0.5), beta=0.5, temperature=0.05))  # noqa: E731
    for x in (1.0, 2.0, 5.0):
        np.testing.assert_allclose(at(x), math.exp(-x), rtol=1e-7)
        np.testing.assert_allclose(at(-x), losses.dpo.per_pair(jnp.array(-x), 1.0, beta=1.0), rtol=1e-7)


def test_info_nca_of_two_is_dpo_and_nca_has_its_margin() -> None:
    """InfoNCA is the cross-entropy of softmax(beta rho) against the label; for two that is DPO. At the minimum of NCA
    the gradient of both vanishes."""
    p, rho = 0.8, jnp.array([1.3, -0.4])
    label = jnp.array([p, 1 - p])
    info = lambda rho: -jnp.sum(label * jax.nn.log_softmax(0.4 * rho))  # noqa: E731
    dpo = lambda rho: losses.dpo.per_pair(rho[0] - rho[1], p, beta=0.4)  # noqa: E731
    for one, other in zip(jax.value_and_grad(info)(rho), jax.value_and_grad(dpo)(rho), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    least = jnp.log(2 * label) / 0.4
    nca = lambda rho: sum(  # noqa: E731
        weight * losses.nca.per_pair(*pair, beta=0.4) for weight, pair in zip(label, (rho, rho[::-1]), strict=True)
    )
    np.testing.assert_allclose(jax.grad(nca)(least), 0, atol=1e-12)
    np.testing.assert_allclose(jax.grad(dpo)(least), 0, atol=1e-12)


def test_exo_turns_dpo_round() -> None:
    """DPO on the smoothed label t is KL(t || q) plus the label's entropy, EXO is KL(q || t): both are least at q = t,
    where EXO is 0 and they have the same curvature."""
    t = 0.9 * 0.7 + 0.1 * 0.3
    dpo = lambda h: losses.dpo.per_pair(h, t, beta=0.4)  # noqa: E731
    exo = lambda h: losses.exo.per_pair(h, 0.7, beta=0.4, epsilon=0.1)  # noqa: E731
    least = jnp.array(math.log(t / (1 - t)) / 0.4)
    np.testing.assert_allclose([exo(least), jax.grad(exo)(least), jax.grad(dpo)(least)], 0, atol=1e-12)
    np.testing.assert_allclose(jax.grad(jax.grad(exo))(least), jax.grad(jax.grad(dpo))(least), rtol=1e-9)
    for h in (-3.0, 0.0, 4.0):
        q = jax.nn.sigmoid(0.4 * h)
        binary = jnp.array([q, 1 - q]), jnp.array([t, 1 - t])
        np.testing.assert_allclose(exo(jnp.array(h)), jnp.sum(binary[0] * jnp.log(binary[0] / binary[1])), rtol=1e-9)


@pytest.mark.parametrize("p", [0.5, 0.51, 0.7])
def test_ipo_is_a_square_around_what_dpo_bends(p: float) -> None:
    """IPO's gradient is linear in the margin and its curvature the same everywhere. Its optimum is where a line
    through 0 with the slope of DPO's optimum at p = 1/2 puts it: at tau = beta / 4 both optima agree to second
    order in p - 1/2, and DPO's lies beyond IPO's for every other p."""
    beta = 0.4
    ipo = lambda h: losses.ipo.per_pair(h, p, tau=beta / 4)  # noqa: E731
    dpo = lambda h: losses.dpo.per_pair(h, p, beta=beta)  # noqa: E731
    curvature = jax.vmap(jax.grad(jax.grad(ipo)))(jnp.linspace(-50, 50, 7))
    np.testing.assert_allclose(curvature, 2, rtol=1e-12)
    square = -float(jax.grad(ipo)(0.0)) / 2
    logistic = math.log(p / (1 - p)) / beta
    np.testing.assert_allclose([jax.grad(ipo)(square), jax.grad(dpo)(logistic)], 0, atol=1e-12)
    assert logistic >= square
    np.testing.assert_allclose(square, logistic, atol=16 / beta * abs(p - 0.5) ** 3)


@pytest.mark.parametrize("seed", range(2))
def test_bco_bounds_dpo_from_above_for_any_shift(seed: int) -> None:
    logps, batch = given(seed, hard=True)
    dpo = float(run(DPO, logps, batch)[0])
    context, pairs = standin(policy=as_jax(logps)), as_jax(batch)
    moved = jax.vmap(lambda shift: losses.bco_pair(context, pairs, beta=0.4, shift=shift)[0].value())
    shifted = jax.jit(moved)(np.linspace(-20, 20, 41))
    assert min(shifted) >= dpo
    assert min(shifted) < dpo + 1.5  # and not by far
    metrics = measure(fn(losses.bco_pair, beta=0.4), batch, policy=logps)
    assert metrics[""][0] >= dpo
    own = float(metrics["shift"][0])
    assert_same(fn(losses.bco_pair, beta=0.4), fn(losses.bco_pair, beta=0.4, shift=own), logps, batch)


AOT = [fn(losses.aot, beta=0.4), fn(losses.aot_unpaired, beta=0.4)]
both = pytest.mark.parametrize("loss", AOT, ids=lambda loss: loss.name)


@both
def test_transport_of_one_pair_is_dpo(loss: Fn) -> None:
    """Also with a group of its own for every pair, and with epsilon as a soft label."""
    logps, batch = given(rows=1, hard=True)
    assert_same(loss, DPO, logps, batch)
    logps, batch = given(hard=True)
    assert_same(loss.replace(groups=ROWS), DPO, logps, batch)
    smooth = batch.replace(preference=0.9 * batch.preference + 0.1 * (1 - batch.preference))
    np.testing.assert_allclose(
        run(loss.replace(groups=ROWS, epsilon=0.1), logps, batch)[0], run(DPO, logps, smooth)[0], rtol=1e-12
    )
    assert abs(run(loss, logps, batch)[0] - run(DPO, logps, batch)[0]) > 1e-3


def permuted(rows: np.ndarray, logps: np.ndarray, batch: Batch) -> tuple[np.ndarray, Batch]:
    """The second completion moved to other rows."""
    move = lambda x: np.stack([x[:, 0], x[rows, 1]], axis=1)  # noqa: E731
    reference = {"reference": move(batch.logps["reference"])}
    return move(logps), batch.replace(mask=move(batch.mask), valid=move(batch.valid), logps=reference)


def test_unpaired_transport_does_not_know_who_was_paired() -> None:
    logps, batch = given()
    batch = batch.replace(preference=np.tile([[0.5, 1], [0, 0.5]], (ROWS, 1, 1)))
    moved = permuted(np.array([3, 0, 7, 1, 4, 2, 6, 5]), logps, batch)
    unpaired, paired = AOT[1], AOT[0]
    np.testing.assert_allclose(run(unpaired, *moved)[0], run(unpaired, logps, batch)[0], rtol=1e-12)
    assert abs(run(paired, *moved)[0] - run(paired, logps, batch)[0]) > 1e-6


def test_paired_transport_sorts_the_reference_by_itself() -> None:
    """Whose margin under the reference is whose plays no part, unlike in DPO."""
    logps, batch = given(equal=True, hard=True)
    batch = batch.replace(preference=np.tile([[0.5, 1], [0, 0.5]], (ROWS, 1, 1)))
    other = batch.with_logps(reference=batch.logps["reference"][[3, 0, 7, 1, 4, 2, 6, 5]])
    assert_same(AOT[0], AOT[0], logps, batch)
    np.testing.assert_allclose(run(AOT[0], logps, other)[0], run(AOT[0], logps, batch)[0], rtol=1e-12)
    assert abs(run(DPO, logps, other)[0] - run(DPO, logps, batch)[0]) > 1e-4


@both
def test_groups_are_sorted_apart(loss: Fn) -> None:
    """Two groups are the mean of two batches; pairs that do not count are in nobody's way."""
    logps, batch = given(hard=True)
    halves = [run(loss, logps[half], rows_of(batch, half))[0] for half in (np.arange(4), np.arange(4, 8))]
    np.testing.assert_allclose(run(loss.replace(groups=2), logps, batch)[0], np.mean(halves), rtol=1e-12)
    weight, preference = np.ones((ROWS, 2, 2)), batch.preference.copy()
    weight[[1, 6]], preference[3] = 0, 0.5
    out = batch.replace(pair_weight=weight, preference=preference)
    kept = np.array([0, 2, 4, 5, 7])  # row 3 is a tie, which is on no side
    np.testing.assert_allclose(run(loss, logps, out)[0], run(loss, logps[kept], rows_of(batch, kept))[0], rtol=1e-12)
    with pytest.raises(ConfigError, match=r"groups=3 does not divide the 8 prompts"):
        run(loss.replace(groups=3), logps, batch)


def test_a_weighted_sum_is_entries_beside_each_other() -> None:
    """MPO: value and gradient of the entries add up."""
    logps, batch = given()
    parts = [(0.8, DPO), (0.2, fn(losses.bco_pair, beta=0.4)), (1.5, fn(losses.sft))]
    entries = [fn(losses.weighted, loss=loss, weight=weight) for weight, loss in parts]

    value, grad = (sum(one) for one in zip(*(run(entry, logps, batch) for entry in entries), strict=True))
    apart = [run(loss, logps, batch) for _, loss in parts]
    weights = [weight for weight, _ in parts]
    np.testing.assert_allclose(value, sum(w * v for w, (v, _) in zip(weights, apart, strict=True)), rtol=1e-12)
    np.testing.assert_allclose(grad, sum(w * g for w, (_, g) in zip(weights, apart, strict=True)), rtol=1e-9)


def test_with_divergence_needs_a_loss_of_pairs() -> None:
    logps, batch = given()
    with pytest.raises(ConfigError, match=r"with_divergence needs a pairwise loss .* not fn\(sft"):
        run(fn(losses.with_divergence, loss=fn(losses.sft)), logps, batch)
    with pytest.raises(ConfigError, match="normalize='words'"):
        run(fn(losses.f_dpo, normalize="words"), logps, batch)


@pytest.mark.parametrize(
    ("score", "generator"),
    [
        (divergences.reverse_kl, lambda u: u * jnp.log(u)),
        (divergences.forward_kl, lambda u: -jnp.log(u)),
        (divergences.jensen_shannon, lambda u: u * jnp.log(u) - (1 + u) * jnp.log((1 + u) / 2)),
        (
            fn(divergences.alpha_divergence, alpha=0.3),
            lambda u: (u**0.7 - 0.7 * u - 0.3) / (0.3 * (0.3 - 1)),
        ),
    ],
    ids=["reverse_kl", "forward_kl", "jensen_shannon", "alpha"],
)
def test_scores_are_the_slopes_of_the_divergence(score: Any, generator: Any) -> None:
    """f'(u) of the textbook generator, up to a constant and at any size of the ratio finite, in both directions."""
    ratio = jnp.linspace(-3, 3, 13)
    slope = jax.vmap(jax.grad(generator))(jnp.exp(ratio))
    gap = score(ratio) - slope
    np.testing.assert_allclose(gap, gap[0], atol=1e-9)
    far = jnp.array([-1e4, 1e4], jnp.float32)
    assert np.all(np.isfinite(score(far)))
    assert np.all(np.isfinite(jax.vmap(jax.grad(lambda r: jnp.square(score(r))))(far)))


# ----------------------------------------------------------------------------------------------------------------
# losses of one's own


@losses.pairwise
def exponential(margin: Array, *, beta: float = 0.1) -> Array:
    """Without a bound on the wrong side: exp(-beta h)."""
    return jnp.exp(-beta * margin)


@losses.unpaired
def exponentials(ratio: Array, *, beta: float = 0.1) -> tuple[Array, Array]:
    return jnp.exp(-beta * ratio), jnp.exp(beta * ratio)


def test_an_order_that_the_label_rules_out_is_not_evaluated() -> None:
    """Of exp(-h) at h = 1e4 and a certain label; nor is a pair or a completion that nobody labeled."""
    logps, batch = given(rows=3)
    on = np.ones_like(batch.mask)
    sums = np.array([[1e4, 0.0], [0.0, 1e4], [0.0, 1e4]])
    logps = (sums[..., None] * on / on.shape[-1]).astype(np.float32)
    preferring = lambda p: np.moveaxis(np.array([[np.full(3, 0.5), p], [1 - p, np.full(3, 0.5)]]), 2, 0)  # noqa: E731
    counts = np.array([1.0, 1.0, 0.0])
    batch = batch.replace(
        valid=on > 0, mask=on, logps={"reference": np.zeros_like(logps)},
        preference=preferring(np.array([1.0, 0.0, 1.0])),
        pair_weight=np.tile(counts[:, None, None], (1, 2, 2)),
        reward=np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]),
        completions={"weight": np.tile(counts[:, None], (1, 2))},
    )  # fmt: skip
    value, slope = run(fn(exponential), logps, batch)
    np.testing.assert_allclose(value, 0, atol=1e-12)  # both pairs that count are right by 1e4 nats
    np.testing.assert_array_equal(slope, 0)
    value, slope = run(fn(exponentials), logps, batch)
    np.testing.assert_allclose(value, 0.5, rtol=1e-6)  # of each pair one is right, and one is at its reference
    assert np.all(np.isfinite(slope))
    soft = batch.replace(preference=preferring(np.full(3, 0.3)))
    value, _ = run(fn(exponential), logps / np.float32(1e4), soft)
    np.testing.assert_allclose(value, 0.5 * (np.exp(0.1) + np.exp(-0.1)), rtol=1e-6)


def test_the_likelihood_of_cpo_may_be_a_mean() -> None:
    """Then it is the supervised term of ORPO."""
    logps, batch = given()
    mean, sums, none = (
        run(fn(losses.cpo, beta=0.4, **more), logps, batch)
        for more in ({"token_mean": True, "alpha": 0.7}, {"alpha": 0.7}, {"alpha": 0.0})
    )
    orpo = run(fn(losses.orpo, lam=0.0), logps, batch)
    for a, b, c in zip(mean, none, orpo, strict=True):
        np.testing.assert_allclose(a - b, 0.7 * c, rtol=1e-9, atol=1e-12)
    assert abs(float(mean[0] - sums[0])) > 0.1
