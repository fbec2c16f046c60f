"""Datasets that live in files named by path: public formats, and JSON or parquet in the usual conventions."""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from alignjax.config import ConfigError, check_ranges, nearest
from alignjax.data.datasets import layouts
from alignjax.data.datasets.parsing import (
    BadRow,
    checked_text,
    existing_file,
    field,
    file_hash,
    is_text,
    number_field,
    parse_file,
    text_field,
)
from alignjax.data.datasets.records import Record, is_aside
from alignjax.data.prepared import Dataset, Report
from alignjax.data.text.chat import completion_text, prompt_text, split_transcript
from alignjax.ranges import Decay

Row = Mapping[str, Any]
READER = 2  # raise it when other rows are read of the same file: old prepared folders are then left alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class File(Dataset):
    """A dataset in one or two files. `parse` is what tells the formats apart.

    Args:
        path: The file of the train split: JSON lines, a JSON array or parquet, packed or not, whatever it is called.
        test: The file of the test split; without one, a hash of the prompt puts `test_fraction` of the prompts aside.
        test_fraction: The share of the prompts that are put aside, in [0, 1).
        bad_rows: "skip" counts rows that cannot be used, "refuse" makes them an error.

    Raises:
        ConfigError: A setting is not one of these.
    """

    path: str
    test: str = ""
    test_fraction: Decay = 0.1
    bad_rows: str = "skip"

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.bad_rows not in ("skip", "refuse"):
            raise ConfigError(f"{type(self).__name__}.bad_rows is {self.bad_rows!r}; it must be 'skip' or 'refuse'")

    def parse(self, row: Row) -> Record:
        """Returns a row of a file as a record. Raises BadRow."""
        raise NotImplementedError

    def _files(self) -> dict[str, Path]:
        """The files by the name that messages call them by, a path as it is written in the settings."""
        names = ("path", "test") if self.test else ("path",)
        return {name: existing_file(getattr(self, name), f"{type(self).__name__}.{name}") for name in names}

    def fingerprint(self) -> str:
        """Returns the hashes of the files, behind the number of the reader."""
        return " ".join([str(READER), *(file_hash(file) for file in self._files().values())])

    def columns(self) -> frozenset[str] | None:
        """Returns the columns that `parse` looks at, so that a table is not read whole; None for all."""
        held = [each for kind in type(self).__mro__ for each in layouts.of_dataset(kind.__name__)]
        return frozenset(name for each in held for name in (*each.columns, *each.absent, *each.more)) if held else None

    def collect(self, report: Report) -> tuple[dict[str, list[Record]], dict[str, Any]]:
        """Parses the files; bad rows are reported and stand in the account."""
        columns = self.columns()
        parsed = {name: parse_file(file, self.parse, self.bad_rows, columns) for name, file in self._files().items()}
        for name, file in parsed.items():
            if file.bad:
                report(f"{self.name}: {getattr(self, name)}: skipped {file.sentence()}")
            if file.layouts:
                read = ", ".join(f"{layout} ({count:,} rows)" for layout, count in file.layouts.items())
                report(f"{self.name}: {getattr(self, name)}: read as {read}")
            if not file.records:
                why = file.sentence() or "it holds none"
                raise ConfigError(f"{self.name}: no usable rows in the file of {name!r}, {getattr(self, name)}: {why}")
        splits: dict[str, list[Record]] = {"train": [], "test": list(parsed["test"].records) if self.test else []}
        for record in parsed["path"].records:
            # A prompt in either form of its accents is one prompt, and on one side.
            aside = not self.test and is_aside(unicodedata.normalize("NFC", record.prompt), self.test_fraction)
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
    """Returns the number after the last "####" of a solution. Raises BadRow if there is none."""
    match = re.search(r"####\s*\$?\s*(-?[\d,]*\.?\d+)\s*%?\s*$", solution)
    if not match:
        raise BadRow("field 'answer' does not end in '#### number'")
    return number_field({"answer": float(match.group(1).replace(",", ""))}, "answer", -math.inf, math.inf)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatFile(File):
    """A dataset whose fields are text or lists of {role, content} messages.

    Args:
        chat_template: A Jinja text or file that renders messages; "" for a plain default.
        prompt_field: The name of the field that holds the prompt.
        layout: The name of the layout of the rows, where their columns fit two; "" tells it by them.

    Raises:
        ConfigError: There is no such layout of this dataset.
    """

    chat_template: str = ""
    prompt_field: str = "prompt"
    layout: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [each.name for each in self._layouts("")]
        if self.layout and self.layout not in names:
            raise ConfigError(f"{type(self).__name__}.layout is {self.layout!r}.{nearest(self.layout, names)}")

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able settings; a layout that is not named is left out, as in what was prepared before there were any."""
        return {key: value for key, value in super().settings.items() if key != "layout" or value}

    def columns(self) -> frozenset[str] | None:
        """Returns the columns that `parse` looks at, by the names that the settings give them."""
        held = super().columns()
        named = {getattr(self, setting) for setting in vars(self) if setting.endswith("_field")} | {"weight"}
        return None if held is None else held | named

    def _layouts(self, named: str) -> tuple[layouts.Layout, ...]:
        return tuple(each for kind in type(self).__mro__ for each in layouts.of_dataset(kind.__name__, named))

    def told(self, row: Row) -> tuple[str, Row]:
        """Returns the name of the layout that a row has, and its fields by our names. Raises BadRow."""
        spelled = {
            setting.removesuffix("_field"): getattr(self, setting)
            for setting in vars(self)
            if setting.endswith("_field")
        }
        layout, fields = layouts.told(
            row, self._layouts(self.layout), {k: v for k, v in spelled.items() if v not in ("", k)}
        )
        return layout.name, fields

    def prompt_of(self, row: Row, name: str = "") -> str:
        """Returns the prompt in a field, by default prompt_field, as text. Raises BadRow."""
        name = name or self.prompt_field
        return prompt_text(layouts.plain(field(row, name)), name, self.chat_template)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts(ChatFile):
    """Rows with `prompt`."""

    name = schema = "prompts"

    def parse(self, row: Row) -> Record:
        layout, fields = self.told(row)
        return Record(prompt_text(fields["prompt"], self.prompt_field, self.chat_template), layout=layout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instructions(ChatFile):
    """Rows with `prompt` and `completion`, or with `messages` that end in the assistant's."""

    completion_field: str = "completion"
    name = schema = "instructions"

    def parse(self, row: Row) -> Record:
        layout, fields = self.told(row)
        asked, answered = (
            (self.prompt_field, self.completion_field) if self.completion_field in row else ("messages",) * 2
        )
        prompt = prompt_text(fields["prompt"], asked, self.chat_template)
        return Record(prompt, (completion_text(fields["completion"], answered),), layout=layout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preferences(ChatFile):
    """Rows with `prompt`, `chosen` and `rejected`; without a prompt, messages that `chosen` and `rejected` share. A
    soft label P(chosen is better) may stand in label_field, a weight in `weight`."""

    chosen_field: str = "chosen"
    rejected_field: str = "rejected"
    label_field: str = ""
    name = schema = "preferences"

    def parse(self, row: Row) -> Record:
        layout, fields = self.told(row)
        asked = self.prompt_field if self.prompt_field in row else self.chosen_field
        prompt = prompt_text(fields["prompt"], asked, self.chat_template)
        names = {"chosen": self.chosen_field, "rejected": self.rejected_field}
        texts = (completion_text(fields[side], name) for side, name in names.items())
        return _pair(prompt, *texts, **_judged(row, self.label_field), layout=layout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointPreferences(ChatFile):
    """Rows with `prompt_chosen`, `chosen`, `prompt_rejected` and `rejected`; a row with `prompt` has it on both sides.
    A soft label P(chosen is better) may stand in label_field, a weight in `weight`."""

    label_field: str = ""
    name = schema = "joint_preferences"

    def parse(self, row: Row) -> Record:
        """Returns the row as a record whose third completion is the second prompt."""
        prompts, texts = [], []
        for side in ("chosen", "rejected"):
            name = f"prompt_{side}"
            if row.get(name) is None and row.get(self.prompt_field) is not None:
                name = self.prompt_field
            prompts.append(self.prompt_of(row, name))
            texts.append(_completion_of(row, side))
        if same_text(prompts[0], prompts[1]) and same_text(texts[0], texts[1]):
            raise BadRow("both sides are the same")
        return Record(prompts[0], (*texts, prompts[1]), **_judged(row, self.label_field))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rankings(ChatFile):
    """Rows with `prompt`, `completions` (a list) and `scores` (a list of as many numbers, higher is better)."""

    name = schema = "rankings"

    def parse(self, row: Row) -> Record:
        layout, fields = self.told(row)
        texts, scores = field(fields, "completions"), field(fields, "scores")
        if not isinstance(texts, list) or not isinstance(scores, list) or len(texts) != len(scores) or len(texts) < 2:
            raise BadRow("fields 'completions' and 'scores' are not two lists of one length, 2 or more")
        completions = tuple(completion_text(layouts.plain(text), "completions") for text in texts)
        numbers = tuple(number_field({"scores": score}, "scores", -math.inf, math.inf) for score in scores)
        prompt = prompt_text(fields["prompt"], self.prompt_field, self.chat_template)
        return Record(prompt, completions, scores=numbers, layout=layout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thumbs(ChatFile):
    """Binary feedback: rows with `prompt`, `completion` and `label`, which is true or false, or a number in [0, 1]."""

    completion_field: str = "completion"
    label_field: str = "label"
    name = schema = "thumbs"

    def parse(self, row: Row) -> Record:
        layout, fields = self.told(row)
        prompt = prompt_text(fields["prompt"], self.prompt_field, self.chat_template)
        completion = completion_text(fields["completion"], self.completion_field)
        return Record(prompt, (completion,), scores=(number_field(row, self.label_field, 0.0, 1.0),), layout=layout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgements(ChatFile):
    """Rows with `prompt`, `response` and `judgement`: what is wrong with the response, in words; empty, null or missing
    where nothing is.

    Args:
        response_field: The name of the field that holds the response.
        judgement_field: The name of the field that holds the judgment.
        judgement_prefix: Text that is written between a prompt and its judgment, in front of the suffix.
    """

    response_field: str = "response"
    judgement_field: str = "judgement"
    judgement_prefix: str = "\nJudgement: "
    name = schema = "judgements"

    def parse(self, row: Row) -> Record:
        layout, fields = self.told(row)
        response, judgement = completion_text(fields["response"], self.response_field), row.get(self.judgement_field)
        blank = judgement is None or (isinstance(judgement, str) and not judgement.strip())
        judgement = "" if blank else checked_text(judgement, self.judgement_field).strip()
        prompt = prompt_text(fields["prompt"], self.prompt_field, self.chat_template)
        return Record(prompt, (response,), meta={"judgement": judgement}, layout=layout)


def _completion_of(row: Row, name: str) -> str:
    return completion_text(layouts.plain(field(row, name)), name)


def _judged(row: Row, label_field: str) -> dict[str, Any]:
    """The label and the weight of a pair, both 1 where the row does not say them."""
    label = number_field(row, label_field, 0.0, 1.0) if label_field else 1.0
    return {"preference": label, "weight": number_field(row, "weight", 0.0, math.inf) if "weight" in row else 1.0}


def _pair(prompt: str, first: str, second: str, **judged: Any) -> Record:
    texts = checked_text(first, "chosen"), checked_text(second, "rejected")
    if same_text(*texts):
        raise BadRow("both completions are the same")
    return Record(prompt, texts, **judged)


def same_text(first: str, second: str) -> bool:
    """Says whether two texts are the same to a reader: an accented letter may be one character or two (NFC)."""
    return first == second or unicodedata.normalize("NFC", first) == unicodedata.normalize("NFC", second)
