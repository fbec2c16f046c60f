"""LCPO: its posterior, its limits, EM as the gradient of a likelihood, annotators whose error rates it finds."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import losses, roles
from alignjax.config import ConfigError, fn
from alignjax.train.state import create_state
from alignjax.train.step import make_update
from alignjax.types import Algorithm, Array, Batch, Mean, Role
from alignjax.workspace import Workspace
from tests.support.network import NETWORK, full_batch
from tests.support.tiny import as_jax, sgd, standin

pytestmark = pytest.mark.usefixtures("float64")

DPO = fn(losses.dpo, beta=0.5)


def pairs(margin: Any, label: Any, annotator: Any = None) -> tuple[Array, Batch]:
    """Policy log-probs [B,2,1] with margins against a reference of 0, and their labels."""
    margin, label = jnp.asarray(margin, float), jnp.asarray(label, float)
    logps = jnp.stack([margin, jnp.zeros_like(margin)], axis=1)[..., None]
    half = jnp.full_like(label, 0.5)
    matrix = jnp.stack([jnp.stack([half, label], 1), jnp.stack([1 - label, half], 1)], 1)
    on = jnp.ones(logps.shape, bool)
    return logps, Batch(
        tokens=jnp.zeros(logps.shape, jnp.int32), valid=on, mask=on.astype(float), preference=matrix,
        logps={"reference": jnp.zeros_like(logps)},
        prompts={} if annotator is None else {"annotator": jnp.asarray(annotator)},
    )  # fmt: skip


def lcpo(logps: Array, batch: Batch, eta: Any, loss: Any = DPO, **hyper: Any) -> tuple[Mean, Any]:
    context = standin(policy=logps)
    context.state = {"reliability": jnp.atleast_1d(jnp.asarray(eta, float))}
    return fn(losses.lcpo, loss=loss, **hyper)(context, batch)


def evaluated(loss: Any, logps: Array) -> tuple[Array, Array]:
    return jax.value_and_grad(lambda x: loss(x).value())(logps)


MARGINS, LABELS = [-3.0, -0.4, 0.0, 1.2, 5.0], [1.0, 0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("eta", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("margin", [-4.0, 0.3, 2.0])
@pytest.mark.parametrize("label", [1.0, 0.0])
def test_the_posterior_is_that_of_bayes(eta: float, margin: float, label: float) -> None:
    """All four cases of (label correct or not, true winner), written down and conditioned on the label."""
    first_wins = 1 / (1 + np.exp(-0.5 * margin))
    joint = {
        (correct, winner): (eta if correct else 1 - eta) * (first_wins if winner == 0 else 1 - first_wins)
        for correct, winner in itertools.product([True, False], [0, 1])
    }
    said_first = {case: p for case, p in joint.items() if case[0] == (case[1] == 0)}
    given = said_first if label == 1 else {case: p for case, p in joint.items() if case not in said_first}
    expected = sum(p for (correct, _), p in given.items() if correct) / sum(given.values())
    _, metrics = lcpo(*pairs([margin], [label]), eta)
    np.testing.assert_allclose(metrics["reliability"].value(), [expected], rtol=1e-12)


@pytest.mark.parametrize("base", [DPO, fn(losses.ipo, tau=0.4), fn(losses.slic, beta=0.5)], ids=lambda f: f.name)
def test_a_certain_annotator_leaves_the_base_loss(base: Any) -> None:
    logps, batch = pairs(MARGINS, LABELS)
    for eta, labels in ((1.0, LABELS), (0.0, [1 - label for label in LABELS])):
        got = evaluated(lambda x, eta=eta: lcpo(x, batch, eta, base, normalizer=False)[0], logps)
        plain = evaluated(lambda x, labels=labels: base(standin(policy=x), pairs(MARGINS, labels)[1])[0], logps)
        np.testing.assert_allclose(got[0], plain[0], rtol=1e-12)
        np.testing.assert_allclose(got[1], plain[1], rtol=1e-12)


def test_an_annotator_who_tosses_a_coin_says_nothing() -> None:
    """At eta = 1/2 the two orders of a label are the same, and of DPO no gradient is left; eta and 1 - eta mirror."""
    logps, batch = pairs(MARGINS, LABELS)
    other = pairs(MARGINS, [1 - label for label in LABELS])[1]
    one, two = (evaluated(lambda x, b=b: lcpo(x, b, 0.5)[0], logps) for b in (batch, other))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-12)
    for _, slope in (one, two):
        np.testing.assert_allclose(slope, 0, atol=1e-15)
    value, slope = evaluated(lambda x: lcpo(x, batch, 0.9)[0], logps)
    turned, turned_slope = evaluated(lambda x: lcpo(x, other, 0.1)[0], logps)
    np.testing.assert_allclose(value, turned, rtol=1e-12)
    np.testing.assert_allclose(slope, turned_slope, rtol=1e-12)
    assert abs(float(value - one[0])) > 1e-3


@pytest.mark.parametrize("exact", [False, True])
def test_the_m_step_climbs_the_likelihood(exact: bool) -> None:
    """Its gradient is that of minus the log-probability of the labels with the latent summed out (Fisher's identity),
    for DPO as it is, for IPO with the normaliser."""
    base = fn(losses.ipo, tau=0.4) if exact else DPO
    logps, batch = pairs(MARGINS, LABELS)
    eta = 0.8

    def likelihood(margin: Array) -> Array:
        values = [base.function.per_pair(margin, p, **{k: base.kwargs[k] for k in ("tau", "beta") if k in base.kwargs})
                  for p in (1.0, 0.0)]  # fmt: skip
        first = jax.nn.softmax(-jnp.stack(values), axis=0)[0]
        said = jnp.where(jnp.asarray(LABELS) == 1, first, 1 - first)
        return -jnp.mean(jnp.log(eta * said + (1 - eta) * (1 - said)))

    expected = jax.grad(likelihood)(jnp.asarray(MARGINS))
    _, slope = evaluated(lambda x: lcpo(x, batch, eta, base, normalizer=exact)[0], logps)
    np.testing.assert_allclose(slope[:, 0, 0], expected, rtol=1e-9, atol=1e-14)
    if exact:
        _, without = evaluated(lambda x: lcpo(x, batch, eta, base, normalizer=False)[0], logps)
        assert not np.allclose(without, slope, rtol=1e-2)


def test_the_normaliser_is_nothing_for_dpo_and_makes_dpo_of_ipo() -> None:
    """exp(-loss) of IPO in the two orders differ by a factor exp(2 margin / tau)."""
    logps, batch = pairs(MARGINS, LABELS)
    plain, exact = (evaluated(lambda x, n=n: lcpo(x, batch, 0.8, normalizer=n)[0], logps) for n in (False, True))
    np.testing.assert_allclose(plain[0], exact[0], rtol=1e-12)
    np.testing.assert_allclose(plain[1], exact[1], rtol=1e-9, atol=1e-14)
    square = evaluated(lambda x: lcpo(x, batch, 0.8, fn(losses.ipo, tau=4.0))[0], logps)  # the paper's form by default
    np.testing.assert_allclose(square[0], plain[0], rtol=1e-9)
    np.testing.assert_allclose(square[1], plain[1], rtol=1e-9, atol=1e-12)


def test_a_soft_label_is_two_labels() -> None:
    logps, batch = pairs([1.3], [0.3])
    value, metrics = lcpo(logps, batch, 0.8)
    parts = [lcpo(logps, pairs([1.3], [hard])[1], 0.8) for hard in (1.0, 0.0)]
    np.testing.assert_allclose(value.value(), 0.3 * parts[0][0].value() + 0.7 * parts[1][0].value(), rtol=1e-12)
    trust = [float(part[1]["reliability"].value()[0]) for part in parts]
    np.testing.assert_allclose(metrics["reliability"].value(), [0.3 * trust[0] + 0.7 * trust[1]], rtol=1e-12)


def test_annotators_are_kept_apart_and_the_rule_follows() -> None:
    eta = [0.6, 0.9, 0.7]
    logps, batch = pairs(MARGINS, LABELS, [0, 1, 0, 1, 1])
    _, metrics = lcpo(logps, batch, eta)
    apart = []
    for who in (0, 1):
        rows = jnp.flatnonzero(batch.prompts["annotator"] == who)
        alone = batch.take(rows).replace(prompts={})
        apart.append(float(lcpo(logps[rows], alone, eta[who])[1]["reliability"].value()[0]))
    np.testing.assert_allclose(metrics["reliability"].value()[:2], apart, rtol=1e-12)
    assert metrics["reliability"].weight.tolist() == [2, 3, 0]
    own: Any = jnp.array(eta)
    context: Any = SimpleNamespace(metrics={"noisy/reliability": metrics["reliability"]})
    moved = losses.reliability_average(own, context, batch, jax.random.key(0), of="noisy", decay=0.75)
    np.testing.assert_allclose(moved, [0.75 * 0.6 + 0.25 * apart[0], 0.75 * 0.9 + 0.25 * apart[1], 0.7], rtol=1e-12)
    certain = Mean(jnp.array([2.0, 0.0, 0.0]), jnp.array([2.0, 3.0, 0.0]))
    context = SimpleNamespace(metrics={"lcpo/reliability": certain})
    moved = losses.reliability_average(own, context, batch, jax.random.key(0), decay=0.0)
    assert 0.99 < moved[0] < 1
    assert 0 < moved[1] < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("normalizer", [False, True])
def test_extremes_are_finite(dtype: str, normalizer: bool) -> None:
    margins, labels = zip(*itertools.product([-1e4, -1.0, 0.0, 1e4], [0.0, 0.5, 1.0]), strict=True)
    logps, batch = pairs(margins, labels)
    for base, eta in itertools.product([DPO, fn(losses.ipo, tau=0.1)], [1e-3, 0.5, 1 - 1e-3]):
        cast = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == float else x, (logps, batch))
        loss = evaluated(lambda x, b=cast[1], f=base, e=eta: lcpo(x, b, e, f, normalizer=normalizer)[0], cast[0])
        assert all(np.all(np.isfinite(np.asarray(part, float))) for part in loss)


def test_what_it_cannot_wrap_is_said() -> None:
    logps, batch = pairs(MARGINS, LABELS)
    with pytest.raises(ConfigError, match=r"lcpo needs a pairwise loss .* not fn\(sft"):
        lcpo(logps, batch, 0.8, fn(losses.sft))
    context = standin(policy=logps)
    context.state = {"reliabilty": jnp.ones(1)}
    with pytest.raises(
        ConfigError, match=r"'reliability', which the algorithm does not have\. Did you mean 'reliabilty'"
    ):
        fn(losses.lcpo, loss=DPO)(context, batch)


# ------------------------------------------------------------------------------------------ finding annotators

K, BETA, FLIPS = 6, 0.5, (0.1, 0.3)
WIN, LOSE = np.array(list(itertools.combinations(range(K), 2))).T
TRUE = np.linspace(2.5, -2.5, K)  # rewards, one nat of preference apart
OPTIMUM = np.exp(TRUE / BETA) / np.exp(TRUE / BETA).sum()  # with a uniform reference


def labelled(counts: Any) -> Batch:
    """Every pair of completions by both annotators; counts [2,pairs,2]: how often each said first and second."""
    counts = jnp.asarray(counts, float).reshape(-1, 2)
    total = counts.sum(-1)
    _, batch = pairs(jnp.zeros(len(total)), counts[:, 0] / total, np.repeat([0, 1], len(WIN)))
    return batch.replace(pair_weight=jnp.broadcast_to(total[:, None, None], (len(total), 2, 2)))


@dataclasses.dataclass(frozen=True)
class Fit:
    eta: np.ndarray
    distance: float  # total variation between the policy and the optimum


def fitted(batch: Batch, robust: bool, steps: int = 3000) -> Fit:
    """Full-batch optimisation of a table of logits, with the rule after every step."""
    optimizer = optax.adam(0.02)
    index = jnp.tile(jnp.stack([jnp.asarray(WIN), jnp.asarray(LOSE)], 1), (2, 1))

    def objective(theta: Array, eta: Array) -> tuple[Array, Any]:
        logps = (jax.nn.log_softmax(theta) + jnp.log(K))[index][..., None]
        mean, metrics = lcpo(logps, batch, eta) if robust else DPO(standin(policy=logps), batch)
        return mean.value(), metrics.get("reliability", Mean(eta, jnp.ones_like(eta)))

    def step(carry: Any, _: Any) -> tuple[Any, None]:
        theta, moments, eta = carry
        slope, trusted = jax.grad(objective, has_aux=True)(theta, eta)
        updates, moments = optimizer.update(slope, moments)
        context: Any = SimpleNamespace(metrics={"lcpo/reliability": trusted})
        eta = losses.reliability_average(eta, context, batch, jax.random.key(0), decay=0.9)
        return (optax.apply_updates(theta, updates), moments, eta), None

    start = jnp.zeros(K)
    first = losses.reliability(jax.random.key(0), annotators=2).astype(float)
    (theta, _, eta), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))(
        (start, optimizer.init(start), first)
    )
    return Fit(np.asarray(eta), float(np.abs(np.asarray(jax.nn.softmax(theta)) - OPTIMUM).sum() / 2))


def said(flip: float) -> np.ndarray:
    """The probability that an annotator says that the first of each pair wins, and loses."""
    win = 1 / (1 + np.exp(-(TRUE[WIN] - TRUE[LOSE])))
    first = (1 - flip) * win + flip * (1 - win)
    return np.stack([first, 1 - first], axis=-1)


def test_error_rates_are_found_from_expected_labels() -> None:
    """With the labels' probabilities in place of labels: the fixed point is the truth, policy and annotators both."""
    batch = labelled([said(flip) for flip in FLIPS])
    robust, plain = fitted(batch, True), fitted(batch, False)
    np.testing.assert_allclose(robust.eta, 1 - np.array(FLIPS), atol=2e-3)
    assert robust.distance < 5e-3
    assert plain.distance > 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_error_rates_are_found_from_labels(seed: int) -> None:
    """2000 labels of each pair by each annotator: within 0.03 of the true rates, and nearer to the optimum than DPO."""
    draw = np.random.default_rng(seed)
    counts = np.array([draw.multinomial(2000, said(flip)) for flip in FLIPS])
    robust, plain = fitted(labelled(counts), True), fitted(labelled(counts), False)
    np.testing.assert_allclose(robust.eta, 1 - np.array(FLIPS), atol=0.03)
    assert robust.distance < 0.5 * plain.distance


def test_in_an_algorithm() -> None:
    """The role starts, the loss reads it, the rule moves it to what the update's metrics say."""
    algorithm = Algorithm(
        losses={"lcpo": fn(losses.lcpo, loss=fn(losses.dpo, beta=0.3))},
        roles={
            "policy": Role(NETWORK, roles.fresh(), fn(sgd, learning_rate=0.1)),
            "reference": Role(NETWORK, roles.copy_of("policy")),
            "reliability": Role(
                None, roles.value(fn(losses.reliability, annotators=2, eta=0.8)), rule=fn(losses.reliability_average)
            ),
        },
    )
    state = create_state(algorithm, 0, Workspace(Path("nowhere")))
    np.testing.assert_allclose(state.roles["reliability"], [0.8, 0.8], rtol=1e-6)
    state, metrics = make_update(algorithm)(state, as_jax(full_batch()))
    expected = 0.9 * 0.8 + 0.1 * np.asarray(metrics["lcpo/reliability"])
    np.testing.assert_allclose(state.roles["reliability"], expected, rtol=1e-5)
