"""Params with what steers them: edits times a strength, at some layers and positions, and for some prompts alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp

from alignjax.config import ConfigError, check_known
from alignjax.ranges import Number
from alignjax.types import Array, Params

Positions = Literal["all", "prompt", "completion"]


def steered(
    params: Params, directions: Mapping[str, Array], *, strength: Number = 1.0, positions: Positions = "all"
) -> Params:
    """Steered params: at each site, x + strength * direction, at the positions that are named (activation addition,
    arXiv:2308.10248; contrastive activation addition, arXiv:2312.06681).

    They are params like any other: scored, sampled with a cache, combined by behaviors, laid out on a mesh. Strength 0
    gives the params themselves' numbers. Steering again adds up.

    Args:
        params: Of a transformer.
        directions: By site: "block" (the residual stream behind a layer) or "attn" [L,D], "heads" [L,H,h], "embed" [D].
        strength: The factor.
        positions: "all", or those of the prompt or of completions alone.

    Returns:
        The params with `edits`.

    Raises:
        ConfigError: There are no such positions, the params hold no layers, or are steered already where one direction
            is gated and the other is not.
    """
    check_known(positions, ("all", "prompt", "completion"), f"there are no positions {positions!r}")
    if not isinstance(params, Mapping) or "layers" not in params:
        raise ConfigError("the params of a transformer are steered; steer each model in front of a behavior")
    edits = dict(params.get("edits") or {})
    for site, direction in directions.items():
        name = site if positions == "all" else f"{site}@{positions}"
        if name in edits and edits[name].ndim != direction.ndim:
            raise ConfigError(
                "directions with gates and without do not add up; give each a gate, 1 where there is none"
            )
        edits[name] = strength * direction + edits[name] if name in edits else strength * direction
    return {**params, "edits": edits}


def steered_role(
    state: Mapping[str, Array],
    params_of: Callable[[str], Any],
    *,
    of: str,
    strength: Number = 1.0,
    positions: Positions = "all",
) -> Params:
    """Builds the params of a role whose tree is directions by site: those of another role, steered.

    Args:
        state: The directions.
        params_of: Gives the params of a role.
        of: The role that is steered.
        strength: See `steered`.
        positions: See `steered`.

    Returns:
        The params.
    """
    return steered(params_of(of), state, strength=strength, positions=positions)


def layers_only(direction: Array, layers: Sequence[int]) -> Array:
    """Returns a direction [L,..] that is 0 at all layers but these, counted from 0. Raises ConfigError for a layer that
    is not there."""
    count = direction.shape[0]
    for layer in layers:
        if not 0 <= layer < count:
            raise ConfigError(f"there is no layer {layer}: the direction has {count}, which are counted from 0")
    kept = jnp.zeros(count, bool).at[jnp.asarray(list(layers), jnp.int32)].set(True)
    return jnp.where(kept.reshape(-1, *[1] * (direction.ndim - 1)), direction, 0)


def prompt_gate(states: Array, direction: Array, middle: Array) -> Array:
    """InferAligner's gate: 1 where a prompt's state lies beyond the middle along a direction, (h - c) . s > 0, for each
    layer (arXiv:2401.11206).

    The paper's threshold was never released; this is the middle between the means of both sets.

    Args:
        states: Of the model that is steered, at the last token of prompts [B,L,D].
        direction: s, the difference of its own means [L,D].
        middle: c, half the sum of these means [L,D].

    Returns:
        [B,L], 0 or 1.
    """
    return (jnp.sum((states - middle[None]) * direction[None], axis=-1) > 0).astype(states.dtype)


def gated(directions: Mapping[str, Array], gate: Array) -> dict[str, Array]:
    """Multiplies directions by the gates of prompts, for `steered`: the params then are those of this batch alone.

    Args:
        directions: By site, with an axis of layers in front: "block", "attn", "heads".
        gate: [B,L].

    Returns:
        [L,B,1,1,..] by site, which is broadcast over completions and tokens.

    Raises:
        ConfigError: For the site "embed", which has no layers.
    """
    if "embed" in directions:
        raise ConfigError("a gate is one number of a prompt and a layer, and site 'embed' has no layers; leave it out")

    def each(direction: Array) -> Any:
        more = direction.shape[1:]
        return gate.T.reshape(*gate.T.shape, 1, 1, *[1] * len(more)) * direction.reshape(-1, 1, 1, 1, *more)

    return {site: each(direction) for site, direction in directions.items()}
