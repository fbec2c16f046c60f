"""What runs on every host: the loop that starts a run again, with commands that fail in every way, and with a real run
that is killed in the middle."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignjax import cli
from alignjax.parallel.processes import Unreachable
from tests.support.toy_configs import in_a_folder

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "tpu").glob("*.sh"))
SAVES = "mkdir -p run/sft/checkpoints/$n && touch run/sft/checkpoints/$n/_CHECKPOINT_METADATA"


def keep_running(tmp_path: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """keep_running.sh on a shell script that knows its attempt's number $n."""
    (tmp_path / "command.sh").write_text(f"echo >> attempts; n=$(wc -l < attempts)\n{script}\n")
    return subprocess.run(
        ["bash", str(ROOT / "tpu/keep_running.sh"), "run", "bash", "command.sh"],
        cwd=tmp_path,
        env=os.environ | {"ALIGNJAX_PAUSE": "0"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def attempts(tmp_path: Path) -> int:
    return len((tmp_path / "attempts").read_text().splitlines())


@pytest.mark.parametrize(
    ("script", "status", "tries"),
    [
        ("exit 0", 0, 1),
        ("exit 2", 2, 1),  # a mistake in the config
        ("[ $n -lt 3 ] && kill -9 $$; exit 0", 0, 3),  # killed twice
        (f"[ $n = 1 ] && {SAVES} && exit 2; exit 0", 0, 2),  # a failure after a checkpoint is no mistake
        (f"[ $n = 1 ] && {SAVES} && exit 2; exit 2", 2, 2),  # unless it comes again at the same place
        ("exit 75", 75, 4),  # gives up
        (f"[ $n -lt 9 ] && {SAVES}; exit 1", 1, 12),  # counts anew after each checkpoint
    ],
)
def test_it_tries_again_where_that_can_help(script: str, status: int, tries: int, tmp_path: Path) -> None:
    done = keep_running(tmp_path, script, ALIGNJAX_ATTEMPTS="4")
    assert (done.returncode, attempts(tmp_path)) == (status, tries), done.stderr


def test_pauses_double_up_to_the_longest(tmp_path: Path) -> None:
    done = keep_running(tmp_path, "exit 1", ALIGNJAX_ATTEMPTS="5", ALIGNJAX_PAUSE="1", ALIGNJAX_LONGEST_PAUSE="1")
    assert done.stderr.count("in 1 seconds") == 4
    script = (ROOT / "tpu/keep_running.sh").read_text().replace("    sleep", "    true")  # the same without waiting
    (tmp_path / "quick.sh").write_text(script)
    done = subprocess.run(
        ["bash", "quick.sh", "run", "false"],
        cwd=tmp_path,
        env=os.environ | {"ALIGNJAX_ATTEMPTS": "8"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line.split(" in ")[1] for line in done.stderr.splitlines() if " in " in line]
    assert said == [f"{seconds} seconds" for seconds in (10, 20, 40, 80, 160, 300, 300)]


def test_who_stops_it_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "command.sh").write_text(
        "trap 'touch saved; exit 143' TERM; touch started; while true; do sleep 0.05; done"
    )
    loop = subprocess.Popen(
        ["bash", str(ROOT / "tpu/keep_running.sh"), "run", "bash", "command.sh"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    wait_for(tmp_path / "started")
    loop.send_signal(signal.SIGTERM)
    assert loop.wait(timeout=20) == 143
    assert (tmp_path / "saved").exists()  # it was told, and waited for


def wait_for(path: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} does not come"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_host_resumes_a_killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """worker.sh as it runs at boot, its installation in place already, the run killed after its first checkpoint."""
    programs = tmp_path / "home" / "abc123" / "environment" / "bin"
    programs.mkdir(parents=True)
    (programs / "alignjax").write_text(f'#!/bin/sh\nexec {sys.executable} -m alignjax.cli "$@"\n')
    (programs / "alignjax").chmod(0o755)
    (programs.parents[1] / "source").symlink_to(ROOT)
    (programs.parents[1] / "ready").touch()
    run = tmp_path / "a run"
    with in_a_folder(tmp_path, monkeypatch):
        config = f"{tmp_path}/my configs/one.py:full"
        words = ["alignjax", "train", config, "--run-dir", str(run), "--resume"]
        words += ["--steps", "60", "--checkpoint-every", "10", "--log-every", "5"]
        told = {"REPOSITORY": "", "REVISION": "abc123", "BUCKET": "", "RUN_DIR": str(run)}
        told |= {"COMMAND": shlex.join(words), "HOME": str(tmp_path / "home"), "LOG": str(tmp_path / "log")}
        told |= {"PAUSE": "0"}
        environment = os.environ | {f"ALIGNJAX_{name}": value for name, value in told.items()}
        loop = subprocess.Popen(["bash", str(ROOT / "tpu/worker.sh")], env=environment | {"JAX_PLATFORMS": "cpu"})
        wait_for(run / "checkpoints" / "10" / "_CHECKPOINT_METADATA")
        child = Path(f"/proc/{loop.pid}/task/{loop.pid}/children").read_text().split()[0]
        os.kill(int(child), signal.SIGKILL)
        assert loop.wait(timeout=240) == 0
    log = (tmp_path / "log").read_text()
    assert "status 137: again in 0 seconds" in log
    assert "keep_running: done" in log
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(5, 65, 5))  # every line once: it went on where its last checkpoint was
    assert (run / "checkpoints" / "60").is_dir()


def test_scripts_are_clean() -> None:
    subprocess.run([str(Path(sys.executable).with_name("shellcheck")), *map(str, SCRIPTS)], check=True)


def test_another_host_that_is_gone_is_not_a_mistake_in_the_config(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop above gives up on status 2; a process that was left alone ends with another."""

    def left(argv: object) -> int:
        raise Unreachable("process 0 cannot reach another process of this run")

    monkeypatch.setattr(cli, "run", left)
    assert cli.main(["train", "a.py"]) == 75
    assert capsys.readouterr().err == "error: process 0 cannot reach another process of this run\n"
