"""Datasets in files whose fields are text or messages, in the usual conventions."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from alignjax.config import ConfigError, nearest
from alignjax.data.datasets import layouts
from alignjax.data.datasets.conversations import BESIDE, conversation, written
from alignjax.data.datasets.from_files import File, unlike
from alignjax.data.datasets.parsing import BadRow, checked_text, field, number_field
from alignjax.data.datasets.records import Record
from alignjax.data.text.chat import DEFAULT_TEMPLATE, load_template, template_words
from alignjax.data.text.tokenizers import load_tokenizer
from alignjax.data.text.words import same_text

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatFile(File):
    """A dataset whose fields are text or lists of {role, content} messages.

    Args:
        chat_template: A Jinja text, or the file or published folder of one, that renders messages; "" for that of the
            tokenizer, or a plain one if it has none.
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
        """JSON-able settings; what is not named is left out, as in runs that began before it could be."""
        unnamed = {"layout": "", "turns": "last"}
        return {key: value for key, value in super().settings.items() if unnamed.get(key) != value}

    @property
    def template(self) -> str:
        """The text of the chat template. Raises ConfigError if there is none at the path."""
        return load_template(self.chat_template, str(self.tokenizer_owner.tokenizer))

    @property
    def template_words(self) -> dict[str, str]:
        """What the template reads beside messages: the special tokens of the tokenizer, by the names of its files."""
        owner = self.tokenizer_owner
        path, named = str(owner.tokenizer), owner.named_tokens
        tokenizer = load_tokenizer(path, **named) if path else None
        words = template_words(tokenizer, path) | {f"{mark}_token": token or "" for mark, token in named.items()}
        if tokenizer is not None and self.template == DEFAULT_TEMPLATE:  # begins as any text of the tokenizer does
            opening = tokenizer.opening
            words["bos_token"] = "" if opening is None else str(tokenizer.backend.id_to_token(opening))
        return words

    def fingerprint(self) -> str:
        """Returns the hashes of the files, and the chat template itself."""
        return f"{super().fingerprint()} {self.template}"

    def finisher(self) -> Callable[[Iterator[Record]], Iterator[tuple[Record, BadRow | None]]]:
        """Returns what renders conversations; it raises ConfigError for a template that cannot be used."""
        return functools.partial(written, template=self.template, words=self.template_words)

    def columns(self) -> frozenset[str] | None:
        """Returns the columns that `parse` looks at, by the names that the settings give them."""
        held = super().columns()
        named = {getattr(self, setting) for setting in vars(self) if setting.endswith("_field")} | {"weight", *BESIDE}
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

    def record(
        self, prompt: tuple[Any, str], answers: Sequence[tuple[Any, str]], row: Row, turns: str = "last", **more: Any
    ) -> Record:
        """Returns the record of a prompt and its answers, each a value and the name of its field. Raises BadRow."""
        if not isinstance(prompt[0], str) and (self.prefix or self.suffix):
            raise BadRow("a prompt of messages gets its frame from the chat template; leave out prefix and suffix")
        return Record(**conversation(*prompt, answers, row, turns), **more)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts(ChatFile):
    """Rows with `prompt`."""

    name = schema = "prompts"

    def parse(self, row: Row) -> Record:
        layout, fields = self.told(row)
        return self.record((fields["prompt"], self.prompt_field), (), row, layout=layout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instructions(ChatFile):
    """Rows with `prompt` and `completion`, or with `messages` that end in the assistant's.

    Args:
        completion_field: The name of the field that holds the completion.
        turns: What is learned of a conversation: its "last" turn, after a prompt of those before, or "all" turns of the
            assistant: the completion begins with the first, and of what stands between them nothing is learned.

    Raises:
        ConfigError: `turns` is neither.
    """

    completion_field: str = "completion"
    turns: str = "last"
    name = schema = "instructions"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.turns not in ("last", "all"):
            raise ConfigError(f"{type(self).__name__}.turns is {self.turns!r}; it must be 'last' or 'all'")

    def parse(self, row: Row) -> Record:
        layout, fields = self.told(row)
        asked, answered = (
            (self.prompt_field, self.completion_field) if self.completion_field in row else ("messages",) * 2
        )
        answer = (fields["completion"], answered)
        return self.record((fields["prompt"], asked), [answer], row, self.turns, layout=layout)


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
        names = {"chosen": self.chosen_field, "rejected": self.rejected_field}
        answers = [(fields[side], name) for side, name in names.items()]
        judged = _judged(row, self.label_field)
        return unlike(self.record((fields["prompt"], asked), answers, row, **judged, layout=layout))


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointPreferences(ChatFile):
    """Rows with `prompt_chosen`, `chosen`, `prompt_rejected` and `rejected`; a row with `prompt` has it on both sides.
    A soft label P(chosen is better) may stand in label_field, a weight in `weight`."""

    label_field: str = ""
    name = schema = "joint_preferences"

    def parse(self, row: Row) -> Record:
        """Returns the row as a record whose third completion is the second prompt."""
        sides = []
        for side in ("chosen", "rejected"):
            name = f"prompt_{side}"
            if row.get(name) is None and row.get(self.prompt_field) is not None:
                name = self.prompt_field
            asked, answer = ((layouts.plain(field(row, key)), key) for key in (name, side))
            sides.append(self.record(asked, [answer], row))
        first, second = sides
        if bool(first.chats) != bool(second.chats):
            raise BadRow("the prompt of one side is text and that of the other is messages")
        texts, prompts = (*first.completions, *second.completions), (first.prompt, second.prompt)
        if first.chats:
            same = same_text(*(json.dumps(side.chats, ensure_ascii=False) for side in sides))
            return _both(same, Record("", texts, chats=first.chats + second.chats, **_judged(row, self.label_field)))
        same = same_text(*prompts) and same_text(*texts)
        return _both(same, Record(prompts[0], (*texts, prompts[1]), **_judged(row, self.label_field)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rankings(ChatFile):
    """Rows with `prompt`, `completions` (a list) and `scores` (a list of as many numbers, higher is better)."""

    name = schema = "rankings"

    def parse(self, row: Row) -> Record:
        layout, fields = self.told(row)
        texts, scores = field(fields, "completions"), field(fields, "scores")
        if not isinstance(texts, list) or not isinstance(scores, list) or len(texts) != len(scores) or len(texts) < 2:
            raise BadRow("fields 'completions' and 'scores' are not two lists of one length, 2 or more")
        answers = [(layouts.plain(text), "completions") for text in texts]
        numbers = tuple(number_field({"scores": score}, "scores", -math.inf, math.inf) for score in scores)
        return self.record((fields["prompt"], self.prompt_field), answers, row, scores=numbers, layout=layout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thumbs(ChatFile):
    """Binary feedback: rows with `prompt`, `completion` and `label`, which is true or false, or a number in [0, 1]."""

    completion_field: str = "completion"
    label_field: str = "label"
    name = schema = "thumbs"

    def parse(self, row: Row) -> Record:
        layout, fields = self.told(row)
        answers, scores = (
            [(fields["completion"], self.completion_field)],
            (number_field(row, self.label_field, 0.0, 1.0),),
        )
        return self.record((fields["prompt"], self.prompt_field), answers, row, scores=scores, layout=layout)


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
        answers, judgement = [(fields["response"], self.response_field)], row.get(self.judgement_field)
        blank = judgement is None or (isinstance(judgement, str) and not judgement.strip())
        judgement = "" if blank else checked_text(judgement, self.judgement_field).strip()
        meta = {"judgement": judgement}
        return self.record((fields["prompt"], self.prompt_field), answers, row, meta=meta, layout=layout)


def _both(same: bool, record: Record) -> Record:
    if same:
        raise BadRow("both sides are the same")
    return record


def _judged(row: Row, label_field: str) -> dict[str, Any]:
    """The label and the weight of a pair, both 1 where the row does not say them."""
    label = number_field(row, label_field, 0.0, 1.0) if label_field else 1.0
    return {"preference": label, "weight": number_field(row, "weight", 0.0, math.inf) if "weight" in row else 1.0}
