"""What padding and a second trunk cost an update, and what the options against them save, on docstrings as they are.

    python -m benchmarks.update_speed            # 32 updates of each option
    python -m benchmarks.update_speed --work dpo --steps 8

Each option takes the same batches of rows as the plain update, in turns in one process after everything was compiled; a
ratio is time without the option over time with it. Buckets put the rows of 32 batches into 32 others: only of as many
steps are they the same rows. CPU seconds are those of this process, which others on the machine disturb less than the
clock on the wall.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from alignjax import algorithms
from alignjax.config import Experiment, Packing, fn
from alignjax.data import Docstrings, instructions
from alignjax.data.sources.batch_layout import stacked
from alignjax.data.sources.source import WINDOW, Source
from alignjax.models import TransformerConfig, transformer
from alignjax.models.packing import packing_for, packs
from alignjax.parallel.mesh import make_mesh
from alignjax.roles import Fresh
from alignjax.train.logp_cache import reference_logps
from alignjax.train.optimizers import adamw
from alignjax.train.resolve import resolve
from alignjax.train.state import create_state
from alignjax.train.step import make_experience, make_update
from alignjax.train.stop_signal import StopRequest
from alignjax.types import Batch
from alignjax.workspace import Workspace

ROWS, PROMPT, COMPLETION = 16, 256, 40
BUCKETS = ((64, 24), (128, 32))
NETWORK = TransformerConfig(vocab=4096, width=128, layers=2, heads=4, mlp=512)


def paired(source: Source) -> Source:
    """Pairs of real lengths: each text against that of the row before it in the stream."""
    opened = source.opened

    def pair(position: int, row: Batch) -> Batch:
        both = stacked([row, opened.rows[max(position - 1, 0)]])
        texts = {name: getattr(both, name)[:, 0] for name in ("tokens", "valid", "mask")}
        return row.replace(**texts, preference=np.array([[0.5, 1], [0, 0.5]], np.float32))

    def lengths(position: int) -> tuple[int, int]:
        own, other = opened.lengths(position), opened.lengths(max(position - 1, 0))
        return own[0], max(own[1], other[1])

    rows = opened.rows.map_with_index(pair)
    found = dataclasses.replace(opened, rows=rows, lengths=lengths)
    spec = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((ROWS, *leaf.shape), leaf.dtype), rows[0])
    return dataclasses.replace(source, spec=spec, open=lambda: found)


def source(workspace: Any, seed: int, *, work: str, bucketed: bool = False) -> Source:
    """Docstrings, one summary each or in pairs."""
    sizes = {"batch_size": ROWS, "prompt_length": PROMPT, "completion_length": COMPLETION}
    policy = {"long_prompts": "truncate_right", "long_completions": "skip"}
    buckets = BUCKETS if bucketed else ()
    found = instructions(workspace, seed, dataset=Docstrings(), buckets=buckets, **policy, **sizes)
    return found if work == "sft" else paired(found)


def experiment(
    work: str, count: int, packing: Packing | None = None, bucketed: bool = False, cached: bool = False
) -> Experiment:
    optimizer = fn(adamw, learning_rate=1e-4)
    if work == "sft":
        algorithm = algorithms.sft(transformer(NETWORK), optimizer=optimizer)
    else:
        algorithm = algorithms.dpo(transformer(NETWORK), optimizer=optimizer, start=Fresh())
    algorithm = dataclasses.replace(algorithm, packing=packing)
    names = ("reference",) if cached else ()
    return Experiment(algorithm, fn(source, work=work, bucketed=bucketed), count, cached_logps=names)


def steps(given: Experiment) -> tuple[list[Callable[[], None]], float]:
    """(its steps, every program they need compiled; the seconds that filling the cache took)."""
    resolved = resolve(given, None)
    algorithm, data = resolved.algorithm, resolved.source
    state, filling = create_state(given.algorithm, 0, Workspace(Path())), 0.0
    if given.cached_logps:
        began = time.perf_counter()
        data = reference_logps.with_logps(given, data, state, make_mesh(given.mesh), Console(), StopRequest())
        filling = time.perf_counter() - began
    experience, update, box = make_experience(algorithm), make_update(algorithm), [state]

    def one(batch: Batch) -> None:
        box[0], metrics = update(box[0], experience(box[0], batch)[0])
        jax.block_until_ready(metrics)

    batches = [data[step] for step in range(given.steps)]
    kinds = {program(given.algorithm.packing, batch): batch for batch in batches}
    for batch in kinds.values():
        one(jax.device_put(batch))
    print(f"{len(kinds)} shapes or layouts", flush=True)
    return [lambda batch=jax.device_put(batch): one(batch) for batch in batches], filling


def program(packing: Packing | None, batch: Batch) -> tuple[Any, ...]:
    """What decides which compiled program a batch runs."""
    return batch.prompt.shape, batch.tokens.shape, packing and packs(packing, batch.prompt_valid, batch.valid)


def lengths(work: str) -> np.ndarray:
    """Tokens of each prompt with its completions, [batches, B]."""
    data = source(None, 0, work=work)
    found = [data[step] for step in range(4 * WINDOW)]
    return np.stack([batch.prompt_valid.sum(1) + batch.valid.sum((1, 2)) for batch in found])


def cheapest(tokens: np.ndarray, slots: int) -> Packing:
    """Of the ways to pack a whole batch the one that costs least: products grow with the number of slots, plain
    attention with its square; some batches are scored with their padding, in `slots` a prompt."""
    ways = [(share, rows) for share in (0.02, 0.05, 0.1, 0.2) for rows in range(1, ROWS)]

    def cost(rows: int, length: int) -> float:
        return rows * length * (12 * NETWORK.width + 2 * length)

    def expected(way: tuple[float, int]) -> float:
        found = packing_for(tokens, ROWS, way[1], padded=way[0])
        return (1 - way[0]) * cost(way[1], found.length) + way[0] * cost(ROWS, slots)

    share, rows = min(ways, key=expected)
    return packing_for(tokens, ROWS, rows, padded=share)


def measured(options: dict[str, Experiment]) -> dict[str, dict[str, float]]:
    """Seconds of the clock and of the CPU per update, by option."""
    running = {name: steps(given) for name, given in options.items()}
    spent = {name: np.zeros(2) for name in running}
    count = len(next(iter(running.values()))[0])
    for number in range(count):
        for name, (series, _) in running.items():
            wall, cpu = time.perf_counter(), time.process_time()
            series[number]()
            spent[name] += time.perf_counter() - wall, time.process_time() - cpu
    return {
        name: {"wall": wall / count, "cpu": cpu / count, "filling": running[name][1]}
        for name, (wall, cpu) in spent.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=("sft", "dpo"), nargs="*", default=["sft", "dpo"])
    parser.add_argument("--steps", type=int, default=WINDOW, help="updates of each option")
    chosen = parser.parse_args()
    Docstrings().prepare()
    for work in chosen.work:
        tokens = lengths(work)
        slots = PROMPT + (1 if work == "sft" else 2) * COMPLETION
        print(f"\n{work}: {tokens.mean():.0f} tokens a prompt of {slots} slots ({tokens.mean() / slots:.0%} filled)")
        packing = cheapest(tokens, slots)
        print(packing)
        make = functools.partial(experiment, work, chosen.steps)
        options = {"padded": make(), "packed": make(packing=packing), "buckets": make(bucketed=True)}
        if work == "dpo":
            options |= {"cached": make(cached=True), "cached, packed": make(packing=packing, cached=True)}
        found = measured(options)
        plain = found["padded"]
        for name, spent in found.items():
            ratios = {kind: round(plain[kind] / spent[kind], 2) for kind in ("wall", "cpu")}
            seconds = {kind: round(value, 4) for kind, value in spent.items()}
            print(json.dumps({"work": work, "option": name, "seconds": seconds, "ratio": ratios}))


if __name__ == "__main__":
    main()
