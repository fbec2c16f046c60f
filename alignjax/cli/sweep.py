"""`alignjax sweep` prints the command lines of a sweep, for a person to read and a shell to run, or plays a game's
grid.

A config file with a GRID is run as one compiled program (`cli/game_grid.py`). Another sweep file defines CONFIG and a
generator of overrides:

    CONFIG = "configs/online_ipo.py:tiny"

    def sweep():
        for seed in range(3):
            yield {"seed": seed, "algorithm.losses.ipo.tau": 0.1}
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignjax.cli import overrides
from alignjax.cli.config_file import imported, load
from alignjax.cli.flags import Sweep
from alignjax.config import ConfigError


def sweep(flags: Sweep) -> int:
    """Prints one `alignjax train` line per point, once every point has been checked against the config; runs a GRID.

    Args:
        flags: The flags of `alignjax sweep`.

    Returns:
        The exit status.

    Raises:
        ConfigError: the file has neither CONFIG and sweep() nor GRID, or a point does not fit the config.
    """
    # All lines are collected before the first is printed, so that a shell never runs half of a wrong sweep.
    file, run_dir = flags.file, flags.run_dir
    if not file.is_file():
        raise ConfigError(f"no such sweep file: {file}")
    module = imported(file)
    if hasattr(module, "GRID"):
        from alignjax.cli.game_grid import grid  # noqa: PLC0415

        return grid(file, module, run_dir)
    where, points = getattr(module, "CONFIG", None), getattr(module, "sweep", None)
    if not isinstance(where, str) or not callable(points):
        raise ConfigError(f"{file} must define CONFIG, a path with a mode, and sweep(), a generator of {{path: value}}")
    config = load(where).config
    lines: dict[str, str] = {}
    generated: Any = points()
    for point in generated:
        arguments = words(point)
        overrides.apply(config, arguments)
        parts = (f"{path.rsplit('.', 1)[-1]}={'_'.join(overrides.as_words(value))}" for path, value in point.items())
        name = ",".join(parts) or "default"
        if name in lines:
            raise ConfigError(f"{file} yields two points called {name!r}")
        folder = (run_dir or Path("runs") / file.stem) / name.replace("/", "_")
        lines[name] = shlex.join(["alignjax", "train", where, "--run-dir", str(folder), *arguments])
    print("\n".join(lines.values()))
    return 0


def words(point: Mapping[str, Any]) -> list[str]:
    """Writes {"a.b": 0.1} as ["--a.b", "0.1"]."""
    return [word for path, value in point.items() for word in (f"--{path}", *overrides.as_words(value))]
