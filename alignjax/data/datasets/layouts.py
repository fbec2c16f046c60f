"""Which layout a row has: told by its columns and the shapes of their values, and never by the name of its file.

The layouts are in `known_layouts.LAYOUTS`. A row fits a layout that finds all its columns, with values of their shapes;
further columns do no harm. Of two that fit, the one whose columns include the other's is meant; where neither does, the
row is refused with both names. A row that fits none is told which are near.
"""

from __future__ import annotations

import collections
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from alignjax.data.datasets.known_layouts import LAYOUTS
from alignjax.data.datasets.layout_fields import Fields, parsed_tools
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.datasets.row_layout import Layout, Row
from alignjax.data.datasets.row_shapes import SHAPES, from_text, plain, shape_of, with_system

SYSTEM = ("system", "system_prompt")  # columns of what stands before a prompt
# Columns that would change what a row says and are read by few layouts or none, with what they would change.
CHANGING = {
    "history": "the prompt",
    "functions": "the tools",
    **dict.fromkeys(("images", "image", "videos", "video", "audios", "audio"), "the prompt"),
}
# Fields whose column, where a setting names it, is there: a row without it would fit layouts that have none.
NAMED = ("prompt", "completion")
# Columns of conversations, which cells of tables and some parquet files hold as JSON in a text.
ASKED = {
    *("prompt", "messages", "conversations", "conversation", "conversation_a", "conversation_b"),
    *("chosen", "rejected", "context"),
}
# Columns of text that belong to a prompt which is text too, where no layout says how.
PARTS = ("context", "input")
TALKS = {"talk", "talks", "from_talk", "reply", "from_reply"}
NEAR = 3  # layouts that are named to a row which fits none


@lru_cache
def of_dataset(dataset: str, named: str = "") -> tuple[Layout, ...]:
    """Returns the layouts that a dataset reads, or the one of them that is named."""
    return tuple(each for each in LAYOUTS if dataset in each.reads and named in ("", each.name))


@lru_cache
def columns_of(layouts: tuple[Layout, ...]) -> frozenset[str]:
    """Returns the columns that tell layouts or are read by them, those that would change what they say among them."""
    columns = (name for each in layouts for name in (*each.columns, *each.absent, *each.more))
    return frozenset([*columns, *SYSTEM, *CHANGING, *PARTS])


def group_of(row: Row, layouts: Sequence[Layout]) -> Hashable:
    """Returns what a row has in common with the rows beside it that are read together with it; None for one alone.

    Args:
        row: The row, its columns called as layouts call them.
        layouts: Those it may have.
    """
    for layout in layouts:
        if layout.group is not None and layout.columns.keys() <= row.keys():
            key = layout.group(row)
            return (layout.name, key) if isinstance(key, str | int) else None
    return None


def spelled_as(row: Row, spelled: Mapping[str, str]) -> Row:
    """Returns a row with its columns as layouts call them.

    Args:
        row: The row.
        spelled: What the settings call a column that a layout names; a column of that name is then another.
    """
    if not spelled:
        return row
    others = {name: value for name, value in row.items() if name not in spelled and name not in spelled.values()}
    return others | {name: row[column] for name, column in spelled.items() if column in row}


def told(row: Row, layouts: tuple[Layout, ...], spelled: Mapping[str, str]) -> tuple[Layout, Row]:
    """Returns the layout that a row fits, and the row with its columns as the layout calls them, messages as lists.

    Args:
        row: The row, without nulls.
        layouts: Those it may have.
        spelled: As of `spelled_as`.

    Raises:
        BadRow: It fits none of them, or two, or a value is none that can be read.
    """
    _check_named(row, spelled)
    wanted = columns_of(layouts)
    renamed = {
        name: plain(from_text(value, name) if name in ASKED else value) if name in wanted else value
        for name, value in spelled_as(row, spelled).items()
    }
    held = frozenset((name, shape_of(value)) for name, value in renamed.items() if name in wanted)
    fits = _fitting(layouts, held)
    if len(fits) > 1:
        names = " and ".join(repr(layout.name) for layout in fits)
        columns = ", ".join(
            spelled.get(name, name) for name in dict.fromkeys(name for each in fits for name in each.columns)
        )
        raise BadRow(
            f"columns {columns} fit {'two' if len(fits) == 2 else len(fits)} layouts, {names}: name one with "
            "layout=..., or drop a column",
            fatal=True,
        )
    if not fits:
        raise _fits_none(row, layouts, held, spelled)
    _check_whole(renamed, fits[0], dict(held), spelled)
    return fits[0], renamed


