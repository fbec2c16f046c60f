"""Answers of text functions in a run folder: a file of JSON lines a step, read by people and by a resumed run, and
beside it, while the step is not answered whole, one of each call that has come back."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax.asking.function_calls import LARGEST
from alignjax.outside import Unreadable, parse_json, read_text, reading, writing
from alignjax.workspace import whole_file

ADVICE = "remove it, and its functions are asked again"


def write_answers(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes the lines of a step as a whole file."""
    with whole_file(path) as file:
        file.writelines(
            json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n" for line in lines
        )


def read_answers(
    path: Path, questions: Sequence[str], names: Sequence[str], field: str, range: tuple[float, float]
) -> list[list[float | None]] | None:
    """Returns what was answered to exactly these questions: a list a question of a number, or None, a name.

    Args:
        path: The file of the step.
        questions: The digest of each question.
        names: The functions.
        field: The key of a line that holds the numbers by name.
        range: The least and the largest number that an answer may be.

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
            if not all(map(_is_answer, numbers)):
                raise Unreadable("an answer is neither a number that float32 holds nor null")
            if beyond := [each for each in numbers if each is not None and not range[0] <= each <= range[1]]:
                raise Unreadable(f"an answer is {beyond[0]:g}, which is not in [{range[0]:g}, {range[1]:g}]")
            answers.append(numbers)
    return answers


def _is_answer(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (number and abs(value) <= LARGEST)


class CallJournal:
    """The calls of a step that have come back, on disk one by one: what fails or is killed later in that step makes no
    call again that was answered.

    Lines are appended to FILE.part beside the step's file FILE, and `remove` ends it when that is written. A line that
    a kill has cut short is no line, and its call is made again; of two lines of a call the later counts.

    Args:
        path: The step's file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = None if path is None else path.with_name(f"{path.name}.part")
        self._lock = threading.Lock()
        self._answered: dict[str, dict[str, Any]] = {}
        if self._path is not None and self._path.is_file():
            for line in self._path.read_bytes().decode("utf-8", "replace").split("\n"):
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            held = parse_json(line)
        except Unreadable:
            return
        if isinstance(held, dict) and isinstance(held.get("call"), str) and isinstance(held.get("answers"), list):
            self._answered[held["call"]] = held

    def find(
        self, call: str, size: int, range: tuple[float, float]
    ) -> tuple[list[float | None], dict[str, list[Any]]] | None:
        """Returns what a call gave, and what it logged beside; None if it was not answered.

        Args:
            call: The digest of the call.
            size: How many answers it has.
            range: The least and the largest number that an answer may be.
        """
        held = self._answered.get(call, {"answers": ()})
        answers, extra = held["answers"], held.get("extra", {})
        if len(answers) != size or not all(map(_is_answer, answers)) or not isinstance(extra, dict):
            return None
        if not all(each is None or range[0] <= each <= range[1] for each in answers):
            return None
        return answers, {name: values for name, values in extra.items() if isinstance(values, list)}

    def keep(self, call: str, answers: Sequence[float | None], extra: Mapping[str, Sequence[Any]]) -> None:
        """Appends what a call gave; several threads may."""
        if self._path is None:
            return
        line = json.dumps({"call": call, "answers": list(answers), "extra": dict(extra)}).encode()
        with self._lock, writing(self._path, "make room there; answers before this one are kept"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(b"\n" + line + b"\n")  # the first ends what a kill has cut short

    def remove(self) -> None:
        """Removes the file: the step's own holds all."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
