"""Computes checksums of the leaves of a state that hold on any mesh; `read_steps.py` compares them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.tree_names import leaves_by_name


def is_key(leaf: Any) -> bool:
    """Tells whether a leaf is an array of typed PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(leaf: Any) -> Any:
    """Turns typed PRNG keys into their numbers; other leaves stay as they are, and abstract ones abstract."""
    if not is_key(leaf):
        return leaf
    abstract = isinstance(leaf, jax.ShapeDtypeStruct)
    return jax.eval_shape(jax.random.key_data, leaf) if abstract else jax.random.key_data(leaf)


def as_key(data: jax.Array, like: Any) -> jax.Array:
    """Turns numbers back into typed PRNG keys, of the kind that `like`, abstract or not, has.

    Args:
        data: The numbers of the keys.
        like: A key, or its shape.

    Returns:
        The keys.
    """
    kinds = []
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(data, impl=kinds[0])


def form(leaf: Any) -> list[Any]:
    """Describes a leaf as JSON: [dtype, shape]."""
    return [str(leaf.dtype), list(leaf.shape)]


@jax.jit
def _checksum(leaf: jax.Array) -> jax.Array:
    """Sums, modulo 2^32, a hash of each element's bits and position. Any single changed element changes the sum; the
    order of summation, hence the mesh, does not."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype == jnp.bool_:
        bits = leaf.astype(jnp.uint32)
    else:
        unsigned = jnp.dtype(f"uint{min(8 * leaf.dtype.itemsize, 32)}")
        bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    position = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(bits.ndim)):  # not by flattening, which would gather a sharded array
        position += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    # MurmurHash3's finalizer, a bijection that spreads every bit: with a plain weighted sum two sign bits would cancel.
    bits = bits + position * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    return jnp.sum(bits, dtype=jnp.uint32)


def checksums(named: Mapping[str, Any]) -> dict[str, int]:
    """Computes a 32-bit checksum of each leaf (see `leaves_by_name`); one transfer from the device."""
    sums = {name: _checksum(plain(leaf)) for name, leaf in named.items()}
    return {name: int(value) for name, value in jax.device_get(sums).items()}


def digest(tree: Any) -> str:
    """Gives 16 hexadecimal digits of all leaves and their names: equal for bitwise equal states on any sharding."""
    return hashlib.sha256(repr(sorted(checksums(leaves_by_name(tree)).items())).encode()).hexdigest()[:16]


def tree_bytes(tree: Any) -> int:
    """Counts the bytes of all leaves, abstract ones too."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in map(plain, jax.tree.leaves(tree)))


def in_units(size: float) -> str:
    """Writes bytes for people: 1536 is '1.5 KiB'."""
    power = min(int(math.log(max(size, 1), 1024)), 3)
    return f"{size / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"


@jax.jit
def _all_finite(leaf: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(leaf))


def not_finite(tree: Any) -> list[str]:
    """Names the leaves that hold a NaN or an infinity; one transfer from the device."""
    numbers = {name: leaf for name, leaf in leaves_by_name(tree).items() if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    finite = jax.device_get({name: _all_finite(leaf) for name, leaf in numbers.items()})
    return [name for name, fine in finite.items() if not fine]
