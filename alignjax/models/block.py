"""One transformer block as a flax.nnx module: its weights, norms, attention and gated MLP."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from alignjax.models.architecture import ACTIVATIONS, TransformerConfig
from alignjax.models.attention import Joint, Past, rope_frequencies, rotate
from alignjax.models.weights import product
from alignjax.types import Array


def _weight(
    rngs: nnx.Rngs, config: TransformerConfig, shape: tuple[int, ...], axes: tuple[str, ...], fan_in: int = 0
) -> nnx.Param:
    """A parameter with its logical axes: normal with variance 1/fan_in, or (fan_in 0) where a norm's scale starts."""
    dtype = jnp.dtype(config.param_dtype)
    if not fan_in:
        return nnx.Param(unit_scale(config, shape), axes=axes)
    return nnx.Param(jax.random.normal(rngs.params(), shape, dtype) * jnp.asarray(fan_in**-0.5, dtype), axes=axes)


def unit_scale(config: TransformerConfig, shape: tuple[int, ...]) -> Array:
    """Makes the scale with which a norm changes nothing: ones, or zeros for norms that multiply by 1 + their scale.

    Args:
        config: Says which kind of norm, and the dtype.
        shape: Of the scale.

    Returns:
        The scale.
    """
    return (jnp.zeros if config.centred_norms else jnp.ones)(shape, jnp.dtype(config.param_dtype))


def rms_norm(x: Array, scale: Array, eps: float, centered: bool = False) -> Array:
    """Divides by the root mean square of the last axis: x / rms(x), rounded to x's dtype and multiplied by scale.

    Args:
        x: [..,D].
        scale: [D].
        eps: What is added to the mean square.
        centered: Multiply by 1 + scale instead, before rounding, as Gemma does it.

    Returns:
        [..,D] in the dtype of x; sums are in float32 at least.
    """
    scale = jnp.broadcast_to(scale, x.shape)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    if centered:
        return (normed * (1 + scale.astype(wide.dtype))).astype(x.dtype)
    return normed.astype(x.dtype) * scale.astype(x.dtype)


def _frequencies(config: TransformerConfig, local: Any) -> Array:
    """Rotary frequencies [h/2] of a layer that is `local` (a bool, traced in a scan) or not (None: all are alike)."""
    c, half = config, config.head_dim // 2
    frequency = rope_frequencies(half, c.rope_theta, c.rope_scaling)
    if c.local_rope_theta is None:
        return frequency
    return jnp.where(local, rope_frequencies(half, c.local_rope_theta), frequency)


class Block(nnx.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs) -> None:
        # One line per weight: shape, logical axes, fan-in (none: the scale of a norm). Output projections start smaller
        # by the square root of 2 L, so that the residual stream keeps its variance over L layers.
        c, w = config, functools.partial(_weight, rngs, config)
        self.config = config
        self.attn_norm = w((c.width,), ("embed",))
        self.q = w((c.width, c.heads * c.head_dim), ("embed", "heads"), c.width)
        self.k = w((c.width, c.kv_heads * c.head_dim), ("embed", "kv_heads"), c.width)
        self.v = w((c.width, c.kv_heads * c.head_dim), ("embed", "kv_heads"), c.width)
        self.o = w((c.heads * c.head_dim, c.width), ("heads", "embed"), c.heads * c.head_dim * 2 * c.layers)
        self.mlp_norm = w((c.width,), ("embed",))
        self.gate = w((c.width, c.mlp), ("embed", "mlp"), c.width)
        self.up = w((c.width, c.mlp), ("embed", "mlp"), c.width)
        self.down = w((c.mlp, c.width), ("mlp", "embed"), c.mlp * 2 * c.layers)
        if c.qk_norm:
            self.q_norm, self.k_norm = w((c.head_dim,), ("head_dim",)), w((c.head_dim,), ("head_dim",))
        if c.post_norms:
            self.attn_post_norm, self.mlp_post_norm = w((c.width,), ("embed",)), w((c.width,), ("embed",))
        biased = (("q", "k", "v"), c.qkv_bias), (("o",), c.o_bias), (("gate", "up", "down"), c.mlp_bias)
        for name in (name for names, on in biased if on for name in names):
            weight = getattr(self, name)
            zeros = jnp.zeros(weight.shape[-1:], jnp.dtype(c.param_dtype))
            setattr(self, f"{name}_bias", nnx.Param(zeros, axes=weight.get_metadata("axes")[-1:]))

    def __call__(
        self, x: Array, positions: Array, past: Past | Joint, edits: Mapping[str, Array], local: Any = None
    ) -> tuple[Array, tuple[Array, Array], dict[str, Array]]:
        """Adds what attention and the gated MLP say to the hidden states.

        Args:
            x: [B,N,T,D].
            positions: Rotary positions, [B,N,T].
            past: What the tokens may see.
            edits: What is added at sites, by site.
            local: Whether the layer is local (a bool, traced in a scan); None if all are alike.

        Returns:
            The new states [B,N,T,D], the keys and values to keep, and the states by site ("attn" is what attention
            adds, "heads" [B,N,T,H,h] what it mixes, "block" the new states).
        """
        # Every site is read after its edit and handed back, so that probes and steering see exactly what the next
        # operation gets; families differ by config flags, which are static under jit.
        c = self.config
        h = self._norm("attn_norm", x)
        frequency = _frequencies(c, local)
        q, k = (self._heads(h, name) for name in ("q", "k"))
        if c.qk_norm:
            q, k = self._norm("q_norm", q), self._norm("k_norm", k)
        q, k = rotate(q, positions, frequency), rotate(k, positions, frequency)
        scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
        cache, mixed = past.attend(q, k, self._heads(h, "v"), scale, c.attn_softcap)
        states = {"heads": mixed + jnp.broadcast_to(edits["heads"], mixed.shape) if "heads" in edits else mixed}
        added = self._dot(states["heads"].reshape(*x.shape[:3], -1), "o")
        states["attn"] = self._norm("attn_post_norm", added) if c.post_norms else added
        if "attn" in edits:
            states["attn"] += jnp.broadcast_to(edits["attn"], added.shape)
        x = x + states["attn"]
        h = self._norm("mlp_norm", x)
        added = self._dot(ACTIVATIONS[c.activation](self._dot(h, "gate")) * self._dot(h, "up"), "down")
        x = x + (self._norm("mlp_post_norm", added) if c.post_norms else added)
        states["block"] = x + jnp.broadcast_to(edits["block"], x.shape) if "block" in edits else x
        return states["block"], cache, states

    def _norm(self, name: str, x: Array) -> Array:
        return rms_norm(x, getattr(self, name)[...], self.config.norm_eps, self.config.centred_norms)

    def _dot(self, x: Array, name: str) -> Array:
        """x times the weight of that name, plus its bias if it has one."""
        out, bias = product(x, getattr(self, name).get_value()), getattr(self, f"{name}_bias", None)
        return out if bias is None else out + jnp.broadcast_to(bias[...].astype(x.dtype), out.shape)

    def _heads(self, x: Array, name: str) -> Array:
        """A product as heads [B,N,T,H,h]."""
        return self._dot(x, name).reshape(*x.shape[:3], -1, self.config.head_dim)
