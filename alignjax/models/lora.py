"""Low-rank adapters (arXiv:2106.09685): a small tree that is trained, over the frozen weights of another role.

The tree is a model's params with only what is adapted in it: {"layers": {"q": {"a": [L,D,R], "b": [L,R,F]}, ..}}; what
is trained whole beside them (a small head) stands in it as it does in the params.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Fn
from alignjax.models.weights import MATRICES, Adapted, Quantized, dense, matching_matrices
from alignjax.numerics import fold_name
from alignjax.ranges import Count, Positive
from alignjax.tree_names import leaves_by_name, nested
from alignjax.types import Array, Key, Params

SMALL_HEADS = r"heads\.(?!lm\.).*"  # paths of all heads but the language model's


def _is_weight(leaf: Any) -> bool:
    return isinstance(leaf, (Adapted, Quantized))


def init(key: Key, params: Params, *, rank: Count = 8, targets: str = MATRICES, whole: str = SMALL_HEADS) -> Params:
    """Makes adapters that change nothing yet: a uniform in +-1/sqrt(D), as PEFT draws it, and b = 0.

    They are float32 even over weights of fewer bits.

    Args:
        key: What the factors a are drawn from, each folded with its path.
        params: The params to be adapted, with stacked layers.
        rank: R, the rank of each adapter.
        targets: A regular expression that matches the whole names of the matrices to be adapted.
        whole: A regular expression for the paths of further leaves, which are copied to be trained whole. By default
            these are the small heads, which have often learned nothing yet.

    Returns:
        The tree of adapters, {"layers": {"q": {"a": [L,D,R], "b": [L,R,F]}, ..}}.

    Raises:
        ConfigError: A rank below 1, or no matrix matched.
    """
    # b = 0 makes the product 0 while a is random, so the first step starts from the model itself and b still has a
    # gradient. Keys are folded with paths, so other targets leave an adapter's draw as it is.
    if rank < 1:
        raise ConfigError(f"LoRA: rank={rank}; it must be 1 or more")
    shapes = jax.eval_shape(merged, params)
    leaves = leaves_by_name(shapes, ".")

    def adapter(path: str) -> dict[str, Array]:
        *stack, width, out = leaves[path].shape  # of layers, and of experts in them
        dtype = jnp.promote_types(leaves[path].dtype, jnp.float32)
        a = jax.random.uniform(fold_name(key, path), (*stack, width, rank), dtype, -1, 1) * width**-0.5
        return {"a": a, "b": jnp.zeros((*stack, rank, out), dtype)}

    named = {path: adapter(path) for path in matching_matrices(shapes, targets, "LoRA")}
    copies = {path: leaf for path, leaf in leaves_by_name(params, ".").items() if re.fullmatch(whole, path)}
    return nested(named | copies, ".")


def scale_of(alpha: Any, rank: int, rank_stabilised: bool) -> Any:
    """Returns the factor of a @ b: alpha / R, or alpha / sqrt(R) for rank-stabilized LoRA (arXiv:2312.03732).

    Args:
        alpha: The numerator, a number or an array.
        rank: R.
        rank_stabilised: Divides by sqrt(R) instead of R.

    Returns:
        The factor.
    """
    return alpha / (rank**0.5 if rank_stabilised else rank)


def adapt(params: Params, adapters: Params, *, alpha: Positive, rank_stabilised: bool = False) -> Params:
    """Puts an `Adapted` in the place of every weight that has an adapter. Nothing is added up or copied.

    Args:
        params: The params that are adapted, or a part of them.
        adapters: The adapters of that part, see `init`.
        alpha: See `scale_of`.
        rank_stabilised: See `scale_of`.

    Returns:
        The params, with what the adapters hold whole in its place too.
    """
    if not isinstance(adapters, Mapping):
        return adapters
    if set(adapters) == {"a", "b"}:
        scale = scale_of(alpha, adapters["a"].shape[-1], rank_stabilised)
        return Adapted(params, adapters["a"], (adapters["b"] * scale).astype(adapters["b"].dtype))
    changed = {
        name: adapt(params[name], part, alpha=alpha, rank_stabilised=rank_stabilised) for name, part in adapters.items()
    }
    return {**params, **changed}


def build(
    tree: Any,
    params_of: Callable[[str], Params],
    *,
    base: str,
    alpha: Positive,
    rank_stabilised: bool = False,
    inner: Fn | None = None,
) -> Params:
    """Builds the params of a role whose tree is adapters over the weights of another role.

    Args:
        tree: The role's tree.
        params_of: role -> the params that it runs on.
        base: The role that is adapted.
        alpha: See `scale_of`.
        rank_stabilised: See `scale_of`.
        inner: A build that makes adapters of the role's tree (of a pool, say); by default the tree is the adapters.

    Returns:
        Params, see `adapt`.
    """
    adapters = tree if inner is None else inner(tree, params_of)
    return adapt(params_of(base), adapters, alpha=alpha, rank_stabilised=rank_stabilised)


def of_base(tree: Any, params_of: Callable[[str], Params], *, base: str) -> Params:
    """Builds a role that is the role `base` itself, without adapters and without a copy of the weights: a reference.

    Args:
        tree: Not used.
        params_of: Gives the params of a role.
        base: The name of the role.

    Returns:
        The params of `base`, adapters left out.
    """
    return params_of(base)


def mixed(tree: Any, params_of: Callable[[str], Params], *, of: tuple[str, ...]) -> Params:
    """Builds a linear combination of adapters: weights + sum_k tree["weights"][k] a_k @ b_k.

    a_k and b_k are the adapters of role of[k], all over the same base. The combination is exact, as one adapter whose
    rank is the sum of theirs. What the roles train whole is combined leaf by leaf; what they do not is the base's.

    Args:
        tree: The role's tree; its "weights" [K] are those of the combination.
        params_of: role -> the params that it runs on.
        of: The K roles.

    Returns:
        Params, with an `Adapted` in the place of each adapted weight.
    """
    shares = list(tree["weights"])

    def combine(*leaves: Any) -> Any:
        small = [(w, leaf) for w, leaf in zip(shares, leaves, strict=True) if isinstance(leaf, Adapted)]
        if small:  # what has no adapter, the base itself, adds nothing to it
            a = jnp.concatenate([leaf.a for _, leaf in small], axis=-1)
            b = jnp.concatenate([(w * leaf.b).astype(leaf.b.dtype) for w, leaf in small], axis=-2)
            return Adapted(small[0][1].weight, a, b)
        if all(leaf is leaves[0] for leaf in leaves):
            return leaves[0]
        return sum(w * leaf for w, leaf in zip(shares, leaves, strict=True)).astype(leaves[0].dtype)  # type: ignore

    return jax.tree.map(combine, *(params_of(name) for name in of), is_leaf=_is_weight)


def merged(params: Params) -> Params:
    """Writes out plain params: adapters added to their weights, quantized weights as matrices."""
    return jax.tree.map(dense, params, is_leaf=_is_weight)
