"""Paths as people write them: a ~ is their home folder, which not every process has."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from alignjax.outside.boundary import reason
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


def made_folder(path: str) -> Path:
    """Makes the folder that an option of a command names (`add_argument("--out", type=made_folder)`), while arguments
    are read: what cannot be written is refused before hours of work and not behind them.

    Args:
        path: The folder, which may begin with ~ or be there already.

    Raises:
        argparse.ArgumentTypeError: It cannot be made, or nothing can be written into it.
    """
    try:
        folder = user_path(path)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, ConfigError) as error:
        raise argparse.ArgumentTypeError(f"{path}: {reason(error)}; name a folder that can be written") from error


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
