"""Fields of rows: what they must be, and why a row cannot be used."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from alignjax.outside import Huge

_LARGEST = float(np.finfo(np.float32).max)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII)
_SPELLED = {"true": True, "false": False}
_LEAST = float(np.finfo(np.float32).smallest_subnormal)


class BadRow(ValueError):
    """A reason why one row cannot be used. Raised by parsers, counted by `Tally`.

    Args:
        why: The reason, in words that many rows may share.
        where: What is wrong with this one: the place, the value.
        fatal: Whether no row of the file can be trusted.
    """

    def __init__(self, why: str, where: str = "", fatal: bool = False) -> None:
        super().__init__(f"{why}: {where}" if where else why)
        self.why, self.where, self.fatal = why, where, fatal


class Cell(str):
    """A cell of a CSV file: text, which is taken for a number where one is needed."""


def is_text(value: Any) -> bool:
    """Says whether a value is a string that UTF-8 can write (JSON escapes can smuggle in half a surrogate pair)."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def field(row: Mapping[str, Any], name: str) -> Any:
    """Returns a field of a row.

    Args:
        row: The row of a file.
        name: The name of the field.

    Raises:
        BadRow: If it is missing or null.
    """
    if row.get(name) is None:
        raise BadRow(f"missing field {name!r}")
    return row[name]


def text_field(row: Mapping[str, Any], name: str) -> str:
    """Returns a field that must be text with something in it.

    Args:
        row: The row of a file.
        name: The name of the field.

    Raises:
        BadRow: If it is missing, or not such a text.
    """
    return checked_text(field(row, name), name)


def checked_text(value: Any, name: str) -> str:
    """Returns a value that must be text with something in it.

    Args:
        value: Any value.
        name: The field that messages call it.

    Raises:
        BadRow: If it is not text, not UTF-8, or blank.
    """
    if not isinstance(value, str):
        raise BadRow(f"field {name!r} is {type(value).__name__}, must be text")
    if not is_text(value):
        raise BadRow(f"field {name!r} is not UTF-8")
    if not value.strip():
        raise BadRow(f"empty field {name!r}")
    return value


def number_field(row: Mapping[str, Any], name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Returns a field that must be a number (or a boolean) in [low, high].

    Args:
        row: The row of a file.
        name: The name of the field.
        low: The least that it may be.
        high: The most that it may be.

    Raises:
        BadRow: If it is missing, no number, or outside (NaN is).
    """
    value = field(row, name)
    if isinstance(value, Cell):
        spelled = value.strip().lower()
        value = _SPELLED.get(spelled, float(spelled) if _NUMBER.fullmatch(spelled) else value)
    if isinstance(value, Cell):
        raise BadRow(f"field {name!r} is text, must be a number", value[:40] or "an empty cell")
    if not isinstance(value, (int, float, Decimal, Huge)):
        raise BadRow(f"field {name!r} is {type(value).__name__}, must be a number")
    if isinstance(value, Huge) or not abs(value) <= _LARGEST:  # not true of NaN either
        raise BadRow(f"field {name!r} is no number that float32 holds", shown_number(value))
    if not low <= value <= high:
        raise BadRow(f"field {name!r} is outside [{low:g}, {high:g}]", shown_number(value))
    if value and abs(value) < _LEAST:
        raise BadRow(f"field {name!r} is too near 0 for float32", shown_number(value))
    return float(value)


def shown_number(value: Any) -> str:
    """Writes a number for a message, a very long one by its first digits."""
    if isinstance(value, int) and abs(value).bit_length() > 14_000:  # Python refuses to write it
        return f"a whole number of {value.bit_length():,} bits"
    return str(value if isinstance(value, Huge) else Huge(str(value)))


def as_json(value: Any, what: str) -> Any:
    """Returns a value as JSON has it, all that templates are given. Raises BadRow for another one, which is `what`."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow(f"{what} are not JSON", str(error)) from None
