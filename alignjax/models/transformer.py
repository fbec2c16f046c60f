"""One decoder-only transformer: RMSNorm, RoPE, grouped-query attention, gated MLP; a flax.nnx block behind plain
functions.

Layers are stacked and scanned in training; handed params and caches whose layers are a tuple (`functional.unrolled`),
the same `extend` runs them one by one, which is what decode does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from alignjax.config import ConfigError, nearest
from alignjax.models import heads as heads_module, kernels
from alignjax.models.architecture import TransformerConfig
from alignjax.models.attention import Joint, Past, masks, positions_of
from alignjax.models.block import Block, rms_norm, unit_scale
from alignjax.models.kv_cache import Cache, Segment, default_read, shared_prompt_hidden
from alignjax.models.packing import Packed, into_rows, packed_mask
from alignjax.parallel.mesh import COMPUTE_LAYOUT, constrain
from alignjax.types import Array, Batch, Key, Model, Params

SITES = ("embed", "attn", "heads", "block")


@functools.cache
def _layer_axes(config: TransformerConfig) -> dict[str, tuple[str | None, ...]]:
    """The logical axes of one layer's weights."""
    blank = nnx.split(nnx.eval_shape(lambda: Block(config, nnx.Rngs(0))))[1]
    return nnx.to_pure_dict(
        jax.tree.map(lambda leaf: leaf.get_metadata("axes"), blank, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    )


def _run(
    config: TransformerConfig,
    block: Any,
    params: Params,
    tokens: Array,
    positions: Array,
    past_of: Callable[[Any, Any, Any], Past | Joint | kernels.Row],
    caches: tuple[Any, Any],
    edits: Mapping[str, Array],
    states: tuple[str, ...],
) -> tuple[Array, Any, dict[str, Array]]:
    """Embeds tokens [B,N,T] and runs the layers, in a scan if they are stacked, in a loop if they are a tuple ->
    (hidden, what the layers keep, states at sites). past_of(shared, own, local) makes a layer's past of its caches.
    Raises ConfigError for edits or states at a site that there is not."""
    for site in (*edits, *states):
        if site not in SITES:
            raise ConfigError(
                f"a transformer has no site {site!r}; its sites: {', '.join(SITES)}.{nearest(site, SITES)}"
            )
    decodes = isinstance(params["layers"], tuple)

    def laid(tree: Any, axes: Any) -> Any:
        """Of the two ways to multiply what is split by rows with a weight that is split by its inputs, the compiler may
        take the other one, and gather the batch instead of the weight. A sampler has gathered its weights."""
        return tree if decodes else constrain(tree, axes, COMPUTE_LAYOUT)

    rows = ("batch", None, None, None)
    embed = laid(params["embed"], ("vocab", "embed"))
    x = jnp.take(embed, tokens, axis=0).astype(jnp.dtype(config.dtype))
    if config.embed_scale:
        x = x * jnp.asarray(config.width**0.5, x.dtype)
    if "embed" in edits:
        x = x + edits["embed"]
    x = laid(x, rows)
    sited = {"embed": x} if "embed" in states else {}
    by_layer = {site: edit for site, edit in edits.items() if site != "embed"}

    def layer(x: Array, given: Any) -> tuple[Array, Any]:
        weights, shared, own, edit, local = given
        x, kept, seen = nnx.merge(block, laid(weights, _layer_axes(config)))(
            x, positions, past_of(shared, own, local), edit, local
        )
        return laid(x, rows), (kept, {site: seen[site] for site in states if site != "embed"})

    if config.remat == "layer" and caches[1] is None:
        layer = jax.checkpoint(layer)
    if decodes:
        out = []
        for number, weights in enumerate(params["layers"]):
            edit = jax.tree.map(lambda leaf, i=number: leaf[i], by_layer)
            local = config.local[number] if config.local else None
            x, kept = layer(x, (weights, *(part and part[number] for part in caches), edit, local))
            out.append(kept)
        layers = tuple(kept for kept, _ in out)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[seen for _, seen in out])
    else:
        local = jnp.asarray(config.local) if config.local else None
        x, (layers, stacked) = jax.lax.scan(layer, x, (params["layers"], *caches, by_layer, local))
    sited |= {site: jnp.moveaxis(state, 0, 3) for site, state in stacked.items()}
    return rms_norm(x, params["norm"], config.norm_eps, config.centred_norms), layers, sited


