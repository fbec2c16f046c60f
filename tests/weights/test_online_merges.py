"""Online merges: a step is the optimizer's where nothing is merged, its expectation over masks is plain, and signs are
elected as by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import weights

BASE = {"w": jnp.arange(12.0).reshape(4, 3) / 10, "b": jnp.ones(3)}
START = {"w": BASE["w"] + jnp.sin(jnp.arange(12.0).reshape(4, 3)), "b": jnp.asarray([1.2, 0.5, 4.0])}
GRADIENT = {"w": jnp.cos(jnp.arange(12.0).reshape(4, 3)), "b": jnp.asarray([-1.0, 0.3, 0.2])}


def steps(transformation: Any) -> Any:
    """The update that an optimizer with the merge behind it makes."""
    optimizer: Any = optax.chain(optax.sgd(0.1), transformation)
    return jax.jit(optimizer.update)(GRADIENT, optimizer.init(START), START)[0]


@pytest.mark.parametrize("method", [weights.online_dare, weights.online_ties])
def test_without_a_merge_it_is_the_optimizer_and_without_a_step_the_task_vector(method: Any) -> None:
    """Where signs agree all of both stays: the base of the second is chosen so."""
    plain = jax.tree.map(lambda leaf: -0.1 * leaf, GRADIENT)
    base = jax.tree.map(lambda start, step: start - 3 * step, START, plain)
    for alpha, wanted in ((0.0, 1.0), (0.25, 0.25 * 3 + 0.75), (1.0, 3.0)):
        updates = steps(method(base, alpha=alpha, density=1.0))
        jax.tree.map(lambda one, two: np.testing.assert_allclose(one, wanted * two, rtol=1e-5), updates, plain)  # noqa: B023


def test_masks_of_steps_are_fresh_that_of_the_task_is_not_and_both_are_unbiased() -> None:
    def first(seed: Any) -> Any:
        transformation: Any = weights.online_dare(BASE, alpha=0.3, density=0.4, seed=seed)
        state = transformation.init(START)
        one, later = transformation.update(GRADIENT, state)
        two, last = transformation.update(GRADIENT, later)
        return one, two, state.task, last.task

    one, two, task, last = jax.jit(jax.vmap(first))(jnp.arange(4000))
    jax.tree.map(np.testing.assert_array_equal, task, last)
    assert np.abs(one["w"] - two["w"]).max() > 0.1
    for name in ("w", "b"):
        # The task vector's 3 in "b" is 7.5 where it is kept, and clipped to 1.
        kept = np.clip(np.asarray(START[name] - BASE[name]) / 0.4, -1, 1) * 0.4
        wanted = 0.3 * kept + 0.7 * np.asarray(GRADIENT[name])
        for each in (one, two):
            spread = 5 * np.asarray(each[name]).std(0) / 4000**0.5
            assert (np.abs(np.asarray(each[name]).mean(0) - wanted) < spread).all()


def test_signs_are_elected() -> None:
    """By hand: of four entries three are kept of each, and what has not the sign of the sum is left out."""
    base, start = jnp.zeros(4), jnp.asarray([1.0, -1.0, 0.1, 2.0])
    transformation: Any = weights.online_ties(base, alpha=0.25, density=0.75)
    merged, _ = transformation.update(jnp.asarray([0.5, 0.5, -0.05, -3.0]), transformation.init(start))
    np.testing.assert_allclose(merged, [0.25 + 0.375, -0.25, 0, -2.25], rtol=1e-6)
    even, _ = transformation.update(jnp.asarray([-1.0, 1.0, 0.0, 5.0]), transformation.init(start))
    np.testing.assert_allclose(even, [0.25, 0.75, 0, 0.5 + 3.75], rtol=1e-6)  # a sum of 0 counts as positive
