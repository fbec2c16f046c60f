"""How the arrays inside a traced function lie on a mesh: what XLA's partitioner will likely make of the layouts of its
inputs, in one pass forwards.

A layout names, for every axis of an array, the mesh axes over which it is split. What is simpler than the partitioner:
layouts travel forwards only, except that what nothing has split lies like an array of its shape that is: like a weight
(gradients and their sums), or like one that came before (zeros that gradients are added to).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Layout: TypeAlias = tuple[tuple[str, ...], ...]

_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"}
_RESIZED = {"slice", "dynamic_slice", "pad", "split", "rev", "sort", "cumsum", "cummax", "cumlogsumexp", "cumprod"}


@dataclasses.dataclass(frozen=True)
class Spread:
    """A mesh and what lies on it. sizes: devices along each mesh axis; known: layouts by shape, of weights and of what
    has come before."""

    sizes: Mapping[str, int]
    known: Mapping[tuple[int, ...], Layout] = dataclasses.field(default_factory=dict)

    def ways(self, layout: Layout) -> int:
        """Into how many parts a layout splits an array."""
        return math.prod(self.sizes[axis] for axes in layout for axis in axes)

    def settled(self, shape: tuple[int, ...], layout: Layout) -> Layout:
        """The layout with every mesh axis used once, and only where it divides; what is whole lies as is known."""
        used: set[str] = set()
        parts = []
        for size, axes in zip(shape, layout, strict=True):
            free = tuple(axis for axis in axes if axis not in used and self.sizes[axis] > 1)
            fits = size % math.prod(self.sizes[axis] for axis in free) == 0
            parts.append(free if fits else ())
            used |= set(free) if fits else set()
        return tuple(parts) if any(parts) else self.known.get(shape, tuple(parts))


def layout_of(sharding: Any, rank: int) -> Layout:
    """Of a NamedSharding."""
    parts = [(part,) if isinstance(part, str) else tuple(part or ()) for part in sharding.spec]
    return tuple(parts) + ((),) * (rank - len(parts))


def shape_of(variable: Any) -> tuple[int, ...]:
    return tuple(getattr(variable.aval, "shape", ()))


def forwards(equation: Any, given: Sequence[Layout], spread: Spread) -> list[Layout]:
    """Layouts of an equation's outputs from those of its inputs; of one without programs inside it."""
    name = equation.primitive.name
    rule = _RULES.get(name)
    shapes = [shape_of(variable) for variable in equation.invars]
    found = []
    for out in equation.outvars:
        shape = shape_of(out)
        if rule is not None:
            layout = rule(equation, shapes, given, shape)
        elif name in _REDUCTIONS:
            axes = equation.params["axes"]
            layout = tuple(part for axis, part in enumerate(given[0]) if axis not in axes)
        elif name in _RESIZED:
            layout = _together(shape, shapes[:1], given[:1])
        else:
            layout = _together(shape, shapes, given)
        found.append(spread.settled(shape, layout))
    return found


def _together(shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]], given: Sequence[Layout]) -> Layout:
    """Axis by axis, from the first input of this rank and size that is split there."""
    parts = []
    for axis, size in enumerate(shape):
        options = [lay[axis] for s, lay in zip(shapes, given, strict=True) if len(s) == len(shape) and s[axis] == size]
        parts.append(next((option for option in options if option), ()))
    return tuple(parts)


def _broadcast(equation: Any, shapes: Any, given: Any, shape: tuple[int, ...]) -> Layout:
    parts: list[tuple[str, ...]] = [()] * len(shape)
    for axis, target in enumerate(equation.params["broadcast_dimensions"]):
        if shapes[0][axis] == shape[target]:
            parts[target] = given[0][axis]
    return tuple(parts)


def _reshape(equation: Any, shapes: Any, given: Any, shape: tuple[int, ...]) -> Layout:
    """Axes are matched in groups of equal size; the first axis of a group carries its layout on."""
    parts: list[tuple[str, ...]] = [()] * len(shape)
    if 0 in shape:
        return tuple(parts)
    source = [(size, layout) for size, layout in zip(shapes[0], given[0], strict=True) if size > 1]
    target = [axis for axis, size in enumerate(shape) if size > 1]
    i = j = 0
    while i < len(source) and j < len(target):
        parts[target[j]] = source[i][1]
        left, right = source[i][0], shape[target[j]]
        while left != right:
            if left < right:
                i += 1
                left *= source[i][0]
            else:
                j += 1
                right *= shape[target[j]]
        i, j = i + 1, j + 1
    return tuple(parts)


