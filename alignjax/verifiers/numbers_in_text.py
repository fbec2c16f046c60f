"""Numbers as people write them: grouped digits, fractions, percentages, powers of ten, thousands and millions in words;
read exactly, as fractions."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

LONGEST = 400  # digits of a number, or the power of ten: more is no answer, and would take long to compare
_WORDS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_LETTERS = {"k": 3, "K": 3, "M": 6, "mn": 6, "B": 9, "bn": 9, "T": 12, "tn": 12}
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)(?:\.\d+)?|\.\d+"
_SIGN = r"(?:(?<![\w.)\]}])[-+]\s?)?"
_MONEY = r"(?:[$€£¥]\s?)?"
_NUMBER = re.compile(
    rf"(?P<sign>{_SIGN}){_MONEY}(?P<inner>(?<![\w.)\]])[-+])?"
    rf"(?:\\[dt]?frac\s?\{{\s?(?P<over>-?(?:{_DIGITS}))\s?\}}\s?\{{\s?(?P<under>{_DIGITS})\s?\}}"
    rf"|(?P<first>{_DIGITS})(?:\s(?P<top>\d+)\s?/\s?(?P<bottom>\d+)|\s?/\s?(?P<by>{_DIGITS}))?)"
    r"(?:[eE](?P<power>[-+]?\d+)|\s?[x*·]\s?10\s?\^\s?\{?(?P<ten>[-+]?\d+)\}?)?"
    r"(?:\s?(?P<percent>%|percent\b|per cent\b)|(?P<letter>bn|mn|tn|[kKMBT])(?![\w])"
    r"|\s(?P<word>hundred|thousand|million|billion|trillion)\b)?"
)
# What is written otherwise and means the same.
_PLAIN = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u2044": "/", "\u00d7": "x", "\u00a0": " ", "\u202f": " ", "\u2009": " "}
)
_LATEX = re.compile(r"\\(?:times|cdot)|\\[,;! ]|\\left|\\right|\\%|\\\$|\{,\}")
_MEANS = {"\\times": "x", "\\cdot": "x", "\\%": "%", "\\$": "$", "{,}": ","}
_SPACED = re.compile(r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d/]| ?/)")


def numbers_in(text: str) -> list[tuple[Fraction, bool]]:
    """Returns the numbers of a text in order, each with whether it is a percentage, then of its hundredth part: "25 %"
    is (1/4, True). What cannot be a number, as 1/0, is left out."""
    read = (_value(match) for match in _NUMBER.finditer(_plain(text)))
    return [number for number in read if number is not None]


def number_of(text: str) -> tuple[Fraction, bool] | None:
    """Returns the only number of a text, whatever words, units and signs stand around it; of several, None."""
    numbers = numbers_in(text)
    return numbers[0] if len(numbers) == 1 else None


def _plain(text: str) -> str:
    """A text with signs, fractions in one letter, commands of LaTeX and spaces between thousands as `_NUMBER` has
    them."""
    text = _LATEX.sub(lambda match: _MEANS.get(match[0], ""), text).translate(_PLAIN)
    if any(unicodedata.category(letter) == "No" for letter in text):
        text = "".join(_spelled(letter, text[k - 1 : k]) for k, letter in enumerate(text))
    return _SPACED.sub(lambda match: match[1] + match[2].replace(" ", ""), text)


def _spelled(letter: str, before: str) -> str:
    """A fraction in one letter as three: "½" as "1/2", behind a digit as " 1/2"."""
    plain = unicodedata.normalize("NFKC", letter).replace("\u2044", "/")
    return (" " if before.isdigit() else "") + plain if "/" in plain else letter


def _value(match: re.Match[str]) -> tuple[Fraction, bool] | None:
    part = {name: value.replace(",", "") for name, value in match.groupdict().items() if value is not None}
    power = int(part.get("power", part.get("ten", "0"))[:LONGEST])
    if len(match[0]) > LONGEST or abs(power) > LONGEST:
        return None
    try:
        if "over" in part:
            number = Fraction(part["over"]) / Fraction(part["under"])
        else:
            number = Fraction(part["first"]) / Fraction(part.get("by", "1"))
            number += Fraction(int(part.get("top", "0")), int(part.get("bottom", "1")))
    except ZeroDivisionError:
        return None
    power += _WORDS.get(part.get("word", ""), 0) + _LETTERS.get(part.get("letter", ""), 0)
    number *= Fraction(10) ** power / (100 if "percent" in part else 1)
    negative = "-" in part.get("sign", "") + part.get("inner", "")
    return -number if negative else number, "percent" in part
