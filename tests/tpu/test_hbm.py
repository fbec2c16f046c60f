"""What a run holds on each device, against arrays that were made and against the compiler; and a slice of 64 devices
that nobody has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec as P

from alignjax.cli import main
from alignjax.cli.device_memory import device_bytes
from tests.support.toy_configs import CONFIG, ONE, in_a_folder

pytestmark = [pytest.mark.smoke, pytest.mark.slow]  # the smoke tier has it on every Python
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What hbm_program.py saw with eight devices."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    program = [sys.executable, "-m", "tests.support.hbm_program"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", ["8x1", "4x2"])
def test_the_state_is_known_to_the_byte(mesh: str, found: dict[str, Any]) -> None:
    said = found[mesh]["said"]
    assert said["trained"] == found[mesh]["policy"]
    assert said["optimizer"] == found[mesh]["optimizer"]
    assert said["frozen"] == found[mesh]["others"]
    assert said["batch"] > found[mesh]["prompts"]  # with the completions
    assert said["compiled"] == {}


def test_the_compiler_agrees_about_the_state_and_says_the_rest(found: dict[str, Any]) -> None:
    """An update reads policy, reference, moments, step and seed, not the judge; it writes the new ones over the old."""
    said, asked, compiled = (found["4x2"][name] for name in ("said", "asked", "compiled"))
    assert all(asked[name] == said[name] for name in said if name not in ("compiled", "costs"))
    update, experience = compiled["update"], compiled["sample and score"]
    moved = said["trained"] + said["optimizer"]
    assert moved < update["in_place"] <= update["arguments"] < asked["state"] + said["batch"]
    assert update["in_place"] <= update["outputs"]
    assert experience["in_place"] == 0
    assert said["batch"] <= experience["outputs"]
    assert min(update["temporary"], experience["temporary"]) > 0
    assert asked["total"] == asked["state"] + said["batch"] + max(update["temporary"], experience["temporary"])


def test_sampling_holds_its_caches(found: dict[str, Any]) -> None:
    """Two streams (policy and reference) of one layer, two key-value heads of size 8, 16 prompts x 4 completions x 64
    slots in float32, split over 4 x 2: the compiler must find room for those."""
    caches = 2 * 2 * 2 * 8 * 16 * 4 * 64 * 4 // 8
    assert found["4x2"]["compiled"]["sample and score"]["temporary"] > caches


def test_bytes_on_a_device_go_by_the_sharding() -> None:
    mesh = AbstractMesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    leaf = jax.ShapeDtypeStruct((8, 6, 3), jnp.bfloat16, sharding=NamedSharding(mesh, P("fsdp", "tensor")))
    assert device_bytes({"a": leaf}) == 8 * 6 * 3 * 2 // 8


# ------------------------------------------------------------------------------------------------------ command line


def held_by_each(out: str, title: str) -> str:
    """What a dry run prints below a title."""
    _, found, below = out.partition(f"{title}\n")
    assert found, out
    return below.split("device's memory")[0]


def test_dry_run_on_a_slice_that_is_not_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_a_folder(tmp_path, monkeypatch):
        (tmp_path / "my configs" / "wide.py").write_text(CONFIG.replace("width=8", "width=64"))
        words = ["train", "my configs/wide.py", "--dry-run", "--topology", "v5p-128", "--source.rows", "64"]
        assert main(words) == 0
        out = capsys.readouterr().out
        title_of_one = "each of the 64 devices of v5p-128: mesh replica 1 x fsdp 64 x tensor 1"
        assert "0% of the device's memory: --compile says what is needed beside it" in out
        assert "do not split" not in out
        assert main([*words[:-1], "7"]) == 0
        assert "7 prompts do not split over 64 devices" in capsys.readouterr().out
        # Twice the slices with twice the prompts: each device has its part of the weights in its slice, and holds as
        # much as before.
        assert main([*words[:-1], "128", "--slices", "2", "--mesh.replica", "2"]) == 0
        title = "each of the 128 devices of 2 x v5p-128: mesh replica 2 x fsdp 64 x tensor 1"
        assert held_by_each(capsys.readouterr().out, title) == held_by_each(out, title_of_one)


def test_a_slices_kernel_is_measured_as_plain_attention(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else changes; and a kernel that the slice does not run is refused."""
    words = ["train", "my configs/fused.py", "--dry-run", "--topology"]
    with in_a_folder(tmp_path, monkeypatch):
        (tmp_path / "my configs" / "fused.py").write_text(CONFIG.replace("width=8", 'width=8, attention="splash"'))
        assert main(["train", ONE, "--dry-run", "--topology", "v5e-1"]) == 0
        plain = capsys.readouterr().out
        assert main([*words, "v5e-1"]) == 0
        note, _, rest = capsys.readouterr().out.partition("\n")
        assert note.startswith("policy, reference: measured with plain attention")
        assert rest == plain
        assert main([*words, "v5e-16"]) == 2
        assert "attention='splash' runs on one device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dry-run", "--topology", "v5p-127"], "v5p comes with 8, 16"),
        (["--dry-run", "--topology", "v5e-16", "--mesh.fsdp", "6"], "on v5litepod-16: for example --mesh.replica 1"),
        (["--dry-run", "--topology", "v5e-16", "--slices", "2"], "on 2 x v5litepod-16: for example --mesh.replica 2"),
        (["--topology", "v5e-16"], "--topology SLICE and --compile go with --dry-run"),
        (["--dry-run", "--slices", "2"], "--slices says with --topology SLICE how many"),
        (["--slices", "2"], "this run found 1 TPU slice and must have 2"),
        (["--compile"], "--compile go with --dry-run"),
    ],
)
def test_mistakes_of_a_dry_run(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with in_a_folder(tmp_path, monkeypatch):
        assert main(["train", f"{ONE}:tiny", *words]) == 2
    assert message in capsys.readouterr().err
