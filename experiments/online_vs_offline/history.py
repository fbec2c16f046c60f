"""The experience of an online run as a data set: a stage that keeps it, and the job that writes it as batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from alignjax.config import Fn, fn
from alignjax.data.sources.recorded import BatchWriter
from alignjax.stages.host_stages import host
from alignjax.types import Batch, Context, Key
from alignjax.workspace import Workspace

NAME = "keep"


def same(context: Context, batch: Batch, key: Key) -> Batch:
    return batch


def same_shapes(batch: Batch) -> Batch:
    return batch


def keeping() -> Fn:
    """Stage: changes nothing; being one of the host's, its answer of every iteration stays in the run folder."""
    return fn(host, stage=same, like=same_shapes)


def write(workspace: Workspace, *, stage: str, steps: int, like: Callable[[], Batch]) -> dict[str, Any]:
    """Job: the experience of the `steps` iterations of the run `stage`, which ends with `keeping`, in order, as
    `recorded` reads it. like: says the shapes of its batches."""
    structure = jax.tree.structure(like())
    files = sorted((workspace.find(stage) / "answers").glob(f"{NAME}-[0-9]*.npz"))
    assert len(files) == steps, f"{stage} has kept {len(files)} of {steps} iterations"
    writer = BatchWriter(workspace.folder)
    for file in files[writer.complete :]:
        with np.load(file) as kept:
            leaves = [kept[f"answer{number}"] for number in range(structure.num_leaves)]
        writer.append(jax.tree.unflatten(structure, leaves))
    return {"batches": len(files)}
