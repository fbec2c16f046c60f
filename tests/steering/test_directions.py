"""Directions: planted ones are recovered, and probes are those that SciPy fits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from alignjax import steering
from alignjax.config import ConfigError

DRAW = np.random.default_rng(0)


def planted(m: int, n: int, *, gap: float, shape: tuple[int, ...] = (3, 12)) -> tuple[jax.Array, jax.Array, Any]:
    """States of two sets that differ by `gap` along a direction of norm 1 of each layer, which is returned."""
    drawn = np.asarray(DRAW.normal(size=shape))
    direction: Any = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
    positive, negative = (DRAW.normal(size=(rows, *shape)) + 3 for rows in (m, n))
    return jnp.asarray(positive + gap * direction), jnp.asarray(negative), direction


def cosine(one: jax.Array, other: np.ndarray) -> np.ndarray:
    one = np.asarray(one)
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def test_a_planted_direction_is_recovered() -> None:
    positive, negative, direction = planted(900, 700, gap=4.0)
    means = steering.difference_of_means(positive, negative)
    assert cosine(means, direction).min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(means, axis=-1), 4, rtol=0.1)
    principal = steering.principal_direction(positive[:700], negative)
    assert cosine(principal, direction).min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(principal, axis=-1), 1, rtol=1e-5)
    probe = steering.linear_probe(positive, negative, l2=0.1)
    assert cosine(probe.direction, direction).min() > 0.97
    assert steering.probe_accuracy(probe, positive, negative).min() > 0.95
    swapped = steering.principal_direction(negative, positive[:700])
    np.testing.assert_allclose(swapped, -principal, atol=1e-4)


def test_pairs_are_centered_each_at_its_own_middle() -> None:
    """What differs from pair to pair, however much, is not in the direction; the first component of single states
    would be that."""
    positive, negative, direction = planted(40, 40, gap=3.0)
    topic = 30 * DRAW.normal(size=(40, 3, 1)) * DRAW.normal(size=(1, 3, 12))
    principal = steering.principal_direction(positive + topic, negative + topic)
    np.testing.assert_allclose(principal, steering.principal_direction(positive, negative), atol=1e-3)
    assert cosine(principal, direction).min() > 0.85
    with pytest.raises(ConfigError, match="there are 39 positive and 40 negative"):
        steering.principal_direction(positive[1:], negative)


def test_a_probe_is_the_optimum_of_its_objective(float64: None) -> None:
    """SciPy's, of sets of different sizes that overlap; and of sets that a plane parts it is finite."""
    positive, negative, _ = planted(9, 30, gap=1.0, shape=(5,))
    probe = steering.linear_probe(positive, negative, l2=0.05, steps=50)
    x = np.concatenate([positive, negative])
    middle = (np.asarray(positive).mean(0) + np.asarray(negative).mean(0)) / 2
    scale = np.mean((x - np.asarray(middle)) ** 2)

    def objective(w: np.ndarray) -> float:
        sides = [np.mean(np.log(special.expit(sign * (each @ w[:-1] + w[-1]))))
                 for sign, each in ((1, np.asarray(positive)), (-1, np.asarray(negative)))]  # fmt: skip
        return -np.mean(sides) + 0.025 * scale * np.sum(w[:-1] ** 2)

    best = optimize.minimize(objective, np.zeros(6), tol=1e-12).x
    np.testing.assert_allclose([*np.asarray(probe.direction), float(probe.bias)], best, atol=2e-4)
    apart = steering.linear_probe(positive + 50, negative)
    assert np.isfinite(np.asarray(apart.direction)).all()
    assert float(steering.probe_accuracy(apart, positive + 50, negative)) == 1


def test_shifts_of_heads_are_at_those_that_tell_best() -> None:
    """Two of six heads carry the trait; a shift is as long as states are spread along it."""
    positive, negative, direction = planted(200, 160, gap=0.0, shape=(3, 2, 8))
    carried = np.zeros((3, 2, 1))
    carried[1, 0] = carried[2, 1] = 1
    positive = positive + jnp.asarray(5 * carried * direction)[None]
    shifts = np.asarray(steering.head_shifts(positive, negative, heads=2)["heads"])
    np.testing.assert_array_equal(np.abs(shifts).max(-1, keepdims=True) > 0, carried > 0)
    both = np.concatenate([positive, negative])
    for place in ((1, 0), (2, 1)):
        unit = shifts[place] / np.linalg.norm(shifts[place])
        assert unit @ direction[place] > 0.98
        np.testing.assert_allclose(np.linalg.norm(shifts[place]), (both[:, *place] @ unit).std(), rtol=1e-4)


def test_small_differences_of_large_states_survive_bfloat16() -> None:
    """Means are not rounded to the states' dtype before they are subtracted: as of the same numbers in float32."""
    base = 20 * DRAW.normal(size=(1, 3, 12))
    positive, negative, _ = planted(64, 64, gap=1.0)
    narrow = [jnp.asarray(0.1 * states + base, jnp.bfloat16) for states in (positive, negative)]
    wide = [states.astype(jnp.float32) for states in narrow]
    for direction in (
        steering.difference_of_means,
        steering.principal_direction,
        lambda *sets: steering.linear_probe(*sets).direction,
    ):
        assert cosine(direction(*narrow), np.asarray(direction(*wide))).min() > 0.9999


def test_heads_are_not_ranked_by_probes_that_nothing_measures() -> None:
    with pytest.raises(ConfigError, match="1 positive and 8 negative"):
        steering.head_shifts(jnp.ones((1, 3, 2, 4)), jnp.zeros((8, 3, 2, 4)))
