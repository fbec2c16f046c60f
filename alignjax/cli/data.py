"""The commands `alignjax data prepare` and `alignjax data inspect`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from alignjax import data
from alignjax.cli import overrides
from alignjax.cli.catalogue import summary
from alignjax.cli.config_file import load
from alignjax.cli.flags import Inspect, Prepare
from alignjax.config import ConfigError, nearest, type_name
from alignjax.data import Dataset, show


def prepare(flags: Prepare, options: Sequence[str]) -> int:
    """Prepares datasets, prints their accounts and returns the exit status.

    Args:
        flags: The flags of `alignjax data prepare`; the name of a config file stands for all its datasets.
        options: Flags of the dataset, or overrides of the config.
    """
    for dataset in datasets(flags.what, options):
        show.prepare_and_say(dataset)
    return 0


def inspect(flags: Inspect, options: Sequence[str]) -> int:
    """Prints the account of datasets, their lengths in tokens and some rows, and returns the exit status. They are
    prepared if need be.

    Args:
        flags: The flags of `alignjax data inspect`; the name of a config file stands for all its datasets.
        options: Flags of the dataset, or overrides of the config.
    """
    for dataset in datasets(flags.what, options):
        show.inspect(dataset, flags.split or "", flags.rows, flags.seed)
    return 0


def describe(what: str) -> int:
    """Prints the options of a dataset, or the datasets of a config file: `alignjax data prepare NAME --help`."""
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
    if ".py" not in what:
        raise ConfigError(f"there is no dataset {what!r}.{nearest(what, kinds)} Or name a config file.")
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
