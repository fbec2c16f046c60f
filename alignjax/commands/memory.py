"""How much memory a traced function needs for what it holds between its inputs and its outputs, by liveness."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core

# Written where they are read by every backend, so they never exist as arrays of their own.
_FUSED = {"broadcast_in_dim", "iota", "reshape", "squeeze", "convert_element_type", "stop_gradient", "copy"}
_LOOPS = {"scan", "while"}


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or ShapeDtypeStructs) of a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _size(variable: Any) -> int:
    aval = variable.aval
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return math.prod(getattr(aval, "shape", ())) * itemsize


def _inner(equation: Any) -> Iterator[Any]:
    """The programs inside an equation: loop bodies, branches, called functions."""
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def peak_bytes(jaxpr: Any, *, in_place: bool = False) -> int:
    """The most bytes alive at once beside the inputs, were the equations run in order, each result kept until its last
    reader. Nothing is compiled or allocated; what a compiler makes of it differs by its fusions and its copies.

    in_place: the outputs are written over the inputs (a donated state) and take no room of their own.
    """
    outputs = {variable for variable in jaxpr.outvars if isinstance(variable, core.Var)}
    last: dict[Any, int] = {}
    for number, equation in enumerate(jaxpr.eqns):
        last.update((variable, number) for variable in equation.invars if isinstance(variable, core.Var))
    last.update((variable, len(jaxpr.eqns)) for variable in outputs)
    alive: dict[Any, int] = {}
    now = peak = 0
    for number, equation in enumerate(jaxpr.eqns):
        name, loop = equation.primitive.name, equation.primitive.name in _LOOPS
        free = outputs if in_place else set()
        made = {v: 0 if name in _FUSED or v in free else _size(v) for v in equation.outvars}
        through = in_place and not loop and outputs.issuperset(equation.outvars)
        inside = max((peak_bytes(inner, in_place=through) for inner in _inner(equation)), default=0)
        here = sum(made.values())
        peak = max(peak, now + (here + inside if loop else max(here, inside)))
        alive |= made
        now += here
        for variable in {v for v in (*equation.invars, *equation.outvars) if isinstance(v, core.Var)}:
            if last.get(variable, number) == number:
                now -= alive.pop(variable, 0)
    return peak


def in_units(size: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
