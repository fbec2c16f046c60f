"""What a compiled program gathers: its all-gathers, their shapes, and the loops that they stand in."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\([^\n]*\) -> [^\n]* )?\{$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_SHAPE = re.compile(r"\b[a-z]\w*\[([\d,]*)\]")
_OP = re.compile(r'op_name="([^"]*)"')
_BODY = re.compile(r"body=%?([\w.\-]+)")


class Gather(NamedTuple):
    """shape: of what comes out, all devices' parts together; loop: whether it runs in the body of a while loop; open:
    of one that does not say how often it turns, as a loop over tokens that ends when all completions have; op: the path
    of the traced operation that it was made for."""

    shape: tuple[int, ...]
    loop: bool
    open: bool = False
    op: str = ""


def all_gathers(compiled: Any) -> list[Gather]:
    """Every all-gather of a compiled jax function."""
    lines: dict[str, list[str]] = {}
    name = ""
    for line in compiled.as_text().splitlines():
        if found := _COMPUTATION.match(line.strip()):
            name = found[1]
            lines[name] = []
        elif name:
            lines[name].append(line)
    loops = [(body, "known_trip_count" in line) for of in lines.values() for line in of for body in _BODY.findall(line)]
    inside = _called_from([body for body, _ in loops], lines)
    unknown = _called_from([body for body, known in loops if not known], lines)
    return [
        Gather(shape, computation in inside, computation in unknown, "".join(_OP.findall(line)))
        for computation, of in lines.items()
        for line in of
        for shape in _gathered(line)
    ]


def _called_from(waiting: list[str], lines: dict[str, list[str]]) -> set[str]:
    """Those computations, and all that they call."""
    found = set()
    while waiting:
        computation = waiting.pop()
        if computation not in found:
            found.add(computation)
            waiting += [called for line in lines.get(computation, ()) for called in _called(line)]
    return found


def _called(line: str) -> list[str]:
    branches = [name.strip(" %") for group in _BRANCHES.findall(line) for name in group.split(",")]
    return _CALLED.findall(line) + branches


def _gathered(line: str) -> list[tuple[int, ...]]:
    """Shapes that come out of an all-gather, which may gather several arrays at once."""
    head, found, _ = line.partition(" all-gather(")
    if not found:
        head, found, _ = line.partition(" all-gather-start(")
    if not found:
        return []
    return [tuple(int(n) for n in dims.split(",") if n) for dims in _SHAPE.findall(head.partition("=")[2])]
