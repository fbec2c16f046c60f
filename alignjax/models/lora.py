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
from alignjax.models.weights import MATRICES, Adapted, Quantized, dense, matched, path_of
from alignjax.numerics import fold_name
from alignjax.types import Array, Key, Params

SMALL_HEADS = r"heads\.(?!lm\.).*"  # paths of all heads but the language model's


def _is_weight(leaf: Any) -> bool:
    return isinstance(leaf, (Adapted, Quantized))


def _nested(flat: Mapping[str, Any]) -> Params:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = leaf
    return tree


def init(key: Key, params: Params, *, rank: int = 8, targets: str = MATRICES, whole: str = SMALL_HEADS) -> Params:
    """Adapters that change nothing yet, for the matrices of the layers whose name `targets` matches: a uniform in
    +-1/sqrt(D), as PEFT draws it, b = 0; float32 even over weights of fewer bits.

    whole: a regular expression for the paths of further leaves, which are copied, to be trained whole. By default the
    small heads, which have often learned nothing yet.

    Raises ConfigError for a rank below 1 and if no matrix is matched.
    """
    if rank < 1:
        raise ConfigError(f"LoRA: rank={rank}; it must be 1 or more")
    shapes = jax.eval_shape(merged, params)
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}

    def one(path: str) -> dict[str, Array]:
        layers, width, out = leaves[path].shape
        dtype = jnp.promote_types(leaves[path].dtype, jnp.float32)
        a = jax.random.uniform(fold_name(key, path), (layers, width, rank), dtype, -1, 1) * width**-0.5
        return {"a": a, "b": jnp.zeros((layers, rank, out), dtype)}

    flat: dict[str, Any] = {path: one(path) for path in matched(shapes, targets, "LoRA")}
    given = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return _nested(flat | {path: leaf for path, leaf in given.items() if re.fullmatch(whole, path)})


def scale_of(alpha: Any, rank: int, rank_stabilised: bool) -> Any:
    """What a @ b is multiplied by: alpha / R, or alpha / sqrt(R) for rank-stabilised LoRA (arXiv:2312.03732)."""
    return alpha / (rank**0.5 if rank_stabilised else rank)


def adapt(params: Params, adapters: Params, *, alpha: float, rank_stabilised: bool = False) -> Params:
    """The params with an `Adapted` in the place of every weight that has an adapter. Nothing is added up or copied."""
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
    own: Any,
    params_of: Callable[[str], Params],
    *,
    base: str,
    alpha: float,
    rank_stabilised: bool = False,
    inner: Fn | None = None,
) -> Params:
    """The build of a role whose own tree is adapters over the weights of role `base`. inner: a build that makes the
    adapters of the own tree (of a pool, say)."""
    adapters = own if inner is None else inner(own, params_of)
    return adapt(params_of(base), adapters, alpha=alpha, rank_stabilised=rank_stabilised)


def of_base(own: Any, params_of: Callable[[str], Params], *, base: str) -> Params:
    """The build of a role that is the base itself, without adapters and without a copy of the weights: a reference."""
    return params_of(base)


def mixed(own: Any, params_of: Callable[[str], Params], *, of: tuple[str, ...]) -> Params:
    """The build of a linear combination of adapters: weights + sum_k own["weights"][k] a_k @ b_k, where a_k and b_k are
    those of role of[k], all over the same base. Exact, as one adapter whose rank is the sum of theirs.

    What the roles train whole is combined leaf by leaf; what they do not is the base's.
    """
    trees = [params_of(name) for name in of]

    def one(*leaves: Any) -> Any:
        small = [(w, leaf) for w, leaf in zip(shares, leaves, strict=True) if isinstance(leaf, Adapted)]
        if small:  # what has no adapter, the base itself, adds nothing to it
            a = jnp.concatenate([leaf.a for _, leaf in small], axis=-1)
            b = jnp.concatenate([(w * leaf.b).astype(leaf.b.dtype) for w, leaf in small], axis=-2)
            return Adapted(small[0][1].weight, a, b)
        if all(leaf is leaves[0] for leaf in leaves):
            return leaves[0]
        return sum(w * leaf for w, leaf in zip(shares, leaves, strict=True)).astype(leaves[0].dtype)  # type: ignore

    shares = list(own["weights"])
    return jax.tree.map(one, *trees, is_leaf=_is_weight)


def merged(params: Params) -> Params:
    """Plain params of what a build made: adapters added to their weights, quantized weights written out."""
    return jax.tree.map(dense, params, is_leaf=_is_weight)
