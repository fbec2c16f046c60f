"""A run small enough to be killed many times: a vector that learns to be the mean of what it is sent, with noise drawn
by a stage, a moving average of it, where it started, and a role that remembers what was drawn.

As a script: toy_run.py FOLDER [--resume] [--steps N] [--signal-at STEP NUMBER] [--die-writing NAME] [--slow SECONDS]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from alignjax import roles
from alignjax.config import Experiment, fn
from alignjax.numerics import fold_name
from alignjax.train.loop import train
from alignjax.train.optimizers import adamw
from alignjax.tree_names import leaves_by_name
from alignjax.types import Algorithm, Batch, Context, Key, Mean, Metrics, Role
from alignjax.workspace import Workspace

WIDTH = 64


class Rows:
    """Random access by step; `slow` seconds a batch."""

    def __init__(self, seed: int, size: int, slow: float, width: int = WIDTH, poison: int = -1) -> None:
        self.seed, self.size, self.slow, self.width, self.poison = seed, size, slow, width, poison

    @property
    def spec(self) -> Batch:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._batch(0))

    def __getitem__(self, step: int) -> Batch:
        if self.slow:
            print("waiting", flush=True)
            until = time.monotonic() + self.slow
            while time.monotonic() < until:
                time.sleep(0.02)
        return self._batch(step)

    def _batch(self, step: int) -> Batch:
        draw = np.random.default_rng((self.seed, step))
        ids = np.arange(step * self.size, (step + 1) * self.size, dtype=np.int32)
        target = draw.normal(1.0, 0.1, (self.size, self.width)).astype(np.float32)
        return Batch(
            prompts={"target": target * (np.nan if step == self.poison else 1)},
            valid=draw.random((self.size, 2, 3)) < 0.8,
            example_id=ids,
        )


def rows(
    workspace: Workspace, seed: int, *, size: int = 4, slow: float = 0.0, width: int = WIDTH, poison: int = -1
) -> Rows:
    return Rows(seed, size, slow, width, poison)


def noise(context: Context, batch: Batch, key: Key, *, scale: float) -> tuple[Batch, Metrics]:
    drawn = scale * jax.random.normal(key, batch.prompts["target"].shape)
    return batch.replace(prompts={**batch.prompts, "noise": drawn}), {"noise": Mean.of(drawn)}


def distance(context: Context, batch: Batch, *, power: float) -> tuple[Mean, Metrics]:
    gap = context.state["policy"]["x"][None] - batch.prompts["target"] - batch.prompts["noise"]
    return Mean.of(jnp.abs(gap) ** power), {"gap": Mean.of(gap)}


def remembered(state: Any, context: Context, batch: Batch, key: Key) -> Any:
    """The last 8 noise means and a draw of the rule's own key: a ring buffer."""
    entry = batch.prompts["noise"].mean() + jax.random.uniform(fold_name(key, "own"))
    return {"ring": state["ring"].at[context.step % 8].set(entry), "count": state["count"] + 1}


def start_policy(key: Key) -> Any:
    return {"x": jax.random.normal(key, (WIDTH,))}


def start_narrow(key: Key) -> Any:
    return {"x": jax.random.normal(key, (17,))}


def start_ring(key: Key) -> Any:
    return {"ring": jnp.zeros(8), "count": jnp.zeros((), jnp.int32)}


def experiment(
    steps: int = 12,
    *,
    slow: float = 0.0,
    learning_rate: float = 0.1,
    width: int = WIDTH,
    poison: int = -1,
    **changes: Any,
) -> Experiment:
    algorithm = Algorithm(
        experience={"noise": fn(noise, scale=0.3)},
        losses={"distance": fn(distance, power=2.0)},
        roles={
            "policy": Role(
                None,
                roles.value(start_policy if width == WIDTH else start_narrow),
                optimizer=fn(
                    adamw,
                    learning_rate=learning_rate,
                    schedule="cosine",
                    warmup_steps=2,
                    total_steps=12,
                    max_grad_norm=1.0,
                ),
            ),
            "average": Role(None, roles.copy_of("policy"), rule=fn(roles.ema, of="policy", decay=0.9)),
            "start": Role(None, roles.copy_of("policy")),
            "memory": Role(None, roles.value(start_ring), rule=fn(remembered)),
        },
    )
    return Experiment(
        algorithm=algorithm,
        source=fn(rows, slow=slow, width=width, poison=poison),
        steps=steps,
        **{"seed": 7, "log_every": 3, "checkpoint_every": 4, "sample": fn(sample), "sample_every": 4} | changes,
    )


def sample(experiment: Experiment, workspace: Workspace) -> Any:
    return lambda state, batch, step: [{"first": f"{float(state.roles['policy']['x'][0]):.9g}"}]


def state_bytes(state: Any) -> dict[str, str]:
    return {name: np.asarray(leaf).tobytes().hex() for name, leaf in leaves_by_name(state).items()}


def die_writing(name: str) -> None:
    """Kills this process outright when a path with `name` in it is about to get its name by a rename: all that belongs
    there is written by then, and not in its place."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and name in str(arguments[1]):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--signal-at", type=int, nargs=2, default=(0, 0))
    parser.add_argument("--die-writing")
    arguments = parser.parse_args()
    at, number = arguments.signal_at
    if arguments.die_writing:
        die_writing(arguments.die_writing)

    def on_step(step: int, state: Any, values: Any) -> None:
        print("step", step, flush=True)
        if step == at:
            os.kill(os.getpid(), number)

    config = experiment(arguments.steps, slow=arguments.slow)
    state = train(config, Workspace(arguments.folder), resume=arguments.resume, console=Console(), on_step=on_step)
    (arguments.folder / "final.json").write_text(json.dumps(state_bytes(state)))


if __name__ == "__main__":
    main()
