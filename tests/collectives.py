"""What a compiled program gathers: its all-gathers, their shapes, and whether they stand in a loop."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\([^\n]*\) -> [^\n]* )?\{$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_SHAPE = re.compile(r"\b[a-z]\w*\[([\d,]*)\]")


class Gather(NamedTuple):
    """shape: of what comes out, all devices' parts together; loop: whether it runs in the body of a while loop."""

    shape: tuple[int, ...]
    loop: bool


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
    inside = set()
    waiting = [body for of in lines.values() for line in of for body in re.findall(r"body=%?([\w.\-]+)", line)]
    while waiting:
        body = waiting.pop()
        if body not in inside:
            inside.add(body)
            waiting += [called for line in lines.get(body, ()) for called in _called(line)]
    return [
        Gather(shape, computation in inside)
        for computation, of in lines.items()
        for line in of
        for shape in _gathered(line)
    ]


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
