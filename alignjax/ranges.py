"""Ranges of numbers that come from outside, as annotations: `tau: Positive`, `top_k: Count | None`.

Every numeric slot of a config and every numeric flag declares one. They are checked where a config is built
(`config.fn`, `config.check_ranges`) and where a command line is parsed, never inside a function: a number that is
already inside has been checked, and a traced one has no value to check.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

LARGEST = 3.4028234663852886e38  # of float32, in which nearly everything is computed
LARGEST_INT = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of numbers. NaN is in none.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        above: Whether the lower end itself is left out.
        below: Whether the upper end itself is left out.
        means: What its only number stands for, which is then said.
    """

    low: float = -LARGEST
    high: float = LARGEST
    above: bool = False
    below: bool = False
    means: str = ""

    def __contains__(self, value: Any) -> bool:
        if (
            (not isinstance(value, int) and math.isnan(value))
            or (value == self.low and self.above)
            or (value == self.high and self.below)
        ):
            return False
        return self.low <= value <= self.high

    def words(self, kind: type) -> str:
        """Writes the interval as a person does: `a whole number from 1 to 2147483647`."""
        if self.means:
            return f"{self.low} ({self.means})"
        if kind is int:
            return f"a whole number from {self.low} to {self.high}"
        ends = [f"{'above' if self.above else 'at least'} {self.low:g}"] if self.low > -LARGEST else []
        ends += [f"{'below' if self.below else 'at most'} {self.high:g}"] if self.high < LARGEST else []
        finite = "number" if math.isinf(self.high) or len(ends) == 2 else "finite float32 number"
        return " ".join([f"a {finite}", " and ".join(ends)]).strip()


Number = Annotated[float, Range()]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Limit = Annotated[float, Range(0, math.inf, above=True)]  # infinity is a limit that never binds
Threshold = Annotated[float, Range(0, math.inf)]  # infinity is reached by nothing
Fraction = Annotated[float, Range(0, 1)]
Share = Annotated[float, Range(0, 1, above=True)]
Decay = Annotated[float, Range(0, 1, below=True)]
Within = Annotated[float, Range(0, 1, above=True, below=True)]
ErrorRate = Annotated[float, Range(0, 0.5, below=True)]  # a label that is wrong half of the time says nothing
Reliability = Annotated[float, Range(0.5, 1, above=True, below=True)]
Edge = Annotated[float, Range(0, 0.5, above=True)]
Bits = typing.Literal[4, 8]
Style = Annotated[int, Range(0, 2)]
Count = Annotated[int, Range(1, LARGEST_INT)]
Amount = Annotated[int, Range(0, 2**63 - 1)]  # of FLOPs
Bytes = Annotated[int, Range(1, 2**63 - 1)]
Natural = Annotated[int, Range(0, LARGEST_INT)]
Index = Annotated[int, Range(-LARGEST_INT, LARGEST_INT)]  # negative ones count from the end
TopK = Annotated[int, Range(-1, -1, means="all tokens")] | Count | None  # as vLLM writes it; 0 asks for no token at all
Seed = Annotated[int, Range(0, 2**32 - 1)]


def plain(annotation: Any) -> Any:
    """Returns an annotation without its ranges: `float | None` of `Positive | None`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return plain(arguments[0])
    if origin is typing.Literal or not arguments:
        return annotation
    inner = tuple(list(map(plain, part)) if isinstance(part, list) else plain(part) for part in arguments)
    if inner == arguments:
        return annotation
    return typing.Union[inner] if origin in (typing.Union, types.UnionType) else origin[inner]  # noqa: UP007


def _choices(annotation: Any) -> Iterator[Any]:
    """The members of a union that a number may be of: bare and annotated numbers, literals."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _choices(member)
    elif annotation in (int, float) or typing.get_origin(annotation) in (Annotated, typing.Literal):
        yield annotation


def _admits(choice: Any, value: numbers.Real) -> bool:
    arguments = typing.get_args(choice)
    if typing.get_origin(choice) is typing.Literal:
        return value in arguments
    kind, ranges = (arguments[0], arguments[1:]) if arguments else (choice, ())
    fits = kind not in (int, float) or isinstance(value, numbers.Integral) or kind is float
    return fits and all(value in other for other in ranges if isinstance(other, Range))


def _parts(annotation: Any, value: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    """The elements of a tuple, each with its annotation."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    for member in typing.get_args(annotation) if union else (annotation,):
        if typing.get_origin(member) in (tuple, Sequence):
            inner = typing.get_args(member)
            same = inner[1:] in ((), (Ellipsis,))
            yield from zip(inner[:1] * len(value) if same else inner, value, strict=False)


def violation(value: Any, annotation: Any) -> str | None:
    """Says in which range a number, or a number in a tuple, is not.

    Args:
        value: Any value. What is no number, and what is traced, is not looked at.
        annotation: The annotation of its slot, with ranges.

    Returns:
        What it must be, in words; None if it is in its range.
    """
    if isinstance(value, tuple):
        return next((words for part in _parts(annotation, value) if (words := violation(part[1], part[0]))), None)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    choices = list(_choices(annotation))
    if not choices or any(_admits(choice, value) for choice in choices):
        return None
    words = []
    for choice in choices:
        kind, *rest = typing.get_args(choice) or (choice,)
        if typing.get_origin(choice) is typing.Literal:
            words.append(" or ".join(map(str, (kind, *rest))))
        words += [part.words(kind) for part in rest if isinstance(part, Range)]
    return " or ".join(words)


def undeclared(annotation: Any) -> bool:
    """Tells whether an annotation has a number somewhere that no range bounds."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        kind, *rest = typing.get_args(annotation)
        return undeclared(kind) and not any(isinstance(part, Range) for part in rest)
    if annotation in (int, float):
        return True
    if origin is typing.Literal or origin is None or "Callable" in str(origin):
        return False
    return any(undeclared(part) for part in typing.get_args(annotation))
