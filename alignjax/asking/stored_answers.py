"""Answers of text functions in a run folder: a file of JSON lines a step, read by people and by a resumed run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax.outside import Unreadable, parse_json, read_text, reading
from alignjax.workspace import whole_file

ADVICE = "remove it, and its functions are asked again"


def write_answers(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes the lines of a step as a whole file."""
    with whole_file(path) as file:
        file.writelines(
            json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n" for line in lines
        )


def read_answers(
    path: Path, questions: Sequence[str], names: Sequence[str], field: str
) -> list[list[float | None]] | None:
    """Returns what was answered to exactly these questions: a list a question of a number, or None, a name.

    Args:
        path: The file of the step.
        questions: The digest of each question.
        names: The functions.
        field: The key of a line that holds the numbers by name.

    Returns:
        The numbers; None if there is no such file, or it holds answers to other questions.

    Raises:
        ReadError: The file is damaged.
    """
    # All or nothing: a step whose samples are others is another step, and is asked anew.
    if not path.is_file():
        return None
    text = read_text(path, ADVICE)
    with reading(path, ADVICE):
        lines = [parse_json(line) for line in text.split("\n") if line]
        if not all(isinstance(line, dict) for line in lines):
            raise Unreadable("a line is no JSON object")
        if [line.get("question") for line in lines] != list(questions):
            return None
        answers = []
        for line in lines:
            values = line.get(field)
            if not isinstance(values, dict) or set(values) != set(names):
                return None
            numbers = [values[name] for name in names]
            if not all(
                each is None or (isinstance(each, (int, float)) and not isinstance(each, bool)) for each in numbers
            ):
                raise Unreadable("an answer is neither a number nor null")
            answers.append(numbers)
    return answers
