"""Runs updates on meshes of simulated devices and prints what came of them as JSON; `test_mesh.py` reads it.

A program of its own, because the number of devices is set before jax starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tiny import model as tiny_model
from tiny import ragged, sgd
from toy_recipes import RECIPES

from alignjax import algorithms, mesh
from alignjax.config import MeshConfig, fn
from alignjax.models import Quantised
from alignjax.train.state import abstract_state, create_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Algorithm, Model
from alignjax.workspace import Workspace

jax.config.update("jax_disable_most_optimizations", True)
# Sizes that 4 x 2 devices divide; weights large enough to be worth splitting are not needed for that.
NETWORK = tiny_model(vocab=24, layers=1, outputs=("preference",))
COMPILED: list[str] = []  # names of functions, as XLA compiles them
MESHES = {"8x1": MeshConfig(1, 8, 1), "4x2": MeshConfig(1, 4, 2)}


def with_lora(network: Model, **parts: Any) -> Algorithm:
    """DPO with adapters over a base in 8 bits."""
    return algorithms.with_lora(RECIPES["dpo"](network, **parts), rank=4, bits=8)


def note(event: str, seconds: float, **about: Any) -> None:
    if "backend_compile" in event:
        COMPILED.append(about.get("fun_name", ""))


def run(name: str, config: MeshConfig, devices: Any) -> dict[str, Any]:
    """Two iterations: offline recipes on a given batch, online ones from prompts."""
    recipes = {**RECIPES, "lora": with_lora}
    algorithm: Algorithm = recipes[name](NETWORK, optimizer=fn(sgd, learning_rate=0.1), microbatches=1)
    place = mesh.make_mesh(config, devices)
    shardings = mesh.state_shardings(algorithm, abstract_state(algorithm), place)
    state = create_state(algorithm, 0, Workspace(Path("nowhere")), shardings)
    batch = ragged(rows=8, vocab=24)
    if "generate" in algorithm.experience:
        batch = batch.replace(tokens=None, valid=None, mask=None, preference=None, logps={})
    experience, update = make_experience(algorithm), make_update(algorithm)
    COMPILED.clear()
    values = []
    for _ in range(2):
        given, _ = experience(state, mesh.place(batch, place))
        state, metrics = update(state, given)
        values.append({key: float(metrics[key]) for key in ("loss", "gradient_norm/policy")})
    kept = jax.tree.map(lambda leaf, wanted: leaf.sharding.is_equivalent_to(wanted, leaf.ndim), state, shardings)
    held = state.roles["base" if name == "lora" else "policy"]["layers"]["gate"]
    weight = held.values if isinstance(held, Quantised) else held
    return {
        "values": values,
        "compiles": max(COMPILED.count(function) for function in ("jit(_update)", "jit(_experience)")),
        "shardings_kept": bool(np.all(jax.tree.leaves(kept))),
        "weight_shards": len({str(shard.index) for shard in weight.addressable_shards}),
        "tokens": np.asarray(given.tokens).tolist(),
    }


def main() -> None:
    devices = jax.devices()
    jax.monitoring.register_event_duration_secs_listener(note)
    found = {}
    for name in ("dpo", "online_ipo", "ipo_md", "lora"):
        found[name] = {"1": run(name, MeshConfig(1, 1, 1), devices[:1])}
        for label, config in MESHES.items():
            if name != "lora" or label == "4x2":
                found[name][label] = run(name, config, devices)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
