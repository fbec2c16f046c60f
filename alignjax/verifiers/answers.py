"""Verifiers of short answers: equal texts, equal numbers, and patterns.

Each is a function of texts for `fn(stages.text_reward, function=...)`: 1.0 for a right completion, 0.0 for a wrong one,
None where the row does not say what is right.
"""

from __future__ import annotations

import math
import string
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import regex

from alignjax.asking import declares
from alignjax.config import ConfigError
from alignjax.ranges import NonNegative, Positive
from alignjax.verifiers.extraction import Extract, extracted, text_of
from alignjax.verifiers.numbers_in_text import number_of, numbers_in

_ARTICLES = {"a", "an", "the"}


@declares(columns=["column"])
def exact(
    completions: Sequence[Any],
    *,
    column: str = "answer",
    extract: Extract = "auto",
    case: bool = False,
    punctuation: bool = False,
    articles: bool = True,
    **columns: Sequence[Any],
) -> list[float | None]:
    """Compares answers as texts, in normal form KC, with spaces that are one.

    Args:
        completions: Texts or messages.
        column: The column of the right answer: a text, a number, or a list of several that are right.
        extract: Where a completion has its answer, see `extracted`.
        case: Whether capitals count.
        punctuation: Whether signs count that are neither letters nor digits; those within a number always do.
        articles: Whether "a", "an" and "the" count.
        **columns: The columns.

    Returns:
        1.0 or 0.0 for each completion, None where the row has no answer.
    """

    def normal(text: str) -> str:
        text = unicodedata.normalize("NFKC", text)
        text = text if case else text.casefold()
        words = text.split() if punctuation else map(_bare, text.split())
        return " ".join(word for word in words if word and (articles or word.casefold() not in _ARTICLES))

    marks: list[float | None] = []
    for completion, right in zip(completions, columns[column], strict=True):
        options = [str(each) for each in (right if isinstance(right, (list, tuple)) else [right]) if each is not None]
        answer = extracted(text_of(completion), extract)
        wanted = [normal(each if extract == "whole" else extracted(each) or "") for each in options]
        marks.append(float(answer is not None and normal(answer) in wanted) if options else None)
    return marks


def _bare(word: str) -> str:
    """A word without the signs at its ends; a sign in front of a digit stays."""
    signs = string.punctuation + "\u201c\u201d\u2018\u2019\u00ab\u00bb\u2026\u2013\u2014"
    end = word.rstrip(signs)
    start = end.lstrip(signs)
    lead = end[: len(end) - len(start)][-1:]
    return lead + start if lead in ("-", ".") and start[:1].isdigit() else start


@declares(columns=["column"])
def numeric(
    completions: Sequence[Any],
    *,
    column: str = "answer",
    extract: Extract | Literal["last number"] = "auto",
    tolerance: NonNegative = 1e-6,
    absolute: NonNegative = 0.0,
    percent: Literal["either", "strict"] = "either",
    **columns: Sequence[Any],
) -> list[float | None]:
    r"""Compares answers as numbers: 1,000 = 1 000 = 1e3 = 1k = 1 thousand, 0.5 = 1/2 = \frac{1}{2} = 50 %.

    Args:
        completions: Texts or messages.
        column: The column of the right answer: a number, or a text with one.
        extract: Where a completion has its answer, see `extracted`, and of that its only number; "last number" is the
            last one of the text, which "auto" also takes where the text marks no answer.
        tolerance: The relative difference that counts as none.
        absolute: The absolute difference that counts as none.
        percent: "either" takes 50 % for both 0.5 and 50, as data sets write either; "strict" takes it for 0.5.
        **columns: The columns.

    Returns:
        1.0 or 0.0 for each completion, None where the row's answer is no number.
    """
    marks: list[float | None] = []
    for completion, right in zip(completions, columns[column], strict=True):
        wanted = None if right is None else _right_number(right)
        if wanted is None:
            marks.append(None)
            continue
        answer, close = _answered_number(text_of(completion), extract), False
        if answer is not None:
            both = answer[1] != wanted[1] and percent == "either"
            options = [answer[0]] + ([answer[0] * (100 if answer[1] else Fraction(1, 100))] if both else [])
            allowed = max(Fraction(absolute), Fraction(tolerance) * abs(wanted[0]))
            close = any(abs(option - wanted[0]) <= allowed for option in options)
        marks.append(float(close))
    return marks


def _right_number(right: Any) -> tuple[Fraction, bool] | None:
    if isinstance(right, (int, float)) and not isinstance(right, bool):
        return (Fraction(right), False) if math.isfinite(right) else None
    if not isinstance(right, str):
        return None
    marked = extracted(right) or ""
    return number_of(marked) if marked != right.strip() else number_of(right)


def _answered_number(text: str, extract: str) -> tuple[Fraction, bool] | None:
    if extract == "last number":
        return next(reversed(numbers_in(text)), None)
    answer = extracted(text, extract)  # type: ignore[arg-type]
    if answer is None:
        return None
    if extract == "auto" and answer == text.strip():
        return next(reversed(numbers_in(text)), None)
    # "x = 3" and "3 apples" have one number; of "3 + 4 = 7" the last is what it comes to.
    return number_of(answer.rpartition("=")[2])


def _check_pattern(pattern: str, **rest: Any) -> None:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ConfigError(f"pattern={pattern!r} is no regular expression: {error}") from None


@declares(check=_check_pattern)
def pattern(
    completions: Sequence[Any], *, pattern: str, whole: bool = False, seconds: Positive = 1.0
) -> list[float | None]:
    """Looks for a regular expression (of the package `regex`) in each completion.

    Args:
        completions: Texts or messages.
        pattern: The expression; (?i) at its head ignores case, (?s) lets a dot be a line's end.
        whole: Whether it must match all of the text.
        seconds: How long it may take for one text, which else does not match.

    Returns:
        1.0 where it matches, else 0.0.
    """
    compiled = regex.compile(pattern)

    def matches(text: str) -> bool:
        try:
            found = compiled.fullmatch if whole else compiled.search
            return found(text, timeout=seconds) is not None
        except TimeoutError:
            return False

    return [float(matches(text_of(completion))) for completion in completions]
