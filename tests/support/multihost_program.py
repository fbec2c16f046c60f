"""One process of a run of a tiny policy that plays against itself; `test_multihost.py` starts one or several.

program.py FOLDER: a run by IPO-MD, its prompts from a shared source, its preferences from a preference model and, with
--host-judge, from a stage in Python. With --cached a run by IPO on given pairs, with the reference's log-probs kept on
disk.
"""

from __future__ import annotations

import argparse
import dataclasses
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

from alignjax import algorithms, roles, stages
from alignjax.config import ConfigError, Experiment, Fn, MeshConfig, fn
from alignjax.data.sources.source import OpenedSource, Source, endless
from alignjax.models import TransformerConfig, transformer
from alignjax.parallel import processes
from alignjax.stages import host
from alignjax.train import checkpoint
from alignjax.train.checkpoint.checksums import digest
from alignjax.train.logp_cache import reference_logps
from alignjax.train.loop import train
from alignjax.train.optimizers import adamw
from alignjax.tree_names import leaves_by_name
from alignjax.types import Algorithm, Batch, Context, Key, Role
from alignjax.workspace import Workspace
from tests.support.private_jax import let_every_process_keep_programs

SMALL = {"vocab": 16, "width": 16, "layers": 1, "heads": 4, "kv_heads": 2, "mlp": 32}
ROWS, LENGTH = 8, 5
MADE: list[int] = []  # example ids of the rows that this process made
LOOK: list[Any] = [lambda row: row]  # the last one is called with each row of a pair that is looked at


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
    return Source(shapes, lambda: OpenedSource(endless([row(k) for k in range(400)], seed, True).map(noted), 400, {}))


def pairs(workspace: Workspace | None, seed: int) -> Source:
    """Pairs of ragged completions to 20 prompts."""

    def row(number: int) -> Batch:
        draw = np.random.default_rng((seed, 1, number))
        ends = draw.integers(1, LENGTH + 1, 3)
        slots = np.arange(LENGTH)
        tokens = draw.integers(4, 16, (3, LENGTH)).astype(np.int32)
        valid = slots < ends[:2, None]
        preference = np.array([[0.5, 1], [0, 0.5]], np.float32)
        return Batch(
            prompt=tokens[2], prompt_valid=slots >= LENGTH - ends[2], tokens=tokens[:2], valid=valid,
            mask=valid.astype(np.float32), preference=preference, example_id=np.int32(number),
        )  # fmt: skip

    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((ROWS, *leaf.shape), leaf.dtype), row(0))
    rows = [row(k) for k in range(20)]
    return Source(shapes, lambda: OpenedSource(endless(rows, seed, False).map(LOOK[-1]), 20, {}))


def heaviest_wins(context: Context, batch: Batch, key: Key) -> Batch:
    """A judge in Python, and a note of who asked it. It has no ties to speak of: a gradient of nothing but rounding
    would go through AdamW as a step of full size, another one on each mesh."""
    print("judged", flush=True)
    weight = np.sum(np.asarray(batch.tokens) * np.asarray(batch.valid), axis=-1)
    wins = (np.sign(weight[:, :, None] - weight[:, None]) + 1) / 2
    return batch.replace(preference=wins.astype(np.float32))


def asks_the_model(context: Context, batch: Batch, key: Key) -> Batch:
    context.score("policy", batch)
    return batch


def with_preference(batch: Batch) -> Batch:
    rows, n, _ = batch.tokens.shape
    return batch.replace(preference=jax.ShapeDtypeStruct((rows, n, n), np.float32))


def same(batch: Batch) -> Batch:
    return batch


def run_of(algorithm: Algorithm, source: Fn, arguments: argparse.Namespace) -> Experiment:
    return Experiment(
        algorithm,
        source,
        steps=arguments.steps,
        seed=3,
        mesh=MeshConfig(*arguments.mesh),
        log_every=1,
        checkpoint_every=2,
        sample=fn(sample),
        sample_every=1,
    )


def experiment(arguments: argparse.Namespace) -> Experiment:
    policy = transformer(TransformerConfig(**SMALL))
    judge = transformer(TransformerConfig(**SMALL, outputs=("preference",)))
    algorithm: Algorithm = algorithms.ipo_md(
        policy,
        judge=fn(stages.preference_model, role="judge", separator=3),
        judges={"judge": Role(judge, roles.fresh())},
        optimizer=fn(adamw, learning_rate=arguments.learning_rate),
        start=roles.fresh(),
        max_tokens=4,
        stop=(2,),
    )
    extra = {"judge": fn(host, stage=fn(heaviest_wins), like=fn(with_preference))} if arguments.host_judge else {}
    extra |= {"asks": fn(host, stage=fn(asks_the_model), like=fn(same))} if arguments.host_scores else {}
    algorithm = Algorithm({**algorithm.experience, **extra}, algorithm.losses, algorithm.roles)
    return run_of(algorithm, fn(source), arguments)


