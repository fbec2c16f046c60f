"""Samples that a run shows while it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from alignjax.config import Experiment
from alignjax.data import Dataset, tokenizer_of
from alignjax.workspace import Workspace


def decoded(
    experiment: Experiment, workspace: Workspace, *, dataset: Dataset, rows: int = 2
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
