"""Evaluates every loss on meshes of simulated devices and prints what came of it; `test_mesh_losses.py` reads it.

A program of its own, because the number of devices is set before jax starts. In float64, so that a sum taken in another
order differs by 1e-15 and a sum taken over one device's rows alone cannot hide.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec

from alignjax.config import MeshConfig
from alignjax.parallel import mesh
from tests.support.cases import CASES
from tests.support.collectives import all_gathers
from tests.support.network import AXES, full_batch, parameters
from tests.support.together import SCOPE, Program, extra_state, moving

jax.config.update("jax_enable_x64", True)
QUICK = {"xla_cpu_parallel_codegen_split_count": 1}
MESHES = {"8x1": (1, 8, 1), "4x2": (1, 4, 2), "2x2x2": (2, 2, 2)}
# One line of each loss.
LOSSES = [case for case in CASES if case is next(c for c in CASES if c.loss.function is case.loss.function)]


def of_mesh(label: str) -> list[int]:
    """The numbers of the losses that a mesh sees: two of three, so that each loss is on two of the three meshes."""
    return [number for number in range(len(LOSSES)) if list(MESHES)[number % len(MESHES)] != label]


def weights_on(params: Any, place: Any) -> Any:
    """Weights split by their logical axes."""

    def one(axes: Any, leaf: Any) -> jax.Array:
        return jax.device_put(leaf, NamedSharding(place, mesh.partition_spec(axes, leaf.shape, place)))

    return jax.tree.map(one, AXES, params, is_leaf=lambda node: isinstance(node, tuple))


def run(cases: list[Any], sizes: tuple[int, int, int], factors: list[np.ndarray]) -> dict[str, Any]:
    """Values of the cases, a gradient for each row of factors, and the least number of pieces of an array."""
    place = mesh.make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    state = jax.device_put(extra_state(cases, "float64"), NamedSharding(place, PartitionSpec()))
    moves = moving(cases, weights_on(parameters(1, "float64"), place), state)
    pieces = []

    def split(arrays: Any) -> Any:
        placed = mesh.place_batch(arrays, place)
        pieces.extend(len({str(shard.index) for shard in array.addressable_shards}) for array in placed)
        return placed

    reference = weights_on(parameters(2, "float64"), place)
    both, program = Program(cases).compiled_sum(moves, reference, state, full_batch(), split, QUICK)
    outs = [both(factor) for factor in factors]
    return {
        "value": np.asarray(outs[0]["value"]).tolist(),
        "gradients": [{role: _flat(tree) for role, tree in out["gradient"].items()} for out in outs],
        "pieces": min(pieces),
        "gathers": gathers(program, place),
    }


def _flat(tree: Any) -> list[float]:
    return np.asarray(ravel_pytree(jax.tree.map(np.asarray, tree))[0]).tolist()


def gathers(program: Any, place: Any) -> dict[str, list[tuple[int, ...]]]:
    """The shapes that each loss gathers, "" for what is shared; weights of the network, whole over fsdp, aside."""

    def used(axes: Any, leaf: Any) -> tuple[int, ...]:
        return _squeezed(
            NamedSharding(place, mesh.partition_spec(axes, leaf.shape, place, mesh.COMPUTE_LAYOUT)).shard_shape(
                leaf.shape
            )
        )

    weights = jax.tree.map(used, AXES, parameters(1), is_leaf=lambda node: isinstance(node, tuple))
    known = set(jax.tree.leaves(weights, is_leaf=lambda node: isinstance(node, tuple)))
    found: dict[str, set[tuple[int, ...]]] = {}
    for gather in all_gathers(program):
        if _squeezed(gather.shape) not in known:
            scope = re.search(rf"{SCOPE}(\w+)", gather.op)
            found.setdefault(scope[1] if scope else "", set()).add(_squeezed(gather.shape))
    return {name: sorted(shapes) for name, shapes in found.items()}


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def main() -> None:
    factors = np.random.default_rng(6).uniform(0.5, 1, len(LOSSES))
    parts = {label: np.isin(np.arange(len(LOSSES)), of_mesh(label)) for label in MESHES}
    found: dict[str, Any] = {"names": [case.name for case in LOSSES]}
    found["1"] = run(LOSSES, (1, 1, 1), [factors * part for part in parts.values()])
    for label, sizes in MESHES.items():
        cases = [LOSSES[number] for number in of_mesh(label)]
        found[label] = {"numbers": of_mesh(label), **run(cases, sizes, [factors[parts[label]]])}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
