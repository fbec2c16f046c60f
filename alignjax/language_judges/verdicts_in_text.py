"""Verdicts in what a language model answers: JSON wherever it stands, else the marks that judges are known to write."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

_VERDICTS = {"a": 1.0, "b": 0.0, "tie": 0.5, "c": 0.5, "equal": 0.5, "both": 0.5, "neither": 0.5}
_MARKED = re.compile(r"\[\[\s*([ABC]|tie)\s*\]\]", re.IGNORECASE)
_RESULT = re.compile(r"\[RESULT\]\s*\(?\s*(-?\d+(?:\.\d+)?)|\[\[\s*(-?\d+(?:\.\d+)?)\s*\]\]", re.IGNORECASE)
MOST = 1000  # places of a text at which JSON may begin


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects of a text, the last first, whatever stands around them; those within another too."""
    decoder = json.JSONDecoder()
    for match in reversed(list(re.finditer(r"\{", text))[-MOST:]):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def preferred(text: str) -> float | None:
    """Returns the probability that A is better, as a text says it: {"verdict": "A", "B" or "tie"} or [[A]]; None if it
    does not."""
    for value in objects_in(text):
        word = value.get("verdict")
        if isinstance(word, str) and word.strip().casefold() in _VERDICTS:
            return _VERDICTS[word.strip().casefold()]
    marks = _MARKED.findall(text)
    return _VERDICTS[marks[-1].casefold()] if marks else None


def scored(text: str, low: float, high: float) -> float | None:
    """Returns the score that a text gives, {"score": 4}, [RESULT] 4 or [[4]]; None if there is none from low to
    high."""
    numbers = [number for value in objects_in(text) if (number := _number(value.get("score"))) is not None]
    marks = [float(first or second) for first, second in _RESULT.findall(text)]
    number = numbers[0] if numbers else marks[-1] if marks else math.nan
    return number if low <= number <= high else None


def met(text: str, count: int) -> list[float] | None:
    """Returns how far each of `count` criteria is met, {"criteria": [{"met": true or a number in [0, 1]}, ..]}; None if
    the text does not say it of each."""
    for value in objects_in(text):
        entries = value.get("criteria")
        if not isinstance(entries, list) or len(entries) != count:
            continue
        shares = [_share(entry.get("met") if isinstance(entry, dict) else entry) for entry in entries]
        if all(share is not None for share in shares):
            return [share for share in shares if share is not None]
    return None


def reason_in(text: str) -> str:
    """Returns the reason that a text gives: "reason" or "feedback" of its JSON, else the text."""
    for value in objects_in(text):
        reason = value.get("reason", value.get("feedback"))
        if isinstance(reason, str):
            return reason
    return text


def _share(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value.strip().casefold() in ("yes", "no", "true", "false"):
        return float(value.strip().casefold() in ("yes", "true"))
    number = _number(value)
    return number if number is not None and 0 <= number <= 1 else None


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
    return float(value) if number else None