def _dot(equation: Any, shapes: Any, given: Any, shape: tuple[int, ...]) -> Layout:
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = given
    batch = [left[i] or right[j] for i, j in zip(left_batch, right_batch, strict=True)]
    rest_left = [part for axis, part in enumerate(left) if axis not in (*left_sum, *left_batch)]
    rest_right = [part for axis, part in enumerate(right) if axis not in (*right_sum, *right_batch)]
    return (*batch, *rest_left, *rest_right)


def fetched(
    equation: Any, given: Sequence[Layout], outputs: Sequence[Layout], spread: Spread
) -> list[tuple[int | None, int]]:
    """Bytes that a device has of an equation's arrays for a moment, beyond its own part of them: (number of the
    operand, or None for the result; bytes).

    A product's operand that is split along a summed axis where the other is not comes together first (a weight under
    FSDP), and so does a table whose rows are looked up by a batch that is split over the same devices. A product summed
    over an axis that both have split, and a table that such a batch adds to, exist whole before they are scattered
    (gradients of weights under FSDP).
    """
    name, found = equation.primitive.name, []
    if name == "dot_general":
        (left_sum, right_sum), _ = equation.params["dimension_numbers"]
        summed = set[str]()
        for i, j in zip(left_sum, right_sum, strict=True):
            sides = (given[0][i], given[1][j])
            summed |= set(sides[0]) & set(sides[1])
            for operand, own, other in ((0, *sides), (1, *sides[::-1])):
                whole = _whole_over(set(own) - set(other), equation.invars[operand], given[operand], spread)
                found.append((operand, whole))
        found.append((None, _whole_over(summed, equation.outvars[0], outputs[0], spread)))
    if name in ("gather", "scatter-add"):
        rows = {axis for axes in given[1 if name == "gather" else 2] for axis in axes}
        beside = equation.params["dimension_numbers"].operand_batching_dims  # rows that stay with theirs
        rows -= {axis for dim in beside for axis in given[0][dim]}
        whole = _whole_over(rows, equation.invars[0], given[0], spread)
        found.append((0 if name == "gather" else None, whole))
    return [(operand, size) for operand, size in found if size]


def _whole_over(axes: set[str], variable: Any, layout: Layout, spread: Spread) -> int:
    """Bytes of an array on each device once it is no longer split over mesh `axes`; 0 if it was not."""
    there = axes & {axis for part in layout for axis in part}
    return _bytes(variable) // spread.ways(layout) * math.prod(spread.sizes[axis] for axis in there) if there else 0


def _bytes(variable: Any) -> int:
    return math.prod(shape_of(variable)) * getattr(getattr(variable.aval, "dtype", None), "itemsize", 0)


def _gather(equation: Any, shapes: Any, given: Any, shape: tuple[int, ...]) -> Layout:
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(shapes[0])) if axis not in dropped]
    batch = iter(given[1][:-1])
    window = iter(given[0][axis] if sizes[axis] == shapes[0][axis] else () for axis in kept)
    return tuple(next(window) if axis in numbers.offset_dims else next(batch) for axis in range(len(shape)))


def _transpose(equation: Any, shapes: Any, given: Any, shape: tuple[int, ...]) -> Layout:
    return tuple(given[0][axis] for axis in equation.params["permutation"])


def _squeeze(equation: Any, shapes: Any, given: Any, shape: tuple[int, ...]) -> Layout:
    return tuple(part for axis, part in enumerate(given[0]) if axis not in equation.params["dimensions"])


def _concatenate(equation: Any, shapes: Any, given: Any, shape: tuple[int, ...]) -> Layout:
    at = equation.params["dimension"]
    return tuple(
        next((layout[axis] for layout in given if layout[axis] and axis != at), ()) for axis in range(len(shape))
    )


def _written(equation: Any, shapes: Any, given: Any, shape: tuple[int, ...]) -> Layout:
    """What is written into lies as it did, or as what is written into it."""
    update = equation.invars[1] if equation.primitive.name == "dynamic_update_slice" else None
    return given[0] if any(given[0]) or update is None else _together(shape, shapes[1:2], given[1:2])


def _constrained(equation: Any, shapes: Any, given: Any, shape: tuple[int, ...]) -> Layout:
    return layout_of(equation.params["sharding"], len(shape))


_RULES: dict[str, Any] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "dot_general": _dot,
    "gather": _gather,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "concatenate": _concatenate,
    "dynamic_update_slice": _written,
    "scatter": _written,
    "scatter-add": _written,
    "sharding_constraint": _constrained,
}
