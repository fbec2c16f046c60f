"""Runs recipes on meshes of simulated devices and prints what came of them as JSON; `test_mesh.py` reads it.

A program of its own, because the number of devices is set before jax starts. mesh_program.py [RECIPE ...] [MESH ...]
looks at other recipes and meshes than the test does, "all" at all of either.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from collectives import all_gathers
from jax.sharding import NamedSharding
from tiny import model as tiny_model
from tiny import ragged, sgd
from toy_recipes import PLAYED, RECIPES

from alignjax import algorithms, mesh
from alignjax.config import MeshConfig, fn
from alignjax.models import Quantised
from alignjax.train.state import abstract_state, create_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Algorithm, Model
from alignjax.workspace import Workspace

jax.config.update("jax_disable_most_optimizations", True)
# Sizes that 2 x 2 x 2 devices divide, and by which an array's shape says what it is.
LAYERS, VOCAB, ROWS = 3, 40, 8
NETWORK = tiny_model(vocab=VOCAB, layers=LAYERS, outputs=("preference", "reward", "value"))
MESHES = {"1": (1, 1, 1), "8x1": (1, 8, 1), "4x2": (1, 4, 2), "2x2x2": (2, 2, 2)}
# Adapters over quantised weights on one mesh only: the one that splits their inputs and outputs.
TESTED = {"dpo": ("1", "2x2x2"), "ipo_md": tuple(MESHES), "split_sampler": ("4x2",), "lora": ("1", "4x2")}


def lora(network: Model, **parts: Any) -> Algorithm:
    """DPO with adapters over a base in 8 bits."""
    return algorithms.with_lora(RECIPES["dpo"](network, **parts), rank=4, bits=8)


def split_sampler(network: Model, **parts: Any) -> Algorithm:
    """IPO-MD whose sampler leaves the weights split over the tensor axis."""
    algorithm = RECIPES["ipo_md"](network, **parts)
    stage = algorithm.experience["generate"].replace(tensor_parallel=True)
    return dataclasses.replace(algorithm, experience={**algorithm.experience, "generate": stage})


BUILDS = {**RECIPES, **PLAYED, "lora": lora, "split_sampler": split_sampler}


def gathered(compiled: Any) -> dict[str, list[Any]]:
    """The all-gathers of a program that would not scale: of weights of all layers at once, inside a loop and outside;
    of logits [..,V]; of states [B,N,T,D] or [B,1,S,D]; and in all, for a look."""
    found = all_gathers(compiled)
    stacked = [gather for gather in found if len(gather.shape) >= 2 and gather.shape[0] == LAYERS]
    return {
        "stacked": [gather.shape for gather in stacked if not gather.loop],
        "stacked_in_a_loop": [gather.shape for gather in stacked if gather.loop],
        "logits": [gather.shape for gather in found if len(gather.shape) >= 3 and VOCAB in gather.shape[2:]],
        "states": [gather.shape for gather in found if len(gather.shape) >= 4],
        "all": sorted({str(tuple(gather)) for gather in found}),
    }


def run(name: str, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Two iterations by one compiled program, which refuses what is laid out otherwise than it was compiled for."""
    algorithm: Algorithm = BUILDS[name](NETWORK, optimizer=fn(sgd, learning_rate=0.1), microbatches=1)
    place = mesh.make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    shardings = mesh.state_shardings(algorithm, abstract_state(algorithm), place)
    state = create_state(algorithm, 0, Workspace(Path("nowhere")), shardings)
    batch = ragged(rows=ROWS, vocab=VOCAB)
    if "generate" in algorithm.experience:
        batch = batch.replace(tokens=None, valid=None, mask=None, preference=None, logps={})
    batch = mesh.place(batch, place)
    experience = jax.jit(make_experience(algorithm)).lower(state, batch).compile()
    given, _ = experience(state, batch)
    update = jax.jit(make_update(algorithm), donate_argnums=0).lower(state, given).compile()
    values = []
    for number in range(2):
        given = given if number == 0 else experience(state, batch)[0]
        state, metrics = update(state, given)
        values.append({key: float(metrics[key]) for key in metrics if key.split("/")[0] in ("loss", "gradient_norm")})
    kept = jax.tree.map(lambda leaf, wanted: leaf.sharding.is_equivalent_to(wanted, leaf.ndim), state, shardings)
    held = state.roles.get("base", next(state.roles[role] for role in algorithm.roles))["layers"]["gate"]
    weight = held.values if isinstance(held, Quantised) else held
    return {
        "values": values,
        "shardings_kept": bool(np.all(jax.tree.leaves(kept))),
        "weight_shards": len({str(shard.index) for shard in weight.addressable_shards}),
        "tokens": np.asarray(given.tokens).tolist(),
        "experience": gathered(experience),
        "update": gathered(update),
    }


def control() -> dict[str, list[Any]]:
    """A program that does what no update should."""
    place = mesh.make_mesh(MeshConfig(1, 8, 1))

    def arrays(*axes: str | None, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(place, mesh.spec(axes, shape, place)))

    def gathers(weights: Any, logits: Any) -> Any:
        turn = lambda _, x: mesh.by_rows(mesh.whole(2 * x))  # noqa: E731
        return mesh.whole(weights), jax.lax.fori_loop(0, 3, turn, logits)

    weights = arrays("layers", "embed", "mlp", shape=(LAYERS, 16, 24))
    logits = arrays("batch", None, None, None, shape=(ROWS, 2, 5, VOCAB))
    return gathered(jax.jit(gathers).lower(weights, logits).compile())


def main() -> None:
    words = sys.argv[1:]
    meshes = tuple(word for word in words if word in MESHES) or tuple(MESHES)
    names = [word for word in words if word not in MESHES]
    wanted = dict.fromkeys([*RECIPES, *PLAYED] if names == ["all"] else names, meshes) or TESTED
    found: dict[str, Any] = {}
    for name, labels in wanted.items():
        found[name] = {label: run(name, MESHES[label]) for label in labels}
        jax.clear_caches()
        if words:  # somebody waits
            print(json.dumps({name: found[name]}), flush=True)
    print(json.dumps(found | {"control": control()}))


if __name__ == "__main__":
    main()
