"""Datasets that live in files named by path: public formats, and JSON or parquet in the usual conventions."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alignjax.config import ConfigError, check_ranges
from alignjax.data.datasets import layouts
from alignjax.data.datasets.conversations import as_json
from alignjax.data.datasets.parsed_files import parse_file
from alignjax.data.datasets.parsing import (
    BadRow,
    checked_text,
    is_text,
    number_field,
    shown_number,
    text_field,
)
from alignjax.data.datasets.records import Record, is_aside
from alignjax.data.datasets.row_files import existing_file, file_hash
from alignjax.data.prepared import Dataset, Report
from alignjax.data.text.chat import split_transcript
from alignjax.data.text.words import nfc, same_text
from alignjax.outside import Huge
from alignjax.ranges import Decay

Row = Mapping[str, Any]
ALL = "*"  # in `keep`
READER = 5  # raise it when other rows are read of the same file: old prepared folders are then left alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class File(Dataset):
    """A dataset in one or two files. `parse` is what tells the formats apart.

    Args:
        path: The file of the train split: JSON lines, a JSON array or parquet, packed or not, whatever it is called.
        test: The file of the test split; without one, a hash of the prompt puts `test_fraction` of the prompts aside.
        test_fraction: The share of the prompts that are put aside, in [0, 1).
        keep: Columns that are kept beside the texts, for functions that score (`stages.text_reward`); ("*",) keeps all
            that JSON can hold.
        bad_rows: "skip" counts rows that cannot be used, "refuse" makes them an error.

    Raises:
        ConfigError: A setting is not one of these.
    """

    path: str
    test: str = ""
    test_fraction: Decay = 0.1
    keep: tuple[str, ...] = ()
    bad_rows: str = "skip"

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.bad_rows not in ("skip", "refuse"):
            raise ConfigError(f"{type(self).__name__}.bad_rows is {self.bad_rows!r}; it must be 'skip' or 'refuse'")

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able settings; without the columns that are kept where none are, as before they could be."""
        return {name: value for name, value in super().settings.items() if name != "keep" or value}

    def parse(self, row: Row) -> Record:
        """Returns a row of a file as a record. Raises BadRow."""
        raise NotImplementedError

    def parse_all(self, rows: Row | Sequence[Row]) -> list[Record]:
        """Returns the records of a row, or of rows that make records together. Raises BadRow."""
        return [self.parse(row) for row in ((rows,) if isinstance(rows, Mapping) else rows)]

    def together(self, row: Row) -> Hashable:
        """Returns what a row has in common with those beside it that make records with it; None for one alone."""
        return None

    def with_columns(self, row: Row | tuple[Row, ...]) -> list[Record]:
        """Returns the records of a row, whose meta holds the columns that are kept; of rows that make records together
        none are. Raises BadRow."""
        columns = {} if isinstance(row, tuple) else columns_of(row, self)
        records = self.parse_all(row)
        return [dataclasses.replace(each, meta={**each.meta, **columns, **messages_of(each)}) for each in records]

    def finisher(self) -> Callable[[Iterator[Record]], Iterator[tuple[Record, BadRow | None]]] | None:
        """Returns what does the rest of the work on parsed records, as of `parse_file`; None for nothing."""
        return None

    def _files(self) -> dict[str, Path]:
        """The files by the name that messages call them by, a path as it is written in the settings."""
        names = ("path", "test") if self.test else ("path",)
        return {name: existing_file(getattr(self, name), f"{type(self).__name__}.{name}") for name in names}

    def fingerprint(self) -> str:
        """Returns the hashes of the files, behind the number of the reader."""
        return " ".join([str(READER), *(file_hash(file) for file in self._files().values())])

    def columns(self) -> frozenset[str] | None:
        """Returns the columns that `parse` looks at, so that a table is not read whole; None for all."""
        held = layouts.of_dataset(type(self).__name__)
        return layouts.columns_of(held) if held else None

    @property
    def _columns_read(self) -> frozenset[str] | None:
        """The columns that are parsed or kept; None for all."""
        parsed = self.columns()
        return None if parsed is None or ALL in self.keep else parsed | {*self.keep}

    def collect(self, report: Report) -> tuple[dict[str, list[Record]], dict[str, Any]]:
        """Parses the files; bad rows are reported and stand in the account."""
        read = (self.with_columns, self.bad_rows, self._columns_read, self.finisher(), self.together)
        parsed = {name: parse_file(file, *read) for name, file in self._files().items()}
        for name, file in parsed.items():
            if file.bad:
                report(f"{self.name}: {getattr(self, name)}: skipped {file.sentence()}")
            if file.layouts:
                report(f"{self.name}: {getattr(self, name)}: {layouts.sentence(file.layouts, file.since, file.unit)}")
            if not file.records:
                why = file.sentence() or "it holds none"
                raise ConfigError(f"{self.name}: no usable rows in the file of {name!r}, {getattr(self, name)}: {why}")
        splits: dict[str, list[Record]] = {"train": [], "test": list(parsed["test"].records) if self.test else []}
        for record in parsed["path"].records:
            # A prompt in either form of its accents is one prompt, and on one side.
            asked = record.prompt or record.completions[0]  # a text that is learned whole has no prompt
            aside = not self.test and is_aside(nfc(asked), self.test_fraction)
            splits["test" if aside else "train"].append(record)
        return splits, {"files": {getattr(self, name): file.account() for name, file in parsed.items()}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aeslc(File):
    """E-mail -> subject line (Annotated Enron Subject Line Corpus, arXiv:1906.03497): `email_body`, `subject_line`."""

    suffix: str = "\nSubject:"
    name: ClassVar[str] = "aeslc"
    schema: ClassVar[str] = "instructions"

    def parse(self, row: Row) -> Record:
        return Record(text_field(row, "email_body"), (text_field(row, "subject_line").strip(),))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HelpfulHarmless(File):
    """Transcripts `chosen` and `rejected` (arXiv:2204.05862) that differ in the last assistant turn: everything before
    is the prompt."""

    name: ClassVar[str] = "helpful_harmless"
    schema: ClassVar[str] = "preferences"

    def parse(self, row: Row) -> Record:
        prompt, chosen = split_transcript(text_field(row, "chosen"), "chosen")
        other, rejected = split_transcript(text_field(row, "rejected"), "rejected")
        if prompt != other:
            raise BadRow("chosen and rejected differ before the last assistant turn")
        return _pair(prompt.lstrip("\n"), chosen, rejected, preference=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlpacaEval(File):
    """AlpacaEval annotations: `instruction`, `output_1`, `output_2`, and `preference` in [1, 2], where preference - 1
    is the probability that output_2 is better. Completion 0 is output_1."""

    prefix: str = "Instruction: "
    suffix: str = "\nAnswer:"
    name: ClassVar[str] = "alpaca_eval"
    schema: ClassVar[str] = "preferences"

    def parse(self, row: Row) -> Record:
        prompt, first, second = (text_field(row, name) for name in ("instruction", "output_1", "output_2"))
        meta = {key: row[key] if is_text(row.get(key)) else None for key in ("dataset", "generator_1", "generator_2")}
        return _pair(prompt, first, second, preference=2 - number_field(row, "preference", 1.0, 2.0), meta=meta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gsm8k(File):
    """Grade-school mathematics (arXiv:2110.14168): `question`, and `answer` ending in "#### number", which becomes the
    row's answer for verifiers."""

    prefix: str = "Question: "
    suffix: str = "\nAnswer:"
    name: ClassVar[str] = "gsm8k"
    schema: ClassVar[str] = "instructions"
    answers: ClassVar[bool] = True

    def parse(self, row: Row) -> Record:
        solution = text_field(row, "answer")
        return Record(text_field(row, "question"), (solution,), answer=final_number(solution))


def final_number(solution: str) -> float:
    """Returns the number after the last "####" of a solution. Raises BadRow if there is none, or one that float32 does
    not tell from others."""
    match = re.search(r"####\s*\$?\s*(-?[0-9,]*\.?[0-9]+)\s*%?\s*$", solution)
    if not match:
        raise BadRow("field 'answer' does not end in '#### number'")
    text = match.group(1).replace(",", "")
    value = number_field({"answer": float(text)}, "answer", -math.inf, math.inf)
    if not _told_apart(text):
        raise BadRow("the number after '####' has more digits than float32 tells apart", shown_number(text))
    return value


def _told_apart(text: str) -> bool:
    """Says whether no other number is the same in float32, in which a batch holds answers: whole numbers must be exact
    there, others be the shortest that is written for theirs."""
    held = np.float32(text)
    exact = Decimal(float(held)) if float(text).is_integer() else Decimal(str(held))
    return exact == Decimal(text)


def answered(value: Any, name: str) -> dict[str, Any]:
    """Returns what a record holds of an answer: its text, and its number where it is one, alone or behind "####".

    Args:
        value: A text, a number or what JSON writes.
        name: The name of its field, for messages.

    Raises:
        BadRow: It is blank, or a number that float32 does not hold.
    """
    if isinstance(value, str):
        text = checked_text(value, name).rpartition("####")[2].strip()
        match = re.fullmatch(r"\$?\s*(-?[\d,]*\.?\d+)\s*%?", text, re.ASCII)
        digits = match.group(1).replace(",", "") if match else "nan"
        number = float(digits) if abs(float(digits)) < 3e38 and _told_apart(digits) else math.nan
        return {"answer": number, "meta": {"answer": text}}
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | Huge):
        return {"meta": {"answer": as_json(value)}}
    number = number_field({name: value}, name, -math.inf, math.inf)
    return {"answer": number, "meta": {"answer": shown_number(value)}}


def _pair(prompt: str, first: str, second: str, **judged: Any) -> Record:
    texts = checked_text(first, "chosen"), checked_text(second, "rejected")
    return unlike(Record(prompt, texts, **judged))


def unlike(pair: Record) -> Record:
    """Returns a pair whose completions are not the same text. Raises BadRow if they are."""
    if same_text(*pair.completions):
        raise BadRow("both completions are the same")
    return pair


def columns_of(row: Row, dataset: File) -> dict[str, Any]:
    """Returns {"columns": those of a row that a dataset keeps}, or nothing. Of ALL, the prompt and what JSON cannot
    hold are left out.

    Raises:
        BadRow: A column that is named holds what JSON cannot.
    """
    every = ALL in dataset.keep
    columns = {}
    for name in row if every else [name for name in dataset.keep if name in row]:
        if every and name == getattr(dataset, "prompt_field", None):
            continue
        try:
            json.dumps(row[name])
        except (TypeError, ValueError):
            if name in dataset.keep:
                raise BadRow(f"field {name!r} is kept, and holds what JSON cannot", type(row[name]).__name__) from None
        else:
            columns[name] = row[name]
    return {"columns": columns} if columns else {}


def messages_of(record: Record) -> dict[str, Any]:
    """Returns {"messages": those of the prompt}, of a conversation that a template is to write."""
    return {"messages": record.chats[0]["turns"]} if record.chats else {}
