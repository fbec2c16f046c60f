"""Questions to a person's function: a completion, or a pair of them, with its prompt and the columns of its row."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.asking.rows_as_text import TextRow


class Question(NamedTuple):
    """One entry of what a function is asked.

    Attributes:
        row: The prompt, with all its completions.
        completions: The numbers of those that it is about: one, or the two of a pair.
    """

    row: TextRow
    completions: tuple[int, ...]

    def pick(self, values: Sequence[Any]) -> Any:
        """Returns the entry of a list by completion, or the two entries of a pair."""
        picked = tuple(values[k] for k in self.completions)
        return picked[0] if len(picked) == 1 else picked

    def turned(self) -> Question:
        """Returns the question with the pair in the other order."""
        return self._replace(completions=self.completions[::-1])

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of all that a function is given."""
        row = self.row
        held = [row.example, row.prompt, self.pick(row.completions), self.pick(row.completion_ids), row.columns]
        return hashlib.sha256(json.dumps(held, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def shown(self) -> str:
        """The prompt as a text, of messages the last one."""
        prompt = self.row.prompt
        return prompt if isinstance(prompt, str) else str(prompt[-1].get("content", "")) if prompt else ""

    def line(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the question with what was said, as a line of a file of answers."""
        texts = self.pick(self.row.completions)
        pair = len(self.completions) == 2
        named: dict[str, Any] = {"completion": texts}
        if pair:
            named = dict(zip(("first", "second"), texts, strict=True))
        asked = {"example_id": self.row.example, "prompt": self.row.prompt, **named}
        return asked | dict(said) | {"question": self.digest}


def by_prompts(questions: Sequence[Question], count: int) -> list[tuple[int, int]]:
    """Returns where questions are cut, (start, stop) each, so that every part has all those of `count` prompts."""
    starts = [k for k, each in enumerate(questions) if k == 0 or each.row is not questions[k - 1].row]
    return list(itertools.pairwise([*starts[::count], len(questions)]))
