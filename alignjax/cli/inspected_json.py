"""`alignjax data inspect --format json`: every figure of the tables, and rows in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.cli.inspect_rows import Look, percentiles
from alignjax.data.datasets.records import Lengths, Record
from alignjax.data.datasets.row_summary import Piece, RowSummary
from alignjax.data.prepared import Dataset, located, read_account, rows_of


def look_as_json(look: Look) -> dict[str, Any]:
    """Returns what the rows of a file are, JSON-able.

    Args:
        look: What `look_at` returned.
    """
    tally = look.tally
    return {
        "what": look.what,
        "layout": look.layout.name,
        "said": look.layout.said,
        "dataset": look.dataset.name,
        "read_too_by": list(look.others),
        "notes": list(look.notes),
        "unit": tally.unit,
        "rows": tally.read,
        "layouts": {name: {"records": n, "first": tally.since[name]} for name, n in tally.layouts.items()},
        "bad_rows": tally.account()["bad_rows"],
        **records_as_json(look.summary, look.shown),
    }


def records_as_json(summary: RowSummary, shown: Iterable[Record]) -> dict[str, Any]:
    """Returns what was counted of records, and some of them, JSON-able.

    Args:
        summary: The count of all.
        shown: Those that are shown.
    """
    sizes = {"prompt": summary.prompt_lengths, "completion": summary.completion_lengths}
    return {
        "records": summary.records,
        "prompts": summary.prompts,
        "conversations": summary.conversations,
        "repeated": {"records": summary.repeated, "first": list(summary.repeats)},
        "echoes": summary.echoes,
        "ties": summary.ties,
        "answers": {"numbers": summary.numbers, "texts": summary.texts},
        "lengths": {"unit": summary.unit, **{name: percentiles(each) for name, each in sizes.items() if each}},
        "shown": [_record(record, summary) for record in shown],
    }


def _record(record: Record, summary: RowSummary) -> dict[str, Any]:
    prompt, completions = summary.pieces(record)
    judged = {"preference": record.preference, "weight": record.weight}
    return {
        **{name: record.meta[name] for name in ("file", "line", "answer") if name in record.meta},
        "prompt": _pieces(prompt),
        "completions": [_pieces(each) for each in completions],
        **({"scores": list(record.scores)} if record.scores else {}),
        **({} if math.isnan(record.preference) else judged),
    }


def _pieces(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    return [piece._asdict() for piece in pieces]


def prepared_as_json(dataset: Dataset, split: str, rows: Iterable[int]) -> dict[str, Any]:
    """Returns the account of a prepared dataset, its lengths in tokens and some of its rows, JSON-able.

    Args:
        dataset: The dataset.
        split: The split whose rows are shown.
        rows: The numbers of those rows.
    """
    account = read_account(located(dataset, None, lambda _: None))
    lengths: dict[str, Any] = {}
    for name in (name for name in dataset.splits if account["rows"].get(name)):
        counted = Lengths(*rows_of(dataset, name)[1].T)
        lengths[name] = {"prompt": percentiles(counted.prompt)}
        lengths[name] |= {"completion": percentiles(counted.longest)} if counted.completions.any() else {}
    records, _ = rows_of(dataset, split)
    return {"what": dataset.name, "account": account, "lengths": {"unit": "tokens", **lengths}, "split": split} | {
        "shown": [{"row": number, **_row(records[number])} for number in rows]
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A prepared row as JSON: texts as texts, arrays as lists, what is not a number not at all."""
    plain: dict[str, Any] = {}
    for name, value in row.items():
        made = value.decode() if isinstance(value, bytes) else np.asarray(value).tolist()
        made = [each.decode() if isinstance(each, bytes) else each for each in made] if isinstance(made, list) else made
        if not (isinstance(made, float) and math.isnan(made)):
            plain[name] = made
    return plain
