"""One process of a run whose reward is a function in plain Python; `test_multihost_texts.py` starts one or several.

texts.py FOLDER [--resume] [--fails STEP]: RLOO on the prompts of a file beside FOLDER. Who is asked says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from alignjax import algorithms, data, roles, stages
from alignjax.asking import RewardError
from alignjax.config import ConfigError, Experiment, MeshConfig, fn
from alignjax.models import TransformerConfig, transformer
from alignjax.parallel import processes
from alignjax.train.checkpoint.checksums import digest
from alignjax.train.loop import train
from alignjax.train.optimizers import adamw
from alignjax.workspace import Workspace
from tests.support.private_jax import let_every_process_keep_programs

FAILS: list[int] = []  # the steps at which `letters` fails
SMALL = {"vocab": 272, "width": 16, "layers": 1, "heads": 4, "kv_heads": 2, "mlp": 32}


def letters(completions: list[str], word: list[str], trainer_state: Any) -> list[float | None]:
    """The share of letters that the row's word has too; no opinion about an empty text."""
    print("letters of step", trainer_state.global_step + 1, flush=True)
    pairs = zip(completions, word, strict=True)
    return [sum(each in own for each in text) / len(text) if text else None for text, own in pairs]


def sizes(completion_ids: list[list[int]], trainer_state: Any) -> list[float]:
    if trainer_state.global_step + 1 in FAILS:
        raise OSError("no credit")
    return [sum(ids) % 7 / 7 for ids in completion_ids]


def experiment(file: Path, mesh: list[int]) -> Experiment:
    prompts = data.Prompts(path=str(file), vocab_size=SMALL["vocab"], test_fraction=0.0)
    algorithm = algorithms.rloo(
        transformer(TransformerConfig(**SMALL)),  # type: ignore[arg-type]
        reward=fn(stages.text_reward, function=(letters, sizes), weights=(1.0, 0.5), prompts_per_call=2, retries=0),
        n=3,
        optimizer=fn(adamw, learning_rate=1e-2),
        start=roles.fresh(),
        max_tokens=5,
    )
    source = fn(data.prompts, dataset=prompts, batch_size=4, prompt_length=24)
    return Experiment(algorithm, source, 4, seed=3, mesh=MeshConfig(*mesh), log_every=1, checkpoint_every=2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mesh", type=int, nargs=3, default=(1, -1, 1))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--fails", type=int, nargs="*", default=[])
    parser.add_argument("--place", nargs=3)
    arguments = parser.parse_args()
    if arguments.place:
        coordinator, count, number = arguments.place
        processes.connect(coordinator, int(count), int(number), heartbeat_seconds=30)
        let_every_process_keep_programs()
    FAILS[:] = arguments.fails
    try:
        run = experiment(arguments.folder.parent / "prompts.jsonl", arguments.mesh)
        state = train(run, Workspace(arguments.folder), resume=arguments.resume, console=Console())
    except (ConfigError, RewardError, processes.Unreachable) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(2)
    print("final", json.dumps({"digest": digest(state.roles), "process": jax.process_index()}), flush=True)


if __name__ == "__main__":
    main()
