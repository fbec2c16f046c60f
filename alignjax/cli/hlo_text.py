"""The text of a compiled program (XLA's HLO), as computations of instructions.

jax has no public way to an optimized program but its text, `compiled.as_text()`. Tried with that of jax 0.10.2 for CPUs
and of libtpu 0.0.52.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_BITS = {"pred": 8, "c64": 64, "c128": 128, "token": 0, "opaque": 0}  # of an element; others say it in their name
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLS = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")


class Array(NamedTuple):
    """One array of an instruction's result. bytes: in main memory; 0 where the compiler keeps it on the chip."""

    dims: tuple[int, ...]
    size: float
    bytes: float


class Instruction(NamedTuple):
    """One line of a program: `name = result opcode(operands), attributes`."""

    name: str
    result: list[Array]
    opcode: str
    operands: list[str]
    inside: str
    attributes: str

    @property
    def size(self) -> float:
        return sum(array.size for array in self.result)

    @property
    def bytes(self) -> float:
        return sum(array.bytes for array in self.result)


Computation = dict[str, Instruction]


def called(it: Instruction) -> list[str]:
    """Returns the names of the computations that an instruction calls, without conditions and branches."""
    return _CALLS.findall(it.attributes)


def computations_of(program: str) -> tuple[dict[str, Computation], str]:
    """Splits a program into its computations, by name; also the name of the one that is called first."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in program.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif instruction := _parsed(line):
            current[instruction.name] = instruction
    return computations, entry


def _parsed(line: str) -> Instruction | None:
    head = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing(f"({rest}") - 1
    inside = rest[: end - 1]
    return Instruction(head[1], _arrays(result), opcode, re.findall(r"%([\w.\-]+)", inside), inside.strip(), rest[end:])


def _closing(text: str) -> int:
    """Returns the place behind the parenthesis that closes the first one."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    return len(text)


def _arrays(result: str) -> list[Array]:
    arrays = []
    for kind, dims, layout in _ARRAY.findall(result):
        sizes = tuple(int(size) for size in dims.split(",") if size)
        bits = _BITS.get(kind) if kind in _BITS else int((re.search(r"\d+", kind) or ["0"])[0])
        size = math.prod(sizes) * (bits or 0) / 8
        arrays.append(Array(sizes, size, 0.0 if re.search(r"S\([1-9]", layout) else size))
    return arrays
