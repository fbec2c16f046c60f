"""How much of a device's memory IPO-MD takes, for models from 0.5 to 70 billion parameters: a table in Markdown; with
--compile a second one of what sampling and updating cost a device, and how long they take at least.

    python tpu/sizes.py --topology v5p-128 [--sizes 7B 70B] [--compile]

IPO-MD holds a trained policy, its frozen reference and a preference model, all of one size; every device has four
prompts of 512 tokens with two completions of 512, and takes the gradient prompt by prompt (bfloat16 arithmetic, layers
rematerialised, Adam). The shapes are those of Qwen 2.5 and, at 70B, Llama 3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cloud
import jax
import jax.numpy as jnp

from alignjax import algorithms, stages
from alignjax.cli.compiled_costs import Costs
from alignjax.cli.device_memory import DeviceMemory, abstract_mesh, device_memory, slice_mesh
from alignjax.cli.roofline import bounds
from alignjax.config import ConfigError, Experiment, fn, nearest
from alignjax.models import TransformerConfig, transformer
from alignjax.models.kv_cache import parameter_count
from alignjax.parallel.tpu_topologies import Topology, topology
from alignjax.roles import fresh
from alignjax.train.optimizers import adamw
from alignjax.train.resolve import resolve
from alignjax.types import Batch, Role
from alignjax.workspace import Workspace

PROMPTS, LENGTH, COMPLETIONS = 4, 512, 2  # prompts per device, tokens of each text, completions per prompt
# vocabulary, width, layers, heads, key-value heads, hidden units, head tied to the embedding
SIZES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "0.5B": (151936, 896, 24, 14, 2, 4864, True),
    "1.5B": (151936, 1536, 28, 12, 2, 8960, True),
    "3B": (151936, 2048, 36, 16, 2, 11008, True),
    "7B": (152064, 3584, 28, 28, 4, 18944, False),
    "14B": (152064, 5120, 48, 40, 8, 13824, False),
    "32B": (152064, 5120, 64, 40, 8, 27648, False),
    "70B": (128256, 8192, 80, 64, 8, 28672, False),
}


class Shapes(NamedTuple):
    """A source that has shapes and no data."""

    spec: Batch


def prompts(workspace: Any, seed: int, *, rows: int) -> Shapes:
    shape = jax.ShapeDtypeStruct
    return Shapes(
        Batch(
            prompt=shape((rows, LENGTH), jnp.int32),
            prompt_valid=shape((rows, LENGTH), bool),
            example_id=shape((rows,), jnp.int32),
        )
    )


def experiment(size: str, slice_: Topology, precision: str) -> Experiment:
    """IPO-MD with models of a size, on the slice's default mesh; precision: in which weights and moments are kept."""
    vocab, width, layers, heads, kv_heads, mlp, tied = SIZES[size]
    config = TransformerConfig(
        vocab=vocab, width=width, layers=layers, heads=heads, kv_heads=kv_heads, mlp=mlp, tied=tied,
        dtype="bfloat16", param_dtype=precision, remat="layer",
    )  # fmt: skip
    judge = TransformerConfig(**{**vars(config), "outputs": ("embedding",)})
    mesh = slice_.default_mesh
    algorithm = algorithms.ipo_md(
        transformer(config),
        tau=0.05,
        beta=0.125,
        optimizer=fn(adamw, learning_rate=1e-6),
        judge=fn(stages.preference_model, reading="apart"),
        judges={"preference": Role(transformer(judge), fresh())},
        start=fresh(),
        max_tokens=LENGTH,
        stop=(),
        n=COMPLETIONS,
        microbatches=PROMPTS,
    )
    rows = PROMPTS * mesh.replica * mesh.fsdp
    return Experiment(algorithm, fn(prompts, rows=rows), steps=1, mesh=mesh)


def main(arguments: Sequence[str] | None = None) -> int:
    flags = argparse.ArgumentParser(description="How much of a device's memory IPO-MD takes.", allow_abbrev=False)
    flags.add_argument("--topology", required=True, help="accelerator type: v5e-16, v5p-128, ...")
    flags.add_argument("--slices", type=int, default=1, help="how many such slices")
    flags.add_argument("--sizes", nargs="*", default=list(SIZES), help=f"of {', '.join(SIZES)}; all if not given")
    flags.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of weights and moments")
    flags.add_argument("--compile", action="store_true", help="ask the TPU's compiler what is needed beside it")
    given = flags.parse_args(arguments)
    slice_ = topology(given.topology, given.slices)
    if wrong := [size for size in given.sizes if size not in SIZES]:
        raise ConfigError(f"there is no size {wrong[0]!r}.{nearest(wrong[0], SIZES)}")
    room = slice_.hbm_bytes / 2**30
    print(f"{slice_}: {slice_.devices} devices of {room:.0f} GiB, {given.precision} weights, mesh {_mesh(slice_)}\n")
    programs = ["sample and score", "update", "at most at once"] if given.compile else []
    columns = ["model", "parameters", "state", "batch", *programs, "of the device"]
    print(f"| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 1)}")
    costs = []
    for size in given.sizes:
        made = experiment(size, slice_, given.precision)
        count = parameter_count(made.algorithm.roles["policy"].model)
        memory = _bytes(made, slice_, given.compile)
        print(_row(size, count, memory, slice_), flush=True)
        costs += [_cost_row(size, name, cost, slice_) for name, cost in memory.costs.items()]
    if costs:
        columns = ["model", "to", "TFLOPs", "GB moved", "GB over the interconnect", "at least (s)", "bound by"]
        print(f"\n| {' | '.join(columns)} |\n| --- | --- |{' ---: |' * 4} --- |")
        print("\n".join(costs))
    return 0


def _mesh(slice_: Topology) -> str:
    return " x ".join(f"{name} {size}" for name, size in vars(slice_.default_mesh).items())


def _bytes(made: Experiment, slice_: Topology, compile_: bool) -> DeviceMemory:
    mesh = slice_mesh(made.mesh, slice_) if compile_ else abstract_mesh(made.mesh, slice_.devices)
    return device_memory(resolve(made, Workspace(Path("runs")), mesh), compile_=compile_)


def _row(size: str, count: int, memory: DeviceMemory, slice_: Topology) -> str:
    columns = [memory.state, memory.batch, *(program.temporary for program in memory.compiled.values())]
    columns += [memory.total] if memory.compiled else []
    cells = " | ".join(f"{number / 2**30:.2f}" for number in columns)
    return f"| {size} | {count / 1e9:.2f}e9 | {cells} | {memory.total / slice_.hbm_bytes:.0%} |"


def _cost_row(size: str, name: str, cost: Costs, slice_: Topology) -> str:
    seconds = bounds(cost, slice_)
    limit = max(seconds, key=seconds.__getitem__)
    numbers = cost.flops / 1e12, cost.bytes_moved / 1e9, cost.bytes_sent / 1e9, seconds[limit]
    return f"| {size} | {name} | {' | '.join(f'{number:.3g}' for number in numbers)} | {limit} |"


if __name__ == "__main__":
    sys.exit(cloud.status_of(main))