def cached(arguments: argparse.Namespace) -> Experiment:
    network = transformer(TransformerConfig(**SMALL))
    algorithm = algorithms.ipo(network, start=roles.fresh(), optimizer=fn(adamw, learning_rate=arguments.learning_rate))
    # The reference is another network than the policy at first, so that a wrong number shows at once.
    given = {**algorithm.roles, "reference": Role(network, roles.fresh())}
    algorithm = dataclasses.replace(algorithm, roles=given)
    return dataclasses.replace(run_of(algorithm, fn(pairs), arguments), cached_logps=("reference",))


def sample(experiment: Experiment, workspace: Workspace) -> Any:
    """Who was in the batch, and what was said."""
    return lambda state, batch, step: [
        {"ids": str(np.asarray(batch.example_id).tolist()), "tokens": str(np.asarray(batch.tokens).tolist())}
    ]


def dies_at_row(process: int, row: int, number: int) -> Any:
    """What ends a process with a signal when it looks at that many rows."""
    seen: list[int] = []

    def look(given: Batch) -> Batch:
        seen.append(int(given.example_id))
        if len(seen) == row and jax.process_index() == process:
            os.kill(os.getpid(), number)
        return given

    return look


def dies_in_save(process: int, step: int) -> Any:
    """`checkpoint.save`, but the process is killed while that step is written in the background."""
    save = checkpoint.save

    def saved(writer: checkpoint.Writer, number: int, *rest: Any, **more: Any) -> None:
        save(writer, number, *rest, **more)
        if number == step and jax.process_index() == process:
            os.kill(os.getpid(), signal.SIGKILL)

    return saved


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mesh", type=int, nargs=3, default=(1, -1, 1))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--host-judge", action="store_true")
    parser.add_argument("--host-scores", action="store_true")
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--again", help="another folder for log-probs, with which to run once more")
    parser.add_argument("--place", nargs=3, help="coordinator, processes, process")
    parser.add_argument("--signal", type=int, nargs=3, help="process, step and number of a signal that it gets then")
    parser.add_argument("--signal-at-row", type=int, nargs=3, help="process, rows it has looked at, number")
    parser.add_argument("--kill-in-save", type=int, nargs=2, help="process, step")
    return parser.parse_args()


def main() -> None:
    arguments = options()
    if arguments.place:
        coordinator, count, number = arguments.place
        processes.connect(coordinator, int(count), int(number), heartbeat_seconds=30)
        let_every_process_keep_programs()
    if arguments.signal_at_row:
        LOOK.append(dies_at_row(*arguments.signal_at_row))
    if arguments.kill_in_save:
        checkpoint.save = dies_in_save(*arguments.kill_in_save)
    reference_logps.SHARD_SECONDS = 0
    try:
        state = run(arguments, arguments.folder)
        if arguments.again:
            os.environ["ALIGNJAX_CACHE"] = arguments.again
            run(arguments, arguments.folder / "again")
    except (ConfigError, checkpoint.CheckpointError, processes.Unreachable) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(getattr(error, "exit_status", 2))
    finally:
        print("rows", json.dumps(sorted(set(MADE))), flush=True)
    shards = {
        name: len({str(s.index) for s in leaf.addressable_shards}) for name, leaf in leaves_by_name(state).items()
    }
    print("final", json.dumps({"digest": digest(state.roles), "shards": shards}), flush=True)


def run(arguments: argparse.Namespace, folder: Path) -> Any:
    """The state after the run's last step."""

    def on_step(step: int, state: Any, values: Any) -> None:
        print("step", step, flush=True)
        if arguments.signal and arguments.signal[:2] == [jax.process_index(), step]:
            if arguments.signal[2] == signal.SIGKILL:
                time.sleep(1)  # the checkpoint of an earlier step is complete by then
            os.kill(os.getpid(), arguments.signal[2])

    given = cached(arguments) if arguments.cached else experiment(arguments)
    return train(given, Workspace(folder), resume=arguments.resume, console=Console(), on_step=on_step)


if __name__ == "__main__":
    main()
