"""Costs of a compiled program on one device: FLOPs of its matrix products, bytes moved, bytes sent to other devices.

`cost_analysis()` of a compiled program counts the body of a loop once, however often it runs, and does not tell the
interconnect from memory. So the text of the optimized program is read: its instructions name what they compute, what
they call and, for a loop, how often. A loop that can end early, as sampling's, counts as if it did not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from alignjax.cli.hlo_text import Computation, Instruction, called, computations_of

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
_SLICES = {"dynamic-slice", "slice", "gather"}


class Costs(NamedTuple):
    """The costs of one call of a program, to each device.

    flops: of matrix products and convolutions, a multiply-add being two; bytes_moved: to and from the device's main
    memory; bytes_sent: over the interconnect, by a ring (of what n devices gather, each sends a share of (n - 1) / n).
    """

    flops: float
    bytes_moved: float
    bytes_sent: float


NOTHING = Costs(0.0, 0.0, 0.0)


def _sum(parts: Iterable[Costs], times: int = 1) -> Costs:
    return Costs(*(times * sum(numbers) for numbers in zip(NOTHING, *parts, strict=True)))


def costs_of(program: str) -> Costs:
    """Counts what a compiled program costs each device.

    Args:
        program: The text of the optimized program, `compiled.as_text()`.

    Returns:
        The costs of one call.
    """
    computations, entry = computations_of(program)
    _drop_parts(computations)
    known: dict[str, Costs] = {}

    def cost(name: str) -> Costs:
        if name not in known:
            own = computations[name]
            known[name] = _sum(_instruction(each, own, computations, cost) for each in _once(own))
        return known[name]

    return cost(entry)


def _drop_parts(computations: dict[str, Computation]) -> None:
    """Leaves one instruction of a collective that a TPU works at within several fusions, beside their products."""
    fused = [called(each)[0] for body in computations.values() for each in body.values() if each.opcode == "fusion"]
    channels: set[str] = set()
    for name in dict.fromkeys(fused):
        for each in list(computations[name].values()):
            channel = re.search(r"channel_id=(\d+)", each.attributes)
            if each.opcode in _COLLECTIVES and channel:
                if channel[1] in channels:
                    del computations[name][each.name]
                channels.add(channel[1])


def _once(computation: Computation) -> Iterator[Instruction]:
    """Yields the instructions, of those that wait for others (`-done`, `-update`) only the start."""
    for instruction in computation.values():
        if not instruction.opcode.endswith(("-done", "-update")):
            yield instruction


def _instruction(
    it: Instruction, own: Computation, computations: dict[str, Computation], cost: Callable[[str], Costs]
) -> Costs:
    """Counts one instruction with all that it calls.

    A fusion computes what it holds, but moves only what goes in and comes out. A loop costs its body as often as it
    runs, a choice its dearest branch.
    """
    opcode = it.opcode.removesuffix("-start")
    if opcode in _FREE:
        return NOTHING
    if opcode == "while":
        condition = re.search(r"condition=%?([\w.\-]+)", it.attributes)
        trips = _trips(it, computations[condition[1]] if condition else {}, computations)
        return _sum([cost(called(it)[0])], trips)
    if opcode == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", it.attributes)
        names = re.findall(r"[\w.\-]+", branches[1]) if branches else called(it)
        return max(map(cost, names), key=lambda each: (each.flops, each.bytes_moved))
    if opcode in ("call", "async"):
        return _sum(map(cost, called(it)))
    operands = [own[name] for name in it.operands if name in own]
    if opcode in _COLLECTIVES:
        return Costs(0.0, it.bytes + sum(each.bytes for each in operands), _sent(opcode, it, operands))
    if opcode == "fusion":
        inner = computations[called(it)[0]]
        held = _sum(_instruction(each, inner, computations, cost) for each in inner.values())
        return Costs(held.flops, _fused_bytes(it, operands, inner), held.bytes_sent)
    flops = {"dot": _dot_flops, "convolution": _convolution_flops}.get(opcode)
    return Costs(flops(it, operands) if flops else 0.0, _bytes(opcode, it, operands), 0.0)


def _bytes(opcode: str, it: Instruction, operands: list[Instruction]) -> float:
    """Counts what an instruction reads and writes: of a slice that alone, and of an update in place only the update."""
    if opcode in _SLICES:
        return 2 * it.bytes
    if opcode == "dynamic-update-slice":
        return 2 * operands[1].bytes
    if opcode == "custom-call" and "AllocateBuffer" in it.attributes:
        return 0.0
    if opcode == "copy" and len(it.result) > 1:  # copy-start: (destination, source, context)
        return sum(array.bytes for array in it.result[:2])
    return it.bytes + sum(each.bytes for each in operands)


def _fused_bytes(it: Instruction, operands: list[Instruction], inner: Computation) -> float:
    """Counts what a fusion reads and writes.

    Of an operand that is read in slices, or updated in place, only these count. What is handed through to the output
    does not move.
    """
    users: dict[str, list[Instruction]] = {}
    for each in inner.values():
        for name in each.operands if each.opcode != "tuple" else ():
            users.setdefault(name, []).append(each)
    parameters = {int(each.inside): each.name for each in inner.values() if each.opcode == "parameter"}
    moved, updated = 0.0, set()
    for number, operand in enumerate(operands):
        readers = _behind_bitcasts(parameters[number], users) if number in parameters else []
        kinds = {each.opcode if each.operands[0] == before else "" for before, each in readers}
        if readers and kinds <= _SLICES:
            moved += sum(each.size for _, each in readers) if operand.bytes else 0.0
        elif readers and kinds == {"dynamic-update-slice"}:
            moved += sum(inner[each.operands[1]].size for _, each in readers) if operand.bytes else 0.0
            updated |= {each.name for _, each in readers}
        else:
            moved += operand.bytes if readers else 0.0
    root = list(inner.values())[-1]
    names = root.operands if root.opcode == "tuple" else [root.name]
    for array, name in zip(it.result, names, strict=False):
        source = inner.get(name)
        while source is not None and source.opcode == "bitcast":
            source = inner.get(source.operands[0])
        handed_through = source is None or source.opcode == "parameter" or source.name in updated
        moved += 0.0 if handed_through else array.bytes
    return moved


def _behind_bitcasts(name: str, users: dict[str, list[Instruction]]) -> list[tuple[str, Instruction]]:
    found: list[tuple[str, Instruction]] = []
    for each in users.get(name, []):
        found += _behind_bitcasts(each.name, users) if each.opcode == "bitcast" else [(name, each)]
    return found


def _dot_flops(it: Instruction, operands: list[Instruction]) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", it.attributes)
    axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
    return 2.0 * math.prod(it.result[0].dims) * math.prod(operands[0].result[0].dims[axis] for axis in axes)


def _convolution_flops(it: Instruction, operands: list[Instruction]) -> float:
    """Counts a convolution, which is what a product of matrices is on a TPU.

    Features are contracted. The batch dimensions of a product are windows of which every position but one lies beside
    the other side's elements, so of each window those are counted that lie on one.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", it.attributes)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {it.name}")
    arrays = operands[0].result[0], operands[1].result[0], it.result[0]
    data, kernel, output = (
        dict(zip(names, array.dims, strict=True)) for names, array in zip(labels.groups(), arrays, strict=True)
    )
    said = re.search(r"window=\{([^}]*)\}", it.attributes)
    window = dict(part.split("=") for part in said[1].split()) if said else {}
    met = 1
    for number, axis in enumerate(sorted(filter(str.isdigit, data))):
        stride, spread, gap = (
            int(window[key].split("x")[number]) if key in window else 1
            for key in ("stride", "lhs_dilate", "rhs_dilate")
        )
        before = int(window["pad"].split("x")[number].split("_")[0]) if "pad" in window else 0
        places = (at * stride + tap * gap - before for at in range(output[axis]) for tap in range(kernel[axis]))
        met *= sum(place % spread == 0 and 0 <= place <= (data[axis] - 1) * spread for place in places)
    return 2.0 * met * kernel["i"] * output["f"] * output["b"]


