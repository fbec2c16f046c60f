"""One run over the layers of a transformer, on whatever its tokens may see: what training, scoring, prefill and decode
have in common."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from alignjax.config import ConfigError, check_known
from alignjax.models.architecture import TransformerConfig
from alignjax.models.attention import Joint, Past
from alignjax.models.block import Block, edited, norm
from alignjax.models.kernels import Row
from alignjax.parallel.mesh import COMPUTE_LAYOUT, constrain
from alignjax.types import EXPERTS, Array, Params

SITES = ("embed", "attn", "heads", "block")
PLACES = ("prompt", "completion")
TABLES = {"embed": ("vocab", "embed"), "positions": (None, "embed")}  # what tokens and learned positions look up
_ROWS = ("batch", None, None, None)  # the logical axes of hidden states

Layer = Callable[[Array, "LayerInput"], tuple[Array, tuple[Any, dict[str, Array]]]]


class LayerInput(NamedTuple):
    """What a layer is given beside the hidden states: its weights, its cached keys and values (those that completions
    share, and their own), its edits by site, and whether it is local and whether its queries and keys turn (None: all
    layers are alike), and the experts that tokens go to (None: its router decides).

    Before a scan each part has an axis of layers in front; before a loop all but edits and routes are tuples.
    """

    weights: Params
    shared: Any
    own: Any
    edits: Mapping[str, Array]
    local: Any
    turned: Any
    routes: Array | None = None


class Sight(NamedTuple):
    """What tokens may see, made once for all layers.

    masks: those of each kind of layers, in a tuple; past_of(shared, own, *masks): what a layer attends to; row: the
    same for a fused kernel, which then takes its place, or None; prompt: which tokens are a prompt's, bools [T] or one
    for all.
    """

    masks: Sequence[tuple[Array | None, ...]]
    past_of: Callable[..., Past | Joint]
    row: Row | None = None
    prompt: Any = False

    def past(self, layer: LayerInput) -> Past | Joint | Row:
        """Returns what the queries of a layer attend to.

        Its masks are chosen now where `local` is known, and selected in a scan.
        """
        if self.row is not None:
            return dataclasses.replace(self.row, local=layer.local)
        if len(self.masks) == 1:
            masks = self.masks[0]
        elif isinstance(layer.local, bool):
            masks = self.masks[layer.local]
        else:
            everywhere, near = self.masks
            masks = jax.tree.map(functools.partial(jnp.where, layer.local), near, everywhere)
        return self.past_of(layer.shared, layer.own, *masks)


@functools.cache
def block_of(config: TransformerConfig) -> tuple[Any, dict[str, tuple[str | None, ...]]]:
    """The definition of a configuration's block, for nnx.merge, and the logical axes of its weights by name."""
    definition, blank = nnx.split(nnx.eval_shape(lambda: Block(config, nnx.Rngs(0))))
    axes = jax.tree.map(
        lambda leaf: leaf.get_metadata("axes"), blank, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    return definition, nnx.to_pure_dict(axes)


def _embed(
    config: TransformerConfig,
    tables: Params,
    tokens: Array,
    positions: Array,
    edits: Mapping[str, Array],
    prompt: Any,
) -> Array:
    """The embeddings of tokens, and of their positions where those are learned: NaN behind the last one, and
    with it the whole row."""
    x = jnp.take(tables["embed"], tokens, axis=0).astype(jnp.dtype(config.dtype))
    if config.embed_scale:
        x = x * jnp.asarray(config.width**0.5, x.dtype)
    if config.embed_multiplier != 1:
        x = x * jnp.asarray(config.embed_multiplier, x.dtype)
    if config.positions:
        x = x + jnp.take(tables["positions"], positions, axis=0).astype(x.dtype)
    return edited(x, _edits_here(_at_embed(edits, True), prompt), "embed")


def _scan_layers(layer: Layer, x: Array, inputs: LayerInput) -> tuple[Array, tuple[Any, dict[str, Array]]]:
    local, turned = (None if flags is None else jnp.asarray(flags) for flags in (inputs.local, inputs.turned))
    return jax.lax.scan(layer, x, inputs._replace(local=local, turned=turned))


def _loop_layers(layer: Layer, x: Array, inputs: LayerInput) -> tuple[Array, tuple[Any, dict[str, Array]]]:
    caches, states = [], []
    for number, weights in enumerate(inputs.weights):
        parts = (inputs.shared, inputs.own, inputs.local, inputs.turned)
        shared, own, local, turned = (part and part[number] for part in parts)
        edits, routes = jax.tree.map(lambda leaf, i=number: leaf[i], (inputs.edits, inputs.routes))
        x, (cache, state) = layer(x, LayerInput(weights, shared, own, edits, local, turned, routes))
        caches.append(cache)
        states.append(state)
    return x, (tuple(caches), jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))


