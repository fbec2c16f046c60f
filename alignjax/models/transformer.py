"""One decoder-only transformer, of which every family of models is a setting; a flax.nnx block behind plain functions.

Layers are stacked and scanned in training; handed params and caches whose layers are a tuple (`kv_cache.unrolled`),
the same `extend` runs them one by one, which is what decode does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from alignjax.config import ConfigError, Packing
from alignjax.models import heads as heads_module, kernels
from alignjax.models.architecture import TransformerConfig
from alignjax.models.attention import Joint, Past, masks, positions_of
from alignjax.models.block import Block, unit_scale
from alignjax.models.kv_cache import Cache, Segment, default_read, previous_valid, share
from alignjax.models.layers import TABLES, Sight, block_of, run_layers
from alignjax.models.packing import check, from_rows, into_rows, pack, packed_mask, pays
from alignjax.numerics import fold_name, in_pieces
from alignjax.types import EXPERTS, Array, Batch, Hidden, Key, Model, Params

Sited = Mapping[str, Array]  # states by site, or edits by site or "SITE@prompt", "SITE@completion"
Routes = tuple[Array, Array] | None  # experts of tokens: of a prompt [B,1,P,L,k] and its completions [B,N,T,L,k]


def _extend(
    config: TransformerConfig,
    params: Params,
    cache: Cache | None,
    tokens: Array,
    valid: Array,
    edits: Sited | None = None,
    states: tuple[str, ...] = (),
    routes: Array | None = None,
) -> tuple[Array, Cache, dict[str, Array]]:
    """See `Model.extend`. Layers run as params and caches have them: a scan over stacked ones, a loop over a tuple."""
    # Masks are made once for each kind of layers. A fused kernel takes whole rows alone: a prefill without any cache.
    # What comes before all else is a prompt, to edits that tell it from completions.
    prompt, cache = cache is None, cache or Cache()
    positions = positions_of(cache, valid)
    kinds = [masks(window, cache, valid, positions) for window in config.windows]
    row = None
    if cache.shared is None and cache.own is None and tokens.shape[2] > 1:
        kernel = kernels.choose(config)
        if kernel != "xla":
            row = kernels.plain_row(kernel, config.windows, [kind[1] for kind in kinds], valid)
    sight = Sight([kind[:2] for kind in kinds], functools.partial(Past, used=cache.used), row, prompt)
    caches = (cache.shared and cache.shared.layers, cache.own and cache.own.layers)
    more: dict[str, Any] = {"caches": caches, "edits": edits, "states": states, "routes": routes}
    x, layers, sited = run_layers(config, params, tokens, positions, sight, **more)
    used = None if cache.used is None else cache.used + tokens.shape[-1]
    return x, Cache(cache.shared, dataclasses.replace(kinds[0][2], layers=layers), used), sited


def _joint(
    config: TransformerConfig,
    params: Params,
    prompt: tuple[Array, Array],
    completions: tuple[Array, Array],
    edits: Sited | None,
    states: tuple[str, ...],
    routes: Routes = None,
) -> tuple[Array, Array, dict[str, Array]]:
    """Runs a prompt [B,1,P] and its completions [B,N,T], each (tokens, valid), over the layers at once -> (hidden of
    the prompt [B,1,P,D], of the completions [B,N,T,D], states at the completions)."""
    # Both lie side by side in a row of P + N*T tokens, so that each matrix product of a layer is done once; `Joint`
    # parts them to attend, with the masks that two calls of `extend` would have had.
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
        return jnp.concatenate([left, right.reshape(rows, 1, n * t, *right.shape[3:])], axis=2)

    def apart(x: Array) -> Array:
        return x[:, 0, length:].reshape(rows, n, t, *x.shape[3:])

    tokens, positions = side_by_side(prompt[0], completions[0]), side_by_side(first, rest)
    row, kernel = None, kernels.choose(config)
    if kernel != "xla":
        row = kernels.joint_row(kernel, config.windows, by_kind, prompt[1][:, 0], completions[1])
    prompts = np.arange(tokens.shape[2]) < length
    sight = Sight(by_kind, lambda shared, own, *three: Joint(*three, prompt=length, n=n), row, prompts)
    sent = None if routes is None else side_by_side(*routes)
    more: dict[str, Any] = {"edits": edits, "states": states, "routes": sent}
    x, _, sited = run_layers(config, params, tokens, positions, sight, **more)
    return x[:, :, :length], apart(x), {site: apart(state) for site, state in sited.items()}


# ---------------------------------------------------------------------------------------------------- of a whole batch


def _hidden(
    config: TransformerConfig, params: Params, batch: Batch, sites: tuple[str, ...] = (), packing: Packing | None = None
) -> Hidden:
    """See `Model.hidden`. A prompt is encoded once for its N completions, and gradients flow through both.

    A batch that has fewer slots so is run in packed rows; steered params, whose edits may have a slot each, are run
    with their padding. Groups too large for memory (group_chunks > 1) are extended over their prompt in rematerialized
    pieces.
    """
    # The state in front of a completion's first token is that of the prompt's last valid one, wherever its padding is.
    need = functools.partial(batch.need, of="a transformer")
    prompt_valid, valid, edits, routes = (
        need("prompt_valid"),
        need("valid"),
        params.get("edits"),
        _routes(config, batch),
    )
    if packing is not None and edits is None and pays(packing, batch):
        return _packed_hidden(config, params, batch, sites, packing)
    prompt = (need("prompt")[:, None], prompt_valid[:, None])
    completions = (need("tokens"), valid)
    if config.group_chunks == 1:
        states, after, sited = _joint(config, params, prompt, completions, edits, sites, routes)
    else:
        first, rest = routes or (None, None)
        states, cache, _ = _extend(config, params, None, *prompt, edits, routes=first)
        cache = share(cache)

        def extended(piece: tuple[Array, Array, Array | None]) -> tuple[Array, Sited]:
            tokens, valid, routes = piece
            after, _, sited = _extend(config, params, cache, tokens, valid, edits, sites, routes)
            return after, sited

        if completions[0].shape[1] % config.group_chunks:
            raise ValueError(
                f"{completions[0].shape[1]} completions do not split into group_chunks={config.group_chunks}"
            )
        after, sited = in_pieces(extended, (*completions, rest), config.group_chunks, axis=1)
    last = prompt_valid.shape[1] - 1 - jnp.argmax(jnp.flip(prompt_valid, -1), axis=-1)
    first = jnp.take_along_axis(states[:, 0], last[:, None, None], axis=1)[:, 0]
    return Hidden(previous_valid(after, first, valid), after, sited)


def _routes(config: TransformerConfig, batch: Batch) -> Routes:
    """The experts that tokens go to, as a sampler kept them: of the prompt and of completions, -1 where nothing is
    known; None where routers decide."""
    # An axis of N in front of the prompt's tokens, as tokens themselves have it.
    if EXPERTS not in batch.completions or not config.experts:
        return None
    after = batch.completions[EXPERTS]
    rows, length = batch.need("prompt", of="a transformer").shape
    before = batch.prompts.get(EXPERTS)
    before = jnp.full((rows, length, *after.shape[3:]), -1, after.dtype) if before is None else before
    return before[:, None], after


def _packed_hidden(
    config: TransformerConfig, params: Params, batch: Batch, sites: tuple[str, ...], packing: Packing
) -> Hidden:
    """See `_hidden`: the tokens of a batch in packed rows [R,1,L], over the layers at once."""
    if config.group_chunks > 1:
        raise ConfigError("packing and group_chunks > 1 are two ways to lay out a batch; choose one")
    check(packing, batch)
    need = functools.partial(batch.need, of="a transformer")
    prompt_valid, valid = need("prompt_valid"), need("valid")
    packed = pack(packing, prompt_valid, valid)
    first = positions_of(Cache(), prompt_valid[:, None])[:, 0]
    rest = positions_of(Cache(shared=Segment((), prompt_valid, first)), valid)
    tokens = into_rows(packed, need("prompt"), need("tokens"))
    positions = into_rows(packed, first, rest)
    by_kind = [packed_mask(packed, positions, window) for window in config.windows]
    row, kernel = None, kernels.choose(config)
    if config.attention == "auto" and kernel == "splash" and valid.shape[1] > 1:
        kernel = "xla"  # splash attention cannot have packed rows of several completions
    if kernel != "xla":
        row = kernels.packed_row(kernel, config.windows, by_kind, packed, valid.shape[1])
    sight = Sight([(mask,) for mask in by_kind], lambda shared, own, mask: Past(None, None, None, mask, None), row)
    routes = _routes(config, batch)
    sent = None if routes is None else into_rows(packed, routes[0][:, 0], routes[1])
    states, _, sited = run_layers(config, params, tokens, positions, sight, states=sites, routes=sent)
    completions, last = from_rows(packed, valid)
    after = completions(states)
    before = previous_valid(after, last(states), valid)
    return Hidden(before, after, {site: completions(state) for site, state in sited.items()})


# ------------------------------------------------------------------------------------------------------------ the model


def _init(config: TransformerConfig, key: Key) -> Params:
    layers, embed, outputs = jax.random.split(key, 3)
    dtype = jnp.dtype(config.param_dtype)

    def layer(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.split(Block(config, nnx.Rngs(key)))[1])

    params = {
        "embed": jax.random.normal(embed, (config.vocab, config.width), dtype) * config.width**-0.5,
        "layers": jax.vmap(layer)(jax.random.split(layers, config.layers)),
        "norm": unit_scale(config, (config.width,)),
        "heads": heads_module.init(outputs, config, dtype),
    }
    if config.norm_bias:
        params["norm_bias"] = jnp.zeros((config.width,), dtype)
    if config.positions:
        table = jax.random.normal(fold_name(embed, "positions"), (config.positions, config.width), dtype)
        params["positions"] = table * config.width**-0.5
    return params


@functools.cache
def transformer(config: TransformerConfig) -> Model:
    """Makes the Model of a configuration; the same object for equal ones, so that jitted functions are shared.

    Raises:
        ConfigError: The configuration names a head that does not exist.
    """
    _, layer_axes = block_of(config)
    axes = {
        **{name: TABLES[name] for name in ("embed", *(("positions",) if config.positions else ()))},
        "layers": {name: ("layers", *names) for name, names in layer_axes.items()},
        "norm": ("embed",),
        "heads": heads_module.axes(config),
        **({"norm_bias": ("embed",)} if config.norm_bias else {}),
    }
    return Model(
        init=functools.partial(_init, config),
        hidden=functools.partial(_hidden, config),
        heads=heads_module.heads(config),
        read=default_read,
        extend=functools.partial(_extend, config),
        axes=axes,
        config=config,
    )
