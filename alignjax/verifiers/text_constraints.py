"""Constraints on the form of a text that a program can check (after IFEval, arXiv:2311.07911), and a verifier of
several of them. Each check is a function of a text with its hyper-parameters; a check of one's own is another."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.asking import declares
from alignjax.config import ConfigError, Fn, fn, hyperparameters, nearest
from alignjax.ranges import Natural
from alignjax.verifiers.extraction import text_of

_MANY = 2**31 - 1
_WORD = re.compile(r"[^\W_]+(?:['\u2019\-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)\]]*(?=\s|$)")


def words(text: str) -> list[str]:
    """Returns the words of a text: runs of letters and digits, with hyphens and apostrophes within."""
    return _WORD.findall(text)


def word_count(text: str, *, least: Natural = 0, most: Natural = _MANY) -> bool:
    """Says whether a text has from `least` to `most` words."""
    return least <= len(words(text)) <= most


def sentence_count(text: str, *, least: Natural = 0, most: Natural = _MANY) -> bool:
    """Says whether a text has from `least` to `most` sentences; what follows the last full stop is one."""
    rest = _SENTENCE_END.split(text)
    return least <= sum(bool(words(part)) for part in rest) <= most


def paragraph_count(text: str, *, least: Natural = 0, most: Natural = _MANY) -> bool:
    """Says whether a text has from `least` to `most` paragraphs, which blank lines part."""
    return least <= sum(bool(part.strip()) for part in re.split(r"\n\s*\n", text)) <= most


def bullet_count(text: str, *, least: Natural = 0, most: Natural = _MANY) -> bool:
    """Says whether from `least` to `most` lines of a text begin with "-", "*" or "•"."""
    return least <= len(re.findall(r"^\s*[-*•]\s+\S", text, re.MULTILINE)) <= most


def has_words(text: str, *, keywords: tuple[str, ...], least: Natural = 1, most: Natural = _MANY) -> bool:
    """Says whether each keyword, a word or several, stands in a text from `least` to `most` times, in any case."""
    counts = (len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)) for word in keywords)
    return all(least <= count <= most for count in counts)


def lacks_words(text: str, *, keywords: tuple[str, ...]) -> bool:
    """Says whether no keyword stands in a text, in any case."""
    return has_words(text, keywords=keywords, least=0, most=0)


def begins_with(text: str, *, phrase: str) -> bool:
    """Says whether a text begins with a phrase, after spaces, in any case."""
    return text.lstrip().casefold().startswith(phrase.casefold())


def ends_with(text: str, *, phrase: str) -> bool:
    """Says whether a text ends with a phrase, before spaces, in any case."""
    return text.rstrip().casefold().endswith(phrase.casefold())


def in_capitals(text: str) -> bool:
    """Says whether a text has letters, and no small one."""
    return text.upper() == text and text.lower() != text


def in_lowercase(text: str) -> bool:
    """Says whether a text has letters, and no capital."""
    return text.lower() == text and text.upper() != text


def is_json(text: str) -> bool:
    """Says whether a text is JSON, in a block ``` or not."""
    fenced = re.fullmatch(r"\s*```(?:json)?\n(.*)```\s*", text, re.DOTALL)
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def has_title(text: str) -> bool:
    """Says whether a text has a title <<in double angle brackets>>."""
    return re.search(r"<<[^<>\n]*\w[^<>\n]*>>", text) is not None


def has_placeholders(text: str, *, least: Natural = 1) -> bool:
    """Says whether a text has at least `least` placeholders [in square brackets]."""
    return len(re.findall(r"\[[^\[\]\n]+\]", text)) >= least


CHECKS = {
    check.__name__: check
    for check in (
        word_count, sentence_count, paragraph_count, bullet_count, has_words, lacks_words, begins_with, ends_with,
        in_capitals, in_lowercase, is_json, has_title, has_placeholders,
    )
}  # fmt: skip


def _check(checks: tuple[Any, ...], column: str, **rest: Any) -> None:
    if not checks and not column:
        raise ConfigError("verifiers.constraints needs checks=(fn(verifiers.word_count, most=50), ..), or a column=")
    for each in checks:
        if not callable(each):
            raise ConfigError(f"verifiers.constraints: {each!r} in checks is no function of a text")
        if not isinstance(each, Fn):
            fn(each)  # says which hyper-parameter is missing


@declares(check=_check, columns=["column"])
def constraints(
    completions: Sequence[Any],
    *,
    checks: tuple[Any, ...] = (),
    column: str = "",
    share: bool = False,
    **columns: Sequence[Any],
) -> list[float | None]:
    """Checks constraints on the form of each completion.

    Args:
        completions: Texts or messages.
        checks: Functions of a text that return whether it holds: `fn(verifiers.word_count, most=50)`, or one's own.
        column: The column with further ones of a row, [{"check": "word_count", "most": 50}, ..], by the names in
            `CHECKS`; "" for none.
        share: The share of constraints that hold; else 1.0 if all do and 0.0 if not.
        **columns: The columns.

    Returns:
        A number in [0, 1] for each completion, None where a row has no constraints.

    Raises:
        ValueError: A row names a check that does not exist, or hyper-parameters that it has not.
    """
    rows = columns[column] if column else [()] * len(completions)
    marks: list[float | None] = []
    for completion, more in zip(completions, rows, strict=True):
        text = text_of(completion)
        holds = [bool(each(text)) for each in (*checks, *map(_of_row, more or ()))]
        mark = sum(holds) / len(holds) if holds else None
        marks.append(mark if share or mark is None else float(all(holds)))
    return marks


def _of_row(constraint: Any) -> Fn:
    """The check that a row asks for."""
    if not isinstance(constraint, Mapping) or constraint.get("check") not in CHECKS:
        name = constraint.get("check") if isinstance(constraint, Mapping) else constraint
        raise ValueError(f"a row asks for the check {name!r}.{nearest(str(name), CHECKS)}")
    check = CHECKS[constraint["check"]]
    known = hyperparameters(check)
    settings = {name: value for name, value in constraint.items() if name != "check" and value is not None}
    lists = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    if unknown := [name for name in lists if name not in known]:
        raise ValueError(f"a row gives {constraint['check']} {unknown[0]!r}.{nearest(unknown[0], known)}")
    return fn(check, **lists)
