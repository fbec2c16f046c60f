"""`alignjax data inspect FILE`: what rows of a file are, without a dataset being named: their layout and the dataset
that reads them, some rows as the model will see them, lengths, and what is wrong with them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from alignjax import data, outside
from alignjax.cli import overrides
from alignjax.config import ConfigError, nearest
from alignjax.data.datasets import layouts
from alignjax.data.datasets.chat_files import ChatFile
from alignjax.data.datasets.file_sets import FileSet, file_set
from alignjax.data.datasets.parsed_files import RowParser, Tally, records_of
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.datasets.records import Record
from alignjax.data.datasets.row_files import KINDS, blocks_of, kind_of, rows_of_block
from alignjax.data.datasets.row_layout import Layout
from alignjax.data.datasets.row_summary import RowSummary, marked
from alignjax.data.prepared import Dataset
from alignjax.data.text.tokenizers import load_tokenizer
from alignjax.outside import Unreadable, user_path

FIRST = 100  # rows whose columns tell the layout
DATASETS = (data.Preferences, data.Rankings, data.Thumbs, data.Instructions, data.Prompts)
PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)


def is_rows(what: str) -> bool:
    """Says whether the argument of a command is a path of rows, and no name of a dataset and no config."""
    return ".py" not in what and (user_path(what).exists() or any(mark in what for mark in "/.*:"))


def dataset_of_rows(what: str) -> ChatFile:
    """Returns the dataset that reads a file best. Raises what `look_at` does."""
    return told_reader(what)[0]


def told_reader(what: str) -> tuple[ChatFile, Layout, list[str]]:
    """Returns the dataset that reads a file best, the layout of most of its first rows, and what other datasets read
    it.

    Args:
        what: The path of the file.

    Raises:
        ConfigError: There is no such file, or no row in it.
        DataError: The file is damaged, or its rows fit no layout, or two.
    """
    return _told(what, ())


def check_read_by(what: str, wanted: type[ChatFile]) -> None:
    """Checks that most of the first rows of a file are read by a dataset.

    Args:
        what: The path of the file.
        wanted: The dataset.

    Raises:
        ConfigError: They are not; the message says what they are, which datasets read them, and what this one does.
        DataError: The file is damaged, or its rows fit no layout, or two.
    """
    _, layout, _ = told_reader(what)
    rows, name = _first_rows(what), wanted.__name__
    refused = []
    for row in rows:
        try:
            wanted(path=what, test_fraction=0.0).told(row)
        except BadRow as error:
            refused.append(error)
    if 2 * len(refused) <= len(rows):
        return
    readers = [kind.__name__ for kind in DATASETS if kind.__name__ in layout.reads]
    raise ConfigError(
        f"{what} has the {layout.name} layout ({layout.said}), which {' and '.join(readers)} read"
        f"{'s' * (len(readers) == 1)} and {name} does not: {refused[0]}"
    )


class Look(NamedTuple):
    """A look at the rows of a file, with all that is counted and shown of them.

    Args:
        what: Its path.
        dataset: The dataset that reads it best.
        layout: The layout of most of its first rows.
        others: The names of other datasets that read it.
        notes: What is to be said of its files.
        tally: The count of good and bad rows.
        summary: The count of records.
        shown: The first records.
    """

    what: str
    dataset: ChatFile
    layout: Layout
    others: Sequence[str]
    notes: Sequence[str]
    tally: Tally
    summary: RowSummary
    shown: Sequence[Record]


def look_at(what: str, rows: int, options: Sequence[str]) -> Look:
    """Returns what the rows of a file are.

    Args:
        what: The path of the file.
        rows: How many rows are shown.
        options: Flags of the dataset, and --dataset NAME for another than that which fits best.

    Raises:
        ConfigError: There is no such file, or an option is of no dataset.
        DataError: The file is damaged, or its rows fit no layout, or two.
    """
    dataset, layout, others = _told(what, options)
    files, tally = file_set(what, "what to inspect"), Tally()
    summary, shown = summary_for(dataset), []
    for record in _records(dataset, files, tally):
        summary.add(record)
        shown += [record] if len(shown) < rows else []
    return Look(what, dataset, layout, others, files.notes, tally, summary, shown)


def inspect_rows(what: str, rows: int, options: Sequence[str], console: Console) -> None:
    """Prints what the rows of a file are.

    Args:
        what: As of `look_at`.
        rows: As of `look_at`.
        options: As of `look_at`.
        console: Where it is printed, without markup.

    Raises:
        ConfigError: As of `look_at`.
        DataError: As of `look_at`.
    """
    look = look_at(what, rows, options)
    console.print(f"{look.what}: {look.layout.name} layout: {look.layout.said}")
    also = f"; --dataset {' or '.join(look.others)} reads it too" if look.others else ""
    kind = type(look.dataset).__name__
    console.print(f"read as {kind}: alignjax data prepare {look.dataset.name} --path {look.what}{also}")
    for note in look.notes:
        console.print(note)
    console.print(_table(look.tally, look.summary))
    print_records(look.summary, look.shown, console)


def print_records(summary: RowSummary, shown: Iterable[Record], console: Console) -> None:
    """Prints the lengths of records, and some as the model will see them.

    Args:
        summary: The count of all.
        shown: Those that are shown.
        console: Where they are printed, without markup.
    """
    if summary.records:
        console.print(_lengths(summary))
    for record in shown:
        console.print(_panel(record, summary))


def summary_for(dataset: Dataset) -> RowSummary:
    """Returns an empty count of the records of a dataset, in tokens where its tokenizer is a file, else in bytes."""
    path = dataset.tokenizer if isinstance(dataset.tokenizer, str) else ""
    tokenizer = load_tokenizer(path, **dataset.named_tokens) if path else None
    return RowSummary(tokenizer, (dataset.prefix, dataset.suffix))


def _records(dataset: ChatFile, files: FileSet, tally: Tally) -> Iterator[Record]:
    """The records of files, of which a block at a time is in memory."""
    parser = RowParser(dataset.parse_all, dataset.finisher(), dataset.together)
    for name, path in files.files.items():
        kind, called = kind_of(path), Path(name).name if len(files.files) > 1 else ""
        more = Tally(unit=KINDS[kind].unit)
        yield from records_of(path, blocks_of(path, kind, dataset.columns()), parser, more, called)
        tally.unit = more.unit
        tally.add(more, called)


def _told(what: str, options: Sequence[str]) -> tuple[ChatFile, Layout, list[str]]:
    """(the dataset that reads a file best, the layout of most of its first rows, what other datasets read it)."""
    # Each dataset is asked what it makes of each of the first rows, with the options that it has.
    named = [words[0] for flag, words in overrides.split(options) if flag == "dataset" and words]
    rest = [word for flag, words in overrides.split(options) if flag != "dataset" for word in (f"--{flag}", *words)]
    kinds = {kind.name: kind for kind in DATASETS}
    if named and named[-1] not in kinds:
        raise ConfigError(f"--dataset is {named[-1]!r}.{nearest(named[-1], kinds)}")
    made, refusals = {}, []
    for name, kind in kinds.items():
        if named[-1:] in ([], [name]):
            try:
                made[kind.__name__] = overrides.apply(kind(path=what, test_fraction=0.0), rest)
            except ConfigError as error:
                refusals.append(error)
    if not made:
        raise refusals[0]
    rows = _first_rows(what)
    fits, wrong = [], []
    for row, (name, dataset) in itertools.product(rows, made.items()):
        try:
            fits.append((name, dataset.told(row)[0]))
        except BadRow as error:
            wrong.append(error)
    if not fits:
        raise data.DataError(f"{what}: {_worst(wrong, rows[0], named)}")
    best, layout = layouts.best_of(fits)
    others = {name for name, other in fits if name != best and other is layout}
    return made[best], layout, sorted(made[name].name for name in others)


def _first_rows(what: str) -> list[dict[str, Any]]:
    first = list(itertools.islice(_rows(file_set(what, "what to inspect")), FIRST))
    rows = [row for _, row in first if isinstance(row, dict)]
    if not rows:
        why = next((f": line {number}, {row}" for number, row in first if isinstance(row, Unreadable)), "")
        raise ConfigError(f"{what} holds no rows that are JSON objects{why}")
    return rows


def _worst(wrong: Sequence[BadRow], row: dict[str, Any], named: Sequence[str]) -> BadRow:
    """What is said of rows that no dataset reads: that they fit two layouts, else what layouts of all are near."""
    fatal = next((error for error in wrong if error.fatal), None)
    if fatal or named:
        return fatal or wrong[0]
    every = tuple({each: None for kind in DATASETS for each in layouts.of_dataset(kind.__name__)})
    try:
        layouts.told(row, every, {})
    except BadRow as error:
        return error
    return wrong[0]


def _rows(files: FileSet) -> Iterator[tuple[int, Any]]:
    for path in files.files.values():
        yield from (pair for block in blocks_of(path, kind_of(path)) for pair in rows_of_block(path, block))


def _table(tally: Tally, summary: RowSummary) -> Table:
    table = Table(title="rows", show_header=False, title_justify="left")
    table.add_row("read", f"{tally.read:,} row{'s' * (tally.read != 1)}, {_counted(tally.records)}")
    table.add_row("layouts", layouts.sentence(tally.layouts, tally.since, tally.unit) or "none")
    table.add_row("bad", tally.sentence() or "none")
    many = f"{summary.prompts:,} different"
    many += f"; {summary.conversations:,} of {summary.records:,} records are conversations"
    table.add_row("prompts", many)
    lines = f" (line{'s' * (summary.repeated > 1)} {', '.join(summary.repeats)}"
    lines += ", ...)" if summary.repeated > len(summary.repeats) else ")"
    table.add_row("repeated", f"{_counted(summary.repeated)}{lines if summary.repeated else ''}")
    if summary.echoes:
        table.add_row(
            "echoes", f"{summary.echoes:,} records whose completions begin with the prompt, which is learned too"
        )
    table.add_row("ties", _counted(summary.ties))
    if summary.numbers or summary.texts:
        table.add_row("answers", f"{summary.numbers:,} numbers, {summary.texts:,} texts")
    return table


def _counted(records: int) -> str:
    return f"{records:,} record{'s' * (records != 1)}"


def _lengths(summary: RowSummary) -> Table:
    title = summary.unit + ("" if summary.tokenizer else " (--tokenizer PATH counts tokens)")
    sizes = {"prompt": summary.prompt_lengths, "completion": summary.completion_lengths}
    return percentile_table(title, {name: np.asarray(lengths) for name, lengths in sizes.items() if lengths})


def percentiles(sizes: Any) -> dict[str, int]:
    """Returns lengths at PERCENTILES, by their names.

    Args:
        sizes: The lengths.
    """
    numbers = np.percentile(np.asarray(sizes), PERCENTILES, method="nearest")
    names = ("max" if each == 100 else f"{each} %" for each in PERCENTILES)
    return dict(zip(names, map(int, numbers), strict=True))


def percentile_table(title: str, sizes: Mapping[str, np.ndarray]) -> Table:
    """Returns percentiles of lengths as a table, a line for each name.

    Args:
        title: What lengths are counted in.
        sizes: The lengths by name, at least one each.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for percentile in PERCENTILES:
        table.add_column("max" if percentile == 100 else f"{percentile} %", justify="right")
    for name, lengths in sizes.items():
        table.add_row(name, *(f"{number:,}" for number in percentiles(lengths).values()))
    return table


