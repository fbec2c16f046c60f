"""How much memory a traced function needs for what it holds between its inputs and its outputs, by liveness."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from alignjax.cli.layouts import Layout, Spread, fetched, forwards, shape_of

# Written where they are read by every backend, so they never exist as arrays of their own.
_FUSED = {"broadcast_in_dim", "iota", "reshape", "squeeze", "convert_element_type", "stop_gradient", "copy"}
_LOOPS = {"scan", "while"}
_ALONE = Spread({})


def device_bytes(tree: Any) -> int:
    """Bytes of a tree's arrays on each device, by their shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _size(variable: Any, layout: Layout, spread: Spread) -> int:
    itemsize = getattr(getattr(variable.aval, "dtype", None), "itemsize", 0)
    return math.prod(shape_of(variable)) * itemsize // spread.ways(layout)


class _Walked(NamedTuple):
    """peak: the most bytes at once; outputs: layouts of the results; loop: bytes that the largest while loop carries
    (a sampler's caches); kept: what is fetched of arrays that do not change while a loop runs, by what it is fetched
    of."""

    peak: int
    outputs: list[Layout]
    loop: int
    kept: dict[Any, int]


def peak_bytes(
    jaxpr: Any, *, in_place: bool = False, spread: Spread = _ALONE, given: Sequence[Layout] | None = None
) -> int:
    """The most bytes alive at once beside the inputs, were the equations run in order, each result kept until its last
    reader. Nothing is compiled or allocated; what a compiler makes of it differs by its fusions and its copies.

    in_place: the outputs are written over the inputs (a donated state) and take no room of their own.
    spread, given: a mesh and the layouts of the inputs on it; the bytes are then those of one device.
    """
    return _walk(jaxpr, in_place, spread, _whole(jaxpr) if given is None else given).peak


def loop_bytes(jaxpr: Any, spread: Spread = _ALONE, given: Sequence[Layout] | None = None) -> int:
    """What the largest `while` loop of a traced function carries from turn to turn: of a sampler, its caches."""
    return _walk(jaxpr, False, spread, _whole(jaxpr) if given is None else given).loop


def _whole(jaxpr: Any) -> list[Layout]:
    return [((),) * len(shape_of(variable)) for variable in jaxpr.invars]


def _walk(jaxpr: Any, in_place: bool, spread: Spread, given: Sequence[Layout], steady: Sequence[bool] = ()) -> _Walked:
    """steady: which inputs stay the same while the loop around runs; none where there is no loop."""
    outputs = {variable for variable in jaxpr.outvars if isinstance(variable, core.Var)}
    last: dict[Any, int] = {}
    for number, equation in enumerate(jaxpr.eqns):
        last.update((variable, number) for variable in equation.invars if isinstance(variable, core.Var))
    last.update((variable, len(jaxpr.eqns)) for variable in outputs)
    layouts: dict[Any, Layout] = dict(zip(jaxpr.invars, given, strict=True))
    still = {variable for variable, same in zip(jaxpr.invars, steady, strict=False) if same}
    kept: dict[Any, int] = {}
    known = {**spread.known}
    spread = Spread(spread.sizes, known)
    alive: dict[Any, int] = {}
    now = peak = carried = 0

    def layout(variable: Any) -> Layout:
        found = layouts.get(variable) if isinstance(variable, core.Var) else None
        return ((),) * len(shape_of(variable)) if found is None else found

    for number, equation in enumerate(jaxpr.eqns):
        name, loop = equation.primitive.name, equation.primitive.name in _LOOPS
        free = outputs if in_place else set()
        through = in_place and not loop and outputs.issuperset(equation.outvars)
        variables = [variable for variable in equation.invars if isinstance(variable, core.Var)]
        if variables and not loop and still.issuperset(variables):
            still.update(equation.outvars)
        same = [isinstance(variable, core.Var) and variable in still for variable in equation.invars]
        inside = _inside(equation, [layout(variable) for variable in equation.invars], spread, through, same)
        kept |= inside.kept
        layouts.update(zip(equation.outvars, inside.outputs, strict=True))
        for variable, found in zip(equation.outvars, inside.outputs, strict=True):
            if any(found):
                known.setdefault(shape_of(variable), found)
        made = {v: 0 if name in _FUSED or v in free else _size(v, layouts[v], spread) for v in equation.outvars}
        here = sum(made.values())
        carried = max(carried, inside.loop, here if name == "while" else 0)
        peak = max(peak, now + (here + inside.peak if loop else max(here, inside.peak)))
        alive |= made
        now += here
        for variable in {v for v in (*equation.invars, *equation.outvars) if isinstance(v, core.Var)}:
            if last.get(variable, number) == number:
                now -= alive.pop(variable, 0)
    return _Walked(peak, [layout(variable) for variable in jaxpr.outvars], carried, kept)


