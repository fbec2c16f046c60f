"""Rows of a batch as a person's function sees them: texts or messages, token ids, and the columns of the data's row."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.data.datasets.from_files import ALL
from alignjax.data.datasets.records import prompt_of
from alignjax.data.prepared import Dataset, located, rows_of, tokenizer_in
from alignjax.data.sources.batch_layout import framed_ids, prompt_ids
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.types import Batch
from alignjax.workspace import Workspace

LOOKED_AT = 100  # rows whose columns tell which there are
Text = str | list[dict[str, Any]]  # a text, or of a conversation its messages


class TextRow(NamedTuple):
    """A prompt with its completions.

    Attributes:
        example: The row's example_id.
        prompt: What the row asks, as the data has it; the text that the model read, where a stage wrote another.
        completions: N texts, or N lists of one message of the assistant.
        completion_ids: Their token ids, the end included.
        columns: What the data says beside, by column.
    """

    example: int
    prompt: Text
    completions: list[Text]
    completion_ids: list[list[int]]
    columns: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RowTexts:
    """What turns rows of a batch into texts.

    Args:
        tokenizer: The tokenizer of the data.
        frame: Token ids before and behind every prompt that no template wrote.
        rows: Random access to the data's rows; none where the source has several data sets, or rows of none.
        first: The example_id of the first of them.
        columns: What rows say beside their texts, None where one does not say it.
    """

    tokenizer: Tokenizer
    frame: tuple[Sequence[int], Sequence[int]] = ((), ())
    rows: Sequence[Mapping[str, Any]] = ()
    first: int = 0
    columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset, split: str | None, workspace: Workspace | None) -> RowTexts:
        """Opens the rows of a data set; without a split, its tokenizer alone."""
        tokenizer = tokenizer_in(located(dataset, workspace))
        frame = (tokenizer.encode(dataset.prefix), tokenizer.encode(dataset.suffix))
        if split is None:
            return cls(tokenizer, frame)
        rows, _ = rows_of(dataset, split, workspace)
        named = [name for name in getattr(dataset, "keep", ()) if name != ALL]
        first = [name for number in range(min(len(rows), LOOKED_AT)) for name in _columns(rows[number])]
        return cls(tokenizer, frame, rows, int(rows[0]["example_id"]), tuple(dict.fromkeys([*named, *first])))

    def texts(self, batch: Batch) -> list[TextRow]:
        """Returns the rows of a batch of NumPy arrays.

        Args:
            batch: Prompts [B,P] with completions [B,N,T].
        """
        need = {name: np.asarray(batch.need(name, of="a text function")) for name in _READ}
        examples = np.asarray(batch.ids())
        return [self._row(int(examples[k]), *(need[name][k] for name in _READ)) for k in range(len(need["prompt"]))]

    def _row(self, example: int, prompt: Any, prompt_valid: Any, tokens: Any, valid: Any) -> TextRow:
        asked = prompt[prompt_valid].tolist()
        ids = [one[there].tolist() for one, there in zip(tokens, valid, strict=True)]
        row = self.rows[example - self.first] if 0 <= example - self.first < len(self.rows) else None
        texts: list[Text] = list(self.tokenizer.decode_batch(ids))
        if row is None:
            return TextRow(example, self.tokenizer.decode(asked), texts, ids, dict.fromkeys(self.columns))
        columns = dict.fromkeys(self.columns) | _columns(row)
        chat = len(row["prompt_parts"]) > 0
        if chat:
            texts = [[{"role": "assistant", "content": text}] for text in texts]
        if not self._is_the_rows(row, asked):
            return TextRow(example, self.tokenizer.decode(asked), texts, ids, columns)
        written: Text = _text(row["prompt"])
        return TextRow(example, _meta(row).get("messages", written) if chat else written, texts, ids, columns)

    def _is_the_rows(self, row: Mapping[str, Any], ids: list[int]) -> bool:
        """Whether a prompt is the row's, cut or not."""
        tokens, bos = prompt_of(row), self.tokenizer.opening
        for keep in ("start", "end"):
            try:
                if len(tokens.parts):
                    whole = framed_ids(tokens, len(ids), keep)
                else:
                    whole = prompt_ids(tokens.ids, *self.frame, bos, len(ids), keep)
            except ValueError:  # not even the frame fits
                return False
            if list(map(int, whole)) == ids:
                return True
        return False


_READ = ("prompt", "prompt_valid", "tokens", "valid")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _meta(row: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(_text(row["meta"]))


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says beside its texts: the columns that were kept, and what a verifier compares with."""
    number, meta = float(row["answer"]), _meta(row)
    answer = {"answer": meta["answer"]} if "answer" in meta else {} if math.isnan(number) else {"answer": number}
    return answer | meta.get("columns", {})