def _check_named(row: Row, spelled: Mapping[str, str]) -> None:
    lacking = next((spelled[name] for name in NAMED if name in spelled and spelled[name] not in row), "")
    if lacking:
        raise BadRow(f"missing field {lacking!r}", f"it has {', '.join(sorted(name[:40] for name in row)[:20])}")


def _check_whole(row: Row, layout: Layout, shapes: Mapping[str, str], spelled: Mapping[str, str]) -> None:
    """Refuses a row whose prompt is more than its layout reads, or is one that a template closes."""
    parts = [name for name in PARTS if shapes.get(name) == "text" and row[name].strip()]
    if TALKS & {shapes[name] for name in layout.columns}:  # a conversation is whole
        parts = []
    for name, what in {**CHANGING, **dict.fromkeys(parts, "the prompt")}.items():
        if row.get(name) and name not in (*layout.columns, *layout.more):
            raise BadRow(f"column {name!r} would change {what} and is not read: drop it, or the rows", fatal=True)
    turns = row["prompt"] if "prompt" in layout.columns and shapes["prompt"] in TALKS else None
    if isinstance(turns, list) and turns and isinstance(turns[-1], Mapping) and turns[-1].get("role") == "assistant":
        raise BadRow(
            f"field {spelled.get('prompt', 'prompt')!r} ends in a message of the assistant, which a template closes: "
            "no answer goes on with it, put it at the beginning of the answers"
        )


def fields_of(rows: Sequence[Row], layout: Layout, dataset: str, score: str = "") -> list[Fields]:
    """Returns the fields of the records that rows of a layout make.

    Args:
        rows: The rows as `told` returns them: one, or several of one group.
        layout: The layout.
        dataset: The name of the dataset that reads them.
        score: The name of the score that is read, where rows have several; "" for that of the layout.

    Raises:
        BadRow: They are not what their columns say.
    """
    if score and not layout.score:
        raise BadRow(
            f"score_field={score!r}: rows of the layout {layout.name!r} have no scores to choose from", fatal=True
        )
    read, named = layout.reads[dataset], (score or layout.score,) if layout.score else ()
    if layout.group is None:
        made = [each for row in rows for each in _as_list(read(row, *named))]
    else:
        made = _as_list(read(rows, *named))
    row = rows[0]
    systems = [row[name] for name in SYSTEM if name in row and name not in layout.columns]
    tools = {"tools": parsed_tools(row["tools"])} if "tools" in row else {}
    return [{**tools, **_after_system(each, systems)} for each in made]


def _after_system(fields: Fields, systems: Sequence[Any]) -> Fields:
    """Fields whose prompt has the system's before it, which stands in a column of its own."""
    for said in systems:
        if isinstance(fields.get("prompt"), list):
            fields = {**fields, "prompt": with_system(fields["prompt"], said)}
        elif said and (not isinstance(said, str) or said.strip()):
            raise BadRow(
                "column 'system' would change the prompt and is not read: write prompts as messages, before which it "
                "is put, or drop the column",
                fatal=True,
            )
    return fields


def _as_list(made: Any) -> list[Fields]:
    return made if isinstance(made, list) else [made]


@lru_cache(maxsize=256)
def _fitting(layouts: tuple[Layout, ...], held: frozenset[tuple[str, str]]) -> tuple[Layout, ...]:
    """The layouts that columns of these shapes fit, without those whose columns another's include."""
    fits = [layout for layout in layouts if not _distance(layout, held)]
    return tuple(each for each in fits if not any(each.columns.keys() < other.columns.keys() for other in fits))