def _sent(opcode: str, it: Instruction, operands: list[Instruction]) -> float:
    """Counts the bytes that a device sends for a collective, by a ring."""
    ways = _group_size(it.attributes)
    size = sum(each.size for each in operands)
    if opcode == "collective-permute":
        return size
    whole = {"all-gather": size * ways, "all-reduce": 2 * size}.get(opcode, size)
    return whole * (ways - 1) / ways


def _group_size(attributes: str) -> int:
    """Reads how many devices a collective joins, from any of the three notations of replica groups."""
    groups = re.search(r"replica_groups=(.*?)(?:, [a-z_]+=|$)", attributes)
    text = groups[1] if groups else ""
    if text.startswith("mesh"):
        axes = dict(re.findall(r"'([^']+)'=(\d+)", text))
        return math.prod(int(axes[name]) for name in re.findall(r"'([^']+)'", text.partition("]")[2]))
    if iota := re.match(r"\[\d+,(\d+)\]", text):
        return int(iota[1])
    if listed := re.match(r"\{\{([\d,]+)\}", text):
        return len(listed[1].split(","))
    return 1


def _trips(it: Instruction, condition: Computation, computations: dict[str, Computation]) -> int:
    """Returns how often a loop runs at most: as the compiler says, else the largest number that its condition holds."""
    if said := re.search(r"known_trip_count\W+n\W+(\d+)", it.attributes):
        return int(said[1])
    bounds = [1]
    for each in condition.values():
        lines = computations[called(each)[0]].values() if each.opcode == "fusion" else [each]
        bounds += [int(line.inside) for line in lines if line.opcode == "constant" and line.inside.isdigit()]
    return max(bounds)
