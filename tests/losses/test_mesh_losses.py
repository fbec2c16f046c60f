"""Every loss and its gradient are the same on one device and on eight simulated ones, however rows and weights are
split, and no loss gathers what stays with its rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cases import CASES

pytestmark = pytest.mark.slow

# What is gathered on purpose. Over the whole batch, of 8 rows, these sort a number of each pair, of which a row has
# three or one, or the user of each row.
SORTED = {"aot": [[24]], "aot_unpaired": [[8]], "vpl": [[8]]}
ROOT = Path(__file__).resolve().parents[2]
SHAPES = pytest.mark.parametrize(("shape", "pieces"), [("8x1", 8), ("4x2", 4), ("2x2x2", 4)])


@pytest.fixture(scope="module")
def runs() -> dict[str, Any]:
    """What mesh_losses.py saw with eight devices."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PJRT_NPROC": "16",  # threads: with one per core, devices may wait for each other for ever
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.mesh_losses"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_loss_was_there(runs: dict[str, Any]) -> None:
    """Each on one device and on two meshes of eight."""
    names = set(runs["names"])
    assert {case.loss.function for case in CASES if case.name in names} == {case.loss.function for case in CASES}
    assert np.all(np.abs(runs["1"]["value"]) > 1e-6)
    seen = [number for shape in ("8x1", "4x2", "2x2x2") for number in runs[shape]["numbers"]]
    assert sorted(seen) == sorted([*range(len(runs["names"]))] * 2)


@SHAPES
def test_every_mesh_gives_the_same_losses_and_gradient(shape: str, pieces: int, runs: dict[str, Any]) -> None:
    """In float64: what differs is the order of sums. The gradient is that of a sum of all losses with random factors;
    each is compared at the scale of the whole."""
    one, many = runs["1"], runs[shape]
    assert (one["pieces"], many["pieces"]) == (1, pieces)
    for number, split in zip(many["numbers"], many["value"], strict=True):
        assert split == pytest.approx(one["value"][number], rel=1e-11), runs["names"][number]
    (gradient,), alone = many["gradients"], one["gradients"][["8x1", "4x2", "2x2x2"].index(shape)]
    assert np.abs(alone["policy"]).max() > 1
    for role, numbers in gradient.items():
        np.testing.assert_allclose(numbers, alone[role], atol=1e-11 * np.abs(alone[role]).max())


@SHAPES
def test_losses_gather_nothing_of_the_batch_but_what_they_sort(shape: str, pieces: int, runs: dict[str, Any]) -> None:
    """Not logits, states, numbers of tokens or of completions; nor does the scoring that all share."""
    there = {runs["names"][number] for number in runs[shape]["numbers"]}
    assert runs[shape]["gathers"] == {name: shapes for name, shapes in SORTED.items() if name in there}
