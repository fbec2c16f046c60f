"""Duality gap against iteration for every self-play algorithm on six games: in expectation, every pair enumerated, and
on samples with drawn labels from ten seeds; rates, and who ends where.

    python experiments/nash_games/run.py

Runs what is not there yet (one file for each algorithm and kind of run; an interrupted run goes on where it stopped),
then writes results.json, results.md and the figures beside this file.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alignjax.outside import made_folder

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # a worker process starts without it

import gaps  # noqa: E402
import panels  # noqa: E402
import summary  # noqa: E402
from optimism import RATES, steps_needed  # noqa: E402
from players import EPOCHS, METHODS, ROUND, ROWS, STEPS, algorithm  # noqa: E402
from playing import play  # noqa: E402
from six_games import GAMES  # noqa: E402

SEEDS, OPTIMISM = 10, "optimism"


Task = tuple[str, str, int, int]  # method, mode, seeds, how much shorter than usual


def played(name: str, mode: str, seeds: int, scale: int) -> dict[str, np.ndarray]:
    """Measures of one algorithm, [games, seeds, points]."""
    method, worlds = METHODS[name], list(GAMES.values())
    steps, exact = STEPS[mode] // scale, mode == "expected"
    made = [algorithm(method, game, mode, steps) for game in worlds]
    policies = play(made, steps=steps, seeds=1 if exact else seeds, rows=1 if exact else ROWS)
    return gaps.of(method, worlds, policies)


def job(task: Task, file: Path, cache: Path) -> float:
    """Runs one task and keeps what it found; CPU seconds that it took."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    begun = time.process_time()
    found = steps_needed() if task[0] == OPTIMISM else played(*task)
    spent = time.process_time() - begun
    part = file.with_suffix(".part.npz")
    np.savez(part, cpu_seconds=spent, **found)  # type: ignore[arg-type]
    part.rename(file)
    return spent


def tasks(seeds: int, scale: int, modes: tuple[str, ...] = tuple(STEPS)) -> list[Task]:
    """All there is to run: the quick half first, and the algorithms in their order."""
    expected = [(name, "expected", seeds, scale) for name, method in METHODS.items() if method.expected is not None]
    found = [(OPTIMISM, "", 0, 1), *expected, *((name, "sampled", seeds, scale) for name in METHODS)]
    return [task for task in found if task[1] in ("", *modes)]


def settings(task: Task) -> str:
    """What a task's result depends on, beside the code: results of other settings are not taken for it."""
    worlds = [(game.preference.tolist(), game.reference.tolist(), game.tau) for game in GAMES.values()]
    method = METHODS.get(task[0])
    line: Any = RATES
    if method is not None:
        told = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
        told |= {"recipe": method.recipe.__name__, "label": ""}
        line = {field.name: told[field.name] for field in dataclasses.fields(method)
                if told[field.name] != field.default}  # fmt: skip
    used = repr([task, line, STEPS, EPOCHS, ROUND, ROWS, gaps.POINTS, worlds])
    return hashlib.sha256(used.encode()).hexdigest()[:12]


def everything(folder: Path, todo: list[Task], workers: int) -> dict[Task, dict[str, Any]]:
    """What all tasks found; those that have no file yet are run, several at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {task: folder / f"{task[0]}-{task[1]}-{settings(task)}.npz" for task in todo}
    left = {task: file for task, file in files.items() if not file.exists()}
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(job, task, file, folder / "programs"): task for task, file in left.items()}
        for number, done in enumerate(concurrent.futures.as_completed(running), 1):
            print(f"{number}/{len(left)} {' '.join(running[done][:2])}: {done.result():.1f} CPU seconds", flush=True)
    return {task: dict(np.load(file)) for task, file in files.items()}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--folder", type=Path, default=Path("runs/nash_games"))
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--scale", type=int, default=1, help="divide all numbers of iterations, to see that it runs")
    parser.add_argument("--modes", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--out", type=made_folder, default=HERE)
    given = parser.parse_args(arguments)
    begun = time.perf_counter()
    found = everything(given.folder, tasks(given.seeds, given.scale, tuple(given.modes)), given.workers)
    results = summary.results(found)
    results["seeds"], results["wall_seconds"] = given.seeds, round(time.perf_counter() - begun, 1)
    (given.out / "results.json").write_text(json.dumps(results, separators=(",", ":")) + "\n")
    text = summary.markdown(results)
    (given.out / "results.md").write_text(text)
    for name, picture in panels.all_of(results).items():
        (given.out / f"{name}.svg").write_text(picture)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
