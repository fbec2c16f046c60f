"""Datasets in files whose fields are text or messages, in the usual conventions."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from alignjax.config import ConfigError, nearest
from alignjax.data.datasets import layouts
from alignjax.data.datasets.conversations import BESIDE, conversation, written
from alignjax.data.datasets.from_files import ALL, File, answered, unlike
from alignjax.data.datasets.list_fields import checked_list
from alignjax.data.datasets.parsing import BadRow, checked_text, field, number_field
from alignjax.data.datasets.records import Record
from alignjax.data.datasets.row_shapes import plain
from alignjax.data.text.chat import DEFAULT_TEMPLATE, load_template, template_words
from alignjax.data.text.tokenizers import load_tokenizer
from alignjax.data.text.words import nfc, same_text

Row = Mapping[str, Any]
# Columns that say of a completion that it is good.
GOOD = ("kto_tag", "label", "is_safe", "is_response_safe", "is_correct", "accepted", "is_good")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatFile(File):
    """A dataset whose fields are text or lists of {role, content} messages.

    Args:
        chat_template: A Jinja text, or the file or published folder of one, that renders messages; "" for that of the
            tokenizer, or a plain one if it has none.
        prompt_field: The name of the field that holds the prompt.
        layout: The name of the layout of the rows, where their columns fit two; "" tells it by them.
        thinking: What becomes of what the assistant thinks before it answers (a block of <think> at the start of a
            content, and the fields reasoning_content, thinking and reasoning of a message): "keep" hands it to the
            template, "strip" takes it out.

    Raises:
        ConfigError: There is no such layout of this dataset, or `thinking` is neither.
    """

    chat_template: str = ""
    prompt_field: str = "prompt"
    layout: str = ""
    thinking: str = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.thinking not in ("keep", "strip"):
            raise ConfigError(f"{type(self).__name__}.thinking is {self.thinking!r}; it must be 'keep' or 'strip'")
        names = [each.name for each in self._layouts("")]
        if self.layout and self.layout not in names:
            raise ConfigError(f"{type(self).__name__}.layout is {self.layout!r}.{nearest(self.layout, names)}")

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able settings; what is not named is left out, as in runs that began before it could be."""
        unnamed = {"layout": "", "thinking": "keep", "turns": "last", "answer_field": "", "score_field": ""}
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
        """Returns the columns that `parse_all` looks at, by the names that the settings give them."""
        held = self._layouts(self.layout)
        named = {getattr(self, setting) for setting in vars(self) if setting.endswith("_field")} - {""}
        return layouts.columns_of(held) | named | {"weight", *GOOD, *BESIDE} if held else None

    def _layouts(self, named: str) -> tuple[layouts.Layout, ...]:
        return tuple(each for kind in type(self).__mro__ for each in layouts.of_dataset(kind.__name__, named))

    @property
    def _spelled(self) -> dict[str, str]:
        """What the settings call the columns that layouts name, where they call them otherwise."""
        named = {name.removesuffix("_field"): value for name, value in vars(self).items() if name.endswith("_field")}
        return {name: column for name, column in named.items() if column not in ("", name) and name != "score"}

    def together(self, row: Row) -> Hashable:
        """Returns what a row has in common with those beside it that make records with it; None for one alone."""
        return layouts.group_of(layouts.spelled_as(row, self._spelled), self._layouts(self.layout))

    def told(self, row: Row) -> tuple[layouts.Layout, Row]:
        """Returns the layout that a row has, and the row with its columns called as the layout does. Raises BadRow."""
        return layouts.told(row, self._layouts(self.layout), self._spelled)

    def parse_all(self, rows: Row | Sequence[Row]) -> list[Record]:
        """Returns the records of a row, or of rows that make records together. Raises BadRow."""
        layouts_of_rows = [self.told(row) for row in ((rows,) if isinstance(rows, Mapping) else rows)]
        together: dict[Any, list[Row]] = {}  # by the layout, and by the row too where each is read by itself
        for place, (layout, renamed) in enumerate(layouts_of_rows):
            together.setdefault((layout, None if layout.group else place), []).append(renamed)
        records = []
        for (layout, _), members in together.items():
            served = next(kind.__name__ for kind in type(self).__mro__ if kind.__name__ in layout.reads)
            for fields in layouts.fields_of(members, layout, served, getattr(self, "score_field", "")):
                names = {name: self._called(name, value, members[0]) for name, value in fields.items()}
                record = self.record_of(fields, names, {**members[0], **fields})
                records.append(dataclasses.replace(record, layout=layout.name))
        return records

    def _called(self, name: str, value: Any, row: Row) -> str:
        """What messages call a field: the column that it stands in."""
        column = name if name in row else next((each for each, held in row.items() if held is value), name)
        return self._spelled.get(column, column)

    def parse(self, row: Row) -> Record:
        """Returns the first of the records that a row makes; see `parse_all`. Raises BadRow."""
        return self.parse_all(row)[0]

    def record_of(self, fields: Row, names: Mapping[str, str], row: Row) -> Record:
        """Returns the record of fields.

        Args:
            fields: What a layout reads of a row.
            names: What messages call each field.
            row: The row with the fields.

        Raises:
            BadRow: A field is missing, or cannot be used.
        """
        raise NotImplementedError

    def record(
        self, prompt: tuple[Any, str], answers: Sequence[tuple[Any, str]], row: Row, turns: str = "last", **more: Any
    ) -> Record:
        """Returns the record of a prompt and its answers, each a value and the name of its field. Raises BadRow."""
        if not isinstance(prompt[0], str | None) and (self.prefix or self.suffix):
            raise BadRow("a prompt of messages gets its frame from the chat template; leave out prefix and suffix")
        if isinstance(prompt[0], str) and row.get("tools"):
            raise BadRow(
                "column 'tools' would change the prompt and is not read: write prompts as messages, or drop the column",
                fatal=True,
            )
        return Record(**conversation(*prompt, answers, row, turns, self.thinking), **more)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts(ChatFile):
    """Rows with `prompt`, and what else has one in it. All other columns are kept, for functions that score.

    Args:
        answer_field: The name of the field that holds what is right, a number or a text, for verifiers; "" for that of
            the layout, if it has one.
    """

    keep: tuple[str, ...] = (ALL,)
    answer_field: str = ""
    name = schema = "prompts"
    answers = True

    def record_of(self, fields: Row, names: Mapping[str, str], row: Row) -> Record:
        if self.answer_field and row.get("answer") is None:
            raise BadRow(f"missing field {self.answer_field!r}")
        right = row["answer"] if self.answer_field else fields.get("answer")
        known = {} if right is None else answered(right, self.answer_field or names["answer"])
        return self.record((fields["prompt"], names["prompt"]), (), row, **known)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instructions(ChatFile):
    """Rows with `prompt` and `completion`, or with `messages` that end in the assistant's.

    Args:
        completion_field: The name of the field that holds the completion.
        turns: What is learned of a conversation: its "last" turn, after a prompt of those before, or "all" turns of the
            assistant: the completion begins with the first, and of what stands between them nothing is learned. Where
            the template writes a turn otherwise once the conversation goes on, each turn is a row of its own.

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

    def record_of(self, fields: Row, names: Mapping[str, str], row: Row) -> Record:
        for column in GOOD:
            if str(row.get(column)).strip().lower() in ("false", "0", "0.0"):
                raise BadRow(
                    f"column {column!r} calls a completion bad, and all are learned: use Thumbs with "
                    f"label_field={column!r}, or leave such rows out",
                    fatal=True,
                )
        answer = (field(fields, "completion"), names["completion"])
        return self.record((fields["prompt"], names["prompt"]), [answer], row, self.turns)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preferences(ChatFile):
    """Rows with `prompt`, `chosen` and `rejected`; without a prompt, messages that `chosen` and `rejected` share. A
    soft label P(chosen is better) may stand in label_field, a weight in `weight`. Of lists with scores every two are a
    pair.

    Args:
        chosen_field: The name of the field that holds the better completion.
        rejected_field: The name of the field that holds the other one.
        label_field: The name of the field that holds a soft label; "" for none.
        score_field: The name of the score that decides, where rows have several; "" for that of the layout.
    """

    chosen_field: str = "chosen"
    rejected_field: str = "rejected"
    label_field: str = ""
    score_field: str = ""
    name = schema = "preferences"

    def record_of(self, fields: Row, names: Mapping[str, str], row: Row) -> Record:
        answers = [(field(fields, side), names[side]) for side in ("chosen", "rejected")]
        judged = _judged(row, self.label_field, fields.get("label", 1.0))
        return unlike(self.record((fields["prompt"], names["prompt"]), answers, row, **judged))


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointPreferences(ChatFile):
    """Rows with `prompt_chosen`, `chosen`, `prompt_rejected` and `rejected`; a row with `prompt` has it on both sides.
    A soft label P(chosen is better) may stand in label_field, a weight in `weight`."""

    label_field: str = ""
    name = schema = "joint_preferences"

    def parse_all(self, rows: Row | Sequence[Row]) -> list[Record]:
        """Returns rows as records whose third completion is the second prompt. Raises BadRow."""
        return [self._two_sides(row) for row in ((rows,) if isinstance(rows, Mapping) else rows)]

    def _two_sides(self, row: Row) -> Record:
        sides = []
        for side in ("chosen", "rejected"):
            name = f"prompt_{side}"
            if row.get(name) is None and row.get(self.prompt_field) is not None:
                name = self.prompt_field
            asked, answer = ((plain(field(row, key)), key) for key in (name, side))
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
    """Rows with `prompt`, `completions` (a list) and `scores` (a list of as many numbers, higher is better).

    Args:
        score_field: The name of the score that is read, where rows have several; "" for that of the layout.
    """

    score_field: str = ""
    name = schema = "rankings"

    def record_of(self, fields: Row, names: Mapping[str, str], row: Row) -> Record:
        texts, scores = checked_list(fields)
        answers = [(plain(text), "completions") for text in texts]
        record = self.record((fields["prompt"], names["prompt"]), answers, row, scores=tuple(scores))
        scored: dict[str, float] = {}
        for text, score in zip(record.completions, record.scores, strict=True):
            if scored.setdefault(nfc(text), score) != score:
                raise BadRow("two completions are the same and have different scores")
        return record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thumbs(ChatFile):
    """Binary feedback: rows with `prompt`, `completion` and `label`, which is true or false, or a number in [0, 1].

    Args:
        completion_field: The name of the field that holds the completion.
        label_field: The name of the field that holds the label.
        score_field: The name of the label that is read, where rows have several; "" for that of the layout.
    """

    completion_field: str = "completion"
    label_field: str = "label"
    score_field: str = ""
    name = schema = "thumbs"

    def record_of(self, fields: Row, names: Mapping[str, str], row: Row) -> Record:
        answer, said = (field(fields, "completion"), names["completion"]), names["label"]
        scores = (number_field({said: fields["label"]}, said, 0.0, 1.0),)
        return self.record((fields["prompt"], names["prompt"]), [answer], row, scores=scores)


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

    def record_of(self, fields: Row, names: Mapping[str, str], row: Row) -> Record:
        answers, judgement = [(fields["response"], self.response_field)], row.get("judgement")
        blank = judgement is None or (isinstance(judgement, str) and not judgement.strip())
        judgement = "" if blank else checked_text(judgement, self.judgement_field).strip()
        meta = {"judgement": judgement}
        return self.record((fields["prompt"], names["prompt"]), answers, row, meta=meta)


def _both(same: bool, record: Record) -> Record:
    if same:
        raise BadRow("both sides are the same")
    return record


def _judged(row: Row, label_field: str, label: Any = 1.0) -> dict[str, Any]:
    """The label and the weight of a pair, both 1 where the row does not say them. A label that is not named is that of
    the first side's being better, or another thing: it is not guessed at."""
    if label_field:
        held = "label" if "label" in row else label_field
        label = number_field({label_field: row.get(held)}, label_field, 0.0, 1.0)
    elif row.get("label") is not None and str(row["label"]).strip().lower() not in ("", "1", "1.0", "true", str(label)):
        raise BadRow(
            "column 'label' may say which side is better and is not read: name it with label_field='label' (the "
            "probability that chosen is better), or drop it",
            str(row["label"])[:40],
            fatal=True,
        )
    return {"preference": label, "weight": number_field(row, "weight", low=0.0) if "weight" in row else 1.0}
