"""Where the numbers of a leaf lie among the tensors of published weights: one tensor a leaf, one a layer, one an
expert, or a part of one that several leaves share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from alignjax.models.architecture import TransformerConfig
from alignjax.models.huggingface.families import Family, is_transposed, tensor_name


class Place(NamedTuple):
    """The tensors of a leaf.

    Attributes:
        pattern: Their name, "{}" standing for the number of the layer, a second one for that of the expert.
        stack: How many axes of the leaf, the first ones, number its tensors.
        transposed: Whether theirs are [out, in].
        order: For a part of a tensor, or one whose outputs lie in another order: for each of the leaf's outputs its
            number in the tensor.
        outputs: How many the tensor has; 0 where order is None.
    """

    pattern: str
    stack: int
    transposed: bool
    order: np.ndarray | None = None
    outputs: int = 0

    def shape(self, leaf: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensors, of that of the leaf behind the axes that number them."""
        whole = leaf if self.order is None else (*leaf[:-1], self.outputs)
        return whole[::-1] if self.transposed else whole


def place_of(leaf: str, ndim: int, family: Family, config: TransformerConfig) -> Place | None:
    """Finds the tensors of a leaf.

    Args:
        leaf: Its name, "layers/q".
        ndim: Its axes.
        family: Whose tensors.
        config: Of the model.

    Returns:
        Their place, or None for a leaf that the family has not.
    """
    pattern = tensor_name(leaf, family)
    if pattern is None:
        return None
    stack = pattern.count("{}")
    transposed = is_transposed(leaf, ndim - stack) and not (family.in_out and leaf.startswith("layers/"))
    transposed = transposed and not leaf.endswith("_bias")  # those of experts have two axes
    return Place(pattern, stack, transposed, *_order(leaf.removesuffix("_bias"), family, config))


def _order(leaf: str, family: Family, config: TransformerConfig) -> tuple[np.ndarray | None, int]:
    """The order and outputs of a Place."""
    c = config
    sizes = {"q": c.heads * c.head_dim, "k": c.kv_heads * c.head_dim, "v": c.kv_heads * c.head_dim}
    sizes |= {"gate": c.mlp, "up": c.mlp}
    name = leaf.removeprefix("layers/")
    if not leaf.startswith("layers/") or name not in sizes:
        return None, 0
    beside = [other for other in sizes if family.modules.get(f"layers/{other}") == family.modules[leaf]]
    if len(beside) == 1 and not (family.pairs and name in ("q", "k")):
        return None, 0
    order = np.arange(sizes[name])
    if family.pairs and name in ("q", "k"):
        head, entry = np.divmod(order, c.head_dim)
        half = c.head_dim // 2
        order = head * c.head_dim + np.where(entry < half, 2 * entry, 2 * (entry - half) + 1)
    if family.interleaved and name in ("gate", "up"):
        order = order * len(beside) + beside.index(name)
    elif family.by_head:
        head, entry = np.divmod(order, c.head_dim)
        order = (head * len(beside) + beside.index(name)) * c.head_dim + entry
    else:
        order = order + sum(sizes[other] for other in beside[: beside.index(name)])
    return order, sum(sizes[other] for other in beside)


def read_part(view: Any, place: Place, index: tuple[slice, ...]) -> np.ndarray:
    """Reads a part of a leaf from the tensor that holds it.

    Args:
        view: The tensor, to be sliced; only what is asked for is read.
        place: Where the leaf lies in it.
        index: Which part, along the axes of the leaf behind those that number its tensors.

    Returns:
        The numbers, as the leaf has them.
    """
    turn = -1 if place.transposed else 1
    if place.order is None:
        return view[index[::turn]].T if place.transposed else view[index]
    wanted = place.order[index[-1]]
    first = int(wanted.min())
    window = view[(*index[:-1], slice(first, int(wanted.max()) + 1))[::turn]]
    return (window.T if place.transposed else window)[..., wanted - first]
