"""The words of `alignjax data prepare` and `alignjax data inspect`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Read a data set, write it as array_record, and say how many rows came from where and which were refused.
    Further flags are options of the data set, for example --vocab-size 8192; NAME --help lists them."""

    what: Annotated[Positional[str], arg(metavar="NAME|CONFIG[:MODE]")]
    """Name of a data set (docstrings, aeslc, preferences, ...), or a config file: every data set that it names."""

    def __call__(self, extra: Sequence[str]) -> int:
        from alignjax.commands.data import prepare  # noqa: PLC0415

        return prepare(self.what, extra)

    @staticmethod
    def about(what: str) -> int:
        from alignjax.commands.data import describe  # noqa: PLC0415

        return describe(what)


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Show the account of a data set, its lengths in tokens and a few rows; prepare it if need be.
    Further flags are options of the data set, for example --vocab-size 8192; NAME --help lists them."""

    what: Annotated[Positional[str], arg(metavar="NAME|CONFIG[:MODE]")]
    """Name of a data set (docstrings, aeslc, preferences, ...), or a config file: every data set that it names."""
    split: Annotated[str | None, arg(metavar="SPLIT")] = None
    """Which split; the first if not given."""
    rows: int = 3
    """Rows to show, drawn evenly."""
    seed: int = 0
    """Seed of the draw."""

    def __call__(self, extra: Sequence[str]) -> int:
        from alignjax.commands.data import inspect  # noqa: PLC0415

        return inspect(self.what, extra, split=self.split, rows=self.rows, seed=self.seed)

    about = Prepare.about
