"""The flags of `alignjax configs`, as in `flags.py`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg


@dataclasses.dataclass(frozen=True)
class Configs:
    """List the configs that come with alignjax, what they are and their modes. `alignjax train NAME:MODE` runs one.

    Attributes:
        format: Lines for people or JSON for programs.
    """

    runs: ClassVar[str] = "configs.listing"
    format: Literal["table", "json"] = "table"


@dataclasses.dataclass(frozen=True)
class ConfigsCopy:
    """Copy a config that comes with alignjax into this folder, to be edited: from then on its name means the copy.

    Attributes:
        name: Its name, one of those that `alignjax configs` lists.
        to: The copy; NAME.py if not given. A file that exists is left as it is.
    """

    runs: ClassVar[str] = "configs.copy"
    name: Annotated[Positional[str], arg(metavar="NAME")]
    to: Annotated[Path | None, arg(metavar="FILE.py")] = None
