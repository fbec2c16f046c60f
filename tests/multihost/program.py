"""One process of a run of a tiny policy that plays against itself; `test_multihost.py` starts one or several.

program.py FOLDER: a run by IPO-MD, its prompts from a shared source, its preferences from a preference model and, with
--host-judge, from a stage in Python.
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
import numpy as np
from rich.console import Console

from alignjax import algorithms, distributed, roles, stages
from alignjax.config import ConfigError, Experiment, MeshConfig, fn
from alignjax.data.stream import Opened, Source, endless
from alignjax.models import TransformerConfig, transformer
from alignjax.stages import host
from alignjax.train.leaves import digest, leaves_by_name
from alignjax.train.loop import train
from alignjax.train.optimizers import adamw
from alignjax.types import Algorithm, Batch, Context, Key, Role
from alignjax.workspace import Workspace

jax.config.update("jax_disable_most_optimizations", True)
SMALL = {"vocab": 16, "width": 16, "layers": 1, "heads": 4, "kv_heads": 2, "mlp": 32}
ROWS, LENGTH = 8, 5
MADE: list[int] = []  # example ids of the rows that this process made


def source(workspace: Workspace, seed: int) -> Source:
    """Left-padded prompts of 400 examples."""

    def row(number: int) -> Batch:
        draw = np.random.default_rng((seed, number))
        valid = np.arange(LENGTH) >= draw.integers(0, LENGTH - 1)
        prompt = np.where(valid, draw.integers(4, 16, LENGTH), 0).astype(np.int32)
        return Batch(prompt=prompt, prompt_valid=valid, example_id=np.int32(number))

    def noted(row: Batch) -> Batch:
        MADE.append(int(row.example_id))
        return row

    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((ROWS, *leaf.shape), leaf.dtype), row(0))
    return Source(shapes, lambda: Opened(endless([row(k) for k in range(400)], seed, True).map(noted), 400, {}))


def longest_wins(context: Context, batch: Batch, key: Key) -> Batch:
    """A judge in Python, and a note of who asked it."""
    print("judged", flush=True)
    length = np.sum(np.asarray(batch.valid), axis=-1)
    wins = (np.sign(length[:, :, None] - length[:, None]) + 1) / 2
    return batch.replace(preference=wins.astype(np.float32))


def asks_the_model(context: Context, batch: Batch, key: Key) -> Batch:
    context.score("policy", batch)
    return batch


def with_preference(batch: Batch) -> Batch:
    rows, n, _ = batch.tokens.shape
    return batch.replace(preference=jax.ShapeDtypeStruct((rows, n, n), np.float32))


def same(batch: Batch) -> Batch:
    return batch


def experiment(arguments: argparse.Namespace) -> Experiment:
    policy = transformer(TransformerConfig(**SMALL))
    judge = transformer(TransformerConfig(**SMALL, outputs=("preference",)))
    algorithm: Algorithm = algorithms.ipo_md(
        policy,
        judge=fn(stages.preference_model, role="judge"),
        judges={"judge": Role(judge, roles.fresh())},
        optimizer=fn(adamw, learning_rate=arguments.learning_rate),
        start=roles.fresh(),
        max_tokens=4,
    )
    extra = {"judge": fn(host, stage=fn(longest_wins), like=fn(with_preference))} if arguments.host_judge else {}
    extra |= {"asks": fn(host, stage=fn(asks_the_model), like=fn(same))} if arguments.host_scores else {}
    algorithm = Algorithm({**algorithm.experience, **extra}, algorithm.losses, algorithm.roles)
    return Experiment(
        algorithm,
        fn(source),
        steps=arguments.steps,
        seed=3,
        mesh=MeshConfig(*arguments.mesh),
        log_every=1,
        checkpoint_every=2,
        sample=fn(sample),
        sample_every=1,
    )


def sample(experiment: Experiment, workspace: Workspace) -> Any:
    return lambda state, batch, step: [{"tokens": str(np.asarray(batch.tokens).tolist())}]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mesh", type=int, nargs=3, default=(1, -1, 1))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--host-judge", action="store_true")
    parser.add_argument("--host-scores", action="store_true")
    parser.add_argument("--place", nargs=3, help="coordinator, processes, process")
    parser.add_argument("--signal", type=int, nargs=3, help="process, step and number of a signal that it gets then")
    return parser.parse_args()


def main() -> None:
    arguments = options()
    if arguments.place:
        coordinator, processes, process = arguments.place
        distributed.connect(coordinator, int(processes), int(process), heartbeat_seconds=10)

    def on_step(step: int, state: Any, values: Any) -> None:
        print("step", step, flush=True)
        if arguments.signal and arguments.signal[:2] == [jax.process_index(), step]:
            if arguments.signal[2] == signal.SIGKILL:
                time.sleep(1)  # the checkpoint of an earlier step is complete by then
            os.kill(os.getpid(), arguments.signal[2])

    try:
        state = train(
            experiment(arguments),
            Workspace(arguments.folder),
            resume=arguments.resume,
            console=Console(),
            on_step=on_step,
        )
    except (ConfigError, distributed.Unreachable) as error:
        print(f"error: {error}", flush=True)
        sys.exit(2)
    finally:
        print("rows", json.dumps(sorted(set(MADE))), flush=True)
    shards = {
        name: len({str(s.index) for s in leaf.addressable_shards}) for name, leaf in leaves_by_name(state).items()
    }
    print("final", json.dumps({"digest": digest(state.roles), "shards": shards}), flush=True)


if __name__ == "__main__":
    main()