def _of_kind(kinds: Sequence[Any], local: Any) -> Any:
    """Masks of a layer, of those of all kinds of layers: chosen now where `local` is known, selected in a scan."""
    if len(kinds) == 1:
        return kinds[0]
    return kinds[local] if isinstance(local, bool) else jax.tree.map(functools.partial(jnp.where, local), *kinds[::-1])


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
    kinds = [masks(window, cache, valid, positions) for window in config.windows]
    own = kinds[0][2]
    by_kind = [kind[:2] for kind in kinds]
    row = None
    if (
        cache.shared is None
        and cache.own is None
        and tokens.shape[2] > 1
        and (kernel := kernels.chosen(config)) != "xla"
    ):
        row = kernels.plain_row(kernel, config.windows, [kind[1] for kind in kinds], valid)

    def past_of(shared: Any, buffers: Any, local: Any) -> Past | kernels.Row:
        if row is not None:
            return dataclasses.replace(row, local=local)
        shared_mask, own_mask = _of_kind(by_kind, local)
        return Past(shared, buffers, shared_mask, own_mask, cache.used)

    x, layers, sited = _run(
        config,
        block,
        params,
        tokens,
        positions,
        past_of,
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
    shared = Cache(shared=Segment((), prompt[1][:, 0], first[:, 0]))
    rest = positions_of(shared, completions[1])
    by_kind = [
        (masks(window, Cache(), prompt[1], first)[1], *masks(window, shared, completions[1], rest)[:2])
        for window in config.windows
    ]

    def side_by_side(left: Array, right: Array) -> Array:
        return jnp.concatenate([left, right.reshape(rows, 1, n * t)], axis=2)

    def apart(x: Array) -> Array:
        return x[:, 0, length:].reshape(rows, n, t, *x.shape[3:])

    tokens, positions = side_by_side(prompt[0], completions[0]), side_by_side(first, rest)

    kernel = kernels.chosen(config)
    row = None
    if kernel != "xla":
        row = kernels.joint_row(kernel, config.windows, by_kind, prompt[1][:, 0], completions[1])

    def past_of(shared: Any, own: Any, local: Any) -> Joint | kernels.Row:
        if row is not None:
            return dataclasses.replace(row, local=local)
        prompt_mask, shared_mask, own_mask = _of_kind(by_kind, local)
        return Joint(prompt_mask, shared_mask, own_mask, length, n)

    x, _, sited = _run(config, block, params, tokens, positions, past_of, (None, None), edits or {}, states)
    return x[:, :, :length], apart(x), {site: apart(state) for site, state in sited.items()}


def _rows(
    config: TransformerConfig, block: Any, params: Params, packed: Packed, batch: Batch, states: tuple[str, ...] = ()
) -> tuple[Array, dict[str, Array]]:
    """The tokens of a batch in packed rows [R,1,L], in one run over the layers -> (hidden [R,1,L,D], states)."""
    assert batch.prompt_valid is not None
    assert batch.valid is not None
    first = positions_of(Cache(), batch.prompt_valid[:, None])[:, 0]
    rest = positions_of(Cache(shared=Segment((), batch.prompt_valid, first)), batch.valid)
    assert batch.prompt is not None
    assert batch.tokens is not None
    tokens, positions = into_rows(packed, batch.prompt, batch.tokens), into_rows(packed, first, rest)
    by_kind = [packed_mask(packed, positions, window) for window in config.windows]
    kernel = kernels.chosen(config)
    if config.attention == "auto" and kernel == "splash" and batch.valid.shape[1] > 1:
        kernel = "xla"  # splash attention cannot have packed rows of several completions
    row = None
    if kernel != "xla":
        row = kernels.packed_row(kernel, config.windows, by_kind, packed, batch.valid.shape[1])

    def past_of(shared: Any, own: Any, local: Any) -> Past | kernels.Row:
        if row is not None:
            return dataclasses.replace(row, local=local)
        return Past(None, None, None, _of_kind(by_kind, local), None)

    x, _, sited = _run(config, block, params, tokens, positions, past_of, (None, None), {}, states)
    return x, sited


@functools.cache
def transformer(config: TransformerConfig) -> Model:
    """The Model of a configuration; the same object for equal configurations, so that jitted functions are shared."""
    block, _ = nnx.split(nnx.eval_shape(lambda: Block(config, nnx.Rngs(0))))

    def one_layer(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.split(Block(config, nnx.Rngs(key)))[1])

    def init(key: Key) -> Params:
        layers, embed, outputs = jax.random.split(key, 3)
        dtype = jnp.dtype(config.param_dtype)
        return {
            "embed": jax.random.normal(embed, (config.vocab, config.width), dtype) * config.width**-0.5,
            "layers": jax.vmap(one_layer)(jax.random.split(layers, config.layers)),
            "norm": unit_scale(config, (config.width,)),
            "heads": heads_module.init(outputs, config, dtype),
        }

    axes = {
        "embed": ("vocab", "embed"),
        "layers": {name: ("layers", *own) for name, own in _layer_axes(config).items()},
        "norm": ("embed",),
        "heads": heads_module.axes(config),
    }
    extend = functools.partial(_extend, config, block)
    return Model(
        init=init,
        hidden=shared_prompt_hidden(
            extend,
            functools.partial(_joint, config, block),
            functools.partial(_rows, config, block),
            config.group_chunks,
        ),
        heads=heads_module.heads(config),
        read=default_read,
        extend=extend,
        axes=axes,
        config=config,
    )
