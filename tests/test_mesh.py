"""The same numbers on one device and on eight simulated ones, split by batch, weights and heads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from alignjax import mesh
from alignjax.config import ConfigError, MeshConfig

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def runs() -> dict[str, Any]:
    """What mesh_program.py saw with eight devices."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE / "train"), str(HERE.parent)]),
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "mesh_program.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


NAMES = ["dpo", "online_ipo", "ipo_md"]
# Adapters over quantised weights on one mesh only: the one that splits their inputs and outputs.
SPLIT = [*((name, shape) for name in NAMES for shape in ("8x1", "4x2")), ("lora", "4x2")]


@pytest.mark.parametrize(("name", "shape"), SPLIT)
def test_every_mesh_gives_the_same_update(name: str, shape: str, runs: dict[str, Any]) -> None:
    """Samples token for token; losses and gradients to float32's rounding."""
    one, many = runs[name]["1"], runs[name][shape]
    assert one["tokens"] == many["tokens"]
    for alone, split in zip(one["values"], many["values"], strict=True):
        for key, value in alone.items():
            assert split[key] == pytest.approx(value, rel=2e-5), key
    assert one["values"][0]["gradient_norm/policy"] > 1e-3
    assert one["values"][0]["loss"] != one["values"][1]["loss"]


@pytest.mark.parametrize(("name", "shape"), [*((name, "1") for name in [*NAMES, "lora"]), *SPLIT])
def test_a_state_keeps_its_shardings_and_compiles_once(name: str, shape: str, runs: dict[str, Any]) -> None:
    run = runs[name][shape]
    assert run["shardings_kept"]
    assert run["weight_shards"] == {"1": 1, "8x1": 8, "4x2": 8}[shape]
    # An update that an algorithm before it compiled is not compiled again: online IPO and IPO-MD share theirs.
    assert run["compiles"] == 1


EIGHT = jax.sharding.AbstractMesh((1, 4, 2), mesh.AXES)


@pytest.mark.parametrize(
    ("axes", "size", "expected"),
    [
        (("embed", "mlp"), (16, 24), ("fsdp", "tensor")),
        (("layers", "embed", "heads"), (3, 16, 8), (None, "fsdp", "tensor")),
        (("vocab", "embed"), (23, 16), (None, "fsdp")),  # 23 does not divide
        (("batch", None), (8, 5), (("replica", "fsdp"), None)),
        (("batch", "embed"), (8, 16), (("replica", "fsdp"), None)),  # fsdp is taken
        ((None,), (4,), (None,)),
    ],
)
def test_axes_go_where_the_table_says_or_stay_whole(axes: Any, size: Any, expected: Any) -> None:
    assert mesh.spec(axes, size, EIGHT) == PartitionSpec(*expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(1, 3, 2), "needs 6 devices; there are 1"),
        (MeshConfig(-1, -1, 1), "at most one is -1"),
        (MeshConfig(0, -1, 1), "sizes are positive"),
    ],
)
def test_meshes_that_do_not_fit_are_refused(config: MeshConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mesh.make_mesh(config, jax.devices()[:1])


def test_what_is_left_fills_the_open_axis() -> None:
    made = mesh.make_mesh(MeshConfig(), jax.devices()[:1])
    assert dict(made.shape) == {"replica": 1, "fsdp": 1, "tensor": 1}
    placed = mesh.place({"a": np.ones((4, 2)), "b": np.float32(1)}, made)
    np.testing.assert_array_equal(placed["a"], 1)
