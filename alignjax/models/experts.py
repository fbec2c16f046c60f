"""Mixtures of experts: each token goes to the few MLPs that its router chooses, all tokens of an expert in one product.

On a mesh every device sorts the tokens that it holds by their experts and runs those experts that it holds, which lie
along the tensor axis; what the experts of several devices say to a token is summed over that axis, as the halves of a
split MLP are. No token is ever dropped: the sorted rows of all experts have a static length together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.models.weights import Adapted, Quantized, Weight, dense
from alignjax.parallel.mesh import COMPUTE_LAYOUT, axes_of_part, mesh_of, partition_spec
from alignjax.types import Array

_ROWS = ("batch", None, None, None)
_TENSOR = "tensor"


def chosen(logits: Array, count: int, renormalized: bool, replayed: Array | None = None) -> tuple[Array, Array]:
    """Chooses the experts of each token.

    Args:
        logits: Of the router, [..,E], float32.
        count: k, how many.
        renormalized: Divides the shares by their sum.
        replayed: Experts that were chosen before, [..,k] int32, whatever the logits say; -1 where they decide
            (arXiv:2510.11370).

    Returns:
        (their shares by a softmax over all E, largest first [..,k]; their numbers [..,k] int32).
    """
    over_all = jax.nn.softmax(logits, axis=-1)
    # Not top_k, for which XLA gathers the rows of all devices.
    numbers = jax.lax.broadcasted_iota(jnp.int32, over_all.shape, over_all.ndim - 1)
    _, experts = jax.lax.sort((-jax.lax.stop_gradient(over_all), numbers), num_keys=1, is_stable=True)
    experts = experts[..., :count]
    if replayed is not None:
        experts = jnp.where(replayed >= 0, replayed, experts)
    shares = jnp.take_along_axis(over_all, experts, axis=-1)
    return shares / jnp.sum(shares, axis=-1, keepdims=True) if renormalized else shares, experts


def grouped_product(x: Array, weight: Weight, sizes: Array) -> Array:
    """Multiplies runs of rows, each with the matrix of its expert.

    Args:
        x: [R,D]; the first sizes[0] rows belong to the first expert, and so on.
        weight: [E,D,F] of any kind.
        sizes: [E] int32, with a sum of at most R.

    Returns:
        [R,F] in the dtype of x, 0 where a row belongs to no expert.
    """
    # A quantized matrix is written out once forwards and, by the checkpoint, again backwards, never kept.
    if isinstance(weight, Adapted):
        low = grouped_product(x, weight.a, sizes)
        return grouped_product(x, weight.weight, sizes) + grouped_product(low, weight.b, sizes)
    if isinstance(weight, Quantized):
        frozen = jax.lax.stop_gradient(weight)
        return jax.checkpoint(lambda x, frozen: _ragged(x, dense(frozen, x.dtype), sizes))(x, frozen)
    return _ragged(x, weight.astype(x.dtype), sizes)


def _ragged(x: Array, weight: Array, sizes: Array) -> Array:
    out = jax.lax.ragged_dot(x, weight, sizes)
    belongs = jnp.arange(x.shape[0]) < jnp.sum(sizes)
    return jnp.where(belongs[:, None], out, 0)


def gated(config: Any, gate: Array, up: Array, activation: Callable[[Array], Array]) -> Array:
    """Multiplies what experts say of a token with their gates: activation(gate) up, or, under a limit,
    min(gate, limit) sigmoid(alpha min(gate, limit)) (clip(up, -limit, limit) + 1), as gpt-oss does it.

    Args:
        config: A TransformerConfig with experts.
        gate: [R,F].
        up: [R,F].
        activation: Of the gate.

    Returns:
        [R,F].
    """
    limit = config.swiglu_limit
    if limit is None:
        return activation(gate) * up
    gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
    return gate * jax.nn.sigmoid(config.swiglu_alpha * gate) * (up + 1)


def _mix(
    weights: Mapping[str, Weight],
    x: Array,
    shares: Array,
    experts: Array,
    *,
    config: Any,
    activation: Callable[[Array], Array],
    split: int,
) -> Array:
    """See `mix_experts`, on one device: x [B,N,T,D] are its rows, the weights those of its experts, one of `split`
    equal runs of all."""
    # Tokens are sorted by expert, with those of other devices' experts last; the inverse order brings what the experts
    # say back beside each other, so that the sum over k is a product and no scatter.
    c, here = config, config.experts // split
    rows = x.reshape(-1, x.shape[-1])
    if split > 1:  # every device's experts read all rows: their gradients are summed over the axis
        rows = jax.lax.pcast(rows, _TENSOR, to="varying")
    shares, experts = (part.reshape(-1, c.experts_per_token) for part in (shares, experts))
    local = experts.reshape(-1) - (jax.lax.axis_index(_TENSOR) * here if split > 1 else 0)
    local = jnp.where((local >= 0) & (local < here), local, here)
    order = jnp.argsort(local, stable=True)
    sizes = jnp.bincount(local, length=here + 1).astype(jnp.int32)[:here]
    expert_of_row = local[order]

    def product(x: Array, name: str) -> Array:
        out, bias = grouped_product(x, weights[name], sizes), weights.get(f"{name}_bias")
        if bias is None:
            return out
        added = dense(bias, x.dtype)[jnp.minimum(expert_of_row, here - 1)]
        return out + jnp.where((expert_of_row < here)[:, None], added, 0)

    sorted_rows = rows[order // c.experts_per_token]
    inner = gated(c, product(sorted_rows, "gate"), product(sorted_rows, "up"), activation)
    said = product(inner, "down")[jnp.argsort(order)]
    said = said.reshape(*experts.shape, -1)
    mixed = jnp.einsum("rkd,rk->rd", said, shares.astype(x.dtype)).reshape(x.shape)
    return jax.lax.psum(mixed, _TENSOR) if split > 1 else mixed


def mix_experts(
    config: Any,
    weights: Mapping[str, Weight],
    x: Array,
    shares: Array,
    experts: Array,
    activation: Callable[[Array], Array],
) -> Array:
    """Sums what the experts of each token say to it, times their shares.

    Args:
        config: A TransformerConfig with experts.
        weights: "gate" and "up" [E,D,F], "down" [E,F,D], of any kind; where there are biases, "gate_bias" and
            "up_bias" [E,F], "down_bias" [E,D].
        x: [B,N,T,D].
        shares: Those of the experts of each token, [B,N,T,k].
        experts: Their numbers, [B,N,T,k].
        activation: Of the gate.

    Returns:
        [B,N,T,D] in the dtype of x.
    """
    run = functools.partial(_mix, config=config, activation=activation)
    mesh = mesh_of(x)
    if mesh is None:
        return run(weights, x, shares, experts, split=1)
    axes = {"gate": ("experts", "embed", None), "up": ("experts", "embed", None), "down": ("experts", None, "embed")}
    axes |= {f"{name}_bias": (first, last) for name, (first, _, last) in axes.items()}

    def spec(weight: Any, axes: tuple[str | None, ...]) -> Any:
        if not isinstance(weight, (Adapted, Quantized)):
            return partition_spec(axes, weight.shape, mesh, COMPUTE_LAYOUT)
        parts = {name: spec(part, axes_of_part(axes, name)) for name, part in vars(weight).items()}
        return type(weight)(**parts)

    specs = {name: spec(weight, axes[name]) for name, weight in weights.items()}
    by_row = partition_spec(_ROWS, x.shape, mesh, COMPUTE_LAYOUT)
    split = mesh.shape[_TENSOR] if config.experts % mesh.shape[_TENSOR] == 0 else 1
    parts = functools.partial(run, split=split)
    mapped = jax.shard_map(parts, mesh=mesh, in_specs=(specs, *(by_row,) * 3), out_specs=by_row)
    return mapped(weights, x, shares, experts)
