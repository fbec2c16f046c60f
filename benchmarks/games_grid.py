"""A grid of hyper-parameters and seeds on a game: one compiled program against Python loops over the same runs.

    python -m benchmarks.games_grid      # 20 x 20 points of (tau, beta), 10 seeds, 500 steps; a minute on CPU

The three ways are timed one after the other in one process. Of the loops `--runs` runs are taken and the total is that
times the number of runs; the grid is timed whole.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from alignjax import games
from alignjax.cli.config_file import imported, load
from alignjax.cli.game_grid import at, points_of
from alignjax.games import compiled_runs


def timed(function: Callable[[], Any]) -> np.ndarray:
    """Seconds of wall clock, and of this process's CPU time, which other processes disturb less."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(function())
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/games.py:ipo_md")
    parser.add_argument("--runs", type=int, default=100, help="runs of the jitted loop that are timed")
    parser.add_argument("--compiled-runs", type=int, default=3, help="runs of the loop that compiles each time")
    options = parser.parse_args()

    loaded = load(options.config)
    config, module = loaded.config, imported(loaded.path)
    points = [at(config, point) for point in points_of(module.GRID)]
    batch = config.source(None, 0)[0]
    seeds = range(module.SEEDS)
    total = len(points) * len(seeds)
    # A run of one step first, so that nobody pays for what is compiled once in a process (small programs on constants).
    timed(lambda: games.play(points[0], batch, steps=1))

    def one(number: int) -> Any:
        return games.play(points[number % len(points)], batch, steps=config.steps, seed=number // len(points))

    def recompiled(number: int) -> Any:
        jax.clear_caches()
        return one(number)

    def whole() -> Any:
        return games.grid(points, batch, steps=config.steps, seeds=seeds)

    first, again = timed(whole), timed(whole)
    programs = compiled_runs._grid._cache_size()
    timed(lambda: one(0))
    numbers = range(0, total, max(1, total // options.runs))
    jitted = timed(lambda: [one(number) for number in numbers]) / len(numbers)
    fresh = np.mean(
        [timed(lambda number=number: recompiled(number)) for number in range(options.compiled_runs)], axis=0
    )
    seconds = {
        "grid, compiling included": first,
        "grid, compiled": again,
        "loop over jitted runs": jitted * total + fresh,
        "loop that compiles every run": fresh * total,
    }
    said = {
        "device": jax.devices()[0].device_kind,
        "runs": total,
        "steps": config.steps,
        "programs of the grid": programs,
    }
    rows = {name: {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1)} for name, (wall, cpu) in seconds.items()}
    print(json.dumps({**said, **rows}, indent=1))


if __name__ == "__main__":
    main()
