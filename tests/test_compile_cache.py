"""Compiled programs that the command line keeps: where, for whom, and when not."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from alignjax.cli import compile_cache, is_tiny
from alignjax.cli.compile_cache import QUICK, compile_quickly, keep_compiled_programs, program_folder
from tests.support.toy_configs import ONE, in_a_folder


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """What jax is told, which it is not in this process; a user without settings of their own."""
    told: dict[str, object] = {}
    monkeypatch.setattr("jax.config.update", lambda name, value: told.update({name: value}))
    for name in (*map(str.upper, compile_cache.SETTINGS), compile_cache.THEIRS, compile_cache.SWITCH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "cache"))
    return told


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_private_and_bounded(settings: dict[str, object], tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = keep_compiled_programs()
    finally:
        os.umask(before)
    assert folder == program_folder()
    assert folder is not None
    assert folder.parent == tmp_path / "cache" / "xla"
    assert mode(folder) == mode(folder.parent) == 0o700
    assert settings == {"jax_compilation_cache_dir": str(folder), **compile_cache.SETTINGS}
    folder.chmod(0o777)  # as a folder of somebody careless
    assert keep_compiled_programs() == folder
    assert mode(folder) == 0o700


def test_without_a_cache_folder_it_is_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ALIGNJAX_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert program_folder().parent == tmp_path / ".cache" / "alignjax" / "xla"


def test_another_cpu_has_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    here = program_folder()
    text = "processor : {}\nmodel name : A\nflags : {}\ncpu MHz : {}\n\nprocessor : 1\n"
    folders = []
    for words in (("0", "avx", "1"), ("0", "avx", "2"), ("0", "avx avx512f", "1")):
        monkeypatch.setattr(Path, "read_text", lambda path, words=words: text.format(*words))
        folders.append(program_folder())
    assert folders[0] == folders[1]  # what changes from hour to hour is not looked at
    assert len({here, *folders}) == 3
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert program_folder() not in folders


@pytest.mark.parametrize("variable", [("ALIGNJAX_COMPILE_CACHE", "off"), ("JAX_COMPILATION_CACHE_DIR", "/elsewhere")])
def test_a_user_may_have_none_or_another(
    variable: tuple[str, str], settings: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(*variable)
    assert keep_compiled_programs() is None
    assert settings == {}
    assert not (tmp_path / "cache").exists()


def test_a_users_own_bound_stays(settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1000")
    assert keep_compiled_programs() is not None
    assert "jax_compilation_cache_max_size" not in settings


@pytest.mark.parametrize("whose", ["a file", "somebody else"])
def test_a_folder_that_cannot_be_is_no_error(
    whose: str,
    settings: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if whose == "a file":
        (tmp_path / "cache").write_text("in the way")
    else:
        monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert keep_compiled_programs() is None
    assert settings == {}
    error = capsys.readouterr().err
    assert error.startswith("compiled programs are not kept for the next run: ")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.smoke
def test_a_second_start_compiles_nothing_and_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first keeps its programs; two at once then find them all, and write the same weights and metrics."""
    with in_a_folder(tmp_path, monkeypatch):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}

        def start(name: str) -> subprocess.Popen[str]:
            words = [sys.executable, "-m", "alignjax.cli", "train", f"{ONE}:tiny", "--run-dir", name]
            return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)

        def programs() -> set[str]:
            return {path.name for path in tmp_path.rglob("*-cache")}

        with start("first") as first:
            _, said = first.communicate()
        assert first.returncode == 0, said
        compiled = programs()
        assert len(compiled) > 3
        with start("second") as second, start("third") as third:
            said = [run.communicate()[1] for run in (second, third)]
        assert [run.returncode for run in (second, third)] == [0, 0], said
        assert programs() == compiled
        runs = [tmp_path / name for name in ("first", "second", "third")]
        sums = [json.loads((run / "checkpoints/3/meta/metadata").read_text())["checksums"] for run in runs]
        assert sums[0] == sums[1] == sums[2]
        lines = [(run / "metrics.jsonl").read_text().splitlines() for run in runs]
        losses = [[json.loads(line)["loss"] for line in of_run] for of_run in lines]
        assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    ("words", "quick"),
    [
        ("train configs/quickstart.py:tiny", True),
        ("train --run-dir runs/a configs/losses.py:kto-tiny --all.steps 2", True),
        ("train configs/quickstart.py", False),
        ("train configs/quickstart.py --run-dir=a:tiny", False),
        ("train configs/quickstart.py:tiny --dry-run --compile", False),  # sizes of the programs that a run would get
        ("report runs/a:tiny", False),
    ],
)
def test_modes_of_a_few_steps_compile_quickly(words: str, quick: bool) -> None:
    assert is_tiny(words.split()) == quick


@pytest.mark.parametrize(("release", "flags"), [("0.10.2", list(QUICK[1:])), ("0.11.0", [])])
def test_quick_compiling_leaves_what_the_user_says(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch, release: str, flags: list[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: release)
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_parallel_codegen_split_count=4")
    compile_quickly()
    assert os.environ["XLA_FLAGS"].split() == ["--xla_cpu_parallel_codegen_split_count=4", *flags]
    assert settings == {compile_cache.UNOPTIMIZED: True}
    settings.clear()
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    compile_quickly()
    assert settings == {}


def test_simulated_devices_have_threads_to_meet_in(tmp_path: Path) -> None:
    told = "import sys, jax; from alignjax.cli import main; sys.argv = ['alignjax', 'train', 'none.py']; main()"
    code = f"{told}; import os; print(jax.config.read('jax_cpu_enable_async_dispatch'), os.environ.get('PJRT_NPROC'))"
    plain = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PJRT_NPROC")}
    for flags, said in (("", "True None"), ("--xla_force_host_platform_device_count=4", "False 16")):
        started = [sys.executable, "-c", code]
        environment = {
            **plain,
            "XLA_FLAGS": flags,
            "ALIGNJAX_COMPILE_CACHE": "off",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        ended = subprocess.run(started, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.stdout.split("\n")[-2] == said, ended.stderr
