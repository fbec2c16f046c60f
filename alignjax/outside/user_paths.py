"""Paths as people write them: a ~ is their home folder, which not every process has."""

from __future__ import annotations

import os
from pathlib import Path

from alignjax.outside.errors import ConfigError


def user_path(path: Path | str) -> Path:
    """Returns a path with its ~ written out.

    Args:
        path: The path, which may begin with ~ or ~name.

    Raises:
        ConfigError: Nobody knows where that home is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # no HOME, and no entry in the table of users
        raise ConfigError(f"{path}: there is no such home folder; set HOME, or write the path without ~") from error


def cache_root(variable: str = "ALIGNJAX_CACHE", default: str = "~/.cache/alignjax/data") -> Path:
    """Returns the folder that an environment variable names, else the default.

    Args:
        variable: The name of the variable.
        default: The folder without it.

    Raises:
        ConfigError: The default is below a home folder and there is none.
    """
    if named := os.environ.get(variable):
        return user_path(named)
    try:
        return user_path(default)
    except ConfigError as error:
        raise ConfigError(f"{error}, or name a folder in {variable}") from error
