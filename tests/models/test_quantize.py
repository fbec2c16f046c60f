"""Weights in 8 and 4 bits: how far they are from what they stand for, and that a model runs on them like on any."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from alignjax.config import ConfigError
from alignjax.models import Quantized, dense, product, quantize
from alignjax.models.weights import NF4
from alignjax.types import Params
from tests.support.tiny import as_jax, difference, gradient, model, parameters, ragged, scorer

NETWORK = model(layers=1)
BATCH = as_jax(ragged(seed=1))
WEIGHTS = jnp.ones(BATCH.tokens.shape)
BITS = pytest.mark.parametrize("bits", [8, 4])


def written_out(params: Params) -> Params:
    """Quantized weights as plain ones."""
    return jax.tree.map(dense, params, is_leaf=lambda leaf: isinstance(leaf, Quantized))


def matrix(rows: int = 128, layers: int = 3) -> Any:
    drawn = jax.random.normal(jax.random.key(0), (layers, rows, 5)) * jnp.array([[[1e-3, 1, 10, 0, 1]]])
    return {"layers": {"q": drawn}}


def test_nf4_is_made_of_quantiles_of_a_normal_distribution() -> None:
    """Eight of the positive half and seven of the negative, equally likely, 0 itself, and the largest scaled to 1."""
    tail = 1 - 0.5 * (1 / 32 + 1 / 30) - 0.5
    positive = scipy.special.ndtri(0.5 + np.linspace(0, tail, 9)[1:])
    negative = -scipy.special.ndtri(0.5 + np.linspace(0, tail, 8)[1:])
    levels = np.sort(np.concatenate([negative, [0], positive])) / positive[-1]
    np.testing.assert_allclose(NF4, levels, atol=1e-5)


def test_8_bits_are_at_most_half_a_step_away() -> None:
    params = matrix()
    made = quantize(params, bits=8)["layers"]["q"]
    assert made.values.dtype == jnp.int8
    assert made.scales.shape == (3, 1, 5)
    gap = np.abs(np.asarray(dense(made) - params["layers"]["q"]))
    assert np.all(gap <= np.asarray(made.scales) * 0.5001)
    assert np.all(np.max(np.abs(made.values), axis=1)[:, [0, 1, 2, 4]] == 127)  # the whole range is used


def test_4_bits_are_the_nearest_code() -> None:
    params = matrix()
    made = quantize(params, bits=4)["layers"]["q"]
    weights = np.asarray(params["layers"]["q"], np.float64).reshape(3, 2, 64, 5)
    scales = np.abs(weights).max(axis=2, keepdims=True)
    levels = scales[..., None] * np.array(NF4)
    nearest = np.abs(weights[..., None] - levels).min(axis=-1)
    gap = np.abs(weights - np.asarray(dense(made), np.float64).reshape(weights.shape))
    np.testing.assert_allclose(gap, nearest, atol=1e-6)


@BITS
@pytest.mark.parametrize("rows", [128, 80, 6])
def test_quantising_again_changes_nothing(bits: int, rows: int) -> None:
    once = written_out(quantize(matrix(rows), bits=bits))
    twice = written_out(quantize(once, bits=bits))
    assert difference(once, twice) < 1e-6
    assert once["layers"]["q"].shape == (3, rows, 5)


def test_bytes() -> None:
    """Of a matrix in float32 with 128 rows: a quarter and an eighth, and the scales."""

    def size(tree: Any) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    count = 3 * 128 * 5
    assert size(matrix()) == 4 * count
    assert size(quantize(matrix(), bits=8)) == count + 3 * 5 * 4
    assert size(quantize(matrix(), bits=4)) == count // 2 + 3 * 2 * 5 * 4


@BITS
def test_a_product_is_that_with_the_written_out_weight(bits: int) -> None:
    weight = jax.tree.map(lambda leaf: leaf[1], quantize(matrix(), bits=bits)["layers"]["q"])
    x = jax.random.normal(jax.random.key(1), (4, 7, 128))

    def total(x: Any, weight: Any) -> Any:
        return jnp.sum(jnp.sin(product(x, weight)))

    value, by_x = jax.value_and_grad(total)(x, weight)
    expected, expected_by_x = jax.value_and_grad(total)(x, dense(weight))
    np.testing.assert_allclose(value, expected, atol=1e-3)
    np.testing.assert_allclose(by_x, expected_by_x, rtol=1e-3, atol=1e-3)  # entries up to 20, sums in another order
    assert product(x.astype(jnp.bfloat16), weight).dtype == jnp.bfloat16


def learned(steps: int) -> Params:
    """Params that have learned to repeat the batch's completions, far from how they were born."""
    params, step = parameters(NETWORK), gradient(NETWORK)
    for _ in range(steps):
        by_params, _ = step(params, BATCH, WEIGHTS)
        params = jax.tree.map(lambda leaf, g: leaf + 0.02 * g, params, by_params)
    return params


@pytest.mark.slow
def test_the_gap_in_log_probs_is_small(record_property: Any) -> None:
    """In nats per token, of a policy that has learned something: a hundredth with 8 bits, a tenth or so with 4. A model
    runs on quantized weights with the numbers of the weights written out."""
    score = lambda params: gradient(NETWORK)(params, BATCH, WEIGHTS)[1]  # noqa: E731 (compiled already, by `learned`)
    params = learned(40)
    plain = score(params)
    assert jnp.sum(plain) > jnp.sum(score(parameters(NETWORK))) / 2
    gaps = {}
    for bits in (8, 4):
        few = quantize(params, bits=bits)
        scores = score(written_out(few))
        gaps[bits] = float(jnp.sum(jnp.abs(scores - plain)) / jnp.sum(BATCH.valid))
        record_property(f"nats_per_token_{bits}_bits", gaps[bits])
        if bits == 8:  # test_lora.py runs one on 4 bits
            np.testing.assert_allclose(scorer(NETWORK)(few, BATCH), scores, atol=2e-5)
    assert 0 < gaps[8] < 0.02
    assert gaps[8] < gaps[4] < 0.4


def test_only_what_is_named_is_quantized() -> None:
    made = quantize(parameters(NETWORK), bits=8, targets="gate|up|down")["layers"]
    assert {name for name, leaf in made.items() if isinstance(leaf, Quantized)} == {"gate", "up", "down"}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bits": 3}, "bits=3; it must be 8 or 4"), ({"targets": "query"}, "called 'query'; there are: .*down")],
)
def test_what_cannot_be_quantized_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quantize(parameters(NETWORK), **options)
    with pytest.raises(ConfigError, match="q has 7 rows"):
        quantize(matrix(7), bits=4)
