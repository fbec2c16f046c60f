"""Every loss and its gradient are the same on one device and on eight simulated ones, however rows and weights are
split."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def runs() -> dict[str, Any]:
    """What mesh_losses.py saw with eight devices."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1])]),
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "mesh_losses.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_loss_was_there(runs: dict[str, Any]) -> None:
    names = set(runs["names"])
    assert {case.loss.function for case in CASES if case.name in names} == {case.loss.function for case in CASES}
    assert np.all(np.abs(runs["1"]["value"]) > 1e-6)


@pytest.mark.parametrize(("shape", "pieces"), [("8x1", 8), ("2x2x2", 4)])
def test_every_mesh_gives_the_same_losses_and_gradient(shape: str, pieces: int, runs: dict[str, Any]) -> None:
    """In float64: what differs is the order of sums. The gradient is that of a sum of all losses with random factors;
    each is compared at the scale of the whole."""
    one, many = runs["1"], runs[shape]
    assert (one["pieces"], many["pieces"]) == (1, pieces)
    for name, alone, split in zip(runs["names"], one["value"], many["value"], strict=True):
        assert split == pytest.approx(alone, rel=1e-11), name
    gradient = np.array(one["gradient"])
    assert np.abs(gradient).max() > 1
    np.testing.assert_allclose(many["gradient"], gradient, atol=1e-11 * np.abs(gradient).max())
