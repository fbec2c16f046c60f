"""The leaves of a state by name, and checksums of them that hold on any mesh."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """{"roles/policy/embed": leaf, ...}: names from the path of each leaf; a "/" inside a key is written %2F."""

    def part(key: Any) -> str:
        found = [getattr(key, field) for field in ("key", "name", "idx") if hasattr(key, field)]
        return str(found[0] if found else key).replace("%", "%25").replace("/", "%2F")

    flat = jax.tree_util.tree_leaves_with_path(tree)
    named = {"/".join(map(part, path)): leaf for path, leaf in flat}
    if len(named) < len(flat):
        raise ValueError("two leaves of the state have the same name; its keys must differ as strings")
    return named


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(leaf: Any) -> Any:
    """A typed PRNG key as its numbers; anything else as it is. Abstract leaves stay abstract."""
    if not is_key(leaf):
        return leaf
    abstract = isinstance(leaf, jax.ShapeDtypeStruct)
    return jax.eval_shape(jax.random.key_data, leaf) if abstract else jax.random.key_data(leaf)


def as_key(data: jax.Array, like: Any) -> jax.Array:
    """The numbers of typed PRNG keys as keys of the kind that `like`, abstract or not, has."""
    kinds = []
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(data, impl=kinds[0])


def form(leaf: Any) -> list[Any]:
    """[dtype, shape] as JSON has it."""
    return [str(leaf.dtype), list(leaf.shape)]


@jax.jit
def _checksum(leaf: jax.Array) -> jax.Array:
    """Sum modulo 2^32 of a hash of each element's bits and place. Any single changed element changes it; the order of
    summation, hence the mesh, does not."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype == jnp.bool_:
        bits = leaf.astype(jnp.uint32)
    else:
        unsigned = jnp.dtype(f"uint{min(8 * leaf.dtype.itemsize, 32)}")
        bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(bits.ndim)):  # not by flattening, which would gather a sharded array
        place += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    # MurmurHash3's finalizer, a bijection that spreads every bit: with a plain weighted sum two sign bits would cancel.
    bits = bits + place * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    return jnp.sum(bits, dtype=jnp.uint32)


def checksums(tree: Any) -> dict[str, int]:
    """A 32-bit checksum per leaf, by name; one transfer from the device."""
    return checksums_of(leaves_by_name(tree))


def checksums_of(named: Mapping[str, Any]) -> dict[str, int]:
    """The same of leaves that have their names."""
    found = {name: _checksum(plain(leaf)) for name, leaf in named.items()}
    return {name: int(value) for name, value in jax.device_get(found).items()}


def digest(tree: Any) -> str:
    """16 hexadecimal digits of all leaves and their names: equal for bitwise equal states, whatever their sharding."""
    return hashlib.sha256(repr(sorted(checksums(tree).items())).encode()).hexdigest()[:16]


def tree_bytes(tree: Any) -> int:
    """Bytes of all leaves, abstract ones too."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in map(plain, jax.tree.leaves(tree)))


@jax.jit
def _all_finite(leaf: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(leaf))


def not_finite(tree: Any) -> list[str]:
    """Names of the leaves that hold a NaN or an infinity; one transfer from the device."""
    numbers = {name: leaf for name, leaf in leaves_by_name(tree).items() if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    return [
        name for name, fine in jax.device_get({n: _all_finite(leaf) for n, leaf in numbers.items()}).items() if not fine
    ]
