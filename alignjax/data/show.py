"""What is in a dataset, for people: the account, token lengths and a few rows. Behind `alignjax data`."""

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
    """`alignjax data prepare`: makes the files if they are not there, and says what there is."""
    console = console or Console()
    account = dataset.prepare(report=lambda line: console.print(line, markup=False, highlight=False))
    console.print(summary_table(dataset, account))
    return account


def inspect(dataset: Dataset, split: str = "", rows: int = 3, seed: int = 0, console: Console | None = None) -> None:
    """`alignjax data inspect`: schema, counts, length percentiles in tokens, and some rows drawn evenly."""
    console = console or Console()
    folder = located(dataset, None, lambda line: console.print(line, markup=False, highlight=False))
    console.print(summary_table(dataset, read_account(folder)))
    counts = read_account(folder)["rows"]
    console.print(length_table(dataset, [name for name in dataset.splits if counts.get(name)]))
    split = split or dataset.splits[0]
    found, lengths = rows_of(dataset, split)
    tokenizer = tokenizer_in(folder)
    for place in np.random.default_rng(seed).permutation(len(lengths))[:rows]:
        row = found[int(place)]
        console.print(_row_panel(dataset, split, int(place), row))
        pieces = [tokenizer.decode([token]) for token in row["prompt_tokens"][:24]]
        console.print(Text("first tokens  ", style="dim") + Text("|".join(pieces).replace("\n", "\\n"), style="cyan"))


def summary_table(dataset: Dataset, account: dict[str, Any]) -> Table:
    """The account of a preparation, one line per thing."""
    table = Table(title=f"{dataset.name}: {SCHEMAS[dataset.schema]}", show_header=False, title_justify="left")
    table.add_row("rows", ", ".join(f"{count:,} {split}" for split, count in account["rows"].items()))
    if "packages" in account:
        table.add_row("packages", ", ".join(f"{len(found)} {split}" for split, found in account["packages"].items()))
        table.add_row("largest", ", ".join(f"{name} {n:,}" for name, n in account["largest_packages"].items()))
        left_out = (f"{account[key]:,} {key.replace('_', ' ')}" for key in ("repeated", "generated", "over_share"))
        table.add_row("left out", ", ".join(left_out))
    for path, found in account.get("files", {}).items():
        bad = [f"{n['count']} {why} ({_lines(n)})" for why, n in found["bad_rows"].items()]
        table.add_row(Text(path), Text(f"{found['read']:,} read; bad: {'; '.join(bad) or 'none'}"))
    special = ", ".join(f"{name} {number}" for name, number in account["special"].items())
    table.add_row("vocabulary", f"{account['vocab_size']:,} tokens ({special})")
    table.add_row("frame", Text(repr(dataset.prefix) + " post " + repr(dataset.suffix)))
    table.add_row("prepared in", f"{account['seconds']:.1f} s")
    table.add_row("folder", Text(account["folder"], overflow="fold"))
    return table


def _lines(found: dict[str, Any]) -> str:
    more = ", ..." if found["count"] > len(found["first"]) else ""
    return f"lines {', '.join(map(str, found['first']))}{more}"


def length_table(dataset: Dataset, splits: list[str]) -> Table:
    """Percentiles of tokens per prompt and per longest completion, special tokens and frame not counted."""
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


def _row_panel(dataset: Dataset, split: str, place: int, row: dict[str, Any]) -> Panel:
    texts = [text.decode() for text in row["completions"]]
    body = (
        Text(dataset.prefix, style="dim") + Text(_clipped(row["prompt"].decode())) + Text(dataset.suffix, style="dim")
    )
    for number, text in enumerate(texts):
        score = f", score {row['scores'][number]:g}" if len(row["scores"]) else ""
        mark = f"\n[{number}{score}] "
        body += Text(mark, style="bold green") + Text(_clipped(text))
    if not math.isnan(row["preference"]):
        body += Text(f"\nP([0] beats [1]) = {row['preference']:.3f}, weight {row['weight']:g}", style="bold")
    if not math.isnan(row["answer"]):
        body += Text(f"\nanswer {row['answer']:g}", style="bold")
    meta = ", ".join(f"{key} {value}" for key, value in json.loads(row["meta"]).items())
    title = f"{split} row {place}, {len(row['prompt_tokens'])} + {[len(c) for c in completions_of(row)]} tokens"
    return Panel(body, title=Text(title), subtitle=Text(meta), title_align="left", subtitle_align="right")


def _clipped(text: str, most: int = 1200) -> str:
    return text if len(text) <= most else f"{text[:most]} [... {len(text) - most:,} more characters]"