def _panel(record: Record, summary: RowSummary) -> Panel:
    """A record as the model sees it: what is learned stands in brackets, tokens are parted by |."""
    prompt, completions = summary.pieces(record)
    between = "|" if summary.tokenizer else ""
    body = Text(_clipped(marked(prompt, between), end=True))
    for k, pieces in enumerate(completions):
        score = f", score {record.scores[k]:g}" if k < len(record.scores) else ""
        body.append(f"\n[{k}{score}] ", style="bold green").append(_clipped(marked(pieces, between)))
    if not np.isnan(record.preference):
        body.append(f"\nP([0] beats [1]) = {record.preference:g}, weight {record.weight:g}", style="bold")
    if "answer" in record.meta:
        body.append(f"\nanswer {outside.visible(str(record.meta['answer']))}", style="bold")
    where = f"line {record.meta['line']}" if "line" in record.meta else str(record.meta.get("file", ""))
    return Panel(body, title=Text(outside.visible(where)), title_align="left")


def _clipped(text: str, most: int = 1200, end: bool = False) -> str:
    """A text of at most so many characters, its middle left out: the end of a prompt is where the answer begins."""
    text = outside.visible(text)
    if len(text) <= most:
        return text
    before = most // 2 if end else most - 100
    return f"{text[:before]} [... {len(text) - most:,} more characters ...] {text[before - most :]}"
