"""Recipes give the same numbers on one device and on eight simulated ones, split by batch, weights and heads, and their
programs gather what they should: recipes in which every kind of part of all recipes occurs (`recipe_parts.py`).
`mesh_program.py` prints the whole table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from alignjax import algorithms
from alignjax.cli import catalogue
from alignjax.config import ConfigError, MeshConfig
from alignjax.parallel import mesh
from tests.support.collectives import Gather, all_gathers

ROOT = Path(__file__).resolve().parents[1]
Cell = dict[str, Any]


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What mesh_program.py saw: {"table": {recipe: {mesh: cell}}, "control": gathers, "parts": {recipe: kinds}}."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.support.mesh_program", "--part"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def where(seen: dict[str, Any], wrong: Callable[[Cell], Any], *, alone: bool = False) -> dict[tuple[str, str], Any]:
    """What is wrong with which cell: (recipe, mesh); alone: also with those on one device."""
    cells = {(name, shape): cell for name, row in seen["table"].items() for shape, cell in row.items()}
    found = {place: wrong(cell) for place, cell in cells.items() if alone or place[1] != "1"}
    return {place: what for place, what in found.items() if what}


@pytest.mark.slow
def test_every_kind_of_part_is_in_the_table(seen: dict[str, Any]) -> None:
    """On one device and on a mesh of eight, which takes turns; IPO-MD on all."""
    parts = {"offline", "online", "policy_gradient", "rounds", "with_lora", "with_losses", "with_replay"}
    parts.add("labelled_samples")
    table = {name: set(row) for name, row in seen["table"].items()}
    assert set(catalogue.public(algorithms)) - parts <= set(seen["parts"])
    every = {kind for kinds in seen["parts"].values() for kind in kinds}
    assert every == {kind for name in table for kind in seen["parts"][name]}
    for written in ("generate(", "mixture(", "preference_model(", "annotator(", "snapshot(", "ema(", "CopyOf trained"):
        assert any(written in kind for kind in every), f"no {written} among the kinds, which are then too coarse"
    assert all("1" in row and len(row) > 1 for row in table.values())
    assert table["ipo_md"] == {"1", "8x1", "4x2", "2x2x2"}
    for shape in ("8x1", "4x2", "2x2x2"):
        assert sum(shape in row for row in table.values()) > len(table) // 4


@pytest.mark.slow
def test_every_mesh_gives_the_same_samples_losses_and_gradients(seen: dict[str, Any]) -> None:
    """Tokens, and whatever else is a whole number, exactly; to float32's rounding all that stages made, losses and
    gradient norms, the first gradients and the roles after two iterations."""
    most = {"batch": 2e-5, "losses": 5e-5, "gradient": 2e-5, "roles": 5e-5}
    assert not where(seen, lambda cell: {name: cell[name] for name in most if not cell[name] < most[name]})
    assert not where(seen, lambda cell: not cell["gradient_size"] > 1e-3)


@pytest.mark.slow
def test_a_state_keeps_its_shardings(seen: dict[str, Any]) -> None:
    """And so one program serves all steps."""
    assert not where(seen, lambda cell: not cell["shardings_kept"], alone=True)
    for row in seen["table"].values():
        for shape, cell in row.items():
            assert cell["weight_shards"] == {"1": 1, "8x1": 8, "4x2": 8, "2x2x2": 4}[shape]


@pytest.mark.slow
def test_an_update_gathers_the_weights_of_one_layer_at_a_time_and_nothing_of_the_batch(seen: dict[str, Any]) -> None:
    """But for what a memory remembers, which lies whole on every device, and the rows of a minibatch, which are drawn
    from all of them: a number a token."""
    assert not where(seen, lambda cell: "a layer" not in cell["update"])
    more = where(seen, lambda cell: {*cell["update"]} - {"a layer", "ends"})
    assert {name: kinds for (name, _), kinds in more.items()} == {
        each: {"numbers"} for each in ("optune", "eva", "ppo")
    }


@pytest.mark.slow
def test_experience_gathers_weights_and_at_most_a_number_a_token(seen: dict[str, Any]) -> None:
    """All weights at once only where it samples, before the first token; a sampler whose weights stay split by heads
    puts the logits of a token together, split by vocabulary, to draw from them."""
    odd = where(seen, lambda cell: cell["experience"].get("unexpected"))
    assert odd == {("split_sampler", "4x2"): ["2x2x40 at every token"]}
    for shape in ("8x1", "4x2", "2x2x2"):
        assert "2x16x24" in seen["table"]["ipo_md"][shape]["experience"]["all layers"]


@pytest.mark.slow
def test_a_sampler_may_leave_weights_split_by_heads(seen: dict[str, Any]) -> None:
    """The same samples as on one device; weights gathered over fsdp alone."""
    gathered = seen["table"]["split_sampler"]["4x2"]["experience"]["all layers"]
    assert "2x16x12" in gathered
    assert "2x16x24" not in gathered


@pytest.mark.slow
def test_a_program_that_gathers_is_caught(seen: dict[str, Any]) -> None:
    assert seen["control"] == {"unexpected": ["2x16x24", "8x2x5x40 in a loop"]}


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
  %w = (s32[], f32[3,2]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %v = (s32[], f32[3,2]) while(%w), condition=%cond, body=%tokens
}
%tokens (p: (s32[], f32[3,2])) -> (s32[], f32[3,2]) {
  %g.3 = f32[7]{0} all-gather(%x), dimensions={0}, metadata={op_name="jit(f)/while/body/take"}
}
"""
    compiled = SimpleNamespace(as_text=lambda: text)
    counted = [Gather((1, 16, 24), True), Gather((8, 40), True), Gather((2,), True), Gather((3, 16, 24), False)]
    assert sorted(all_gathers(compiled)) == sorted([*counted, Gather((7,), True, True, "jit(f)/while/body/take")])


EIGHT, ONE_REPLICA = (jax.sharding.AbstractMesh((replica, 2, 2), mesh.AXES) for replica in (2, 1))


@pytest.mark.parametrize(
    ("axes", "size", "expected"),
    [
        (("embed", "mlp"), (16, 24), ("fsdp", "tensor")),
        (("layers", "embed", "heads"), (3, 16, 8), (None, "fsdp", "tensor")),
        (("vocab", "embed"), (23, 16), (None, "fsdp")),  # 23 does not divide
        (("batch", None), (8, 5), (("replica", "fsdp"),)),
        (("batch", "embed"), (8, 16), (("replica", "fsdp"),)),  # fsdp is taken
        (("batch", None), (6, 5), ("replica",)),  # 6 does not divide by 2 x 2, but by 2
        ((None,), (4,), ()),
    ],
)
def test_axes_go_where_the_table_says_or_stay_whole(axes: Any, size: Any, expected: Any) -> None:
    assert mesh.partition_spec(axes, size, EIGHT) == PartitionSpec(*expected)


def test_mesh_axes_of_one_device_are_left_out() -> None:
    assert mesh.partition_spec(("batch", "embed"), (8, 16), ONE_REPLICA) == PartitionSpec("fsdp")
    assert mesh.partition_spec(("batch", "embed"), (3, 16), ONE_REPLICA) == PartitionSpec(None, "fsdp")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(1, 3, 2), "needs 6 devices; there are 1"),
        (MeshConfig(-1, -1, 1), "at most one size is -1"),
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
    placed = mesh.place_batch({"a": np.ones((4, 2)), "b": np.float32(1)}, made)
    np.testing.assert_array_equal(placed["a"], 1)
