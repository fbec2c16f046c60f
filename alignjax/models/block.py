"""One transformer block as a flax.nnx module: its weights, norms, attention and MLP, or experts in its place."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from alignjax.models.architecture import ACTIVATIONS, TransformerConfig
from alignjax.models.attention import Joint, Past
from alignjax.models.experts import chosen, mix_experts
from alignjax.models.rotary import rotate, tempered, turns_of
from alignjax.models.weights import product
from alignjax.numerics import as_float32, linear
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
    wide = as_float32(x)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    if centered:
        return (normed * (1 + scale.astype(wide.dtype))).astype(x.dtype)
    return normed.astype(x.dtype) * scale.astype(x.dtype)


def layer_norm(x: Array, scale: Array, bias: Array | None, eps: float) -> Array:
    """Takes the mean of the last axis away and divides by its standard deviation (arXiv:1607.06450).

    Args:
        x: [..,D].
        scale: [D].
        bias: [D], which is added, or None.
        eps: What is added to the variance.

    Returns:
        [..,D] in the dtype of x; sums are in float32 at least.
    """
    wide = as_float32(x)
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    normed = normed * jnp.broadcast_to(scale.astype(wide.dtype), x.shape)
    if bias is not None:
        normed = normed + jnp.broadcast_to(bias.astype(wide.dtype), x.shape)
    return normed.astype(x.dtype)


def edited(state: Array, edits: Mapping[str, Array], site: str) -> Array:
    """Returns a state with what is added at its site, in the state's dtype; the state itself where nothing is."""
    return state + jnp.broadcast_to(edits[site], state.shape).astype(state.dtype) if site in edits else state


def norm(config: TransformerConfig, x: Array, scale: Array, bias: Array | None = None) -> Array:
    """Norms the last axis of x [..,D] as a configuration says, with its scale and bias [D]."""
    if config.norm == "layer":
        return layer_norm(x, scale, bias, config.norm_eps)
    normed = rms_norm(x, scale, config.norm_eps, config.centred_norms)
    return normed if bias is None else normed + jnp.broadcast_to(bias.astype(x.dtype), x.shape)


