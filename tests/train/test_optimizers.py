"""Optimizers: what they share, by the properties that define it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax.config import ConfigError, fn
from alignjax.train import optimizers
from alignjax.train.optimizers import schedule_of

ALL = [optimizers.adamw, optimizers.sgd, optimizers.lion, optimizers.adafactor]
PARAMS = {
    "embed": jnp.arange(12.0).reshape(4, 3) / 12 + 0.1,
    "layers": {"attn_norm": {"scale": jnp.ones((2, 3))}, "mlp": {"up": jnp.ones((2, 3, 3))}},
    "bias": jnp.ones(3),
}


def start(optimizer: Any, params: Any = PARAMS) -> tuple[Any, Any]:
    return jax.jit(lambda tree: (tree, optimizer().init(tree)))(params)


@jax.jit
def step(optimizer: Any, params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
    updates, state = optimizer().update(gradients, state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("schedule", optimizers.SCHEDULES)
def test_descends_a_bowl_with_hyperparameters_as_arguments(function: Callable[..., Any], schedule: str) -> None:
    optimizer = fn(function, learning_rate=0.02, schedule=schedule, warmup_steps=3, total_steps=40)
    bowl = lambda tree: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))  # noqa: E731
    params, state = start(optimizer)
    forms = jax.tree.map(lambda leaf: leaf.aval, state)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    for _ in range(40):
        params, state = step(optimizer, params, state, jax.grad(bowl)(params))
    assert bowl(params) < 0.9 * bowl(PARAMS)
    assert jax.tree.map(lambda leaf: leaf.aval, state) == forms  # else the second step compiles again
    size = step._cache_size()
    step(optimizer.replace(learning_rate=0.5, final_fraction=0.3), params, state, params)
    assert step._cache_size() == size  # floats are arguments: a sweep over them compiles once


@pytest.mark.parametrize("schedule", optimizers.SCHEDULES)
def test_schedule_ends(schedule: str) -> None:
    rate = schedule_of(learning_rate=2.0, schedule=schedule, warmup_steps=4, total_steps=10, final_fraction=0.1)
    values = np.array([rate(jnp.int32(count)) for count in range(14)])
    assert values[0] == pytest.approx(0.5)
    assert np.allclose(np.diff(values[:4]), 0.5)
    assert values[4] == pytest.approx(2.0)
    assert values[10:] == pytest.approx(2.0 if schedule == "constant" else 0.2)
    assert np.all(np.diff(values[4:]) <= 1e-6)


@pytest.mark.parametrize("warmup", [0, 1])
def test_almost_no_warmup(warmup: int) -> None:
    rate = schedule_of(
        learning_rate=2.0, schedule="constant", warmup_steps=warmup, total_steps=None, final_fraction=0.0
    )
    assert [float(rate(jnp.int32(count))) for count in range(3)] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("function", ALL)
def test_decay_shrinks_matrices_and_nothing_else(function: Callable[..., Any]) -> None:
    optimizer = fn(function, learning_rate=0.1, weight_decay=0.5)
    params, state = start(optimizer)
    moved, _ = step(optimizer, params, state, jax.tree.map(jnp.zeros_like, params))
    shrunk = jax.tree.map(lambda new, old: np.allclose(new, 0.95 * old), moved, PARAMS)
    same = jax.tree.map(lambda new, old: np.array_equal(new, old), moved, PARAMS)
    assert shrunk["embed"]
    assert shrunk["layers"]["mlp"]["up"]
    assert same["bias"]
    assert same["layers"]["attn_norm"]["scale"]


def test_clipping_is_by_the_norm_of_all_gradients() -> None:
    optimizer = fn(optimizers.sgd, learning_rate=1.0, max_grad_norm=0.5)
    params, state = start(optimizer)
    gradients = jax.tree.map(lambda leaf: 10 * leaf, params)
    moved, _ = step(optimizer, params, state, gradients)
    change = jax.tree.map(lambda new, old: old - new, moved, PARAMS)
    assert optax.tree.norm(change) == pytest.approx(0.5, rel=1e-5)
    small, _ = step(optimizer, params, state, jax.tree.map(lambda leaf: 1e-3 * leaf, params))
    assert np.allclose(small["embed"], PARAMS["embed"] * (1 - 1e-3))


def test_adamw_is_optax_adamw() -> None:
    ours = fn(optimizers.adamw, learning_rate=0.05, weight_decay=0.1, max_grad_norm=None)
    theirs = optax.adamw(0.05, weight_decay=0.1, mask=optimizers.decayed)
    params, state = start(ours)
    other, other_state = PARAMS, theirs.init(PARAMS)
    for count in range(5):
        gradients = jax.tree.map(lambda leaf: jnp.cos(leaf * (count + 1)), PARAMS)  # noqa: B023
        params, state = step(ours, params, state, gradients)
        updates, other_state = theirs.update(gradients, other_state, other)
        other = optax.apply_updates(other, updates)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-5), params, other))


def test_bad_schedules_are_told() -> None:
    with pytest.raises(ConfigError, match=r"'cosin'.*'cosine'"):
        fn(optimizers.adamw, schedule="cosin")()
    with pytest.raises(ConfigError, match="total_steps, which is None"):
        fn(optimizers.adamw, schedule="cosine")()
    with pytest.raises(ConfigError, match="above warmup_steps"):
        fn(optimizers.adamw, schedule="linear", total_steps=5, warmup_steps=5)()
    with pytest.raises(ConfigError, match="learning_rat"):
        fn(optimizers.adamw, learning_rat=1.0)
