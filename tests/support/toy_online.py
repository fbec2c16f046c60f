"""IPO-MD self-play of a transformer of a few thousand weights. As a script, toy_online.py FOLDER: a run with
adapters that is killed outright while its second checkpoint is written."""

from __future__ import annotations

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
from tests.support.toy_run import die_writing

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


def experiment(adapters: bool = False) -> Experiment:
    policy = transformer(TransformerConfig(**SMALL))
    judge = transformer(TransformerConfig(**SMALL, outputs=("preference",)))
    algorithm = algorithms.ipo_md(
        policy,
        judge=fn(stages.preference_model, role="judge", separator=3),
        judges={"judge": Role(judge, roles.fresh())},
        optimizer=fn(adamw, learning_rate=1e-2),
        start=roles.fresh(),
        max_tokens=4,
        stop=(2,),
    )
    if adapters:
        algorithm = algorithms.with_lora(algorithm, rank=2)
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
    die_writing("checkpoints/4")
    train(experiment(adapters=True), Workspace(Path(sys.argv[1])), console=Console(quiet=True))


if __name__ == "__main__":
    main()
