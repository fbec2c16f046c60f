"""What a run holds on each device: the state against arrays that were made, the rest against the compiler, and a slice
of 64 devices that nobody has."""

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
from jax.extend import core
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec as P

from alignjax.cli import main
from alignjax.cli.layouts import Spread, forwards, layout_of
from alignjax.cli.liveness import device_bytes, loop_bytes, peak_bytes
from tests.support.toy_configs import CONFIG, ONE, in_a_folder

ROOT = Path(__file__).resolve().parents[2]
FACTOR = 2.0  # between the estimate of temporary memory and what XLA takes; tpu/README.md says so too


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
    estimate = found[mesh]["estimate"]
    assert estimate["trained"] == found[mesh]["policy"] == estimate["gradients"]
    assert estimate["optimizer"] == found[mesh]["optimizer"]
    assert estimate["frozen"] == found[mesh]["others"]
    assert estimate["batch"] > found[mesh]["prompts"]  # with the completions


@pytest.mark.parametrize("part", ["experience", "update"])
def test_temporary_memory_is_near_what_the_compiler_takes(part: str, found: dict[str, Any]) -> None:
    estimate, taken = found["4x2"]["estimate"][part], found["4x2"]["compiled"][part]
    assert taken / FACTOR < estimate < taken * FACTOR


def test_caches_are_counted_by_hand(found: dict[str, Any]) -> None:
    """Two streams (policy and reference) of one layer, two key-value heads of size 8, 16 prompts x 4 completions x 64
    slots in float32, split over 8 or over 4 x 2: the caches are most of what sampling carries."""
    own = 2 * 2 * 2 * 8 * 16 * 4 * 64 * 4 // 8
    for mesh in ("8x1", "4x2"):
        assert own < found[mesh]["estimate"]["caches"] < 1.3 * own


# ----------------------------------------------------------------------------------------------------------- layouts

SPREAD = Spread({"fsdp": 4, "tensor": 2})
FSDP, TENSOR, WHOLE = ("fsdp",), ("tensor",), ()


def last_layout(function: Any, *arguments: tuple[tuple[int, ...], Any]) -> Any:
    """The layout of what a function of arrays of (shape, layout) gives."""
    program = jax.make_jaxpr(function)(*[jnp.zeros(shape) for shape, _ in arguments]).jaxpr
    known = dict(zip(program.invars, [layout for _, layout in arguments], strict=True))
    for equation in program.eqns:
        given = [known.get(v, ()) if isinstance(v, core.Var) else () for v in equation.invars]
        known.update(zip(equation.outvars, forwards(equation, given, SPREAD), strict=True))
    return known[program.outvars[0]]


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (lambda x: jnp.swapaxes(x, 0, 2), [((8, 6, 4), (FSDP, WHOLE, TENSOR))], (TENSOR, WHOLE, FSDP)),
        (lambda x: x.reshape(2, 4, 6), [((8, 6), (FSDP, TENSOR))], (WHOLE, WHOLE, TENSOR)),  # 2 is not split in 4
        (lambda x: x.reshape(4, 2, 6), [((8, 6), (FSDP, TENSOR))], (FSDP, WHOLE, TENSOR)),
        (lambda x: x.reshape(8, 1, 6), [((8, 6), (FSDP, TENSOR))], (FSDP, WHOLE, TENSOR)),
        (lambda x: x.sum(0), [((8, 6), (FSDP, TENSOR))], (TENSOR,)),
        (lambda x, w: x @ w, [((8, 6), (FSDP, WHOLE)), ((6, 4), (FSDP, TENSOR))], (FSDP, TENSOR)),
        (lambda x, y: x + y, [((8, 6), (WHOLE, TENSOR)), ((8, 6), (FSDP, WHOLE))], (FSDP, TENSOR)),
        (lambda x: jnp.broadcast_to(x[:, None], (8, 3, 6)), [((8, 6), (FSDP, TENSOR))], (FSDP, WHOLE, TENSOR)),
    ],
)
def test_layouts_travel(function: Any, arguments: Any, expected: Any) -> None:
    assert last_layout(function, *arguments) == expected


def test_gradients_lie_like_their_weights() -> None:
    known = Spread(SPREAD.sizes, {(6, 4): (FSDP, TENSOR)})
    assert known.settled((6, 4), ((), ())) == (FSDP, TENSOR)
    assert known.settled((4, 6), ((), ())) == ((), ())


def test_memory_of_one_device_is_its_part() -> None:
    """A chain of products keeps its layout, so a device has an eighth; a loop's carry is found."""

    def function(x: Any) -> Any:
        return jax.lax.fori_loop(0, x.shape[1], lambda i, y: jnp.sin(y) * 2, x).sum()

    program = jax.make_jaxpr(function)(jnp.zeros((64, 32))).jaxpr
    whole, part = peak_bytes(program), peak_bytes(program, spread=SPREAD, given=[(FSDP, TENSOR)])
    assert whole == pytest.approx(8 * part, rel=0.02)  # but for the counter
    scanned = jax.make_jaxpr(lambda x: jax.lax.while_loop(lambda y: jnp.all(y < 9), jnp.sin, x))(jnp.zeros((64, 32)))
    assert loop_bytes(scanned.jaxpr) == 64 * 32 * 4
    assert loop_bytes(scanned.jaxpr, SPREAD, [(FSDP, WHOLE)]) == 64 * 32 * 4 // 4


def test_bytes_on_a_device_go_by_the_sharding() -> None:
    mesh = AbstractMesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    leaf = jax.ShapeDtypeStruct((8, 6, 3), jnp.bfloat16, sharding=NamedSharding(mesh, P("fsdp", "tensor")))
    assert device_bytes({"a": leaf}) == 8 * 6 * 3 * 2 // 8
    assert layout_of(leaf.sharding, 3) == (FSDP, TENSOR, WHOLE)


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
        assert "it fits" in out
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
        (["--topology", "v5e-16"], "--topology SLICE goes with --dry-run"),
        (["--dry-run", "--slices", "2"], "--slices says with --topology SLICE how many"),
        (["--slices", "2"], "this run found 1 TPU slice and must have 2"),
        (["--dry-run", "--compile"], "--compile with --topology"),
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
