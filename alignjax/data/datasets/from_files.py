"""Datasets that live in files named by path: public formats, and JSON or parquet in the usual conventions."""

from __future__ import annotations

import dataclasses
import itertools
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
from alignjax.data.datasets.file_sets import FileSet, Paths, file_set
from alignjax.data.datasets.parsed_files import RowParser, Tally, refuse_bad
from alignjax.data.datasets.parsing import (
    BadRow,
    as_json,
    checked_text,
    is_text,
    number_field,
    shown_number,
    text_field,
)
from alignjax.data.datasets.preparation import Room, spool_files
from alignjax.data.datasets.records import Record
from alignjax.data.datasets.row_files import file_hash
from alignjax.data.datasets.spooled import SplitRecords
from alignjax.data.prepared import Dataset, Report
from alignjax.data.text.chat import split_transcript
from alignjax.data.text.words import same_text
from alignjax.outside import Huge
from alignjax.ranges import Decay

Row = Mapping[str, Any]
ALL = "*"  # in `keep`
READER = 8  # raise it when other rows are read of the same file: old prepared folders are then left alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class File(Dataset):
    """A dataset in files. `parse` is what tells the formats apart.

    Args:
        path: What holds the rows of the train split: a file (JSON lines, a JSON array, CSV, parquet or Arrow, packed
            or not, whatever it is called), a folder, a glob, hub:OWNER/NAME, or several of them.
        test: What holds those of the test split; without it, a hash of the prompt puts `test_fraction` of the prompts
            aside.
        test_fraction: The share of the prompts that are put aside, in [0, 1).
        keep: Columns that are kept beside the texts, for functions that score (`stages.text_reward`); ("*",) keeps all
            that JSON can hold.
        bad_rows: "skip" counts rows that cannot be used, "refuse" makes them an error.

    Raises:
        ConfigError: A setting is not one of these.
    """

    path: Paths
    test: Paths = ""
    test_fraction: Decay = 0.1
    keep: tuple[str, ...] = ()
    bad_rows: str = "skip"

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def __post_init__(self) -> None:
        check_ranges(self)
        if isinstance(self.keep, str):
            raise ConfigError(
                f"{type(self).__name__}.keep is {self.keep!r}; it must name columns, keep=({self.keep!r},)"
            )
        for name in ("path", "test", "keep"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
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
        """Returns what does the rest of the work on parsed records, as of `RowParser`; None for nothing."""
        return None

    def row_parser(self) -> RowParser:
        """Returns what makes records of rows."""
        return RowParser(self.with_columns, self.finisher(), self.together)

    def _sets(self) -> dict[str, FileSet]:
        """The files of each setting that names some, by its name."""
        sets = {"path": file_set(self.path, f"{type(self).__name__}.path")}
        return sets | ({"test": file_set(self.test, f"{type(self).__name__}.test", "test")} if self.test else {})

    def fingerprint(self) -> str:
        """Returns the hashes of the files, behind the number of the reader, and with their names where there are
        several, since rows say where they are from; and the state of a hub's repository."""
        parts = [str(READER)]
        for each in self._sets().values():
            several = len(each.files) > 1
            for name, file in each.files.items():
                parts.append(f"{Path(name).name}:{file_hash(file)}" if several else file_hash(file))
            parts += [each.made_from] if each.made_from else []
        return " ".join(parts)

    def columns(self) -> frozenset[str] | None:
        """Returns the columns that `parse` looks at, so that a table is not read whole; None for all."""
        held = layouts.of_dataset(type(self).__name__)
        return layouts.columns_of(held) if held else None

    @property
    def columns_read(self) -> frozenset[str] | None:
        """The columns of a table that are parsed or kept; None for all."""
        parsed = self.columns()
        return None if parsed is None or ALL in self.keep else parsed | {*self.keep}

    def gather(self, report: Report, room: Room) -> tuple[dict[str, SplitRecords], dict[str, Any]]:
        """Parses the files into spools; bad rows are reported and stand in the account."""
        sets = self._sets()
        where = {"path": "train" if self.test else self.test_fraction, "test": "test"}
        files = [
            (path, where[setting], Path(name).name if len(each.files) > 1 else "")
            for setting, each in sets.items()
            for name, path in each.files.items()
        ]
        counted, splits = spool_files(self, files, room)
        tallies, account, every = iter(zip(files, counted, strict=True)), {}, Tally()
        for setting, each in sets.items():
            shown = _shown(getattr(self, setting))
            for note in each.notes:
                report(f"{self.name}: {note}")
            tally = Tally()
            for (_, _, name), more in itertools.islice(tallies, len(each.files)):
                tally.unit = more.unit
                tally.add(more, name)
            if tally.counts:
                report(f"{self.name}: {shown}: skipped {tally.sentence()}")
            if tally.layouts:
                report(f"{self.name}: {shown}: {layouts.sentence(tally.layouts, tally.since, tally.unit)}")
            refuse_bad(shown, tally, self.bad_rows)
            if not tally.records:
                why = tally.sentence() or "it holds none"
                raise ConfigError(f"{self.name}: no usable rows in the file of {setting!r}, {shown}: {why}")
            account[shown] = tally.account()
            every.add(tally)
        self._check_kept(every)
        return {split: splits.get(split, SplitRecords(())) for split in self.splits}, {"files": account}

    def _check_kept(self, tally: Tally) -> None:
        """Refuses a column that is to be kept and that no row has: it would be None everywhere, and no word of it."""
        for name in self.keep:
            if name in (ALL, *tally.kept) or not tally.columns:
                continue
            if name in tally.columns:
                raise ConfigError(
                    f"{self.name}.keep names {name!r}, and no record of {_shown(self.path)} has it: rows that make "
                    "records together, or that are bad, keep no columns; leave it out"
                )
            columns = ", ".join(sorted(each[:40] for each in tally.columns))
            raise ConfigError(
                f"{self.name}.keep names {name!r}, a column that no row of {_shown(self.path)} has; the columns that "
                f"are read are {columns}"
            )


def _shown(paths: Paths) -> str:
    return paths if isinstance(paths, str) else ", ".join(paths)


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
    value = number_field({"answer": float(text)}, "answer")
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
        return {"meta": {"answer": as_json(value, "answers")}}
    number = number_field({name: value}, name)
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