def _distance(layout: Layout, held: frozenset[tuple[str, str]]) -> int:
    """How far columns are from a layout: a column missing or too many is 2, one of another shape is 1; 0 fits."""
    shapes = dict(held)
    missing = sum(2 for name in layout.columns if name not in shapes) + sum(
        2 for name in layout.absent if name in shapes
    )
    return missing + len(_of_another_shape(layout, shapes))


def _of_another_shape(layout: Layout, shapes: Mapping[str, str]) -> list[str]:
    """The columns of a layout that a row has with a value of another shape."""
    return [name for name, kind in layout.columns.items() if kind and name in shapes and shapes[name] not in kind]


def _fits_none(
    row: Row, layouts: Sequence[Layout], held: frozenset[tuple[str, str]], spelled: Mapping[str, str]
) -> BadRow:
    """What is wrong with a row that fits no layout: what its nearest one lacks, its columns, and the layouts about."""
    shapes, by_distance = dict(held), sorted(layouts, key=lambda each: _distance(each, held))
    near = [each for each in by_distance if _distance(each, held) <= 2]
    # One column of many, such as a prompt alone, makes no layout near.
    near = [each for each in near if len(each.columns.keys() & shapes) > 1 or each.columns.keys() <= shapes.keys()]
    nearest = near[0] if near else layouts[0]
    lacking = [spelled.get(name, name) for name in nearest.columns if name not in shapes]
    wrong = _of_another_shape(nearest, shapes)
    if lacking:
        why = f"missing field {lacking[0]!r}"
    elif wrong:
        why = f"field {spelled.get(wrong[0], wrong[0])!r} holds {SHAPES[shapes[wrong[0]]]}, which fits no layout"
    else:
        why = "columns fit no layout"
    near = near[:NEAR] or list(dict.fromkeys((nearest, *by_distance)))[:NEAR]
    every = frozenset((name, shape_of(value)) for name, value in row.items())
    others = [each for each in LAYOUTS if each not in layouts and len(each.columns) > 1 and not _distance(each, every)]
    about = [f"{each.name!r} needs {', '.join(spelled.get(name, name) for name in each.columns)}" for each in near]
    about += [f"{dataset} reads it as {each.name!r}" for each in others for dataset in each.reads]
    columns = ", ".join(sorted(name[:40] for name in row)[:20]) or "no columns"
    return BadRow(why, f"it has {columns}; {'; '.join(about)}")


def sentence(counts: Mapping[str, int], since: Mapping[str, Any], unit: str = "line") -> str:
    """Returns what a file was read as: 'alpaca layout: prompt from `instruction` and `input`, ... (120 records)', with
    the line of the first row of each further layout.

    Args:
        counts: How many records have each layout, by its name.
        since: The line of the first row of each.
        unit: What the numbers count: "line" or "row".
    """
    said, parts = {each.name: each.said for each in LAYOUTS}, []
    for name, count in counts.items():
        many = f"{count:,} record{'s' * (count != 1)}" + (f", from {unit} {since[name]} on" if parts else "")
        parts.append(f"{name} layout: {said[name]} ({many})")
    return "; ".join(parts)


def best_of(fits: Sequence[tuple[str, Layout]]) -> tuple[str, Layout]:
    """Returns the dataset and the layout that rows fit best: of those that most of them fit, or half as many, the
    layout which reads most columns, then the dataset which it fits best.

    Args:
        fits: (dataset, layout) for every row and every dataset that reads it.
    """
    counts = collections.Counter(fits)
    most = max(counts.values())

    def worth(fit: tuple[str, Layout]) -> tuple[int, int, int, int]:
        dataset, layout = fit
        return len(layout.columns), counts[fit], -list(layout.reads).index(dataset), -LAYOUTS.index(layout)

    return max((fit for fit, count in counts.items() if 2 * count >= most), key=worth)
