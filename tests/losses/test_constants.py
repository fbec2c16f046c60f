"""What losses hold constant. test_conformance.py differentiates around stop_gradients, so it cannot miss one; here a
gradient is that of something else, in which there is nothing to hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import fn
from alignjax.types import Array, Batch
from tests.support.tiny import ragged, standin

pytestmark = pytest.mark.usefixtures("float64")
ACTIONS = 5
DRAW = np.random.default_rng(0)
THETA, REFERENCE, REWARD = DRAW.normal(size=(3, ACTIONS))
# Log-probs of the sampler of old data.
SAMPLER = DRAW.normal(size=ACTIONS)


def enumerated(weight: Array) -> Batch:
    """All completions of one token, each as often as `weight` says."""
    shape = (1, ACTIONS, 1)
    logps = {"reference": jax.nn.log_softmax(REFERENCE), "sampler": jax.nn.log_softmax(SAMPLER)}
    return Batch(
        prompt=jnp.zeros((1, 1), jnp.int32),
        prompt_valid=jnp.ones((1, 1), bool),
        tokens=jnp.arange(ACTIONS, dtype=jnp.int32).reshape(shape),
        valid=jnp.ones(shape, bool),
        mask=jnp.ones(shape),
        logps={name: value.reshape(shape) for name, value in logps.items()},
        reward=jnp.asarray(REWARD)[None],
        completions={"weight": weight[None]},
    )


def surrogate(theta: Array, batch: Batch, **parts: Any) -> Array:
    context = standin(policy=jax.nn.log_softmax(theta).reshape(1, ACTIONS, 1))
    return losses.reinforce(context, batch, tau=0.7, baseline=0.3, **parts)[0].value()


def objective(theta: Array) -> Array:
    """Expected reward less tau KL to the reference, to be maximized."""
    logps = jax.nn.log_softmax(theta)
    return jnp.sum(jnp.exp(logps) * (REWARD - 0.7 * (logps - jax.nn.log_softmax(REFERENCE))))


def test_the_log_ratio_of_reinforce_is_a_constant() -> None:
    """Over all completions in their own proportions its gradient is that of the objective, exactly."""
    batch = enumerated(jax.nn.softmax(THETA))
    slope = jax.grad(surrogate)(jnp.asarray(THETA), batch)
    np.testing.assert_allclose(slope, -jax.grad(objective)(jnp.asarray(THETA)), rtol=1e-12, atol=1e-14)
    assert np.abs(slope).max() > 1e-2


def test_importance_weights_are_constants() -> None:
    """And so it is over samples of another policy, weighed by how much likelier they are now."""
    batch = enumerated(jax.nn.softmax(SAMPLER))
    slope = jax.grad(surrogate)(jnp.asarray(THETA), batch, behaviour="sampler", cap=1e9)
    np.testing.assert_allclose(slope, -jax.grad(objective)(jnp.asarray(THETA)), rtol=1e-12, atol=1e-14)


def pairs(seed: int = 0) -> tuple[Batch, Array, Array]:
    """A batch with rewards that knows no log-probs, and those of two roles."""
    batch = jax.tree.map(jnp.asarray, ragged(seed))
    draw = np.random.default_rng(seed)
    one, other = (jnp.where(batch.valid, -1 - draw.random(batch.valid.shape), 0) for _ in range(2))
    return batch.replace(logps={}, reward=jnp.asarray(draw.random(batch.tokens.shape[:2]))), one, other


def test_a_reference_that_is_trained_too_is_a_constant() -> None:
    """By another loss, with an optimizer of its own: here it gets no gradient."""
    batch, policy, reference = pairs()

    def loss(policy: Array, reference: Array) -> Array:
        return losses.dpo(standin(policy=policy, reference=reference), batch, beta=0.3)[0].value()

    by_policy, by_reference = jax.grad(loss, (0, 1))(policy, reference)
    assert np.abs(by_policy).max() > 1e-3
    assert not np.any(by_reference)


def test_the_shift_of_bco_is_a_constant() -> None:
    """Its gradient is that of point-wise DPO with the same shift as a number."""
    batch, policy, reference = pairs()
    batch = batch.with_logps(reference=reference)

    def bco(policy: Array) -> tuple[Array, Array]:
        mean, metrics = losses.bco(standin(policy=policy), batch, beta=0.3, shift=None)
        return mean.value(), metrics["shift"].value()

    slope, shift = jax.grad(bco, has_aux=True)(policy)
    fixed = jax.grad(
        lambda policy: losses.pointwise_dpo(standin(policy=policy), batch, beta=0.3, shift=-shift)[0].value()
    )(policy)
    assert abs(float(shift)) > 1e-3
    np.testing.assert_allclose(slope, fixed, rtol=1e-10, atol=1e-14)


def test_the_shift_of_bco_pair_is_a_constant() -> None:
    """Its gradient is that of the same loss with its shift given as a number."""
    batch, policy, reference = pairs()
    batch = batch.with_logps(reference=reference)

    def bco(policy: Array, **options: Any) -> tuple[Array, Array]:
        mean, metrics = losses.bco_pair(standin(policy=policy), batch, beta=0.3, **options)
        return mean.value(), metrics["shift"].value()

    slope, shift = jax.grad(bco, has_aux=True)(policy)
    fixed, _ = jax.grad(lambda policy: bco(policy, shift=float(shift)), has_aux=True)(policy)
    assert abs(float(shift)) > 1e-3
    np.testing.assert_allclose(slope, fixed, rtol=1e-10, atol=1e-14)


def test_the_kl_of_kto_is_a_constant() -> None:
    """Its gradient is that of APO-zero with the estimate, which moves with the policy, in the reference's log-probs."""
    batch, policy, _ = pairs()
    on = jnp.ones_like(batch.mask)
    batch = batch.replace(mask=on, valid=on > 0, reward=jnp.round(batch.reward))
    reference = policy - jnp.linspace(-1, 1.5, policy.size).reshape(policy.shape)

    def kto(policy: Array) -> tuple[Array, Array]:
        def score(names: Any, asked: Batch, read: Any = None) -> dict[str, Array]:
            return {"policy": policy, "reference": reference} if isinstance(names, tuple) else {names: policy}

        mean, metrics = losses.kto(SimpleNamespace(score=score), batch.with_logps(reference=reference), beta=0.3)
        return mean.value(), metrics["kl"].value()

    slope, kl = jax.grad(kto, has_aux=True)(policy)
    assert kl > 0.1
    moved = batch.with_logps(reference=reference.at[..., 0].add(kl))
    apo = fn(losses.apo_zero_unpaired, beta=0.3)
    fixed = jax.grad(lambda policy: apo(standin(policy=policy), moved)[0].value())(policy)
    np.testing.assert_allclose(slope, fixed, rtol=1e-10, atol=1e-14)
