"""Loads the folder of published weights named on the command line onto eight simulated devices, through the start of a
role, and prints what was read as JSON; `test_huggingface_starts.py` reads it.

A program of its own, because the number of devices is set before jax starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors

from alignjax.config import MeshConfig
from alignjax.models import huggingface, transformer
from alignjax.parallel import mesh
from alignjax.train.state import abstract_state, create_state
from alignjax.types import Algorithm, Role
from alignjax.workspace import Workspace

READ: list[int] = []  # elements of each slice that was read
open_file = safetensors.safe_open


class Watched:
    """An open file, or a view of one of its tensors, that notes how much is read."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __enter__(self) -> Watched:
        return Watched(self.inner.__enter__())

    def __exit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def get_slice(self, name: str) -> Watched:
        return Watched(self.inner.get_slice(name))

    def __getitem__(self, index: Any) -> np.ndarray:
        found = self.inner[index]
        READ.append(found.size)
        return found


safetensors.safe_open = lambda *args, **words: Watched(open_file(*args, **words))
folder = sys.argv[1]
network = transformer(huggingface.config_of(folder))
alone = huggingface.load(folder, network)
once = sum(READ)
READ.clear()
algorithm = Algorithm(roles={"policy": Role(network, huggingface.pretrained(folder))})
place = mesh.make_mesh(MeshConfig(1, 4, 2))
shardings = mesh.state_shardings(algorithm, abstract_state(algorithm), place)
state = create_state(algorithm, 0, Workspace(Path("nowhere")), shardings).roles["policy"]
same = jax.tree.map(lambda one, many: bool(np.array_equal(one, many)), alone, state)
placed = jax.tree.map(
    lambda leaf, wanted: leaf.sharding.is_equivalent_to(wanted, leaf.ndim), state, shardings.roles["policy"]
)
print(
    json.dumps(
        {
            "same": all(jax.tree.leaves(same)),
            "placed": all(jax.tree.leaves(placed)),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(alone)),
            "once": once,
            "read": sum(READ),
            "kept": sum(shard.data.size for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards),
            "shards": len({str(shard.index) for shard in state["layers"]["q"].addressable_shards}),
        }
    )
)
