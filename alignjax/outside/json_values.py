"""JSON from outside: nothing in it is changed in silence, and what is wrong is said by line and column."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignjax.outside.boundary import FETCH_AGAIN, Unreadable, reading
from alignjax.outside.packed_text import line_text, lines_of, read_text, unpacked

MOST_NESTED = 200  # levels of arrays and objects; beyond them Python's own recursion ends somewhere
BLANK = b" \t\r\n"  # of JSON, and no other character is
_DIGITS = 4300  # what Python itself converts
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Huge:
    """A number of a JSON text that no float holds, as it is written there."""

    text: str

    def __str__(self) -> str:
        return self.text if len(self.text) <= 24 else f"{self.text[:12]}... ({len(self.text)} characters)"


def parse_json(text: str) -> Any:
    """Returns the value of a JSON text.

    Whole numbers stay exact and those that no float holds become Huge; NaN and Infinity, as Python writes, are read.

    Args:
        text: The text.

    Raises:
        Unreadable: It is not JSON, holds a key twice in one object, or is nested more than MOST_NESTED deep.
    """
    (value,) = _values(text, array=False)
    return value


def parse_array(text: str) -> Iterator[Any]:
    """Yields the values of a JSON array one by one; in the place of one that holds a key twice, the Unreadable.

    Args:
        text: The text of the array.

    Raises:
        Unreadable: The text is not a JSON array, or is nested too deep.
    """
    return _values(text, array=True)


def _values(text: str, array: bool) -> Iterator[Any]:
    # Elements are decoded one at a time at their place in the whole text, so that errors name its lines and columns.
    repeated: list[str] = []

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        whole = dict(pairs)
        if len(whole) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.append(next(name for name in names if names.count(name) > 1))
        return whole

    decoder = json.JSONDecoder(object_pairs_hook=made, parse_int=_whole_number, parse_float=_number)
    _refuse_deep(text)
    try:
        place = _skip(text, 0)
        for opening in "[" if array else "":
            place = _skip(text, _after(text, place, opening))
            if text[place : place + 1] == "]":
                return _end(text, place + 1)
        while True:
            value, place = decoder.raw_decode(text, place)
            if repeated and not array:
                raise Unreadable("a key stands twice in one object", f"{repeated[0][:40]!r}")
            yield Unreadable("a key stands twice in one object", f"{repeated[0][:40]!r}") if repeated else value
            repeated.clear()
            place = _skip(text, place)
            if not array or text[place : place + 1] == "]":
                return _end(text, place + array)
            place = _skip(text, _after(text, place, ","))
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise Unreadable("not JSON", f"{line}column {error.colno}: {error.msg.lower()}") from error
    except RecursionError as error:
        raise Unreadable("not JSON", "nested too deep") from error


def _whole_number(text: str) -> Any:
    return int(text) if len(text) <= _DIGITS else Huge(text)


def _number(text: str) -> Any:
    return value if math.isfinite(value := float(text)) else Huge(text)


def _skip(text: str, place: int) -> int:
    """The place of the next character that is not a blank of JSON."""
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _after(text: str, place: int, wanted: str) -> int:
    if not text.startswith(wanted, place):
        raise json.JSONDecodeError(f"expecting {wanted!r}", text, place)
    return place + 1


def _end(text: str, place: int) -> None:
    place = _skip(text, place)
    if place < len(text):
        raise json.JSONDecodeError("more text behind the value", text, place)


def _refuse_deep(text: str) -> None:
    if text.count("[") + text.count("{") <= MOST_NESTED:
        return
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
        if depth > MOST_NESTED:
            raise Unreadable("not JSON that can be read", f"nested more than {MOST_NESTED} deep")


def read_json(path: Path, advice: str = FETCH_AGAIN) -> Any:
    """Returns the value in a JSON file.

    Args:
        path: The file.
        advice: What to do about a damaged one.

    Raises:
        ReadError: It cannot be read or is not JSON.
    """
    with reading(path, advice):
        return parse_json(read_text(path, advice))


def read_json_lines(path: Path, advice: str = FETCH_AGAIN) -> Iterator[tuple[int, Any]]:
    """Yields (line number, value) of a file of JSON lines; blank lines are passed over.

    Args:
        path: The file.
        advice: What to do about a damaged one.

    Raises:
        ReadError: It cannot be read, or a line is not JSON.
    """
    with reading(path, advice), unpacked(path) as file:
        for number, line in lines_of(file):
            if line.strip(BLANK):
                with reading(f"line {number} of {path}", advice):
                    value = parse_json(line_text(line))
                yield number, value
