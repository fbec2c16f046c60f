"""`alignjax sweep`: the lines of a sweep, for a person to read and a shell to run; or, for a game, the sweep itself.

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
from alignjax.config import ConfigError


def sweep(file: Path, run_dir: Path | None) -> int:
    """Print one `alignjax train` line per point, after every point has been checked against the config; run a GRID.

    Raises ConfigError for a file without CONFIG or sweep(), and for a point that does not fit.
    """
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
    found: Any = points()
    for point in found:
        arguments = words(point)
        overrides.apply(config, arguments)
        name = (
            ",".join(
                f"{path.rsplit('.', 1)[-1]}={'_'.join(overrides.as_words(value))}" for path, value in point.items()
            )
            or "default"
        )
        if name in lines:
            raise ConfigError(f"{file} yields two points called {name!r}")
        folder = (run_dir or Path("runs") / file.stem) / name.replace("/", "_")
        lines[name] = shlex.join(["alignjax", "train", where, "--run-dir", str(folder), *arguments])
    print("\n".join(lines.values()))
    return 0


def words(point: Mapping[str, Any]) -> list[str]:
    """{"a.b": 0.1} as ["--a.b", "0.1"]."""
    found: list[str] = []
    for path, value in point.items():
        found += [f"--{path}", *overrides.as_words(value)]
    return found
