"""What may stand in the place of a weight matrix, and the product with each: the matrix itself, one kept in few bits,
or a frozen one with a low-rank adapter over it.

All are pytrees whose arrays lead with the axis of layers wherever the weight does, so a scan over layers slices them
and a loop over layers indexes them like any weight.
"""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp

from alignjax.numerics import linear
from alignjax.types import Array

# Of a standard normal distribution: the quantiles that nf4's sixteen codes stand for (arXiv:2305.14314 app. E).
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantised:
    """A frozen weight [..,D,F] in 8 or 4 bits, made by `quantise`.

    8 bits: values int8 [..,D,F], scales [..,1,F], one for each output. 4 bits (nf4): values uint8 [..,D/2,F], rows 2i
    (low bits) and 2i + 1 in one byte, scales [..,D/block,F], the largest magnitude of each block of rows. No gradient
    ever goes to it.
    """

    values: Array
    scales: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """weight [..,D,F] + a [..,D,R] @ b [..,R,F], never added up: a frozen weight (quantised or not) and an adapter of
    rank R, its scale already in b (arXiv:2106.09685 sec. 4.1)."""

    weight: Array | Quantised
    a: Array
    b: Array


Weight: TypeAlias = Array | Quantised | Adapted


def dense(weight: Weight, dtype: jnp.dtype | None = None) -> Array:
    """The matrix [..,D,F] that a weight stands for, written out, in `dtype` (default: that of the scales or of the
    weight under an adapter)."""
    if isinstance(weight, Adapted):
        base = dense(weight.weight, dtype)
        wide = jnp.promote_types(base.dtype, weight.a.dtype)
        return (base.astype(wide) + (weight.a @ weight.b).astype(wide)).astype(base.dtype)
    if not isinstance(weight, Quantised):
        return weight if dtype is None else weight.astype(dtype)
    dtype = weight.scales.dtype if dtype is None else dtype
    values, scales = weight.values, weight.scales.astype(dtype)
    if values.dtype == jnp.int8:
        return values.astype(dtype) * scales
    codes = jnp.stack([values & 15, values >> 4], axis=-2)  # [.., D/2, 2, F]
    *layers, half, _, out = codes.shape
    blocks = jnp.array(NF4, dtype)[codes].reshape(*layers, scales.shape[-2], -1, out)
    return (blocks * scales[..., :, None, :]).reshape(*layers, 2 * half, out)


@jax.custom_vjp
def _over_quantised(x: Array, weight: Quantised) -> Array:
    if weight.values.dtype == jnp.int8:
        return (x @ weight.values.astype(x.dtype)) * weight.scales[..., 0, :].astype(x.dtype)
    return x @ dense(weight, x.dtype)


def _forward(x: Array, weight: Quantised) -> tuple[Array, Quantised]:
    return _over_quantised(x, weight), weight


def _backward(weight: Quantised, g: Array) -> tuple[Array, None]:
    # The weight is written out a second time rather than kept: kept, all layers' would exist at once.
    if weight.values.dtype == jnp.int8:
        return (g * weight.scales[..., 0, :].astype(g.dtype)) @ weight.values.astype(g.dtype).T, None
    return g @ dense(weight, g.dtype).T, None


_over_quantised.defvjp(_forward, _backward)


def product(x: Array, weight: Weight) -> Array:
    """x [..,D] @ weight [D,F] -> [..,F] in x's dtype, reverse mode only; the product of every matrix in a block."""
    if isinstance(weight, Adapted):
        low = linear(x, weight.a.astype(x.dtype))
        return product(x, weight.weight) + linear(low, weight.b.astype(x.dtype))
    if isinstance(weight, Quantised):
        return _over_quantised(x, weight)
    return linear(x, weight.astype(x.dtype))
