"""The same numbers on one device and on eight simulated ones, split by batch, weights and heads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from collectives import Gather, all_gathers
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


NAMES = ["dpo", "ipo_md"]
# Adapters over quantised weights on one mesh only: the one that splits their inputs and outputs.
SPLIT = [("dpo", "2x2x2"), *(("ipo_md", shape) for shape in ("8x1", "4x2", "2x2x2")), ("lora", "4x2")]
SHAPES = pytest.mark.parametrize("shape", ["8x1", "4x2", "2x2x2"])


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
def test_a_state_keeps_its_shardings(name: str, shape: str, runs: dict[str, Any]) -> None:
    """And so one program serves all steps."""
    run = runs[name][shape]
    assert run["shardings_kept"]
    assert run["weight_shards"] == {"1": 1, "8x1": 8, "4x2": 8, "2x2x2": 4}[shape]


@pytest.mark.parametrize(("name", "shape"), SPLIT)
def test_an_update_gathers_the_weights_of_one_layer_at_a_time_and_no_states(
    name: str, shape: str, runs: dict[str, Any]
) -> None:
    found = runs[name][shape]["update"]
    assert found["stacked"] == found["stacked_in_a_loop"] == found["logits"] == found["states"] == []
    one_layer = "((16, 12)," if name == "lora" else "((1, 16,"  # quantised and split by heads, it has no leading axis
    assert any(one_layer in gather and "True" in gather for gather in found["all"])


@SHAPES
def test_a_sampler_gathers_all_weights_once_and_none_at_a_token(shape: str, runs: dict[str, Any]) -> None:
    found = runs["ipo_md"][shape]["experience"]
    assert [3, 16, 24] in found["stacked"]
    assert found["stacked_in_a_loop"] == found["logits"] == found["states"] == []


def test_a_sampler_may_leave_weights_split_by_heads(runs: dict[str, Any]) -> None:
    """The same samples; weights gathered over fsdp alone."""
    split, alone = runs["split_sampler"]["4x2"], runs["ipo_md"]["1"]
    assert split["tokens"] == alone["tokens"]
    assert split["values"][1]["loss"] == pytest.approx(alone["values"][1]["loss"], rel=2e-5)
    assert [3, 16, 24] not in split["experience"]["stacked"]
    assert [3, 16, 12] in split["experience"]["stacked"]
    assert split["experience"]["stacked_in_a_loop"] == []


def test_who_does_not_sample_never_has_all_weights(runs: dict[str, Any]) -> None:
    assert runs["dpo"]["2x2x2"]["experience"]["stacked"] == []


def test_a_program_that_gathers_is_caught(runs: dict[str, Any]) -> None:
    """Weights of all layers whole on every device, and states whole in every turn of a loop."""
    assert [3, 16, 24] in runs["control"]["stacked"]
    assert [8, 2, 5, 40] in runs["control"]["logits"]
    assert [8, 2, 5, 40] in runs["control"]["states"]


def test_gathers_are_read_with_the_loops_they_stand_in() -> None:
    text = """
%body (p: (s32[], f32[3,2])) -> (s32[], f32[3,2]) {
  %g.1 = f32[1,16,24]{2,1,0} all-gather(%x), dimensions={1}
  %c = f32[4]{0} fusion(%g.1), kind=kLoop, calls=%inner
}
%inner (p: f32[4]) -> f32[4] {
  %g.2 = (f32[8,40]{1,0}, f32[2]{0}) all-gather(%y, %z), dimensions={0}
}
ENTRY %main (p: f32[3,16,24]) -> f32[3,16,24] {
  %all-gather = f32[3,16,24]{2,1,0} all-gather(%p), dimensions={1}
  ROOT %w = (s32[], f32[3,2]) while(%t), condition=%cond, body=%body
}
"""
    compiled = SimpleNamespace(as_text=lambda: text)
    assert sorted(all_gathers(compiled)) == sorted(
        [Gather((1, 16, 24), True), Gather((8, 40), True), Gather((2,), True), Gather((3, 16, 24), False)]
    )


EIGHT = jax.sharding.AbstractMesh((1, 4, 2), mesh.AXES)


@pytest.mark.parametrize(
    ("axes", "size", "expected"),
    [
        (("embed", "mlp"), (16, 24), ("fsdp", "tensor")),
        (("layers", "embed", "heads"), (3, 16, 8), (None, "fsdp", "tensor")),
        (("vocab", "embed"), (23, 16), (None, "fsdp")),  # 23 does not divide
        (("batch", None), (8, 5), (("replica", "fsdp"), None)),
        (("batch", "embed"), (8, 16), (("replica", "fsdp"), None)),  # fsdp is taken
        (("batch", None), (3, 5), ("replica", None)),  # 3 does not divide by 1 x 4, but by 1
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


class Chip:
    """A device of a TPU slice, as far as a mesh looks at it: 2 x 2 chips a slice."""

    platform, device_kind, core_on_chip = "tpu", "TPU v4", 0

    def __init__(self, number: int) -> None:
        self.id, self.slice_index = number, number % 2
        self.process_index, self.coords = self.slice_index, (number // 2 % 2, number // 4, 0)


def test_replica_is_the_axis_that_crosses_slices() -> None:
    chips: list[Any] = [Chip(number) for number in range(8)]
    for sizes in ((2, 2, 2), (2, 4, 1), (4, 2, 1)):
        made = mesh.make_mesh(MeshConfig(*sizes), chips)
        assert made.axis_names == mesh.AXES
        assert made.devices.shape == sizes
        halves = np.split(made.devices, 2)
        assert [{chip.slice_index for chip in half.flat} for half in halves] == [{0}, {1}]
    with pytest.raises(ConfigError, match=r"2 slices: replica, the axis that crosses .* must be 2 or a multiple"):
        mesh.make_mesh(MeshConfig(1, 4, 2), chips)


def test_what_is_left_fills_the_open_axis() -> None:
    made = mesh.make_mesh(MeshConfig(), jax.devices()[:1])
    assert dict(made.shape) == {"replica": 1, "fsdp": 1, "tensor": 1}
    assert mesh.process_shard({"a": jax.ShapeDtypeStruct((4, 2), np.float32)}, made) == (0, 1)
    placed = mesh.place({"a": np.ones((4, 2)), "b": np.float32(1)}, made)
    np.testing.assert_array_equal(placed["a"], 1)
