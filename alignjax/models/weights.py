"""Weights of a block and the product with each kind: a matrix, a frozen one kept in few bits (`quantize`), or a frozen
one under a low-rank adapter.

All are pytrees whose arrays lead with the axis of layers wherever the weight does, so a scan over layers slices them
and a loop over layers indexes them like any weight.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TypeAlias

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import as_float32, linear
from alignjax.ranges import Bits
from alignjax.tree_names import leaves_by_name
from alignjax.types import Array, Params

# The quantiles of a standard normal distribution that nf4's sixteen codes stand for (arXiv:2305.14314 app. E).
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip

BLOCK = 64  # rows of an nf4 block (arXiv:2305.14314 sec. 3)
MATRICES = "q|k|v|o|gate|up|down"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
    """A frozen weight [..,D,F] in 8 or 4 bits, made by `quantize`.

    8 bits: values int8 [..,D,F], scales [..,1,F], one for each output. 4 bits (nf4): values uint8 [..,D/2,F], rows 2i
    (low bits) and 2i + 1 in one byte, scales [..,D/block,F], the largest magnitude of each block of rows. No gradient
    ever goes to it.
    """

    values: Array
    scales: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """weight [..,D,F] + a [..,D,R] @ b [..,R,F], never added up: a frozen weight (quantized or not) and an adapter of
    rank R, its scale already in b (arXiv:2106.09685 sec. 4.1)."""

    weight: Array | Quantized
    a: Array
    b: Array


Weight: TypeAlias = Array | Quantized | Adapted


def dense(weight: Weight, dtype: jnp.dtype | None = None) -> Array:
    """Writes out the matrix that a weight stands for.

    Args:
        weight: A weight of any kind, [..,D,F].
        dtype: The dtype of the matrix; by default that of the scales, or of the weight under an adapter.

    Returns:
        The matrix [..,D,F].
    """
    if isinstance(weight, Adapted):
        base = dense(weight.weight, dtype)
        wide = jnp.promote_types(base.dtype, weight.a.dtype)
        return (base.astype(wide) + (weight.a @ weight.b).astype(wide)).astype(base.dtype)
    if not isinstance(weight, Quantized):
        return weight if dtype is None else weight.astype(dtype)
    dtype = weight.scales.dtype if dtype is None else dtype
    values, scales = weight.values, weight.scales.astype(dtype)
    if values.dtype == jnp.int8:
        return values.astype(dtype) * scales
    codes = jnp.stack([values & 15, values >> 4], axis=-2)  # [.., D/2, 2, F]
    *layers, half, _, out = codes.shape
    blocks = jnp.array(NF4, dtype)[codes].reshape(*layers, scales.shape[-2], -1, out)
    return (blocks * scales[..., :, None, :]).reshape(*layers, 2 * half, out)


def _scales_beside(x: Array, weight: Quantized) -> Array:
    """The scales [1,F] of a matrix's columns with as many axes as x has."""
    return jnp.broadcast_to(weight.scales.astype(x.dtype), (*[1] * (x.ndim - 1), weight.scales.shape[-1]))


@jax.custom_vjp
def _over_quantized(x: Array, weight: Quantized) -> Array:
    if weight.values.dtype == jnp.int8:
        return (x @ weight.values.astype(x.dtype)) * _scales_beside(x, weight)
    return x @ dense(weight, x.dtype)


def _forward(x: Array, weight: Quantized) -> tuple[Array, Quantized]:
    return _over_quantized(x, weight), weight


def _backward(weight: Quantized, g: Array) -> tuple[Array, None]:
    # The weight is written out a second time rather than kept: kept, all layers' would exist at once.
    if weight.values.dtype == jnp.int8:
        return (g * _scales_beside(g, weight)) @ weight.values.astype(g.dtype).T, None
    return g @ dense(weight, g.dtype).T, None


_over_quantized.defvjp(_forward, _backward)


