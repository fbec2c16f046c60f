"""The commands `alignjax data prepare` and `alignjax data inspect`, and what they show of a dataset: its account, token
lengths and a few rows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from alignjax import data, outside
from alignjax.cli import overrides
from alignjax.cli.catalogue import summary
from alignjax.cli.config_file import load
from alignjax.cli.flags import Inspect, Prepare
from alignjax.cli.inspect_rows import (
    dataset_of_rows,
    inspect_rows,
    is_rows,
    look_at,
    percentile_table,
    print_records,
    summary_for,
)
from alignjax.cli.inspected_json import look_as_json, prepared_as_json, records_as_json
from alignjax.config import ConfigError, nearest, type_name
from alignjax.data.datasets.records import SCHEMAS, Lengths, Record, completions_of
from alignjax.data.datasets.row_summary import RowSummary
from alignjax.data.prepared import Dataset, Report, is_prepared, located, read_account, rows_of, tokenizer_in


def prepare(flags: Prepare, options: Sequence[str]) -> int:
    """Prepares datasets, prints their accounts and returns the exit status.

    Args:
        flags: The flags of `alignjax data prepare`; the name of a config file stands for all its datasets.
        options: Flags of the dataset, or overrides of the config.
    """
    for dataset in datasets(flags.what, options):
        show_account(dataset, outside.console())
    return 0


def inspect(flags: Inspect, options: Sequence[str]) -> int:
    """Prints the account of datasets, their lengths in tokens and some rows, and returns the exit status. They are
    prepared if need be, but for those that take long, of which a sample is shown; a file of rows is read and not
    prepared.

    Args:
        flags: The flags of `alignjax data inspect`; the name of a config file stands for all its datasets.
        options: Flags of the dataset, or overrides of the config.
    """
    of_file = flags.what not in known() and is_rows(flags.what)
    if flags.format == "json":
        if of_file:
            said = [look_as_json(look_at(flags.what, flags.rows, options))]
        else:
            said = [_as_json(each, flags) for each in datasets(flags.what, options)]
        print(json.dumps(said, indent=2, allow_nan=False))
        return 0
    console = outside.console()
    if of_file:
        inspect_rows(flags.what, flags.rows, options, console)
        return 0
    for dataset in datasets(flags.what, options):
        sample = _sample(dataset, flags.split, console.print)
        if sample is None:
            show_rows(dataset, flags.split or dataset.splits[0], flags.rows, flags.seed, console)
        else:
            records, sentence = sample
            console.print(f"{dataset.name}: {sentence}; alignjax data prepare {dataset.name} reads all")
            print_records(*_counted(dataset, records, flags.rows, flags.seed), console)
    return 0


def _as_json(dataset: Dataset, flags: Inspect) -> dict[str, Any]:
    report = outside.console(stderr=True).print
    sample = _sample(dataset, flags.split, report)
    if sample is not None:
        records, sentence = sample
        counted = records_as_json(*_counted(dataset, records, flags.rows, flags.seed))
        return {"what": dataset.name, "sample": sentence, **counted}
    located(dataset, None, report)
    split = flags.split or dataset.splits[0]
    _, lengths = rows_of(dataset, split)
    return prepared_as_json(dataset, split, _drawn(len(lengths), flags.rows, flags.seed))


def _sample(dataset: Dataset, split: str | None, report: Report) -> tuple[Sequence[Record], str] | None:
    """Some records of a dataset that is not prepared and takes long to be, and what they are in words; None where all
    of it is shown."""
    return None if split or is_prepared(dataset.folder) else dataset.sample(report)


def _counted(dataset: Dataset, records: Sequence[Record], rows: int, seed: int) -> tuple[RowSummary, list[Record]]:
    """The count of records, and some of them drawn evenly."""
    counted = summary_for(dataset)
    for record in records:
        counted.add(record)
    return counted, [records[number] for number in _drawn(len(records), rows, seed)]


def _drawn(count: int, rows: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(count)[:rows].tolist()


def describe(what: str) -> int:
    """Prints the options of a dataset, or the datasets of a config file: `alignjax data prepare NAME --help`."""
    what = dataset_of_rows(what).name if what not in known() and is_rows(what) else what
    kind = known().get(what)
    if kind is None:
        for dataset in datasets(what):
            print(dataset)
        return 0
    print(f"{what}: {summary(kind)}\n")
    needed = _required(kind)
    for slot in overrides.slots(kind(**needed)):
        flag, wanted = f"--{slot.path.replace('_', '-')}", type_name(slot.annotation)
        print(f"  {flag:<16}  {wanted:<16}  {'(required)' if slot.path in needed else repr(slot.value)}")
    return 0


def known() -> dict[str, type[Dataset]]:
    """Returns every public dataset by its name."""
    kinds = [value for value in vars(data).values() if isinstance(value, type) and issubclass(value, Dataset)]
    return {kind.name: kind for kind in kinds if kind is not Dataset}


def datasets(what: str, options: Sequence[str] = ()) -> list[Dataset]:
    """Returns the dataset called `what` with its options, or the datasets that a config file names.

    Args:
        what: The name of a dataset, or a config file.
        options: Flags of the dataset, or overrides of the config.

    Raises:
        ConfigError: The name is neither, or an option is unknown or missing.
    """
    kinds = known()
    if what in kinds:
        return [_with_options(kinds[what], options)]
    if is_rows(what):
        raise ConfigError(
            f"{what} is no name of a dataset: alignjax data prepare NAME --path {what}, where alignjax data inspect "
            f"{what} says which NAME reads it"
        )
    if ".py" not in what:
        raise ConfigError(
            f"there is no dataset {what!r}.{nearest(what, kinds)} Or name a config file, or to inspect a file of rows."
        )
    named = list(dict.fromkeys(_datasets_in(load(what, options).config)))
    if not named:
        raise ConfigError(f"{what} names no dataset")
    return named


def _with_options(kind: type[Dataset], arguments: Sequence[str]) -> Dataset:
    """The dataset with its options, which are overrides of what it is without them."""
    needed = _required(kind)
    missing = [f"--{name}" for name in needed if name not in {flag for flag, _ in overrides.split(arguments)}]
    if missing:
        raise ConfigError(f"the dataset {kind.name!r} needs {', '.join(missing)}")
    return overrides.apply(kind(**needed), arguments)


def _required(kind: type[Dataset]) -> dict[str, Any]:
    """The options that have no default, all of them paths, each with an empty one."""
    return {field.name: "" for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}


def _datasets_in(node: Any) -> Iterator[Dataset]:
    """Yields the datasets anywhere in a config, in its order."""
    if isinstance(node, Dataset):
        yield node
        return
    for value, _ in overrides.children(node).values():
        yield from _datasets_in(value)


# ------------------------------------------------------------------------------------------------------- what is shown


def show_account(dataset: Dataset, console: Console) -> None:
    """Prepares a dataset and prints its account.

    Args:
        dataset: The dataset.
        console: Where it is printed, without markup.
    """
    console.print(summary_table(dataset, dataset.prepare(report=console.print)))


def show_rows(dataset: Dataset, split: str, rows: int, seed: int, console: Console) -> None:
    """Prints schema, counts, length percentiles in tokens, and some rows drawn evenly.

    Args:
        dataset: The dataset; it is prepared if need be.
        split: The split whose rows are shown.
        rows: How many rows are shown.
        seed: Decides which ones.
        console: Where it is printed, without markup.
    """
    folder = located(dataset, None, console.print)
    account = read_account(folder)
    console.print(summary_table(dataset, account))
    console.print(length_table(dataset, [name for name in dataset.splits if account["rows"].get(name)]))
    records, lengths = rows_of(dataset, split)
    tokenizer = tokenizer_in(folder)
    for number in _drawn(len(lengths), rows, seed):
        row = records[number]
        console.print(_row_panel(dataset, split, number, row))
        pieces = [tokenizer.decode([token]) for token in row["prompt_tokens"][:24]]
        console.print(
            Text("first tokens  ", style="dim")
            + Text(outside.visible("|".join(pieces)).replace("\n", "\\n"), style="cyan")
        )


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
        told = ", ".join(f"{count:,} as {layout}" for layout, count in file.get("layouts", {}).items())
        table.add_row(path, f"{file['read']:,} read{told and f' ({told})'}; bad: {'; '.join(bad) or 'none'}")
    special = ", ".join(f"{name} {number}" for name, number in account["special"].items())
    table.add_row("vocabulary", f"{account['vocab_size']:,} tokens ({special})")
    table.add_row("frame", f"{dataset.prefix!r} post {dataset.suffix!r}")
    table.add_row("prepared in", f"{account['seconds']:.1f} s")
    table.add_row("folder", Text(account["folder"], overflow="fold"))
    return table


def _lines(bad: dict[str, Any]) -> str:
    more = ", ..." if bad["count"] > len(bad["first"]) else ""
    return f"lines {', '.join(map(str, bad['first']))}{more}"


def length_table(dataset: Dataset, splits: list[str]) -> Table:
    """Returns percentiles of tokens per prompt and per longest completion, special tokens and frame not counted.

    Args:
        dataset: The dataset.
        splits: The splits that have a row each.
    """
    sizes = {}
    for split in splits:
        lengths = Lengths(*rows_of(dataset, split)[1].T)
        sizes[f"{split} prompt"] = lengths.prompt
        if lengths.completions.any():
            sizes[f"{split} completion"] = lengths.longest
    return percentile_table("tokens", sizes)


def _row_panel(dataset: Dataset, split: str, number: int, row: dict[str, Any]) -> Panel:
    prefix, suffix = (Text(text, style="dim") for text in map(outside.visible, (dataset.prefix, dataset.suffix)))
    body = prefix + Text(_clipped(row["prompt"].decode())) + suffix
    for k, text in enumerate(row["completions"]):
        score = f", score {row['scores'][k]:g}" if len(row["scores"]) else ""
        body.append(f"\n[{k}{score}] ", style="bold green").append(_clipped(text.decode()))
    if not math.isnan(row["preference"]):
        body.append(f"\nP([0] beats [1]) = {row['preference']:.3f}, weight {row['weight']:g}", style="bold")
    if not math.isnan(row["answer"]):
        body.append(f"\nanswer {row['answer']:g}", style="bold")
    meta = ", ".join(f"{key} {value}" for key, value in json.loads(row["meta"]).items())
    title = (
        f"{split} row {number}, {len(row['prompt_tokens'])} + {[len(each.ids) for each in completions_of(row)]} tokens"
    )
    return Panel(
        body, title=Text(title), subtitle=Text(outside.visible(meta)), title_align="left", subtitle_align="right"
    )


def _clipped(text: str, most: int = 1200) -> str:
    text = outside.visible(text)
    return text if len(text) <= most else f"{text[:most]} [... {len(text) - most:,} more characters]"
