"""Prints what eight simulated devices hold, as a dry run says and as it is, as JSON.

A program of its own, because the number of devices is set before jax starts.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax import algorithms, stages
from alignjax.cli.device_memory import abstract_mesh, device_memory
from alignjax.config import Experiment, MeshConfig, fn
from alignjax.models import TransformerConfig, transformer
from alignjax.parallel.mesh import make_mesh, place_batch, state_shardings
from alignjax.roles import fresh
from alignjax.train.optimizers import adamw
from alignjax.train.resolve import resolve
from alignjax.train.state import abstract_state, create_state
from alignjax.types import Batch, Role
from alignjax.workspace import Workspace

MESHES = {"8x1": MeshConfig(1, 8, 1), "4x2": MeshConfig(1, 4, 2)}
WORKSPACE = Workspace(Path("runs"))


class Shapes(NamedTuple):
    spec: Batch


def prompts(workspace: Any, seed: int, *, rows: int = 16, length: int = 32) -> Shapes:
    shape = jax.ShapeDtypeStruct
    valid = shape((rows, length), bool)
    return Shapes(Batch(prompt=shape((rows, length), jnp.int32), prompt_valid=valid))


def ipo_md(mesh: MeshConfig) -> Experiment:
    """Long texts and a small network: what is temporary is activations and caches."""
    config = TransformerConfig(vocab=64, width=32, layers=1, heads=4, kv_heads=2, mlp=64, remat="layer")
    judge = transformer(dataclasses.replace(config, outputs=("embedding",)))
    algorithm = algorithms.ipo_md(
        transformer(config),
        tau=0.05,
        beta=0.125,
        optimizer=fn(adamw, learning_rate=1e-4),
        judge=fn(stages.preference_model, reading="apart"),
        judges={"preference": Role(judge, fresh())},
        start=fresh(),
        max_tokens=64,
        stop=(2,),
        n=4,
    )
    return Experiment(algorithm, fn(prompts), steps=1, mesh=mesh)


def on_device(tree: Any, device: Any) -> int:
    """Bytes of the pieces of a tree's arrays that lie on a device."""
    shards = [shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards if shard.device == device]
    return sum(shard.data.nbytes for shard in shards)


def main() -> None:
    answer = {}
    for name, config in MESHES.items():
        made = ipo_md(config)
        mesh = make_mesh(config)
        shardings = state_shardings(made.algorithm, abstract_state(made.algorithm), mesh)
        state = create_state(made.algorithm, 0, WORKSPACE, shardings)
        batch = place_batch(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), prompts(None, 0).spec), mesh)
        device = jax.devices()[3]
        memory = device_memory(resolve(made, WORKSPACE, abstract_mesh(config, 8)))
        asked = device_memory(resolve(made, WORKSPACE, mesh), compile_=True) if name == "4x2" else memory
        answer[name] = {
            "said": dataclasses.asdict(memory),
            "asked": dataclasses.asdict(asked) | {"total": asked.total, "state": asked.state},
            "compiled": {of: program._asdict() for of, program in asked.compiled.items()},
            "policy": on_device(state.roles["policy"], device),
            "optimizer": on_device(state.optimizers, device),
            "others": on_device({k: v for k, v in state.roles.items() if k != "policy"}, device),
            "prompts": on_device(batch, device),
        }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