def _check_sites(config: TransformerConfig, edits: Mapping[str, Array], states: tuple[str, ...]) -> None:
    sites = (*SITES, "router", EXPERTS) if config.experts else SITES
    parts = [edit.partition("@") for edit in edits]
    for site in (*(site for site, *_ in parts), *states):
        check_known(site, sites, f"a transformer has no site {site!r}; its sites: {', '.join(sites)}")
    for site, at, where in parts:
        if at and where not in PLACES:
            raise ConfigError(f"an edit at {site}@{where}: a site is edited at {' or '.join(PLACES)}, or everywhere")
    if EXPERTS in {site for site, *_ in parts}:
        raise ConfigError("the numbers of experts are read and not edited; edit the logits at site 'router'")


def _at_embed(edits: Mapping[str, Array], whether: bool) -> dict[str, Array]:
    """The edits at site "embed", or all others."""
    return {name: edit for name, edit in edits.items() if name.startswith("embed") == whether}


def _edits_here(edits: Mapping[str, Array], prompt: Any) -> dict[str, Array]:
    """Edits by site, those of all positions and of the prompt's or completions' alone added up."""
    here: dict[str, Array] = {}
    for name, edit in edits.items():
        site, at, where = name.partition("@")
        if at:
            on = jnp.asarray(prompt) == (where == "prompt")
            on = on.reshape(*on.shape, *[1] * (2 if site == "heads" else 1))
            on, edit = jnp.broadcast_arrays(on, edit)
            edit = jnp.where(on, edit, 0)
        here[site] = jnp.add(*jnp.broadcast_arrays(here[site], edit)) if site in here else edit
    return here


def run_layers(
    config: TransformerConfig,
    params: Params,
    tokens: Array,
    positions: Array,
    sight: Sight,
    *,
    caches: tuple[Any, Any] = (None, None),
    edits: Mapping[str, Array] | None = None,
    states: tuple[str, ...] = (),
    routes: Array | None = None,
) -> tuple[Array, Any, dict[str, Array]]:
    """Embeds tokens and runs the layers: in a scan if they are stacked, one by one if they are a tuple.

    Args:
        config: What the params are of.
        params: The params.
        tokens: [B,N,T] int32.
        positions: Their rotary positions, [B,N,T].
        sight: What they may see.
        caches: The layers' cached keys and values: (shared by completions, their own).
        edits: What is added to states, by SITE, SITE@prompt or SITE@completion; layers in front but at "embed".
        states: Sites whose states are returned.
        routes: Experts that tokens go to, [B,N,T,L,k]; -1 where routers decide.

    Returns:
        Hidden states [B,N,T,D] after the last norm, the keys and values of each layer, and the states by site:
        [B,N,T,D] of "embed", [B,N,T,L,..] of the others.

    Raises:
        ConfigError: Edits or states at a site that does not exist.
    """
    # One function `layer` runs in both ways; what differs is who hands out its inputs. Of the two ways to multiply what
    # is split by rows with a weight that is split by its inputs, the compiler may take the other one and gather the
    # batch instead of the weight, hence the constraints on weights and states. A sampler, which runs layers one by one,
    # has gathered its weights, and needs none.
    edits = edits or {}
    _check_sites(config, edits, states)
    one_by_one = isinstance(params["layers"], tuple)
    (definition, axes), layer_sites = block_of(config), [site for site in states if site != "embed"]

    def lay_out(tree: Any, axes: Any) -> Any:
        return tree if one_by_one else constrain(tree, axes, COMPUTE_LAYOUT)

    def layer(x: Array, inputs: LayerInput) -> tuple[Array, tuple[Any, dict[str, Array]]]:
        block = nnx.merge(definition, lay_out(inputs.weights, axes))
        here = _edits_here(inputs.edits, sight.prompt)
        x, cache, by_site = block(x, positions, sight.past(inputs), here, *inputs[4:])
        return lay_out(x, _ROWS), (cache, {site: by_site[site] for site in layer_sites})

    if config.remat == "layer" and caches[1] is None:
        layer = jax.checkpoint(layer)
    tables = {name: lay_out(params[name], axes) for name, axes in TABLES.items() if name in params}
    embedded = lay_out(_embed(config, tables, tokens, positions, edits, sight.prompt), _ROWS)
    rest = config.local or None, config.rope_layers or None, None if routes is None else jnp.moveaxis(routes, 3, 0)
    inputs = LayerInput(params["layers"], *caches, _at_embed(edits, False), *rest)
    x, (layers, stacked) = (_loop_layers if one_by_one else _scan_layers)(layer, embedded, inputs)
    sited = {"embed": embedded} if "embed" in states else {}
    sited |= {site: jnp.moveaxis(state, 0, 3) for site, state in stacked.items()}
    return norm(config, x, params["norm"], params.get("norm_bias")), layers, sited
