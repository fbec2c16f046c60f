"""Rotary positions: the frequencies of a layer as its configuration scales them, and the turn itself."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from alignjax.models.attention import RopeScaling
from alignjax.types import Array


def rope_frequencies(half: int, theta: float, scaling: RopeScaling | None = None, length: Any = 0) -> Array:
    """Gives the rotary frequencies of a head.

    Args:
        half: The number of pairs that turn.
        theta: The base.
        scaling: How they were stretched, if they were.
        length: Tokens of the longest sequence of the pass, on which "dynamic" and "longrope" depend.

    Returns:
        Radians per position [half], float32.
    """
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    if scaling.kind == "yarn":
        unscaled = _unscaled_of_yarn(half, theta, scaling)
        return frequency / scaling.factor * (1 - unscaled) + frequency * unscaled
    if scaling.kind == "longrope":
        return frequency / jnp.where(length > scaling.original, jnp.array(scaling.long), jnp.array(scaling.short))
    if scaling.kind == "dynamic":
        longest = jnp.maximum(length, scaling.original).astype(jnp.float32)
        stretch = scaling.factor * longest / scaling.original - (scaling.factor - 1)
        return (theta * stretch ** (half / (half - 1))) ** (-jnp.arange(half, dtype=jnp.float32) / half)
    turns = scaling.original * frequency / (2 * jnp.pi)
    unscaled = jnp.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return frequency * (unscaled + (1 - unscaled) / scaling.factor)


def _unscaled_of_yarn(half: int, theta: float, scaling: RopeScaling) -> Array:
    """The share of each frequency that stays as it is [half]: 1 for those that turn more than `high` times within the
    original context, 0 for less than `low`, and a ramp between (arXiv:2309.00071 eq. 18, over the number of the
    frequency instead of its turns, as released code has it)."""

    def number(turns: float) -> float:  # of the frequency that turns so often
        return half * math.log(scaling.original / (turns * 2 * math.pi)) / math.log(theta)

    first, last = number(scaling.high), number(scaling.low)
    if scaling.whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * half - 1)
    ramp = (jnp.arange(half, dtype=jnp.float32) - first) / (last - first or 1e-3)
    return 1 - jnp.clip(ramp, 0, 1)


def turns_of(config: Any, positions: Array, local: Any, turned: Any) -> tuple[Array, Any]:
    """Gives the frequencies of a layer, and what turned queries and keys are multiplied by.

    Args:
        config: A TransformerConfig.
        positions: Those of the pass, [B,N,T].
        local: Whether the layer is local (a bool, traced in a scan); None if all are alike.
        turned: Whether its queries and keys turn at all, likewise.

    Returns:
        (radians per position [half], the factor or None).
    """
    # A frequency of 0 turns nothing, exactly: its cosine is 1 and its sine 0.
    c, half = config, (config.rotary_dim or config.head_dim) // 2
    frequency = rope_frequencies(half, c.rope_theta, c.rope_scaling, _length(c.rope_scaling, positions))
    factor = None if c.rope_scaling is None or c.rope_scaling.attention == 1 else c.rope_scaling.attention
    if c.local_rope_theta is not None:
        frequency = jnp.where(local, rope_frequencies(half, c.local_rope_theta), frequency)
        factor = None if factor is None else jnp.where(local, 1.0, factor)
    if turned is not None:
        frequency = jnp.where(turned, frequency, 0)
        factor = None if factor is None else jnp.where(turned, factor, 1.0)
    return frequency, factor


def _length(scaling: RopeScaling | None, positions: Array) -> Any:
    return jnp.max(positions) + 1 if scaling is not None and scaling.kind in ("dynamic", "longrope") else 0


def rotate(x: Array, positions: Array, frequency: Array, factor: Any = None) -> Array:
    """Applies rotary embeddings (arXiv:2104.09864) whose pairs are entry i of both halves of what turns of a head.

    Args:
        x: [B,N,T,H,h].
        positions: [B,N,T].
        frequency: Radians per position of the pairs at the beginning of a head, [half].
        factor: What they are multiplied by besides.

    Returns:
        x turned, [B,N,T,H,h].
    """
    half = frequency.shape[-1]
    angle = positions[..., None, None].astype(jnp.float32) * frequency.reshape(*[1] * (x.ndim - 1), half)
    cos, sin = ((f(angle) if factor is None else f(angle) * factor).astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second = x[..., :half], x[..., half : 2 * half]
    still = [x[..., 2 * half :]] if 2 * half < x.shape[-1] else []
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, *still], axis=-1)


def tempered(q: Array, positions: Array, scaling: RopeScaling | None) -> Array:
    """Multiplies queries [B,N,T,H,h] by what grows with the logarithm of their position (`RopeScaling.temper`)."""
    if scaling is None or not scaling.temper:
        return q
    factor = 1 + scaling.temper * jnp.log1p(jnp.floor(positions / scaling.original))
    return q * factor[..., None, None].astype(q.dtype)
