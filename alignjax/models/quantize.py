"""Weights in 8 or 4 bits: for a frozen base under adapters, or for decoding faster than float32 weights can be read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.models.weights import NF4, Quantised
from alignjax.types import Array, Params

BLOCK = 64  # rows of an nf4 block (arXiv:2305.14314 sec. 3)
MATRICES = "q|k|v|o|gate|up|down"


def path_of(path: tuple[Any, ...]) -> str:
    """ "layers.q" from the path of a leaf."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def matched(params: Params, targets: str, what: str) -> list[str]:
    """Paths of the stacked matrices [L,D,F] of a transformer's layers whose name is matched, whole, by the regular
    expression `targets`; params may be shapes.

    Raises ConfigError, beginning with `what`, if none is, naming those there are.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    there = [path_of(path) for path, leaf in leaves if path_of(path).startswith("layers.") and leaf.ndim == 3]
    found = [path for path in there if re.fullmatch(targets, path.rpartition(".")[2])]
    if not found:
        names = ", ".join(path.rpartition(".")[2] for path in there)
        raise ConfigError(f"{what}: no matrix of the layers is called {targets!r}; there are: {names or 'none'}")
    return found


def replaced(params: Params, paths: list[str], change: Callable[[str, Array], Any]) -> Params:
    """The params with `change(path, leaf)` in the place of the leaves at `paths`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: change(path_of(path), leaf) if path_of(path) in paths else leaf, params
    )


def quantise(params: Params, *, bits: int = 4, targets: str = MATRICES) -> Params:
    """The params with every matrix of the layers that `targets` matches as a `Quantised`: 8 bits, symmetric, with a
    scale per output; or 4 bits, nf4 in blocks of 64 rows (or of the largest power of two that divides D).

    The rest (embedding, head, norms) stays as it is. Scales are float32 (float64 if the weights are). Double
    quantisation of the scales (arXiv:2305.14314 sec. 3), which saves 0.37 bits a weight, is left out.

    Raises ConfigError for another number of bits, if no matrix is matched, or for nf4 of an odd D.
    """
    if bits not in (4, 8):
        raise ConfigError(f"quantise: bits={bits}; it must be 8 or 4")
    return replaced(params, matched(params, targets, "quantise"), _int8 if bits == 8 else _nf4)


def _scaled(weight: Array, axis: int) -> tuple[Array, Array]:
    """The weight in the width of its scales, and its largest magnitudes along an axis, 1 where all is 0."""
    wide = weight.astype(jnp.promote_types(weight.dtype, jnp.float32))
    largest = jnp.max(jnp.abs(wide), axis=axis, keepdims=True)
    return wide, jnp.where(largest > 0, largest, 1)


def _int8(path: str, weight: Array) -> Quantised:
    wide, largest = _scaled(weight, -2)
    return Quantised(jnp.round(wide / largest * 127).astype(jnp.int8), largest / 127)


def _nf4(path: str, weight: Array) -> Quantised:
    *layers, width, out = weight.shape
    if width % 2:
        raise ConfigError(f"quantise: {path} has {width} rows; two nf4 codes share a byte, so the number must be even")
    wide, largest = _scaled(weight.reshape(*layers, -1, math.gcd(BLOCK, width), out), -2)
    table = jnp.array(NF4, wide.dtype)
    # The nearest of sorted values: how many of the midpoints between them lie below.
    codes = jnp.searchsorted((table[1:] + table[:-1]) / 2, wide / largest).astype(jnp.uint8)
    pairs = codes.reshape(*layers, width // 2, 2, out)
    return Quantised(pairs[..., 0, :] | (pairs[..., 1, :] << 4), largest[..., 0, :])
