"""Evaluates every loss on meshes of simulated devices and prints what came of it; `test_mesh_losses.py` reads it.

A program of its own, because the number of devices is set before jax starts. In float64, so that a sum taken in another
order differs by 1e-15 and a sum taken over one device's rows alone cannot hide.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from cases import CASES
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec
from network import AXES, full_batch, parameters
from together import Program, extra_state, moving

from alignjax import mesh
from alignjax.config import MeshConfig

jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_enable_x64", True)
# 4x2 would split nothing that one of these does not, and costs a compilation of every loss.
MESHES = {"1": (1, 1, 1), "8x1": (1, 8, 1), "2x2x2": (2, 2, 2)}


def weights_on(params: Any, place: Any) -> Any:
    """Weights split by their logical axes."""

    def one(axes: Any, leaf: Any) -> jax.Array:
        return jax.device_put(leaf, NamedSharding(place, mesh.spec(axes, leaf.shape, place)))

    return jax.tree.map(one, AXES, params, is_leaf=lambda node: isinstance(node, tuple))


def run(program: Program, sizes: tuple[int, int, int], devices: Any) -> dict[str, Any]:
    place = mesh.make_mesh(MeshConfig(*sizes), devices)
    whole = NamedSharding(place, PartitionSpec())
    state = jax.device_put(extra_state(program.cases, "float64"), whole)
    moves = moving(program.cases, weights_on(parameters(1, "float64"), place), state)
    factors = np.random.default_rng(6).uniform(0.5, 1, len(program.cases))
    pieces = []

    def split(arrays: Any) -> Any:
        placed = mesh.place(arrays, place)
        pieces.extend(len({str(shard.index) for shard in array.addressable_shards}) for array in placed)
        return placed

    reference = weights_on(parameters(2, "float64"), place)
    out = program.values_and_sum(moves, reference, state, full_batch(), split, factors)
    flat, _ = ravel_pytree(jax.tree.map(np.asarray, out["gradient"]))
    return {"value": np.asarray(out["value"]).tolist(), "gradient": np.asarray(flat).tolist(), "pieces": min(pieces)}


def main() -> None:
    first = {case.loss.function: case for case in reversed(CASES)}  # one line of each loss
    program, devices = Program([case for case in CASES if case in first.values()]), jax.devices()
    found: dict[str, Any] = {"names": [case.name for case in program.cases]}
    for name, sizes in MESHES.items():
        found[name] = run(program, sizes, devices[: int(np.prod(sizes))])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
