"""IPO-MD self-play of a transformer of a few thousand weights. As a script, toy_online.py FOLDER: a run that is killed
outright in the middle."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from alignjax import algorithms, roles, stages
from alignjax.config import Experiment, fn
from alignjax.models import transformer
from alignjax.models.transformer import TransformerConfig
from alignjax.train.loop import train
from alignjax.train.optimizers import adamw
from alignjax.types import Batch, Role
from alignjax.workspace import Workspace

SMALL = {"vocab": 19, "width": 16, "layers": 1, "heads": 2, "mlp": 24}


class Prompts:
    """Random left-padded prompts, by step."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, step: int) -> Batch:
        draw = np.random.default_rng((self.seed, step))
        valid = np.arange(5) >= draw.integers(0, 4, (4, 1))
        prompt = np.where(valid, draw.integers(4, 19, (4, 5)), 0).astype(np.int32)
        return Batch(prompt=prompt, prompt_valid=valid, example_id=np.arange(4 * step, 4 * step + 4, dtype=np.int32))


def prompts(workspace: Workspace, seed: int) -> Prompts:
    return Prompts(seed)


def experiment() -> Experiment:
    policy = transformer(TransformerConfig(**SMALL))
    judge = transformer(TransformerConfig(**SMALL, outputs=("preference",)))
    algorithm = algorithms.ipo_md(
        policy,
        judge=fn(stages.preference_model, role="judge"),
        judges={"judge": Role(judge, roles.fresh())},
        optimizer=fn(adamw, learning_rate=1e-2),
        start=roles.fresh(),
        max_tokens=4,
    )
    return Experiment(
        algorithm, fn(prompts), steps=6, seed=3, log_every=1, checkpoint_every=2, sample=fn(sample), sample_every=1
    )


def sample(experiment: Experiment, workspace: Workspace) -> Any:
    return lambda state, batch, step: [{"tokens": str(np.asarray(batch.tokens).tolist())}]


class Heard:
    """Collects the metrics of every step."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, dict[str, float]]] = []

    def __call__(self, step: int, state: Any, values: Any) -> None:
        self.steps.append((step, {name: float(value) for name, value in values.items()}))


def main() -> None:
    def on_step(step: int, state: Any, values: Any) -> None:
        if step == 5:  # 2 is complete, 4 is being written
            os.kill(os.getpid(), signal.SIGKILL)

    train(experiment(), Workspace(Path(sys.argv[1])), console=Console(quiet=True), on_step=on_step)


if __name__ == "__main__":
    main()
