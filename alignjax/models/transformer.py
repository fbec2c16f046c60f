"""One decoder-only transformer: RMSNorm, RoPE, grouped-query attention, gated MLP; a flax.nnx block behind plain
functions.

Layers are stacked and scanned in training; handed params and caches whose layers are a tuple (`functional.unrolled`),
the same `extend` runs them one by one, which is what decode does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from alignjax.config import ConfigError
from alignjax.models import heads as heads_module
from alignjax.models.attention import Joint, Past, masks, positions_of, rotate
from alignjax.models.functional import Cache, Segment, default_read, shared_prompt_hidden
from alignjax.numerics import linear
from alignjax.types import Array, Key, Model, Params

SITES = ("embed", "attn", "heads", "block")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes and switches of a decoder-only transformer.

    vocab V, width D, layers, heads (query), kv_heads (0: as many as heads), head_dim (0: width / heads), mlp (gated
    hidden size); window: attend to that many latest tokens, None for all; outputs: heads besides "lm": any of "value",
    "reward", "preference"; tied: the lm head is the embedding; dtype and param_dtype: compute and storage, by name;
    remat: "none" or "layer"; group_chunks: see `shared_prompt_hidden`.
    """

    vocab: int
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 0
    head_dim: int = 0
    mlp: int = 1024
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    window: int | None = None
    tied: bool = False
    outputs: tuple[str, ...] = ()
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: str = "none"
    group_chunks: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        object.__setattr__(self, "head_dim", self.head_dim or self.width // self.heads)
        if self.heads % self.kv_heads:
            raise ConfigError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise ConfigError(f"head_dim={self.head_dim} is odd; rotary embeddings need pairs")
        if self.remat not in ("none", "layer"):
            raise ConfigError(f"remat={self.remat!r}; it must be 'none' or 'layer'")


def _weight(
    rngs: nnx.Rngs, config: TransformerConfig, shape: tuple[int, ...], axes: tuple[str, ...], fan_in: int = 0
) -> nnx.Param:
    """A parameter with its logical axes: normal with variance 1/fan_in, or ones for a scale (fan_in 0)."""
    dtype = jnp.dtype(config.param_dtype)
    if not fan_in:
        return nnx.Param(jnp.ones(shape, dtype), axes=axes)
    return nnx.Param(jax.random.normal(rngs.params(), shape, dtype) * jnp.asarray(fan_in**-0.5, dtype), axes=axes)


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)).astype(x.dtype) * scale.astype(
        x.dtype
    )


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

    def __call__(
        self, x: Array, positions: Array, past: Past | Joint, edits: Mapping[str, Array]
    ) -> tuple[Array, tuple[Array, Array], dict[str, Array]]:
        """x [B,N,T,D] -> (x, the keys and values to keep, states at sites)."""
        c = self.config
        rows, n, t, _ = x.shape
        h = rms_norm(x, self.attn_norm[...], c.norm_eps)
        dot = functools.partial(_dot, dtype=x.dtype)
        q = rotate(dot(h, self.q).reshape(rows, n, t, c.heads, c.head_dim), positions, c.rope_theta)
        k = rotate(dot(h, self.k).reshape(rows, n, t, c.kv_heads, c.head_dim), positions, c.rope_theta)
        v = dot(h, self.v).reshape(rows, n, t, c.kv_heads, c.head_dim)
        kept, mixed = past.attend(q, k, v)
        states = {"heads": mixed + edits["heads"] if "heads" in edits else mixed}
        states["attn"] = dot(states["heads"].reshape(rows, n, t, -1), self.o)
        if "attn" in edits:
            states["attn"] += edits["attn"]
        x = x + states["attn"]
        h = rms_norm(x, self.mlp_norm[...], c.norm_eps)
        x = x + dot(jax.nn.silu(dot(h, self.gate)) * dot(h, self.up), self.down)
        states["block"] = x + edits["block"] if "block" in edits else x
        return states["block"], kept, states


def _dot(x: Array, weight: nnx.Param, dtype: Any) -> Array:
    return linear(x, weight[...].astype(dtype))


def _run(
    config: TransformerConfig,
    block: Any,
    params: Params,
    tokens: Array,
    positions: Array,
    past_of: Callable[[Any, Any], Past | Joint],
    caches: tuple[Any, Any],
    edits: Mapping[str, Array],
    states: tuple[str, ...],
) -> tuple[Array, Any, dict[str, Array]]:
    """Embeds tokens [B,N,T] and runs the layers, in a scan if they are stacked, in a loop if they are a tuple ->
    (hidden, what the layers keep, states at sites). past_of(shared, own) makes a layer's past of its caches."""
    x = jnp.take(params["embed"], tokens, axis=0).astype(jnp.dtype(config.dtype))
    if "embed" in edits:
        x = x + edits["embed"]
    sited = {"embed": x} if "embed" in states else {}
    by_layer = {site: edit for site, edit in edits.items() if site != "embed"}

    def layer(x: Array, given: Any) -> tuple[Array, Any]:
        weights, shared, own, edit = given
        x, kept, seen = nnx.merge(block, weights)(x, positions, past_of(shared, own), edit)
        return x, (kept, {site: seen[site] for site in states if site != "embed"})

    if config.remat == "layer" and caches[1] is None:
        layer = jax.checkpoint(layer)
    if isinstance(params["layers"], tuple):
        out = []
        for number, weights in enumerate(params["layers"]):
            edit = jax.tree.map(lambda leaf, i=number: leaf[i], by_layer)
            x, kept = layer(x, (weights, *(part and part[number] for part in caches), edit))
            out.append(kept)
        layers = tuple(kept for kept, _ in out)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[seen for _, seen in out])
    else:
        x, (layers, stacked) = jax.lax.scan(layer, x, (params["layers"], *caches, by_layer))
    sited |= {site: jnp.moveaxis(state, 0, 3) for site, state in stacked.items()}
    return rms_norm(x, params["norm"], config.norm_eps), layers, sited


