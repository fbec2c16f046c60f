"""`alignjax data prepare` and `alignjax data inspect`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from alignjax import data
from alignjax.cli import overrides
from alignjax.cli.catalogue import summary
from alignjax.cli.config_file import load
from alignjax.config import ConfigError, Experiment, Fn, Pipeline, nearest
from alignjax.data import Dataset, show


def prepare(what: str, options: Sequence[str]) -> int:
    """Prepare the dataset called `what`, or every dataset that the config file `what` names."""
    for dataset in datasets(what, options):
        show.prepare_and_say(dataset)
    return 0


def inspect(what: str, options: Sequence[str], *, split: str | None, rows: int, seed: int) -> int:
    """Show the account of a dataset, its lengths in tokens and some rows; prepare it if need be."""
    for dataset in datasets(what, options):
        show.inspect(dataset, split or "", rows, seed)
    return 0


def describe(what: str) -> int:
    """`alignjax data prepare NAME --help`: the options of a dataset; of a config file, its datasets."""
    there = known()
    if what not in there:
        for dataset in datasets(what):
            print(dataset)
        return 0
    kind = there[what]
    print(f"{what}: {summary(kind)}\n")
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        flag = f"--{field.name.replace('_', '-')}"
        wanted = overrides.type_name(overrides.writable(hints[field.name]))
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        print(f"  {flag:<16}  {wanted:<16}  {'(required)' if needed else repr(field.default)}")
    return 0


def known() -> dict[str, type[Dataset]]:
    """Every public dataset by its name."""
    public = vars(data).values()
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
