"""The commands `alignjax data prepare` and `alignjax data inspect`."""

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
    """Prepares datasets and prints their accounts.

    Args:
        what: The name of a dataset, or a config file, whose datasets are all prepared.
        options: Flags of the dataset, or overrides of the config.

    Returns:
        The exit status.
    """
    for dataset in datasets(what, options):
        show.prepare_and_say(dataset)
    return 0


def inspect(what: str, options: Sequence[str], *, split: str | None, rows: int, seed: int) -> int:
    """Prints the account of a dataset, its lengths in tokens and some rows; prepares it if need be.

    Args:
        what: The name of a dataset, or a config file, whose datasets are all shown.
        options: Flags of the dataset, or overrides of the config.
        split: The split whose rows are shown; the first one by default.
        rows: How many rows are shown.
        seed: Decides which ones.

    Returns:
        The exit status.
    """
    for dataset in datasets(what, options):
        show.inspect(dataset, split or "", rows, seed)
    return 0


def describe(what: str) -> int:
    """Prints the options of a dataset, or the datasets of a config file: `alignjax data prepare NAME --help`."""
    kind = known().get(what)
    if kind is None:
        for dataset in datasets(what):
            print(dataset)
        return 0
    print(f"{what}: {summary(kind)}\n")
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        flag = f"--{field.name.replace('_', '-')}"
        wanted = overrides.type_name(overrides.writable(hints[field.name]))
        print(f"  {flag:<16}  {wanted:<16}  {'(required)' if _is_required(field) else repr(field.default)}")
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
    if ".py" not in what:
        raise ConfigError(f"there is no dataset {what!r}.{nearest(what, kinds)} Or name a config file.")
    named = list(dict.fromkeys(_in(load(what, options).config)))
    if not named:
        raise ConfigError(f"{what} names no dataset")
    return named


def _with_options(kind: type[Dataset], arguments: Sequence[str]) -> Dataset:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for flag, words in overrides.split(arguments):
        name = flag.replace("-", "_")
        if name not in fields:
            options = [field.replace("_", "-") for field in fields]
            raise ConfigError(f"the dataset {kind.name!r} has no option --{flag}.{nearest(flag, options)}")
        values[name] = overrides.parse(flag, words, overrides.writable(hints[name]))
    missing = [f"--{name}" for name, field in fields.items() if _is_required(field) and name not in values]
    if missing:
        raise ConfigError(f"the dataset {kind.name!r} needs {', '.join(missing)}")
    return kind(**values)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


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
