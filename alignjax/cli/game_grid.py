"""`alignjax sweep` on a game: a grid of hyper-parameters and seeds as one compiled program.

A config file of a game is such a sweep when it defines, beside get_config,

    GRID = {"algorithm.losses.pair.tau": (0.1, 0.2), "algorithm.experience.generate.behaviour.beta": (0.0, 0.5)}
    SEEDS = 10
    def measures(policy, point): ...    # final policies [seeds,(X,)K], {path: value} -> {name: numbers [seeds]}

and, if the mode is not to be the file's default, CONFIG = "mode". Paths lead to float hyper-parameters.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alignjax import games
from alignjax.cli import overrides
from alignjax.cli.config_file import load
from alignjax.config import ConfigError, Experiment
from alignjax.games.strings import Language
from alignjax.games.table_policy import TableConfig
from alignjax.types import Batch
from alignjax.workspace import write_json


def grid(file: Path, module: Any, run_dir: Path | None) -> int:
    """Runs the grid of `module`, writes grid.npz and grid.json and prints the range of each measure's mean over seeds.

    Args:
        file: the config file.
        module: the file as a module, with GRID, SEEDS, `measures` and, if it has modes, CONFIG.
        run_dir: where the results go; runs/<file>-sweep if None.

    Returns:
        The exit status. grid.npz holds the axes, measures [points.., seeds] and logits [points.., seeds,X,K].

    Raises:
        ConfigError: the config is not a game's, or a path or value does not fit it.
    """
    # Points differ in float hyper-parameters alone, which are arguments of the program: it is compiled once.
    mode = getattr(module, "CONFIG", None)
    loaded = load(f"{file}:{mode}" if mode else str(file)).config
    axes: dict[str, Any] = dict(module.GRID)
    measures: Any = getattr(module, "measures", None)
    seeds = range(module.SEEDS) if isinstance(getattr(module, "SEEDS", 1), int) else tuple(module.SEEDS)
    if not axes or not callable(measures):
        raise ConfigError(f"{file} must define GRID, {{path: values}}, and measures(policy, point)")
    config, language, batch = _game(file, loaded)
    points = points_of(axes)
    algorithms = [at(config, point) for point in points]

    begun = time.perf_counter()
    played = games.grid(algorithms, batch, steps=config.steps, seeds=[config.seed + seed for seed in seeds])
    logits = np.asarray(jax.block_until_ready(played.state.roles["policy"]["logits"]))
    seconds = time.perf_counter() - begun

    policies = np.exp(games.log_distribution(language, logits))  # [points, seeds, X, K]
    if policies.shape[2] == 1:
        policies = policies[:, :, 0]
    rows: list[Any] = [measures(policy, point) for policy, point in zip(policies, points, strict=True)]
    shape = tuple(len(values) for values in axes.values())
    results = {name: np.reshape([_per_seed(row[name]) for row in rows], (*shape, -1)) for name in rows[0]}
    folder = run_dir or Path("runs") / f"{file.stem}-sweep"
    _write(folder, axes, results, logits.reshape(*shape, *logits.shape[1:]), seconds)
    for name, values in results.items():
        print(_range_of(name, axes, values.mean(-1)))
    runs = f"{len(points)} points x {len(seeds)} seeds x {config.steps} steps"
    print(f"\n{runs} in {seconds:.1f} s, compiling included; {folder / 'grid.npz'}")
    return 0


def _game(file: Path, config: Any) -> tuple[Experiment, Language, Batch]:
    """The experiment if it is one on a game, with the game's language and the batch of every step."""
    if isinstance(config, Experiment) and "policy" in config.algorithm.roles:
        source, model = config.source(None, config.seed), config.algorithm.roles["policy"].model
        table = None if model is None else model.config
        if isinstance(source, games.Contexts) and isinstance(table, TableConfig):
            return config, table.language, source[0]
    raise ConfigError(
        f"{file} has a GRID, which is for one experiment on a game (source games.contexts, a table as policy); for "
        "others define sweep(), a generator of {path: value}"
    )


def points_of(axes: Mapping[str, Any]) -> list[dict[str, float]]:
    """Lists every point {path: value} of the grid, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def at(config: Experiment, point: Mapping[str, float]) -> Any:
    """Returns the config's algorithm at a point {path: value}.

    Args:
        config: The experiment.
        point: Value by path, as overrides write paths.
    """
    for path, value in point.items():
        config = overrides.override(config, path, overrides.as_words(float(value)))
    return config.algorithm


def _per_seed(values: Any) -> np.ndarray:
    """[seeds,(X)] averaged over contexts."""
    values = np.asarray(values)
    return values.reshape(len(values), -1).mean(-1)


def _write(
    folder: Path, axes: Mapping[str, Any], results: Mapping[str, np.ndarray], logits: Any, seconds: float
) -> None:
    record = {
        "axes": {path: [float(value) for value in values] for path, values in axes.items()},
        "seeds": next(iter(results.values())).shape[-1],
        "seconds": seconds,
        "measures": {
            name: {"mean": values.mean(-1).tolist(), "std": values.std(-1).tolist()} for name, values in results.items()
        },
    }
    write_json(folder / "grid.json", record)
    arrays = {f"axis: {path}": np.asarray(values) for path, values in axes.items()}
    np.savez(folder / "grid.npz", logits=logits, **arrays, **results)  # type: ignore[arg-type]


def _range_of(name: str, axes: Mapping[str, Any], mean: np.ndarray) -> str:
    """The least and the largest mean over seeds of a measure, and where each of them is."""
    ends = []
    for number in (mean.argmin(), mean.argmax()):
        at_point = zip(axes, np.unravel_index(number, mean.shape), strict=True)
        where = ", ".join(f"{path.rsplit('.', 1)[-1]} {axes[path][index]:.3g}" for path, index in at_point)
        ends.append(f"{mean.flat[number]:.2g} (at {where})")
    return f"{name}: from {' to '.join(ends)}"
