"""Policies at which the fits of one round of self-play end: mirror steps and best responses, in a table."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from alignjax import losses
from alignjax.types import Array, Batch
from tests.support.tiny import standin


@pytest.fixture(autouse=True)
def _exactly(float64: None) -> None:
    pass


K = 4
DRAW = np.random.default_rng(21)
HALF = np.triu(DRAW.random((K, K)), 1)
PREFERENCE = HALF + np.tril(1 - HALF.T, -1) + np.eye(K) / 2
REFERENCE, PREVIOUS = (np.log(DRAW.dirichlet(np.full(K, 3.0))) for _ in range(2))
FIRST, SECOND = (index.reshape(-1) for index in np.meshgrid(range(K), range(K), indexing="ij"))


def every_pair(sampler: np.ndarray) -> Batch:
    """All pairs of K one-token completions, weighted by how often two samples are those."""
    on = jnp.ones((K * K, 2, 1))
    weight, label = sampler[FIRST] * sampler[SECOND], PREFERENCE[FIRST, SECOND]
    half = jnp.full((K * K, 2, 2), 0.5)

    def of(table: np.ndarray) -> Array:
        return jnp.asarray(np.stack([table[FIRST], table[SECOND]], axis=1))[..., None]

    return Batch(
        tokens=jnp.zeros(on.shape, int), valid=on > 0, mask=on,
        preference=half.at[:, 0, 1].set(label).at[:, 1, 0].set(1 - label),
        pair_weight=half.at[:, 0, 1].set(weight).at[:, 1, 0].set(weight),
        logps={"reference": of(REFERENCE), "previous": of(PREVIOUS)},
    )  # fmt: skip


def fitted(loss: Any, batch: Batch) -> np.ndarray:
    """The softmax policy at which the loss over the batch is least."""

    def objective(logits: Array) -> Array:
        logp = jax.nn.log_softmax(logits)
        return loss(standin(policy=jnp.stack([logp[FIRST], logp[SECOND]], axis=1)[..., None]), batch)[0].value()

    both = jax.jit(jax.value_and_grad(objective))
    found = minimize(lambda x: tuple(map(np.asarray, both(jnp.asarray(x)))), np.zeros(K), jac=True, tol=1e-15)
    return np.asarray(jax.nn.softmax(found.x))


def tilted(log_base: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(log_base + tilt))


WINS = PREFERENCE @ np.exp(PREVIOUS)


def test_a_round_of_inpo_is_a_regularised_mirror_step() -> None:
    """previous^(1-c) reference^c exp(P(. beats previous) / eta)."""
    found = fitted(lambda c, b: losses.inpo(c, b, eta=0.6, c=0.25), every_pair(np.exp(PREVIOUS)))
    np.testing.assert_allclose(found, tilted(0.75 * PREVIOUS + 0.25 * REFERENCE, WINS / 0.6), atol=1e-7)


def test_a_round_of_onpos_fit_is_a_mirror_step() -> None:
    """The IPO fit that both of its policies make: base exp(eta P(. beats previous)), from whatever base."""
    batch = every_pair(np.exp(PREVIOUS))
    for base, table in (("previous", PREVIOUS), ("reference", REFERENCE)):
        found = fitted(lambda c, b, base=base: losses.ipo(c, b, tau=1 / 2.0, reference=base), batch)
        np.testing.assert_allclose(found, tilted(table, 2.0 * WINS), atol=1e-7)


def test_egpo_fits_the_best_response_whatever_the_pairs_come_from() -> None:
    for sampler in (np.full(K, 1 / K), np.exp(REFERENCE)):
        batch = every_pair(sampler).replace(reward=jnp.asarray(np.stack([WINS[FIRST], WINS[SECOND]], axis=1)))
        found = fitted(lambda c, b: losses.egpo(c, b, tau=0.4), batch)
        np.testing.assert_allclose(found, tilted(REFERENCE, WINS / 0.4), atol=1e-7)


def test_a_step_of_egpo_is_a_mirror_step_on_uniform_pairs_alone() -> None:
    """Mirror descent moves log-probs along log(reference / policy) + P(. beats opponent) / tau, up to a constant."""
    logits = jnp.asarray(DRAW.normal(size=K))
    rewards = jnp.asarray(np.stack([WINS[FIRST], WINS[SECOND]], axis=1))

    def cosine(sampler: np.ndarray) -> float:
        def objective(logits: Array) -> Array:
            logp = jax.nn.log_softmax(logits)
            logps = jnp.stack([logp[FIRST], logp[SECOND]], axis=1)[..., None]
            return losses.egpo(standin(policy=logps), every_pair(sampler).replace(reward=rewards), tau=0.4)[0].value()

        step = -np.asarray(jax.grad(objective)(logits))
        mirror = REFERENCE - np.asarray(jax.nn.log_softmax(logits)) + WINS / 0.4
        step, mirror = (leaf - leaf.mean() for leaf in (step, mirror))
        return float(step @ mirror / np.sqrt((step @ step) * (mirror @ mirror)))

    assert cosine(np.full(K, 1 / K)) == pytest.approx(1, abs=1e-12)
    assert cosine(np.asarray(jax.nn.softmax(logits))) < 0.999


def test_dnos_labels_fit_a_mirror_step() -> None:
    """Soft labels S(g_i - g_j) and the logistic loss: previous exp(g / eta)."""
    batch = every_pair(np.exp(PREVIOUS))
    label = jax.nn.sigmoid(jnp.asarray(WINS[FIRST] - WINS[SECOND]))
    batch = batch.replace(preference=batch.preference.at[:, 0, 1].set(label).at[:, 1, 0].set(1 - label))
    found = fitted(lambda c, b: losses.dpo(c, b, beta=0.5, reference="previous"), batch)
    np.testing.assert_allclose(found, tilted(PREVIOUS, WINS / 0.5), atol=1e-6)
