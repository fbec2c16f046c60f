"""Samples that a run shows while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from rich.console import Console

from alignjax.config import Experiment
from alignjax.data import Dataset, tokenizer_of
from alignjax.parallel.processes import gather_to_host, is_main_process, is_multi_process
from alignjax.ranges import Count
from alignjax.train import metrics
from alignjax.types import Batch
from alignjax.workspace import Workspace

OnStep = Callable[[int, Any, Any], None]  # (step, state, batch or metrics)


def decoded(
    experiment: Experiment, workspace: Workspace, *, dataset: Dataset, rows: Count = 2
) -> Callable[[Any, Any, int], list[dict[str, str]]]:
    """Shows the first rows of the present batch as text: for the `sample` slot of an Experiment.

    For online algorithms these are the policy's newest samples, and cost nothing.

    Args:
        experiment: The experiment.
        workspace: The workspace in which the tokenizer is found.
        dataset: The dataset whose tokenizer the run uses.
        rows: The number of rows.

    Returns:
        shown(state, batch, step) -> one {name: text} per row.
    """
    tokenizer = tokenizer_of(dataset, workspace)

    def text(ids: Any, valid: Any) -> str:
        return tokenizer.decode(np.asarray(ids)[np.asarray(valid)])

    def shown(state: Any, batch: Any, step: int) -> list[dict[str, str]]:
        batch = jax.device_get(batch.replace(views={}).take(np.arange(min(rows, batch.prompt.shape[0]))))
        return [
            {"prompt": text(batch.prompt[i], batch.prompt_valid[i])}
            | {f"completion {j}": text(batch.tokens[i, j], batch.valid[i, j]) for j in range(batch.tokens.shape[1])}
            for i in range(batch.prompt.shape[0])
        ]

    return shown


@contextlib.contextmanager
def sampler(
    experiment: Experiment, workspace: Workspace, start: int, console: Console, track: metrics.Write
) -> Iterator[OnStep]:
    """Yields the function that writes samples to samples.jsonl and to trackers, and shows the first of them.

    Every process calls it, since it may run the model; the batch that is shown is whole everywhere.

    Args:
        experiment: The experiment, whose `sample` makes them; without one nothing is shown.
        workspace: The workspace that names the folder.
        start: The number of finished steps; samples beyond it are dropped.
        console: Where the first sample is shown.
        track: The sinks of the run, as of `metrics.opened`.
    """
    if experiment.sample is None:
        yield lambda step, state, batch: None
        return
    # The file is opened once and not per sample, and by the first process alone, after what a crash left is cut off.
    samples, path = experiment.sample(experiment, workspace), workspace.folder / metrics.SAMPLES
    opened = metrics.jsonl(path, start) if is_main_process() else contextlib.nullcontext(lambda step, row: None)
    with opened as write:

        def show(step: int, state: Any, batch: Batch) -> None:
            texts = samples(state, gather_to_host(batch) if is_multi_process() else batch, step)
            for sink in (write, track):
                sink(step, {"samples": texts})
            for name, text in texts[0].items() if texts else ():
                line = " ".join(str(text).split())
                console.print(f"  {name}: {line}", highlight=False, markup=False, no_wrap=True, overflow="ellipsis")

        yield show
