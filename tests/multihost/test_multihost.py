"""Two processes that talk over loopback are one run: the numbers of a single process on the same mesh, one writer, one
end, one set of checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
MESH = ("--mesh", "1", "2", "2")


class Ended(NamedTuple):
    """Exit status, output and errors of a process."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[int]:
        """Ids of the rows that it made."""
        return json.loads(next(line for line in self.out.splitlines() if line.startswith("rows "))[5:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    return os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PJRT_NPROC": "16",  # threads: with one per core, simulated devices may wait for each other for ever
        "PYTHONPATH": str(HERE.parents[1]),
    }


def ended(commands: Sequence[Sequence[str]], variables: dict[str, str]) -> list[Ended]:
    """Runs the commands at the same time."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env=variables, **pipes) for command in commands]
    said = [process.communicate(timeout=600) for process in running]
    return [Ended(process.returncode, *texts) for process, texts in zip(running, said, strict=True)]


def start(folder: Path, cache: Path, options: Sequence[Sequence[str]], devices: int) -> list[Ended]:
    """Runs program.py once per entry of `options`, as processes of one run."""
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    place, commands = f"127.0.0.1:{free_port()}", []
    for number, own in enumerate(options):
        commands.append([sys.executable, str(HERE / "program.py"), str(folder), *MESH, *own])
        if len(options) > 1:
            commands[-1] += ["--place", place, str(len(options)), str(number)]
    return ended(commands, environment(devices) | kept)


def lines(path: Path) -> list[dict[str, Any]]:
    """What a run wrote, without the clock."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a run of four steps by one process with four devices."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    (ended,) = start(folder, cache, [["--host-judge"]], 4)
    assert ended.status == 0, ended.err[-3000:]
    return folder


class Story(NamedTuple):
    stopped: list[Ended]
    after_stop: Path
    killed: list[Ended]
    resumed: list[Ended]
    folder: Path


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Story:
    """The same run by two processes with two devices each: stopped after step 2 by a SIGTERM to the second, resumed,
    the second killed in step 3, resumed."""
    folder, copy = tmp_path_factory.mktemp("two") / "run", tmp_path_factory.mktemp("copy") / "run"
    common = ["--host-judge"]
    term = [*common, "--signal", "1", "2", str(int(signal.SIGTERM))]
    stopped = start(folder, cache, [term, term], 2)
    shutil.copytree(folder, copy)
    kill = [*common, "--resume", "--signal", "1", "3", str(int(signal.SIGKILL))]
    killed = start(folder, cache, [kill, kill], 2)
    again = [*common, "--resume"]
    return Story(stopped, copy, killed, start(folder, cache, [again, again], 2), folder)


def test_a_signal_to_one_process_stops_all_after_the_same_step_with_a_checkpoint(story: Story) -> None:
    for ended in story.stopped:
        assert ended.status == 128 + signal.SIGTERM, ended.err[-3000:]
        assert [line for line in ended.out.splitlines() if line.startswith("step")] == ["step 1", "step 2"]
    assert (story.after_stop / "checkpoints" / "2").is_dir()


def test_a_killed_process_ends_the_others_with_a_word_about_it(story: Story) -> None:
    survivor, victim = story.killed
    assert victim.status == -signal.SIGKILL
    assert survivor.status != 0
    said = survivor.out + survivor.err
    assert "cannot reach another process of this run" in said or "another task died" in said
    assert lines(story.folder / "metrics.jsonl")[1]["step"] == 2


def test_two_processes_give_the_numbers_of_one_in_spite_of_it_all(whole: Path, story: Story) -> None:
    """Metrics and sampled tokens, the preferences from a judge in Python included, to the last bit."""
    for ended in story.resumed:
        assert ended.status == 0, ended.err[-3000:]
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert lines(story.folder / name) == lines(whole / name)
    assert len(lines(whole / "metrics.jsonl")) == 4
    assert len({str(row["samples"]) for row in lines(whole / "samples.jsonl")}) == 4


def test_each_process_makes_its_own_rows(story: Story) -> None:
    first, second = (set(ended.rows) for ended in story.stopped)
    assert first
    assert second
    assert not first & second


def test_one_process_speaks_and_asks(story: Story) -> None:
    first, second = story.stopped
    assert first.out.count("judged") == 2
    assert second.out.count("judged") == 0
    assert "train 1/4" in first.out
    assert "train" not in second.out


def test_another_number_of_processes_and_another_mesh_go_on_from_their_checkpoint(
    whole: Path, story: Story, cache: Path
) -> None:
    folder = story.after_stop
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["mesh"]["fsdp"] == 2
    (ended,) = start(folder, cache, [["--host-judge", "--resume", "--mesh", "1", "1", "1"]], 1)
    assert ended.status == 0, ended.out[-3000:] + ended.err[-3000:]
    for one, other in zip(lines(whole / "metrics.jsonl"), lines(folder / "metrics.jsonl"), strict=True):
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_processes_with_different_configs_all_stop_and_name_who_differs(tmp_path: Path, cache: Path) -> None:
    for ended in start(tmp_path / "run", cache, [[], ["--learning-rate", "0.02"]], 2):
        assert ended.status == 2, ended.err[-3000:]
        assert f"process 1 on {socket.gethostname()}: config.algorithm.roles.policy" in ended.out
        assert "learning_rate: 0.01 -> 0.02" in ended.out
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_job_of_the_first_process_writes_alone_and_the_others_hear_that_it_was_stopped(tmp_path: Path) -> None:
    place = f"127.0.0.1:{free_port()}"
    commands = [[sys.executable, str(HERE / "jobs.py"), str(tmp_path), place, "2", str(own)] for own in range(2)]
    first, second = ended(commands, environment(1))
    assert first.status == 128 + signal.SIGINT, first.err[-3000:]
    assert second.status == 0, second.err[-3000:]
    assert "read [3]" in first.out
    assert "read [3]" in second.out
    assert f"process 0 on {socket.gethostname()}: it was stopped (Interrupted)" in second.out
