"""What a JSON file must hold, as annotations: a value of another type, or a number out of its range, is told by place.

A `TypedDict` describes an object: its required keys must be there, what else stands in it is not looked at.
"""

from __future__ import annotations

import json
import math
import re
import sys
import types
import typing
from typing import Annotated, Any

from alignjax.config import ConfigError, type_name
from alignjax.ranges import violation

_WANTED = "; it must be "
_NUMBERS = re.compile(r"\[(\d+)\]")
_WORDS = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object",
    type(None): "null",
}  # fmt: skip


def shown(value: Any, most: int = 60) -> str:
    """Writes a value as JSON, cut to a length that an error message bears."""
    text = json.dumps(value, default=str)
    return text if len(text) <= most else text[: most - 3] + "..."


def misfit(value: Any, kind: Any, place: str = "") -> str | None:
    """Says where a JSON value is not of a kind.

    Args:
        value: What JSON was read.
        kind: str, int, float, bool, None, list[X], dict[str, X], Literal, a TypedDict, a union, ranges of numbers, Any.
        place: The path of the value, for the sentence.

    Returns:
        "roles[2] is 3; it must be text"; None if it is of the kind.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    name = place or "it"
    if kind is Any:
        return None
    if origin in (typing.Union, types.UnionType):
        failures = [misfit(value, option, place) for option in arguments]
        if None in failures:
            return None
        inner = [failure for failure in failures if failure and not failure.startswith(f"{name} is")]
        if inner:
            return _farthest(inner)
        return f"{name} is {shown(value)}; it must be {' or '.join(dict.fromkeys(map(_words, arguments)))}"
    if typing.is_typeddict(kind):
        if not isinstance(value, dict):
            return f"{name} is {shown(value)}; it must be an object"
        hints = typing.get_type_hints(kind, include_extras=True)
        if missing := [key for key in _required(kind, hints) if key not in value]:
            return f"{place + ': ' if place else ''}{missing[0]!r} is missing"
        parts = ((value[key], _held(hint), _below(place, key)) for key, hint in hints.items() if key in value)
        return next((words for part in parts if (words := misfit(*part))), None)
    if origin is list and isinstance(value, list):
        parts = ((item, arguments[0], f"{place}[{number}]") for number, item in enumerate(value))
        return next((words for part in parts if (words := misfit(*part))), None)
    if origin is dict and isinstance(value, dict):
        parts = ((item, arguments[1], _below(place, key)) for key, item in value.items())
        return next((words for part in parts if (words := misfit(*part))), None)
    if _is_of(value, kind) and violation(value, kind) is None:
        return None
    return f"{name} is {shown(value)}; it must be {_words(kind)}"


def _farthest(failures: list[str]) -> str:
    """Of what keeps a value from the kinds of a union, what is said of the place that is farthest within it, where it
    is most of what was meant; of one place that several kinds refuse, what all of them want."""

    def place(failure: str) -> list[int]:
        return [int(number) for number in _NUMBERS.findall(failure.partition(" ")[0])]

    far = max(map(place, failures))
    heads: dict[str, list[str]] = {}
    for failure in dict.fromkeys(failures):
        head, _, wanted = failure.partition(_WANTED)
        if place(failure) == far:
            heads.setdefault(head, []).append(wanted)
    head, wanted = next(iter(heads.items()))
    return f"{head}{_WANTED}{' or '.join(wanted)}" if all(wanted) else head


def _required(kind: Any, hints: dict[str, Any]) -> list[str]:
    """The keys that must be there: where annotations are texts, a class does not see its own NotRequired."""
    return [key for key in sorted(kind.__required_keys__) if _held(hints[key]) is hints[key]]


def _held(hint: Any) -> Any:
    """The kind of a key that need not be there."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.NotRequired else hint


def _below(place: str, key: Any) -> str:
    """The path of a key, which may be any text of a file: it stays on one line. A dict of Python may have numbers."""
    key = str(key)
    name = key if key.isprintable() and len(key) <= 60 else shown(key)
    return f"{place}.{name}" if place else name


def _is_of(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _is_of(value, arguments[0])
    if origin is typing.Literal:
        return any(value == option and type(value) is type(option) for option in arguments)
    if kind is None or kind is type(None):
        return value is None
    if kind in (int, float):
        number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        held = not math.isnan(value) if isinstance(value, float) else number and abs(value) <= sys.float_info.max
        return number and (kind is int or held)
    return isinstance(value, origin or kind)


def _words(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return " and ".join(part.words(arguments[0]) for part in arguments[1:])
    if typing.is_typeddict(kind):
        return "an object"
    return _WORDS.get(origin or kind) or type_name(kind)


def check_shape(value: Any, kind: Any, where: Any, advice: str) -> Any:
    """Checks that what a file holds is of a kind.

    Args:
        value: What JSON was read.
        kind: See `misfit`.
        where: The file, for the message.
        advice: What to do about a damaged one.

    Returns:
        The value.

    Raises:
        ConfigError: It is of another kind.
    """
    if words := misfit(value, kind):
        raise ConfigError(f"{where}: {words}; {advice}")
    return value
