"""Roles that start from a published folder: its numbers, a fingerprint of its contents, slices for each device."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from alignjax.config import fn
from alignjax.models import huggingface
from alignjax.roles import copy_of
from alignjax.train.optimizers import sgd
from alignjax.train.run_record import config_json
from alignjax.train.state import create_state
from alignjax.types import Algorithm, Role
from alignjax.workspace import Workspace
from tests.support.published import loaded, theirs, written


def test_a_role_starts_from_a_folder(root: Path) -> None:
    """A trained role with a further head, and a reference that starts as its copy: neither shares a buffer with the
    other, and what the folder says is exactly there."""
    folder = written("llama3", root)
    network, params = loaded(folder, outputs=("value",))
    start = huggingface.pretrained(folder)
    algorithm = Algorithm(
        roles={"policy": Role(network, start, fn(sgd)), "reference": Role(network, copy_of("policy"))},
    )
    state = create_state(algorithm, 0, Workspace(root))
    assert set(params["heads"]) == set()
    assert set(state.roles["policy"]["heads"]) == {"value"}
    for role in state.roles.values():
        jax.tree.map(np.testing.assert_array_equal, {**role, "heads": {}}, params)
    assert (
        state.roles["policy"]["embed"].unsafe_buffer_pointer()
        != state.roles["reference"]["embed"].unsafe_buffer_pointer()
    )
    described = config_json(algorithm)["roles"]["policy"]["start"]
    assert described["folder"] == str(folder)
    assert described["fingerprint"] == start.fingerprint


def test_a_fingerprint_is_of_the_content(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(written("llama2", root), folder)
    before = huggingface.fingerprint(folder)
    assert before == huggingface.fingerprint(written("llama2", root))
    file = folder / "model.safetensors"
    whole = bytearray(file.read_bytes())
    whole[-5] ^= 1
    file.write_bytes(whole)
    assert huggingface.fingerprint(folder) != before


@pytest.mark.slow
def test_each_device_reads_its_own_slices(tmp_path: Path) -> None:
    """On a mesh of 4 x 2 devices no more is read than they keep, and it is what one device reads."""
    theirs("qwen3", vocab_size=40).save_pretrained(tmp_path / "model")
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    command = [sys.executable, "-m", "tests.support.sharded_load", str(tmp_path / "model")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["same"]
    assert seen["placed"]
    assert seen["shards"] == 8
    assert seen["once"] == seen["parameters"]
    assert seen["read"] <= seen["kept"]
