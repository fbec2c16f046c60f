"""Views of a dataset for people: the account, token lengths and a few rows. Behind `alignjax data`."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from alignjax.data.datasets.records import SCHEMAS, completions_of
from alignjax.data.prepared import Dataset, located, read_account, rows_of, tokenizer_in

PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)


def prepare_and_say(dataset: Dataset, console: Console | None = None) -> dict[str, Any]:
    """Prepares a dataset and prints its account, for `alignjax data prepare`.

    Args:
        dataset: The dataset.
        console: Where it is printed (default: standard output).

    Returns:
        The account.
    """
    console = console or Console()
    account = dataset.prepare(report=lambda line: console.print(line, markup=False, highlight=False))
    console.print(summary_table(dataset, account))
    return account


def inspect(dataset: Dataset, split: str = "", rows: int = 3, seed: int = 0, console: Console | None = None) -> None:
    """Prints schema, counts, length percentiles in tokens, and some rows drawn evenly, for `alignjax data inspect`.

    Args:
        dataset: The dataset; it is prepared if need be.
        split: The split whose rows are shown; "" for the first.
        rows: How many rows are shown.
        seed: Decides which ones.
        console: Where to print; the terminal by default.
    """
    console = console or Console()
    folder = located(dataset, None, lambda line: console.print(line, markup=False, highlight=False))
    console.print(summary_table(dataset, read_account(folder)))
    counts = read_account(folder)["rows"]
    console.print(length_table(dataset, [name for name in dataset.splits if counts.get(name)]))
    split = split or dataset.splits[0]
    records, lengths = rows_of(dataset, split)
    tokenizer = tokenizer_in(folder)
    for number in map(int, np.random.default_rng(seed).permutation(len(lengths))[:rows]):
        row = records[number]
        console.print(_row_panel(dataset, split, number, row))
        pieces = [tokenizer.decode([token]) for token in row["prompt_tokens"][:24]]
        console.print(Text("first tokens  ", style="dim") + Text("|".join(pieces).replace("\n", "\\n"), style="cyan"))


def summary_table(dataset: Dataset, account: dict[str, Any]) -> Table:
    """Returns the account of a preparation as a table, one line per thing.

    Args:
        dataset: The dataset.
        account: What its preparation returned.
    """
    table = Table(title=f"{dataset.name}: {SCHEMAS[dataset.schema]}", show_header=False, title_justify="left")
    table.add_row("rows", ", ".join(f"{count:,} {split}" for split, count in account["rows"].items()))
    if "packages" in account:
        table.add_row("packages", ", ".join(f"{len(names)} {split}" for split, names in account["packages"].items()))
        table.add_row("largest", ", ".join(f"{name} {n:,}" for name, n in account["largest_packages"].items()))
        left_out = (f"{account[key]:,} {key.replace('_', ' ')}" for key in ("repeated", "generated", "over_share"))
        table.add_row("left out", ", ".join(left_out))
    for path, file in account.get("files", {}).items():
        bad = [f"{rows['count']} {why} ({_lines(rows)})" for why, rows in file["bad_rows"].items()]
        table.add_row(Text(path), Text(f"{file['read']:,} read; bad: {'; '.join(bad) or 'none'}"))
    special = ", ".join(f"{name} {number}" for name, number in account["special"].items())
    table.add_row("vocabulary", f"{account['vocab_size']:,} tokens ({special})")
    table.add_row("frame", Text(repr(dataset.prefix) + " post " + repr(dataset.suffix)))
    table.add_row("prepared in", f"{account['seconds']:.1f} s")
    table.add_row("folder", Text(account["folder"], overflow="fold"))
    return table


def _lines(bad: dict[str, Any]) -> str:
    more = ", ..." if bad["count"] > len(bad["first"]) else ""
    return f"lines {', '.join(map(str, bad['first']))}{more}"


def length_table(dataset: Dataset, splits: list[str]) -> Table:
    """Returns percentiles of tokens per prompt and per longest completion, special tokens and frame not counted.

    Args:
        dataset: A prepared dataset.
        splits: The splits to show.
    """
    table = Table(title="tokens", title_justify="left")
    table.add_column("")
    for percentile in PERCENTILES:
        table.add_column("max" if percentile == 100 else f"{percentile} %", justify="right")
    for split in splits:
        _, lengths = rows_of(dataset, split)
        for column, what in enumerate(("prompt", "completion")):
            if column == 0 or lengths[:, 2].any():
                numbers = np.percentile(lengths[:, column], PERCENTILES, method="nearest")
                table.add_row(f"{split} {what}", *(f"{int(number):,}" for number in numbers))
    return table


def _row_panel(dataset: Dataset, split: str, number: int, row: dict[str, Any]) -> Panel:
    prefix, suffix = (Text(text, style="dim") for text in (dataset.prefix, dataset.suffix))
    body = prefix + Text(_clipped(row["prompt"].decode())) + suffix
    for k, text in enumerate(row["completions"]):
        score = f", score {row['scores'][k]:g}" if len(row["scores"]) else ""
        body += Text(f"\n[{k}{score}] ", style="bold green") + Text(_clipped(text.decode()))
    if not math.isnan(row["preference"]):
        body += Text(f"\nP([0] beats [1]) = {row['preference']:.3f}, weight {row['weight']:g}", style="bold")
    if not math.isnan(row["answer"]):
        body += Text(f"\nanswer {row['answer']:g}", style="bold")
    meta = ", ".join(f"{key} {value}" for key, value in json.loads(row["meta"]).items())
    title = f"{split} row {number}, {len(row['prompt_tokens'])} + {[len(c) for c in completions_of(row)]} tokens"
    return Panel(body, title=Text(title), subtitle=Text(meta), title_align="left", subtitle_align="right")


def _clipped(text: str, most: int = 1200) -> str:
    return text if len(text) <= most else f"{text[:most]} [... {len(text) - most:,} more characters]"
