"""`alignjax data prepare` and `alignjax data inspect`."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from alignjax import data, overrides
from alignjax.commands.load import load
from alignjax.config import ConfigError, Experiment, Fn, Pipeline, nearest
from alignjax.data import Dataset
from alignjax.data.prepared import read_account, rows_of


def prepare(what: str, options: Sequence[str]) -> int:
    """Prepare the dataset called `what`, or every dataset that the config file `what` names."""
    for dataset in datasets(what, options):
        dataset.prepare()
    return 0


def inspect(what: str, options: Sequence[str], *, split: str | None, rows: int) -> int:
    """Print where a dataset lies, its account, its lengths in tokens and its first rows; prepare it if need be."""
    for dataset in datasets(what, options):
        dataset.prepare()
        chosen = split or dataset.splits[0]
        found, lengths = rows_of(dataset, chosen)
        _account(read_account(dataset.folder))
        print(f"\n{dataset.name}/{chosen}: {len(lengths):,} rows; tokens, special ones and the frame not counted:")
        for name, values in (("prompt", lengths[:, 0]), ("longest completion", lengths[:, 1])):
            marks = np.percentile(values, (50, 90, 99, 100)).astype(int)
            print(f"  {name:<18}  median {marks[0]:,}, 90 % {marks[1]:,}, 99 % {marks[2]:,}, most {marks[3]:,}")
        for number in range(min(rows, len(lengths))):
            _row(number, found[number])
    return 0


def known() -> dict[str, type[Dataset]]:
    """Every public dataset by its name."""
    public = (getattr(data, name) for name in data.__all__)
    return {
        one.name: one for one in public if isinstance(one, type) and issubclass(one, Dataset) and one is not Dataset
    }


def datasets(what: str, options: Sequence[str] = ()) -> list[Dataset]:
    """The dataset called `what` with its options, or the datasets that a config file names.

    Raises ConfigError for a name that is neither, an option that the dataset does not have, and one that it needs.
    """
    there = known()
    if what in there:
        return [_made(there[what], options)]
    if ".py" not in what:
        raise ConfigError(f"there is no dataset {what!r}.{nearest(what, there)} Or name a config file.")
    loaded = load(what, options)
    found = list(dict.fromkeys(_in(loaded.config)))
    if not found:
        raise ConfigError(f"{what} names no dataset")
    return found


def _made(kind: type[Dataset], arguments: Sequence[str]) -> Dataset:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    for flag, words in overrides.split(arguments):
        name = flag.replace("-", "_")
        if name not in fields:
            options = [field.replace("_", "-") for field in fields]
            raise ConfigError(f"the dataset {kind.name!r} has no option --{flag}.{nearest(flag, options)}")
        given[name] = overrides.parse(flag, words, overrides.writable(hints[name]))
    missing = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and name not in given
    ]
    if missing:
        raise ConfigError(f"the dataset {kind.name!r} needs {', '.join(f'--{name}' for name in missing)}")
    return kind(**given)


def _in(config: Any) -> Iterator[Dataset]:
    """Datasets anywhere in a config, in its order."""
    if isinstance(config, Dataset):
        yield config
    elif isinstance(config, Pipeline):
        for step in config.steps.values():
            yield from _in(step)
    elif isinstance(config, Experiment):
        yield from _in(config.source)
    elif isinstance(config, Fn):
        for value in config.kwargs.values():
            yield from _in(value)
    elif isinstance(config, tuple):
        for value in config:
            yield from _in(value)


def _account(account: dict[str, Any]) -> None:
    for name, value in account.items():
        if (isinstance(value, dict) and len(value) > 12) or isinstance(value, list):
            value = f"{len(value)} entries"
        text = str(value)
        print(f"{name}: {text if len(text) <= 300 else f'{text[:297]}...'}")


def _row(number: int, row: Any) -> None:
    print(f"\n--- row {number} (example_id {int(row['example_id'])}, {len(row['prompt_tokens'])} tokens)")
    print(_text(row["prompt"]))
    for index, completion in enumerate(row["completions"]):
        score = f", score {float(row['scores'][index]):g}" if index < len(row["scores"]) else ""
        print(f"--- completion {index} ({int(row['completion_lengths'][index])} tokens{score})")
        print(_text(completion))
    with contextlib.suppress(KeyError, TypeError, ValueError):
        if not np.isnan(row["preference"]):
            print(f"--- P(completion 0 is better) = {float(row['preference']):g}")


def _text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= 1500 else f"{text[:1500]} [...]"
