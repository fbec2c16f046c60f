"""Where the numbers of a run go: metrics.jsonl always, TensorBoard when tensorboardX is installed, Weights & Biases on
request, a progress bar or plain lines for whoever watches. A sink is a record of two functions."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from alignjax.config import ConfigError

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
CLOCK = "time/"  # names below it hold wall-clock numbers: all that differs between two runs of one config
QUIET_SECONDS = 10.0  # between two plain lines when there is no terminal
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sink:
    """write(step, row), and close()."""

    write: Callable[[int, Row], None]
    close: Callable[[], None] = lambda: None


# ----------------------------------------------------------------------------------------------------------------- rows


def fetched(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Device metrics as Python numbers (lists, for array-valued ones), all rows in one transfer. Exact: float32 and
    the float64 of JSON and Python lose nothing of each other."""
    return [{name: np.asarray(value).tolist() for name, value in row.items()} for row in jax.device_get(list(rows))]


def averaged(rows: Sequence[Row]) -> Row:
    """The mean of each metric over the rows that have it, in float64."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.mean([row[name] for row in rows if name in row], axis=0).tolist() for name in names}


def not_finite(row: Row) -> list[str]:
    """Names of the losses and gradient norms of a row that are NaN or infinite. Other metrics may be: a ratio of two
    counts of nothing says nothing about the training."""
    watched = [name for name in row if name.split("/")[0] in ("loss", "gradient_norm")]
    return [name for name in sorted(watched, key=_losses_first) if not np.all(np.isfinite(row[name]))]


def _losses_first(name: str) -> tuple[bool, str]:
    return not name.startswith("loss"), name


# ---------------------------------------------------------------------------------------------------------------- sinks


def _strict(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, list):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def jsonl(path: Path) -> Sink:
    """Appends one JSON object per row, `step` first; each line is out of the process when `write` returns."""
    file = path.open("a", encoding="utf-8")

    def write(step: int, row: Row) -> None:
        line = {"step": step} | {name: _strict(value) for name, value in row.items() if name != "step"}
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()

    return Sink(write, file.close)


def cut_back(path: Path, step: int) -> int:
    """Drops the lines beyond `step`, and a last line that a crash left half-written. Returns how many were dropped.

    The file is replaced as a whole, so a crash while it is cut loses nothing.
    """
    if not path.exists():
        return 0
    kept: list[bytes] = []
    with path.open("rb") as file:  # in bytes: text may hold other characters that Python takes for line ends
        lines = file.readlines()
    for line in lines:
        try:
            if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    if len(kept) < len(lines):
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_bytes(b"".join(kept))
        part.replace(path)
    return len(lines) - len(kept)


def _scalars(row: Row) -> Row:
    return {name: value for name, value in row.items() if isinstance(value, (int, float))}


def tensorboard(folder: Path, step: int) -> Sink | None:
    """Scalars for TensorBoard, or None when tensorboardX is not installed; what it has beyond `step` is purged."""
    try:
        writer = importlib.import_module("tensorboardX").SummaryWriter(str(folder), purge_step=step + 1)
    except ImportError:
        return None

    def write(step: int, row: Row) -> None:
        for name, value in _scalars(row).items():
            writer.add_scalar(name, value, step)

    return Sink(write, writer.close)


def wandb(folder: Path, project: str, config: Any) -> Sink:
    """A Weights & Biases run, named after the run folder, which keeps its id: a folder of the same name elsewhere, or
    made anew, is another run. One that an error ends counts as failed. Raises ImportError saying what to install, and
    ConfigError where it cannot log, for example for want of a login."""
    try:
        module = importlib.import_module("wandb")
    except ImportError:
        raise ImportError("tags ask for wandb, which is not installed: pip install 'alignjax[wandb]'") from None
    kept = folder / "wandb" / "id"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(secrets.token_hex(4), encoding="utf-8")
    name, number = "-".join(folder.resolve().parts[-2:]), kept.read_text(encoding="utf-8")
    try:
        run = module.init(project=project, name=name, id=number, dir=str(folder), config=config, resume="allow")
    except module.Error as error:
        raise ConfigError(f"tags ask for wandb: {error} WANDB_MODE=offline logs into the run folder alone") from error
    return Sink(
        lambda step, row: run.log(_scalars(row), step=step),
        lambda: run.finish(exit_code=int(sys.exc_info()[0] is not None)),
    )


@contextlib.contextmanager
def opened(folder: Path, step: int, *, tags: Mapping[str, str], config: Any) -> Iterator[Sink]:
    """All sinks of a run that has done `step` steps, as one. What an interrupted run wrote beyond `step` is dropped, so
    that the files end as those of an uninterrupted run. Only the first process writes.

    tags["wandb"]: the Weights & Biases project to log to.
    """
    sinks: list[Sink] = []
    if jax.process_index() == 0:
        cut_back(folder / METRICS, step)
        sinks.append(jsonl(folder / METRICS))
        sinks.extend(sink for sink in [tensorboard(folder / "tensorboard", step)] if sink)
        if "wandb" in tags:
            sinks.append(wandb(folder, tags["wandb"], config))

    def write(step: int, row: Row) -> None:
        for sink in sinks:
            sink.write(step, row)

    try:
        yield Sink(write)
    finally:
        for sink in sinks:
            sink.close()


# ------------------------------------------------------------------------------------------------------------- watching


def short(number: float) -> str:
    """1234567 -> "1.23M", 0.693147 -> "0.693"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{number:.4g}" if abs(number) >= 1 else f"{number:.3g}"


def summary(row: Row) -> str:
    """Loss and throughput of a row, for people."""
    parts = [f"loss {short(row['loss'])}"] if "loss" in row else []
    rates = ((f"{CLOCK}prompts_per_second", "prompts/s"), (f"{CLOCK}completion_tokens_per_second", "tokens/s"))
    return "  ".join(parts + [f"{short(row[name])} {unit}" for name, unit in rates if name in row])


@contextlib.contextmanager
def watched(console: Console, name: str, start: int, total: int) -> Iterator[Callable[[int, Row | None], None]]:
    """Yields show(step, row): a bar with throughput, loss and time left on a terminal; elsewhere a line for the first
    row, the last, and at most one in QUIET_SECONDS between. `row` is None between logged steps."""
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[row]}"), TimeElapsedColumn())
        with Progress(TextColumn("{task.description}"), *columns, TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task(name, total=total, completed=start, row="compiling")

            def show(step: int, row: Row | None) -> None:
                if row is None:
                    bar.update(task, completed=step)
                else:
                    bar.update(task, completed=step, row=summary(row))

            yield show
        return
    begun, last = time.monotonic(), -math.inf

    def say(step: int, row: Row | None) -> None:
        nonlocal last
        now = time.monotonic()
        if row is not None and (now - last >= QUIET_SECONDS or step == total):
            left = (now - begun) / max(step - start, 1) * (total - step)
            console.print(f"{name} {step}/{total}  {summary(row)}  {left:.0f} s left", highlight=False, markup=False)
            last = now

    yield say
