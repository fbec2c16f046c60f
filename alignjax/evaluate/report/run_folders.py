"""What run folders hold that a report shows, finished or not: their configs, how far they are, curves, samples and
results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from alignjax.config import ConfigError
from alignjax.evaluate.report import schema
from alignjax.evaluate.report.learning_curves import read_curves
from alignjax.evaluate.report.wording import duration
from alignjax.json_shapes import check_shape
from alignjax.outside import reading
from alignjax.train import metrics
from alignjax.train.pipeline import DONE, Done
from alignjax.train.run_record import FILE, Record
from alignjax.workspace import PUT_BACK, read_record

ALONE = "training"  # how the one stage of a single experiment is called
COMMAND = "command.json"  # which the command line writes


class Command(TypedDict, total=False):
    """What is shown of COMMAND."""

    config: str
    mode: str | None
    overrides: list[str]


class Shown(TypedDict, total=False):
    """What is shown of a line of samples.jsonl."""

    samples: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """An experiment or a job of a run. steps: How many it takes, None of a job; step: the last one that was logged;
    age: seconds since then, None before; done: whether it has finished; seconds: how long it took, where that is known.
    """

    steps: int | None
    step: int
    age: float | None
    done: bool
    seconds: float | None
    curves: Mapping[str, Any]
    samples: Sequence[Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder as it is now. name: How it is called beside others; command: what was trained, "quickstart:tiny";
    record: its config.json; stages: in their order; results: its results.json, where there is one."""

    name: str
    folder: Path
    command: str
    record: Record
    stages: Mapping[str, Stage]
    results: schema.Results | None

    @property
    def done(self) -> bool:
        """Whether every stage has finished."""
        return all(stage.done for stage in self.stages.values())


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads run folders.

    Args:
        folders: Run folders, no two of which are one.

    Returns:
        The runs, named by the ends of their paths, as short as tells them apart.

    Raises:
        ConfigError: One is no run folder, is given twice, or holds what no run writes.
        ReadError: A file of one cannot be read.
        ResultsError: A results.json is not what it should be.
    """
    whole: list[Path] = []
    for folder in folders:
        with reading(folder, "name a run folder"):  # links may go round in circles
            place = folder.resolve()
        if place in whole:
            raise ConfigError(f"{folder} is given twice; name each run once")
        whole.append(place)
    depth = 1
    while len({folder.parts[-depth:] for folder in whole}) < len(whole):
        depth += 1
    return [_read(folder, "/".join(folder.parts[-depth:])) for folder in whole]


def _read(folder: Path, name: str) -> Run:
    record = read_record(folder / FILE, Record)
    if record is None:
        raise ConfigError(f"{folder} is not a run folder: it has no {FILE}, which `alignjax train` writes")
    config = record["config"]
    steps = config.get("steps")
    pipeline = steps if isinstance(steps, dict) else {}
    stages = {name: _stage(folder / name, step) for name, step in pipeline.items()} or {ALONE: _stage(folder, config)}
    finished = (folder / "results.json").is_file()
    return Run(name, folder, _command(folder), record, stages, schema.load(folder) if finished else None)


def _command(folder: Path) -> str:
    """What was trained, in the words of a command line; "" of a run that no command began."""
    record = read_record(folder / COMMAND, Command) or {}
    mode = f":{record['mode']}" if record.get("mode") else ""
    words = " ".join(record.get("overrides", ()))
    return f"{Path(record.get('config', '')).stem}{mode} {words}".strip()


def _stage(folder: Path, config: Any) -> Stage:
    """How far a stage is. A job, whose config is no experiment's, has no steps."""
    steps = config.get("steps") if isinstance(config, dict) and isinstance(config.get("steps"), int) else None
    record = read_record(folder / DONE, Done)
    path = folder / metrics.METRICS
    curves = read_curves(path) if path.is_file() else {}
    step = max((curve["step"][-1] for curve in curves.values()), default=0)
    shown = folder / metrics.SAMPLES
    rows = list(metrics.read_rows(shown)) if shown.is_file() else []
    newest: Shown = check_shape(rows[-1][1], Shown, shown, PUT_BACK) if rows else {}
    return Stage(
        steps=steps,
        step=int(step),
        age=time.time() - path.stat().st_mtime if curves else None,
        done=record is not None or (steps is not None and step >= steps),
        seconds=record["seconds"] if record else None,
        curves=curves,
        samples=newest.get("samples", []),
    )


def progress(run: Run) -> dict[str, dict[str, str]]:
    """Says how far each stage of a run is: {stage: {"state", "step", "last logged", "seconds"}}.

    Args:
        run: The run.
    """
    said, reached = {}, False
    for name, stage in run.stages.items():
        state = "done" if stage.done else "to come" if reached else "now"
        reached |= not stage.done
        said[name] = {
            "state": state,
            "step": f"{stage.step:,} of {stage.steps:,}" if stage.steps is not None else "",
            "last logged": f"{duration(max(stage.age, 0))} ago" if stage.age is not None and state == "now" else "",
            "wall clock": duration(stage.seconds) if stage.seconds is not None else "",
        }
    return said
