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
    """The scale of a norm that changes nothing."""
    return (jnp.zeros if config.centred_norms else jnp.ones)(shape, jnp.dtype(config.param_dtype))


def rms_norm(x: Array, scale: Array, eps: float, centred: bool = False) -> Array:
    """x / rms(x) over the last axis, rounded to x's dtype and multiplied by scale; centred: multiplied by 1 + scale
    first, as Gemma does it."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    if centred:
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
    """A pre-norm transformer block; one line per weight: shape, logical axes, fan-in."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs) -> None:
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
        """x [B,N,T,D] -> (x, the keys and values to keep, states at sites: "attn" is what attention adds to x)."""
        c = self.config
        h = self._norm("attn_norm", x)
        frequency = _frequencies(c, local)
        q, k = (self._heads(h, name) for name in ("q", "k"))
        if c.qk_norm:
            q, k = self._norm("q_norm", q), self._norm("k_norm", k)
        q, k = rotate(q, positions, frequency), rotate(k, positions, frequency)
        scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
        kept, mixed = past.attend(q, k, self._heads(h, "v"), scale, c.attn_softcap)
        states = {"heads": mixed + edits["heads"] if "heads" in edits else mixed}
        added = self._dot(states["heads"].reshape(*x.shape[:3], -1), "o")
        states["attn"] = self._norm("attn_post_norm", added) if c.post_norms else added
        if "attn" in edits:
            states["attn"] += edits["attn"]
        x = x + states["attn"]
        h = self._norm("mlp_norm", x)
        added = self._dot(ACTIVATIONS[c.activation](self._dot(h, "gate")) * self._dot(h, "up"), "down")
        x = x + (self._norm("mlp_post_norm", added) if c.post_norms else added)
        states["block"] = x + edits["block"] if "block" in edits else x
        return states["block"], kept, states

    def _norm(self, name: str, x: Array) -> Array:
        return rms_norm(x, getattr(self, name)[...], self.config.norm_eps, self.config.centred_norms)

    def _dot(self, x: Array, name: str) -> Array:
        """x times the weight of that name, plus its bias if it has one."""
        out, bias = product(x, getattr(self, name).get_value()), getattr(self, f"{name}_bias", None)
        return out if bias is None else out + bias[...].astype(x.dtype)

    def _heads(self, x: Array, name: str) -> Array:
        """A product as heads [B,N,T,H,h]."""
        return self._dot(x, name).reshape(*x.shape[:3], -1, self.config.head_dim)
