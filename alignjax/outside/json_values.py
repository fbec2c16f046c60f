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
from alignjax.outside.packed_text import LONGEST_LINE, line_text, read_text

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
    (value,) = _values(text)
    return value


@dataclasses.dataclass(frozen=True)
class ArrayPart:
    """A run of whole elements of the text of a JSON array; by default all of it.

    Args:
        text: The elements with what stands between them, and the brackets of the array where it has them.
        opens: Whether the array begins in it.
        closes: Whether it ends in it.
        number: The number of its first element, from 1.
        line: The number of lines that end before it.
        column: The number of characters before it in its first line.
    """

    text: str
    opens: bool = True
    closes: bool = True
    number: int = 1
    line: int = 0
    column: int = 0


def parse_array(part: ArrayPart) -> Iterator[Any]:
    """Yields the values of a JSON array one by one; in the place of one that holds a key twice, the Unreadable.

    Args:
        part: The text of the array, or a part of it.

    Raises:
        Unreadable: The text is not a JSON array, or is nested too deep.
    """
    return _values(part.text, part)


_TOKEN_BYTES = re.compile(rb'"(?:[^"\\]|\\.)*+("?)|[\[{\]},]', re.DOTALL)


def array_parts(chunks: Iterator[bytes], size: int) -> Iterator[ArrayPart]:
    """Cuts the text of a JSON array into parts, so that it is never in memory as a whole.

    Cuts are made at commas between elements, which a scan for strings and brackets tells; whether the parts are JSON
    is left to `parse_array`.

    Args:
        chunks: The text, cut anywhere.
        size: The least number of bytes of a part but the last; a text of fewer is one part.

    Raises:
        Unreadable: An element is not UTF-8, or has no end.
    """
    buffer, bytes_before, place, depth, ended = bytearray(), 0, 0, 0, False
    part = ArrayPart("", closes=False)
    while not ended:
        wanted = max(size, 2 * len(buffer))  # what is scanned again after a string without an end does not add up
        while len(buffer) < wanted and not ended:
            chunk = next(chunks, b"")
            buffer += chunk
            ended = not chunk
        if ended:
            break
        cuts: list[int] = []
        for token in _TOKEN_BYTES.finditer(buffer, place):
            mark = token.group()
            if mark[:1] == b'"' and not token.group(1):
                break
            depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(mark, 0)
            place = token.end()
            if mark == b"," and depth == 1:
                cuts.append(place)
        if cuts:
            text = line_text(bytes(buffer[: cuts[-1]]), bytes_before)
            yield dataclasses.replace(part, text=text[:-1])
            part = _behind(part, text, len(cuts))
            del buffer[: cuts[-1]]
            bytes_before, place = bytes_before + cuts[-1], place - cuts[-1]
        elif len(buffer) > LONGEST_LINE:
            raise Unreadable(f"element {part.number} is longer than {LONGEST_LINE >> 20} MiB")
    yield dataclasses.replace(part, text=line_text(bytes(buffer), bytes_before), closes=True)


def _behind(part: ArrayPart, text: str, elements: int) -> ArrayPart:
    """The place of what follows a part of this text."""
    last = text.rfind("\n")
    column = part.column + len(text) if last < 0 else len(text) - last - 1
    return ArrayPart("", False, False, part.number + elements, part.line + text.count("\n"), column)


def _values(text: str, array: ArrayPart | None = None) -> Iterator[Any]:
    # Elements are decoded one at a time at their place in the whole text, so that errors name its lines and columns.
    repeated: list[str] = []

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        whole = dict(pairs)
        if len(whole) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.append(next(name for name in names if names.count(name) > 1))
        return whole

    decoder = json.JSONDecoder(object_pairs_hook=made, parse_int=_whole_number, parse_float=_number)
    closing = "]" if array and array.closes else ""  # "" is found at the end of the text alone
    _refuse_deep(text)
    try:
        place = _skip(text, 0)
        if array and array.opens:
            place = _skip(text, _after(text, place, "["))
            if closing and text[place : place + 1] == closing:
                return _end(text, place + 1)
        while True:
            value, place = decoder.raw_decode(text, place)
            if repeated and not array:
                raise Unreadable("a key stands twice in one object", f"{repeated[0][:40]!r}")
            yield Unreadable("a key stands twice in one object", f"{repeated[0][:40]!r}") if repeated else value
            repeated.clear()
            place = _skip(text, place)
            if not array or text[place : place + 1] == closing:
                return _end(text, place + len(closing))
            place = _skip(text, _after(text, place, ","))
    except json.JSONDecodeError as error:
        before = array or ArrayPart("")
        column = error.colno + (before.column if error.lineno == 1 else 0)
        line = f"line {before.line + error.lineno}, " if before.line or error.lineno > 1 or "\n" in text.strip() else ""
        raise Unreadable("not JSON", f"{line}column {column}: {error.msg.lower()}") from error
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