def product(x: Array, weight: Weight) -> Array:
    """Multiplies x [..,D] by a weight [D,F] of any kind: the product of every matrix in a block.

    Only reverse mode is defined, and no gradient goes to a `Quantized`.

    Returns:
        [..,F] in the dtype of x.
    """
    if isinstance(weight, Adapted):
        low = linear(x, weight.a.astype(x.dtype))
        return product(x, weight.weight) + linear(low, weight.b.astype(x.dtype))
    if isinstance(weight, Quantized):
        return _over_quantized(x, weight)
    return linear(x, weight.astype(x.dtype))


def matching_matrices(params: Params, targets: str, what: str) -> list[str]:
    """Finds the matrices of a transformer's layers by name.

    Args:
        params: Params, or their shapes, with stacked layers: matrices [L,D,F], of experts [L,E,D,F].
        targets: A regular expression that matches the whole name of a matrix ("q|v").
        what: What an error message begins with.

    Returns:
        The paths of the matrices: ["layers.q", "layers.v"].

    Raises:
        ConfigError: No name is matched; the message lists those there are.
    """
    matrices = [path for path, leaf in leaves_by_name(params, ".").items() if leaf.ndim >= 3]
    matrices = [path for path in matrices if path.startswith("layers.") and not path.endswith("_bias")]
    matching = [path for path in matrices if re.fullmatch(targets, path.rpartition(".")[2])]
    if not matching:
        names = ", ".join(path.rpartition(".")[2] for path in matrices)
        raise ConfigError(f"{what}: no matrix of the layers is called {targets!r}; there are: {names or 'none'}")
    return matching


def quantize(params: Params, *, bits: Bits = 4, targets: str = MATRICES) -> Params:
    """Writes matrices of the layers in few bits; embedding, heads and norms stay as they are.

    8 bits are symmetric, with a scale per output; 4 bits are nf4 in blocks of 64 rows (or of the largest power of two
    that divides D). Scales are float32 (float64 if the weights are). Differs from arXiv:2305.14314 sec. 3: double
    quantization of the scales, which saves 0.37 bits a weight, is left out.

    Args:
        params: Params with stacked layers: matrices [L,D,F], of experts [L,E,D,F].
        bits: 8 or 4.
        targets: A regular expression that matches the whole names of the matrices to be quantized.

    Returns:
        The params with a `Quantized` in the place of each of those matrices.

    Raises:
        ConfigError: Another number of bits, no matrix matched, or nf4 of an odd D.
    """
    if bits not in (4, 8):
        raise ConfigError(f"quantize: bits={bits}; it must be 8 or 4")
    write, paths = _int8 if bits == 8 else _nf4, matching_matrices(params, targets, "quantize")
    layers = dict(params["layers"])
    for path in paths:
        name = path.removeprefix("layers.")
        layers[name] = write(path, layers[name])
    return {**params, "layers": layers}


def _scaled(weight: Array, axis: int) -> tuple[Array, Array]:
    """Widens a weight to the dtype of its scales, and gives its largest magnitudes along an axis (1 where all is 0)."""
    wide = as_float32(weight)
    largest = jnp.max(jnp.abs(wide), axis=axis, keepdims=True)
    return wide, jnp.where(largest > 0, largest, 1)


def _int8(path: str, weight: Array) -> Quantized:
    wide, largest = _scaled(weight, -2)
    return Quantized(jnp.round(wide / largest * 127).astype(jnp.int8), largest / 127)


def _nf4(path: str, weight: Array) -> Quantized:
    *layers, width, out = weight.shape
    if width % 2:
        raise ConfigError(f"quantize: {path} has {width} rows; two nf4 codes share a byte, so the number must be even")
    wide, largest = _scaled(weight.reshape(*layers, -1, math.gcd(BLOCK, width), out), -2)
    table = jnp.array(NF4, wide.dtype)
    # The nearest of sorted values: how many of the midpoints between them lie below.
    codes = jnp.searchsorted((table[1:] + table[:-1]) / 2, wide / largest).astype(jnp.uint8)
    pairs = codes.reshape(*layers, width // 2, 2, out)
    return Quantized(pairs[..., 0, :] | (pairs[..., 1, :] << 4), largest[..., 0, :])
