"""The numbers of a run: metrics.jsonl always, trackers where they are installed or asked for, and a progress bar or
plain lines for whoever watches. A sink is a function write(step, row), open inside a `with`."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from alignjax import outside
from alignjax.config import ConfigError
from alignjax.json_shapes import check_shape
from alignjax.parallel.processes import is_main_process
from alignjax.ranges import Natural
from alignjax.train import trackers
from alignjax.types import Batch
from alignjax.workspace import PUT_BACK, whole_file

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
CLOCK = "time/"  # names below it hold wall-clock numbers: all that differs between two runs of one config
QUIET_SECONDS = 10.0  # between two plain lines when there is no terminal
Row = trackers.Row
Write = trackers.Write


# ----------------------------------------------------------------------------------------------------------------- rows


def fetched(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Fetches device metrics as Python numbers (lists, for array-valued ones), all rows in one transfer. This is exact:
    float32 and the float64 of JSON and Python lose nothing of each other."""
    return [{name: np.asarray(value).tolist() for name, value in row.items()} for row in jax.device_get(list(rows))]


def logged_row(rows: Sequence[Row], batch: Batch, now: float, before: float) -> Row:
    """Makes a line of metrics.jsonl: means over the steps since the line before, and the throughput since.

    Args:
        rows: The metrics of those steps: `loss`, `loss/NAME` and `NAME/METRIC` of losses, `STAGE/METRIC` of stages,
            `gradient_norm/ROLE`, `completion_tokens`.
        batch: One of their batches, for the number of prompts.
        now: Seconds since the run began, over all its starts.
        before: The same at the line before.

    Returns:
        The means, and `time/seconds`, `time/prompts_per_second` and, where tokens were counted,
        `time/completion_tokens_per_second`.
    """
    prompts = len(rows) * jax.tree.leaves(batch.replace(views={}))[0].shape[0]
    rates = {"seconds": now, "prompts_per_second": prompts / (now - before)}
    if "completion_tokens" in rows[-1]:
        rates["completion_tokens_per_second"] = sum(row["completion_tokens"] for row in rows) / (now - before)
    return averaged(rows) | {f"{CLOCK}{name}": value for name, value in rates.items()}


