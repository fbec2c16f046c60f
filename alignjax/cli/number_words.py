"""Numbers as words of a command line: digits of ASCII and nothing else, as in a config file that somebody reads.

Python's own `int` and `float` also take "1_0", digits of other scripts and spaces around them, in silence.
"""

from __future__ import annotations

import re
from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

_FORMS = {
    int: (re.compile(r"[+-]?[0-9]+"), "a whole number in digits, such as 10"),
    float: (
        re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf|infinity|nan)", re.IGNORECASE),
        "a number in digits, such as 0.1 or 1e-3",
    ),
}
_MOST_DIGITS = 4300  # what Python itself converts

plain_numbers = ConstructorRegistry()


def number_of(word: str, kind: Any) -> Any:
    """Returns the number that a word of a command line says.

    Args:
        word: The word.
        kind: int or float.

    Raises:
        ValueError: It is not written in plain digits.
    """
    form, wanted = _FORMS[kind]
    if not form.fullmatch(word) or len(word) > _MOST_DIGITS:
        raise ValueError(f"{word[:40]!r} is not {wanted}")
    return kind(word)


@plain_numbers.primitive_rule
def _numbers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    kind: Any = info.type
    if kind not in _FORMS:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda words: number_of(words[0], kind),
        is_instance=lambda value: isinstance(value, (int, float) if kind is float else int),
        str_from_instance=lambda value: [str(value)],
    )