def _programs(equation: Any) -> Iterator[Any]:
    """The programs inside an equation: loop bodies, branches, called functions."""
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _inside(equation: Any, given: list[Layout], spread: Spread, in_place: bool, steady: list[bool]) -> _Walked:
    """What the programs inside an equation need at most, and the layouts of its outputs."""
    name, params = equation.primitive.name, equation.params
    programs = [] if name.startswith("scatter") else list(_programs(equation))
    if not programs:
        outputs = forwards(equation, given, spread)
        parts = fetched(equation, given, outputs, spread)
        kept = {equation.invars[i]: size for i, size in parts if i is not None and steady[i]}
        extra = sum(size for i, size in parts if i is None or not steady[i])
        own = sum(_size(v, layout, spread) for v, layout in zip(equation.outvars, outputs, strict=True))
        return _Walked(own + extra if extra else 0, outputs, 0, kept)
    if name == "scan":
        return _scanned(params, given, spread)
    if name == "while":
        conditions, constants = params["cond_nconsts"], params["body_nconsts"]
        start = given[conditions + constants :]
        constant = given[conditions : conditions + constants]
        return _repeated(params["body_jaxpr"].jaxpr, constant, start, [], spread)
    if name == "cond":
        given, steady = given[1:], steady[1:]
    fitting = [inner for inner in programs if len(inner.invars) == len(given)]
    walked = [_walk(inner, in_place, spread, given, steady) for inner in fitting]
    walked += [_walk(inner, in_place, spread, _whole(inner)) for inner in programs if inner not in fitting]
    same = fitting and len(walked[0].outputs) == len(equation.outvars)
    outputs = walked[0].outputs if same else forwards(equation, given, spread)
    outer = {v: o for inner in fitting for v, o in zip(inner.invars, equation.invars[-len(given) :], strict=True)}
    kept = {outer.get(variable, variable): size for one in walked for variable, size in one.kept.items()}
    return _Walked(max(one.peak for one in walked), outputs, max(one.loop for one in walked), kept)


def _scanned(params: Any, given: list[Layout], spread: Spread) -> _Walked:
    constants, carry = params["num_consts"], params["num_carry"]
    slices = [layout[1:] for layout in given[constants + carry :]]
    body = params["jaxpr"].jaxpr
    walked = _repeated(body, given[:constants], given[constants : constants + carry], slices, spread)
    stacked: list[Layout] = []
    for variable, layout in zip(body.outvars[carry:], walked.outputs[carry:], strict=True):
        stacked.append(spread.settled((params["length"], *shape_of(variable)), ((), *layout)))
    return walked._replace(outputs=[*walked.outputs[:carry], *stacked])


def _repeated(
    body: Any, constants: Sequence[Layout], start: Sequence[Layout], slices: Sequence[Layout], spread: Spread
) -> _Walked:
    """A loop's body, whose carry may begin whole (zeros) and take its layout from what is written into it. What it
    fetches of its constants the compiler fetches once, before the loop, and keeps while it runs."""
    steady = [True] * len(constants)
    walked = _walk(body, False, spread, [*constants, *start, *slices], steady)
    again = [old if any(old) else new for old, new in zip(start, walked.outputs, strict=False)]
    if spread.sizes and again != list(start):
        walked = _walk(body, False, spread, [*constants, *again, *slices], steady)
    return walked._replace(peak=walked.peak + sum(walked.kept.values()), kept={})


def in_units(size: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