def _extend(
    config: TransformerConfig,
    block: Any,
    params: Params,
    cache: Cache | None,
    tokens: Array,
    valid: Array,
    edits: Mapping[str, Array] | None = None,
    states: tuple[str, ...] = (),
) -> tuple[Array, Cache, dict[str, Array]]:
    """See `Model.extend`. Layers run as params and caches have them: a scan over stacked ones, a loop over a tuple."""
    cache = cache or Cache()
    positions = positions_of(cache, valid)
    shared_mask, own_mask, own = masks(config.window, cache, valid, positions)
    x, layers, sited = _run(
        config,
        block,
        params,
        tokens,
        positions,
        lambda shared, buffers: Past(shared, buffers, shared_mask, own_mask, cache.used),
        (cache.shared and cache.shared.layers, cache.own and cache.own.layers),
        edits or {},
        states,
    )
    used = None if cache.used is None else cache.used + tokens.shape[-1]
    return x, Cache(cache.shared, dataclasses.replace(own, layers=layers), used), sited


def _joint(
    config: TransformerConfig,
    block: Any,
    params: Params,
    prompt: tuple[Array, Array],
    completions: tuple[Array, Array],
    edits: Mapping[str, Array] | None = None,
    states: tuple[str, ...] = (),
) -> tuple[Array, Array, dict[str, Array]]:
    """A prompt [B,1,P] and its completions [B,N,T], each (tokens, valid), in one run over the layers -> (hidden of the
    prompt [B,1,P,D], of the completions [B,N,T,D], states at the completions)."""
    rows, n, t = completions[0].shape
    length = prompt[0].shape[2]
    first = positions_of(Cache(), prompt[1])
    _, prompt_mask, segment = masks(config.window, Cache(), prompt[1], first)
    shared = Cache(shared=Segment((), segment.valid[:, 0], segment.positions[:, 0]))
    rest = positions_of(shared, completions[1])
    shared_mask, own_mask, _ = masks(config.window, shared, completions[1], rest)
    assert shared_mask is not None
    past = Joint(prompt_mask, shared_mask, own_mask, length, n)

    def side_by_side(left: Array, right: Array) -> Array:
        return jnp.concatenate([left, right.reshape(rows, 1, n * t)], axis=2)

    def apart(x: Array) -> Array:
        return x[:, 0, length:].reshape(rows, n, t, *x.shape[3:])

    tokens, positions = side_by_side(prompt[0], completions[0]), side_by_side(first, rest)
    x, _, sited = _run(
        config, block, params, tokens, positions, lambda shared, own: past, (None, None), edits or {}, states
    )
    return x[:, :, :length], apart(x), {site: apart(state) for site, state in sited.items()}


@functools.cache
def transformer(config: TransformerConfig) -> Model:
    """The Model of a configuration; the same object for equal configurations, so that jitted functions are shared."""
    block, blank = nnx.split(nnx.eval_shape(lambda: Block(config, nnx.Rngs(0))))

    def one_layer(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.split(Block(config, nnx.Rngs(key)))[1])

    def init(key: Key) -> Params:
        layers, embed, outputs = jax.random.split(key, 3)
        dtype = jnp.dtype(config.param_dtype)
        return {
            "embed": jax.random.normal(embed, (config.vocab, config.width), dtype) * config.width**-0.5,
            "layers": jax.vmap(one_layer)(jax.random.split(layers, config.layers)),
            "norm": jnp.ones((config.width,), dtype),
            "heads": heads_module.init(outputs, config, dtype),
        }

    layer_axes = jax.tree.map(
        lambda leaf: ("layers", *leaf.get_metadata("axes")),
        blank,
        is_leaf=lambda leaf: isinstance(leaf, nnx.Variable),
    )
    axes = {
        "embed": ("vocab", "embed"),
        "layers": nnx.to_pure_dict(layer_axes),
        "norm": ("embed",),
        "heads": heads_module.axes(config),
    }
    extend = functools.partial(_extend, config, block)
    return Model(
        init=init,
        hidden=shared_prompt_hidden(extend, functools.partial(_joint, config, block), config.group_chunks),
        heads=heads_module.heads(config),
        read=default_read,
        extend=extend,
        axes=axes,
        config=config,
    )
