"""The smoke test of a slice, on eight simulated devices."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def said() -> tuple[str, dict[str, int]]:
    """What smoke_program.py printed, and its statuses."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tpu"), str(ROOT)]),
        "COLUMNS": "100",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.smoke_program"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *table, last = done.stdout.splitlines()
    return "\n".join(table), json.loads(last)


@pytest.mark.slow
def test_what_works_passes_and_what_does_not_fails(said: tuple[str, dict[str, int]]) -> None:
    assert said[1] == {
        "default mesh": 0,
        "three axes": 0,
        "two slices": 0,
        "another slice": 1,
        "a chip is two devices": 0,
        "broken ppermute": 1,
    }


@pytest.mark.slow
def test_the_table_says_what_was_wanted_and_found(said: tuple[str, dict[str, int]]) -> None:
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in said[0].splitlines() if "│" in line]
    assert ["devices", "16", "8", "WRONG"] in rows
    assert ["all_gather along tensor (2)", "as expected", "as expected", "ok"] in rows
    assert ["ppermute along fsdp (2)", "as expected", "[0 1]", "WRONG"] in rows


def test_hosts_with_other_configs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tpu"))
    smoke_test = importlib.import_module("smoke_test")
    assert smoke_test.agreement("ab12") == [("configs", "ab12", "ab12")]

    def gathered(own: Any, tiled: bool) -> Any:
        return np.stack([own, np.frombuffer(bytes.fromhex("cd34"), np.uint8)])

    monkeypatch.setattr(smoke_test.multihost_utils, "process_allgather", gathered)
    assert smoke_test.agreement("ab12") == [("configs", "ab12", "ab12, cd34")]
