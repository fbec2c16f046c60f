"""Layouts of rows: which columns tell one, and how such a row becomes the fields that a dataset reads.

A new layout is an entry of LAYOUTS. A row is told by its columns and by whether they hold whole conversations; one that
fits two layouts is refused, one that fits none says which are near.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from alignjax.data.datasets.parsing import BadRow
from alignjax.data.text.chat import shared_turns

Row = Mapping[str, Any]

SYSTEM = ("system", "system_prompt")  # columns of what stands before a prompt
TALK, NO_TALK, ANY = True, False, None  # a column holds a whole conversation, must not, or may


def _as_it_is(row: Row) -> Row:
    return row


def _two_talks(row: Row) -> Row:
    """Prompt and answers out of two conversations that start alike."""
    turns, chosen, rejected = shared_turns(row["chosen"], row["rejected"])
    return {"prompt": turns, "chosen": chosen, "rejected": rejected}


def _two_talks_and_prompt(row: Row) -> Row:
    fields = _two_talks(row)
    _same_prompt(row["prompt"], fields["prompt"], "chosen")
    return fields


def _talk(row: Row) -> Row:
    """Prompt and answer out of one conversation, which the assistant ends."""
    turns, last, _ = shared_turns(row["messages"], row["messages"], ("messages", "messages"))
    if last[0]["role"] != "assistant":
        raise BadRow("field 'messages' does not end in an assistant message")
    return {"prompt": turns, "completion": last}


def _talk_and_prompt(row: Row) -> Row:
    fields = _talk(row)
    _same_prompt(row["prompt"], fields["prompt"], "messages")
    return fields


def _same_prompt(prompt: Any, turns: Sequence[Row], field: str) -> None:
    """Refuses a prompt that the conversation beside it does not hold: one of the two is another row's."""
    asked = [turn["content"].strip() for turn in turns if turn["role"] == "user"]
    alike = prompt.strip() in asked if isinstance(prompt, str) else list(prompt) == list(turns)
    if not alike:
        raise BadRow(f"field 'prompt' is not in the conversation in {field!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """A layout of rows.

    Args:
        name: What messages and the setting `layout` call it.
        dataset: The name of the dataset that reads it.
        columns: The columns that tell it, each with TALK, NO_TALK or ANY.
        fields: Makes of a row the fields that the dataset reads.
        absent: Columns whose presence tells that it is another.
        more: Columns that are read where a row has them.
    """

    name: str
    dataset: str
    columns: Mapping[str, bool | None]
    fields: Callable[[Row], Row] = _as_it_is
    absent: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


def _columns(names: str) -> dict[str, bool | None]:
    return dict.fromkeys(names.split(), ANY)


LAYOUTS = (
    Layout("prompt", "Prompts", _columns("prompt")),
    Layout("prompt and completion", "Instructions", _columns("prompt completion")),
    Layout("messages", "Instructions", {"messages": ANY}, _talk, absent=("prompt",)),
    Layout("ultrachat_200k", "Instructions", {"prompt": NO_TALK, "messages": TALK}, _talk_and_prompt),
    Layout("prompt, chosen and rejected", "Preferences", {"prompt": ANY, "chosen": NO_TALK, "rejected": NO_TALK}),
    Layout("two conversations", "Preferences", {"chosen": TALK, "rejected": TALK}, _two_talks, absent=("prompt",)),
    Layout(
        "ultrafeedback_binarized",
        "Preferences",
        {"prompt": ANY, "chosen": TALK, "rejected": TALK},
        _two_talks_and_prompt,
    ),
    Layout(
        "messages, chosen and rejected",
        "Preferences",
        {"messages": TALK, "chosen": NO_TALK, "rejected": NO_TALK},
        lambda row: {**row, "prompt": row["messages"]},
        absent=("prompt",),
    ),
    Layout("prompt, completions and scores", "Rankings", _columns("prompt completions scores")),
    Layout("prompt, completion and label", "Thumbs", _columns("prompt completion label")),
    Layout("prompt and response", "Judgements", _columns("prompt response"), more=("judgement",)),
    Layout(
        "two prompts", "JointPreferences", _columns("prompt_chosen chosen prompt_rejected rejected"), more=("prompt",)
    ),
    Layout("e-mails", "Aeslc", _columns("email_body subject_line")),
    Layout("transcripts", "HelpfulHarmless", _columns("chosen rejected"), absent=("prompt",)),
    Layout(
        "annotations",
        "AlpacaEval",
        _columns("instruction output_1 output_2 preference"),
        more=("dataset", "generator_1", "generator_2"),
    ),
    Layout("question and answer", "Gsm8k", _columns("question answer")),
)


def is_talk(value: Any) -> bool:
    """Says whether a value is a whole conversation and not one answer of the assistant."""
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) for turn in value):
        return False
    return len(value) > 1 or value[0].get("role") != "assistant"


def plain(value: Any) -> Any:
    """Returns messages with their content as text where it is in parts of type text, and one message as a list of it.

    Args:
        value: The value of a column; what are no messages is returned as it is.

    Raises:
        BadRow: A part is of another type.
    """
    if isinstance(value, Mapping) and "role" in value and "content" in value:
        return plain([value])
    if not isinstance(value, list) or not any(isinstance(turn, Mapping) for turn in value):
        return value
    return [_plain_turn(turn) for turn in value]


def _plain_turn(turn: Any) -> Any:
    if isinstance(turn, Mapping) and turn.get("weight", 1) != 1:
        raise BadRow(
            "a message has a weight, which is not read: leave the row out, or the weight", str(turn["weight"])[:40]
        )
    parts = turn.get("content") if isinstance(turn, Mapping) else None
    if not isinstance(parts, list):
        return turn
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise BadRow("a message has a part that is not text", f"of type {str(kind)[:40]!r}")
    return {**turn, "content": "".join(part["text"] for part in parts)}


@lru_cache(maxsize=256)
def _distance(layout: Layout, row: frozenset[tuple[str, bool]]) -> int:
    """How far columns are from a layout: a column missing or too many is 2, one of the other kind is 1; 0 fits."""
    held = dict(row)
    missing = sum(2 for name in layout.columns if name not in held) + sum(2 for name in layout.absent if name in held)
    return missing + sum(held.get(name, kind) != kind for name, kind in layout.columns.items() if kind is not None)


def of_dataset(dataset: str, named: str = "") -> tuple[Layout, ...]:
    """Returns the layouts that a dataset reads, or the one of them that is named."""
    return tuple(each for each in LAYOUTS if each.dataset == dataset and named in ("", each.name))


def told(row: Row, layouts: Sequence[Layout], spelled: Mapping[str, str]) -> tuple[Layout, Row]:
    """Returns the layout that a row fits, and the row as the fields that the dataset reads.

    Args:
        row: The row, without nulls.
        layouts: Those it may have.
        spelled: What the settings call a column that a layout names.

    Raises:
        BadRow: It fits none of them, or two, or is not what its columns say.
    """
    renamed = {name: value for name, value in row.items() if name not in spelled and name not in spelled.values()}
    renamed |= {name: row[column] for name, column in spelled.items() if column in row}
    wanted = {name for layout in layouts for name in (*layout.columns, *layout.more)}
    renamed = {name: plain(value) if name in wanted else value for name, value in renamed.items()}
    held = frozenset((name, is_talk(value)) for name, value in renamed.items())
    distances = [_distance(layout, held) for layout in layouts]
    fits = [layout for layout, distance in zip(layouts, distances, strict=True) if not distance]
    if len(fits) > 1:
        names = " and ".join(repr(layout.name) for layout in fits)
        columns = ", ".join(
            spelled.get(name, name)
            for layout in fits[:1]
            for name in dict.fromkeys(name for each in fits for name in each.columns)
        )
        raise BadRow(
            f"columns {columns} fit two layouts, {names}: name one with layout=..., or drop a column", fatal=True
        )
    if fits:
        asked = next((name for name in SYSTEM if renamed.get(name) and name not in wanted), None)
        if asked:
            raise BadRow(
                f"column {asked!r} would change the prompt and is not read: write prompts as messages that begin with "
                "the system's, or drop the column",
                fatal=True,
            )
        return fits[0], fits[0].fields(renamed)
    nearest = layouts[distances.index(min(distances))]
    raise _fits_none(row, nearest, layouts, held, spelled)


def _fits_none(
    row: Row, nearest: Layout, layouts: Sequence[Layout], held: frozenset[tuple[str, bool]], spelled: Mapping[str, str]
) -> BadRow:
    """What is wrong with a row that fits no layout: what its nearest one lacks, its columns, and the layouts about."""
    names = dict(held)
    lacking = [spelled.get(name, name) for name in nearest.columns if name not in names]
    kinds = [name for name, kind in nearest.columns.items() if kind is not None and names.get(name, kind) != kind]
    if lacking:
        why = f"missing field {lacking[0]!r}"
    elif kinds:
        kind = "a whole conversation" if names[kinds[0]] else "no whole conversation"
        why = f"field {spelled.get(kinds[0], kinds[0])!r} holds {kind}, which fits no layout"
    else:
        why = "columns fit no layout"
    near = [each for each in layouts if _distance(each, held) <= 2] or list(layouts)
    others = [each for each in LAYOUTS if each not in layouts and len(each.columns) > 1 and not _distance(each, held)]
    about = [f"{each.name!r} needs {', '.join(spelled.get(name, name) for name in each.columns)}" for each in near]
    about += [f"{each.dataset} reads it as {each.name!r}" for each in others]
    columns = ", ".join(sorted(name[:40] for name in row)[:20]) or "no columns"
    return BadRow(why, f"it has {columns}; {'; '.join(about)}")