def averaged(rows: Sequence[Row]) -> Row:
    """Returns the mean of each metric over the rows that have it, in float64."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.mean([row[name] for row in rows if name in row], axis=0).tolist() for name in names}


def not_finite(row: Row) -> list[str]:
    """Returns the names of the losses and gradient norms of a row that are NaN or infinite, losses first. Other metrics
    may be: a ratio of two counts of nothing says nothing about the training."""
    watched = [name for kind in ("loss", "gradient_norm") for name in sorted(row) if name.split("/")[0] == kind]
    return [name for name in watched if not np.all(np.isfinite(row[name]))]


# ---------------------------------------------------------------------------------------------------------------- sinks


def _strict(value: Any) -> Any:
    """A value with null in place of NaN and infinities, which JSON has not."""
    if isinstance(value, list):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def jsonl(path: Path, done: int) -> Iterator[Write]:
    """Appends one JSON object per row, `step` first; each line is out of the process when `write` returns.

    Args:
        path: The file, which is cut back to `done` first.
        done: The number of finished steps.
    """
    cut_back(path, done)
    with path.open("a", encoding="utf-8") as file:

        def write(step: int, row: Row) -> None:
            line = {"step": step} | {name: _strict(value) for name, value in row.items() if name != "step"}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()

        yield write


def cut_back(path: Path, step: int) -> int:
    """Drops the lines of a file beyond `step`, and a last line that a crash left half-written.

    The file is replaced as a whole, so a crash while it is cut loses nothing.

    Returns:
        The number of lines that were dropped.

    Raises:
        ReadError, ConfigError: See `read_rows`: what is damaged elsewhere is not dropped, but said.
    """
    if not path.exists():
        return 0

    with outside.reading(path, PUT_BACK):
        content = path.read_bytes()
    rest = [line for line, row in read_rows(path) if row["step"] <= step]
    if b"".join(rest) != content:
        with whole_file(path) as file:
            file.write(b"".join(rest))
    return content.count(b"\n") + (not content.endswith(b"\n")) * bool(content) - len(rest)


class Line(TypedDict):
    """What every line of a metrics.jsonl or samples.jsonl has."""

    step: Natural


def read_rows(path: Path) -> Iterator[tuple[bytes, Row]]:
    """Yields the lines of a file of rows, each with what it holds; without the last one if a crash left it
    half-written.

    Args:
        path: The file.

    Raises:
        ReadError: The file cannot be read, or a line before the last is none.
        ConfigError: A line has no step.
    """
    # Lines end at a line feed alone: text may hold other characters that Python takes for line ends.
    with outside.reading(path, PUT_BACK):
        lines = path.read_bytes().split(b"\n")
    last = len(lines) - (not lines[-1])
    for number, line in enumerate(lines[:last], 1):
        place = f"{path}:{number}"
        advice = f"take the line out of it if you do not need it, or {PUT_BACK}"
        try:
            with outside.reading(place, advice):
                row = outside.parse_json(outside.line_text(line))
            check_shape(row, Line, place, advice)
        except (outside.ReadError, ConfigError):
            if number == last:
                return
            raise
        if number < len(lines):
            yield line + b"\n", row


@contextlib.contextmanager
def opened(folder: Path, step: int, *, tags: Mapping[str, str], config: Any) -> Iterator[Write]:
    """Opens all sinks of a run that has done `step` steps, as one, on the first process alone.

    What an interrupted run wrote beyond `step` is dropped, so that the files end as those of an uninterrupted run.
    A row {"samples": [{name: text}]} is for the trackers, which show it as a table.

    Args:
        folder: The run folder.
        step: The number of finished steps.
        tags: tags["wandb"], tags["trackio"] and tags["mlflow"] are the projects of trackers to log to.
        config: The config of the run, as JSON.
    """
    with contextlib.ExitStack() as stack:
        files: list[Write] = []
        shown: list[Write] = []
        if is_main_process():
            files.append(stack.enter_context(jsonl(folder / METRICS, step)))
            shown.append(stack.enter_context(trackers.tensorboard(folder / "tensorboard", step)))
            for name, tracker in trackers.BY_TAG.items():
                if name in tags:
                    shown.append(stack.enter_context(tracker(folder, tags[name], config)))
        yield lambda step, row: [write(step, row) for write in (shown if "samples" in row else [*files, *shown])]


# ------------------------------------------------------------------------------------------------------------- watching


def short(number: float) -> str:
    """Shortens a number for people: 1234567 -> "1.23M", 0.693147 -> "0.693"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{number:.4g}" if abs(number) >= 1 else f"{number:.3g}"


def summary(row: Row) -> str:
    """Returns loss and throughput of a row, for people."""
    parts = [f"loss {short(row['loss'])}"] if "loss" in row else []
    rates = ((f"{CLOCK}prompts_per_second", "prompts/s"), (f"{CLOCK}completion_tokens_per_second", "tokens/s"))
    return "  ".join(parts + [f"{short(row[name])} {unit}" for name, unit in rates if name in row])


@contextlib.contextmanager
def watched(console: Console, name: str, start: int, total: int) -> Iterator[Callable[[int, Row | None], None]]:
    """Yields show(step, row), where `row` is None between logged steps.

    On a terminal it draws a bar with throughput, loss and time left; elsewhere it prints a line for the first row, the
    last, and at most one in QUIET_SECONDS between.

    Args:
        console: Where to show.
        name: The name of the step, in front.
        start: The number of steps that were done before.
        total: The number of steps in all.
    """
    # The first row is always printed: after minutes of compiling, it is the sign of life that somebody waits for.
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[row]}"), TimeElapsedColumn())
        with Progress(TextColumn("{task.description}"), *columns, TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task(name, total=total, completed=start, row="compiling")

            def draw(step: int, row: Row | None) -> None:
                fields: dict[str, Any] = {} if row is None else {"row": summary(row)}
                bar.update(task, completed=step, **fields)

            yield draw
        return
    begun, last = time.monotonic(), -math.inf

    def print_line(step: int, row: Row | None) -> None:
        nonlocal last
        now = time.monotonic()
        if row is not None and (now - last >= QUIET_SECONDS or step == total):
            left = (now - begun) / max(step - start, 1) * (total - step)
            console.print(f"{name} {step}/{total}  {summary(row)}  {left:.0f} s left", highlight=False, markup=False)
            last = now

    yield print_line