class Block(nnx.Module):
    """A transformer block. Families of models differ by the switches of their configuration alone."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs) -> None:
        # One line per weight: shape, logical axes, fan-in (none: the scale of a norm). Output projections start smaller
        # by the square root of 2 L, so that the residual stream keeps its variance over L layers.
        c, w = config, functools.partial(_weight, rngs, config)
        self.config = config
        width = (c.width,), ("embed",)
        if c.pre_norms:
            self.attn_norm = w(*width)
        self.q = w((c.width, c.heads * c.head_dim), ("embed", "heads"), c.width)
        self.k = w((c.width, c.kv_heads * c.head_dim), ("embed", "kv_heads"), c.width)
        self.v = w((c.width, c.kv_heads * c.head_dim), ("embed", "kv_heads"), c.width)
        self.o = w((c.heads * c.head_dim, c.width), ("heads", "embed"), c.heads * c.head_dim * 2 * c.layers)
        if c.pre_norms and not c.shared_norm:
            self.mlp_norm = w(*width)
        self._add_mlp(w)
        if c.qk_norm:
            head = (c.head_dim,), ("head_dim",)
            whole = c.qk_norm_whole
            self.q_norm = w((c.heads * c.head_dim,), ("heads",)) if whole else w(*head)
            self.k_norm = w((c.kv_heads * c.head_dim,), ("kv_heads",)) if whole else w(*head)
        if c.sinks:
            self.sinks = nnx.Param(jnp.zeros((c.heads,), jnp.dtype(c.param_dtype)), axes=("heads",))
        if c.post_norms:
            self.attn_post_norm, self.mlp_post_norm = w(*width), w(*width)
        norms = tuple(name for name in vars(self) if name.endswith("_norm"))
        biased = (("q", "k", "v"), c.qkv_bias), (("o",), c.o_bias), (("gate", "up", "down", "router"), c.mlp_bias)
        for name in (
            name for names, on in (*biased, (norms, c.norm_bias)) if on for name in names if hasattr(self, name)
        ):
            weight = getattr(self, name)
            # one number for each output, of experts for each output of each
            shape, axes = ((*of[:-2], of[-1]) for of in (weight.shape, weight.get_metadata("axes")))
            setattr(self, f"{name}_bias", nnx.Param(jnp.zeros(shape, jnp.dtype(c.param_dtype)), axes=axes))

    def _add_mlp(self, w: Any) -> None:
        """Adds the weights of the MLP, or a router and the MLPs of all experts."""
        c = self.config
        many, names = ((c.experts,), ("experts",)) if c.experts else ((), ())
        inner = None if c.experts else "mlp"  # the axis of experts is split in its place
        if c.experts:
            self.router = w((c.width, c.experts), ("embed", None), c.width)
        if c.gated:
            self.gate = w((*many, c.width, c.mlp), (*names, "embed", inner), c.width)
        self.up = w((*many, c.width, c.mlp), (*names, "embed", inner), c.width)
        self.down = w((*many, c.mlp, c.width), (*names, inner, "embed"), c.mlp * 2 * c.layers)

    def __call__(
        self,
        x: Array,
        positions: Array,
        past: Past | Joint,
        edits: Mapping[str, Array],
        local: Any = None,
        turned: Any = None,
        routes: Array | None = None,
    ) -> tuple[Array, tuple[Array, Array], dict[str, Array]]:
        """Adds what attention and the MLP say to the hidden states.

        Args:
            x: [B,N,T,D].
            positions: Rotary positions, [B,N,T].
            past: What the tokens may see.
            edits: What is added at sites, by site.
            local: Whether the layer is local (a bool, traced in a scan); None if all are alike.
            turned: Whether its queries and keys turn with their positions, likewise.
            routes: Experts that the tokens go to, whatever the router says [B,N,T,k]; -1 where it decides.

        Returns:
            The new states [B,N,T,D], the keys and values to keep, and the states by site ("attn" is what attention
            adds, "heads" [B,N,T,H,h] what it mixes, "block" the new states, "router" [B,N,T,E] the logits of experts,
            "experts" [B,N,T,k] the numbers of those chosen).
        """
        # Every site is read after its edit and handed back, so that probes and steering see exactly what the next
        # operation gets; families differ by config flags, which are static under jit.
        c = self.config
        h = self._norm("attn_norm", x) if c.pre_norms else x
        turns = None if c.positions else turns_of(c, positions, local, turned)
        q, k = (self._heads(h, name) for name in ("q", "k"))
        if c.qk_norm and not c.qk_norm_whole:
            q, k = self._norm("q_norm", q), self._norm("k_norm", k)
        if turns is not None:
            q, k = rotate(q, positions, *turns), rotate(k, positions, *turns)
            q = tempered(q, positions, c.rope_scaling)
        scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
        sinks = self.sinks[...] if c.sinks else None
        cache, mixed = past.attend(q, k, self._heads(h, "v"), scale, c.attn_softcap, sinks)
        states = {"heads": edited(mixed, edits, "heads")}
        added = self._added("attn", self._dot(states["heads"].reshape(*x.shape[:3], -1), "o"))
        states["attn"] = edited(added, edits, "attn")
        before, x = x, x + states["attn"]
        if not c.shared_norm:
            h = before if c.parallel else x
            h = self._norm("mlp_norm", h) if c.pre_norms else h
        added, of_router = self._mlp(h, edits, routes)
        states["block"] = edited(x + self._added("mlp", added), edits, "block")
        return states["block"], cache, states | of_router

    def _mlp(self, h: Array, edits: Mapping[str, Array], routes: Array | None) -> tuple[Array, dict[str, Array]]:
        """What the MLP, or the experts that the router chooses, say to h [B,N,T,D], and the states of the router."""
        c = self.config
        if not c.experts:
            inner = ACTIVATIONS[c.activation](self._dot(h, "gate" if c.gated else "up"))
            return self._dot(inner * self._dot(h, "up") if c.gated else inner, "down"), {}
        names = ("gate", "up", "down", *(("gate_bias", "up_bias", "down_bias", "router_bias") if c.mlp_bias else ()))
        weights = {name: getattr(self, name).get_value() for name in names}
        # In float32, as who is chosen must not depend on rounding.
        logits = linear(h.astype(jnp.float32), self.router[...].astype(jnp.float32))
        if c.mlp_bias:
            logits = logits + jnp.broadcast_to(weights.pop("router_bias").astype(jnp.float32), logits.shape)
        logits = edited(logits, edits, "router")
        shares, experts = chosen(logits, c.experts_per_token, c.renormalized, routes)
        mixed = mix_experts(c, weights, h, shares, experts, ACTIVATIONS[c.activation])
        return mixed, {"router": logits, "experts": experts}

    def _added(self, name: str, added: Array) -> Array:
        """What attention or the MLP adds, with the norm behind it and the multiplier of residuals."""
        added = self._norm(f"{name}_post_norm", added) if self.config.post_norms else added
        multiplier = self.config.residual_multiplier
        return added if multiplier == 1 else added * jnp.asarray(multiplier, added.dtype)

    def _norm(self, name: str, x: Array) -> Array:
        bias = getattr(self, f"{name}_bias", None)
        return norm(self.config, x, getattr(self, name)[...], None if bias is None else bias[...])

    def _dot(self, x: Array, name: str) -> Array:
        """x times the weight of that name, plus its bias if it has one."""
        out, bias = product(x, getattr(self, name).get_value()), getattr(self, f"{name}_bias", None)
        return out if bias is None else out + jnp.broadcast_to(bias[...].astype(x.dtype), out.shape)

    def _heads(self, x: Array, name: str) -> Array:
        """A product as heads [B,N,T,H,h], normed before they are parted where that is asked for."""
        out = self._dot(x, name)
        if self.config.qk_norm_whole and name != "v":
            out = self._norm(f"{name}_norm", out)
        return out.reshape(*x.shape[:3], -1, self.config.head_dim)
