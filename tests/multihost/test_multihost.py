"""Several processes that talk over loopback are one run: the numbers of a single process on the same mesh, one writer,
one end, one set of checkpoints, which go on with other processes and on other meshes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from alignjax.train.logp_cache.shards import read_shards
from tests.support.programs import Ended, programs

pytestmark = pytest.mark.slow

TERM, KILL = int(signal.SIGTERM), int(signal.SIGKILL)
GONE = ("cannot reach another process of this run", "another task died")  # our words, or those of jax's coordinator


# start(folder, arguments of each process, devices of each, mesh): program.py as the processes of one run.
Start = Callable[..., list[Ended]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    # Threads: with one per core, simulated devices may wait for each other for ever.
    with programs(tmp_path_factory.mktemp("processes"), PJRT_NPROC="16") as forks:

        def started(
            folder: Path,
            options: Sequence[str],
            devices: int,
            mesh: str = "1 2 2",
            program: str = "program",
            **more: str,
        ) -> list[Ended]:
            place, count = f"127.0.0.1:{free_port()}", len(options)
            arguments = [[str(folder), "--mesh", *mesh.split(), *own.split()] for own in options]
            for number, own in enumerate(arguments):
                own += ["--place", place, str(count), str(number)] if count > 1 else []
            return forks(program, arguments, devices, more)

        yield started


def lines(path: Path) -> list[dict[str, Any]]:
    """What a run wrote, without the clock."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def written(folder: Path) -> list[str]:
    """Steps that are there, whole or not."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir() if path.name[0].isdigit())


def assert_equal_but_for_rounding(folder: Path, whole: Path) -> None:
    """The same rows in every batch, the same samples token for token, metrics to float32's rounding."""
    assert lines(folder / "samples.jsonl") == lines(whole / "samples.jsonl")
    for one, other in zip(lines(whole / "metrics.jsonl"), lines(folder / "metrics.jsonl"), strict=True):
        if abs(one["pair/margin"]) < 1e-6:  # where policy and reference are still the same
            del one["pair/accuracy"]  # is the sign of nothing
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Path:
    """The folder of a run of four steps by one process with four devices."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    (ended,) = start(folder, ["--host-judge"], 4)
    assert ended.last
    return folder


class Story(NamedTuple):
    stopped: list[Ended]
    after_stop: Path
    killed: list[Ended]
    after_kill: Path
    killed_in_save: list[Ended]
    in_save: list[str]
    resumed: list[Ended]
    folder: Path


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Story:
    """The same run by two processes with two devices each: stopped after step 2 by a SIGTERM to the second, resumed,
    the second killed in step 3, resumed, the first killed while the checkpoint of step 4 is written, resumed."""
    folder, copies = tmp_path_factory.mktemp("two") / "run", tmp_path_factory.mktemp("copies")
    stopped = start(folder, [f"--host-judge --signal 1 2 {TERM}"] * 2, 2)
    shutil.copytree(folder, copies / "stopped")
    killed = start(folder, [f"--host-judge --resume --signal 1 3 {KILL}"] * 2, 2)
    shutil.copytree(folder, copies / "killed")
    in_save = start(folder, ["--host-judge --resume --kill-in-save 0 4"] * 2, 2)
    there = written(folder)
    resumed = start(folder, ["--host-judge --resume"] * 2, 2)
    return Story(stopped, copies / "stopped", killed, copies / "killed", in_save, there, resumed, folder)


def test_a_signal_to_one_process_stops_all_after_the_same_step_with_a_checkpoint(story: Story) -> None:
    for ended in story.stopped:
        assert ended.status == 128 + signal.SIGTERM, ended.out[-3000:]
        assert [line for line in ended.out.splitlines() if line.startswith("step")] == ["step 1", "step 2"]
    assert (story.after_stop / "checkpoints" / "2").is_dir()


def test_a_killed_process_ends_the_others_with_a_word_about_it(story: Story) -> None:
    survivor, victim = story.killed
    assert victim.status == -signal.SIGKILL
    assert survivor.status in (75, -signal.SIGABRT)  # the latter where jax's coordinator is first
    assert any(words in survivor.out for words in GONE)
    assert lines(story.after_kill / "metrics.jsonl")[1]["step"] == 2


def test_a_checkpoint_whose_writer_was_killed_does_not_count(story: Story) -> None:
    victim, survivor = story.killed_in_save
    assert victim.status == -signal.SIGKILL
    assert survivor.status in (75, -signal.SIGABRT)
    assert any(words in survivor.out for words in GONE)
    assert story.in_save == ["2", "4.orbax-checkpoint-tmp"]
    assert "goes on after step 2 of 4" in story.resumed[0].out
    assert written(story.folder) == ["2", "4"]


def test_two_processes_give_the_numbers_of_one_in_spite_of_it_all(whole: Path, story: Story) -> None:
    """Metrics and sampled tokens, the preferences from a judge in Python included, to the last bit."""
    for ended in story.resumed:
        assert ended.last
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


# --------------------------------------------------------------------------------------------------- cached log-probs


class Scored(NamedTuple):
    stopped: list[Ended]
    killed: list[Ended]
    ended: list[Ended]
    folder: Path
    cache: Path


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Scored:
    """A run of two processes that keeps log-probs of 20 rows, eight in a batch: stopped by a SIGTERM to the second in
    the first batch, resumed, the second killed in the third batch, resumed."""
    folder, cache = tmp_path_factory.mktemp("pairs") / "run", tmp_path_factory.mktemp("pairs_cache")

    def run(more: str) -> list[Ended]:
        return start(folder, [f"--cached --steps 4 --resume {more}"] * 2, 2, ALIGNJAX_CACHE=str(cache))

    stopped, killed = run(f"--signal-at-row 1 3 {TERM}"), run(f"--signal-at-row 1 18 {KILL}")
    return Scored(stopped, killed, run(""), folder, cache)


def test_scoring_that_one_process_was_asked_to_stop_or_killed_in_goes_on_where_it_was(scored: Scored) -> None:
    for ended in scored.stopped:
        assert ended.status == 128 + signal.SIGTERM, ended.out[-3000:]
    assert "stopped; 16 log-probs of 'reference' are kept" in scored.stopped[0].out
    survivor, victim = scored.killed
    assert victim.status == -signal.SIGKILL
    assert survivor.status in (75, -signal.SIGABRT)
    assert any(words in survivor.out for words in GONE)
    assert all(ended.last for ended in scored.ended)
    assert "8 completions scored, 32 found" in scored.ended[0].out
    assert "found" not in scored.ended[1].out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, start: Start, scored: Scored) -> tuple[Ended, Path]:
    """The same run by one process with four devices, with the log-probs of two in `run` and with its own in
    `run/again`."""
    folder = tmp_path_factory.mktemp("alone")
    arguments = f"--cached --steps 4 --again {folder / 'cache'}"
    (ended,) = start(folder / "run", [arguments], 4, ALIGNJAX_CACHE=str(scored.cache))
    assert ended.last
    return ended, folder


def test_two_processes_keep_the_log_probs_of_one(scored: Scored, alone: tuple[Ended, Path]) -> None:
    """Those of the same mesh, to the last bit; and one process finds and trains on those that two have made."""
    ended, folder = alone
    assert ended.last["digest"] == scored.ended[0].last["digest"]
    assert "0 completions scored, 40 found" in ended.out
    assert "40 completions scored, 0 found" in ended.out
    (made,), (own,) = (list(cache.iterdir()) for cache in (scored.cache, folder / "cache"))
    assert made.name == own.name
    ours, theirs = read_shards(made, pytest.fail), read_shards(own, pytest.fail)
    assert len(ours) == 40
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], value) for key, value in theirs.items())
    for run in (folder / "run", folder / "run" / "again"):
        assert lines(run / "metrics.jsonl") == lines(scored.folder / "metrics.jsonl")


def test_a_run_goes_from_mesh_to_mesh(alone: tuple[Ended, Path], scored: Scored, start: Start, tmp_path: Path) -> None:
    """One process: fsdp 8, then fsdp 4 x tensor 2, then one device, on one set of log-probs."""
    for step, devices, mesh in ((1, 8, "1 8 1"), (3, 8, "1 4 2"), (4, 1, "1 1 1")):
        arguments = f"--cached --resume --steps {step}"
        (ended,) = start(tmp_path / "run", [arguments], devices, mesh, ALIGNJAX_CACHE=str(scored.cache))
        assert ended.last["shards"]["roles/policy/layers/gate"] == devices
        assert "0 completions scored" in ended.out
    assert_equal_but_for_rounding(tmp_path / "run", alone[1] / "run")


def test_a_checkpoint_of_two_processes_goes_on_with_four_and_then_with_one(
    alone: tuple[Ended, Path], scored: Scored, start: Start, tmp_path: Path
) -> None:
    """On another mesh each time: written by two processes on 2 x 2, read by four on 4 x 1, then by one on one device;
    no row of the stream is lost or comes twice."""
    folder = shutil.copytree(scored.folder, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "4")
    four = start(folder, ["--cached --resume --steps 3"] * 4, 1, "1 4 1", ALIGNJAX_CACHE=str(scored.cache))
    assert len({ended.last["digest"] for ended in four}) == 1
    assert "goes on after step 2 of 3" in four[0].out
    (one,) = start(folder, ["--cached --resume --steps 4"], 1, "1 1 1", ALIGNJAX_CACHE=str(scored.cache))
    assert one.last
    assert "goes on after step 3 of 4" in one.out
    assert_equal_but_for_rounding(folder, alone[1] / "run")


# --------------------------------------------------------------------------------------------------------- odd starts


def test_processes_with_different_configs_all_stop_and_name_who_differs(tmp_path: Path, start: Start) -> None:
    for ended in start(tmp_path / "run", ["", "--learning-rate 0.02"], 2):
        assert ended.status == 2, ended.out[-3000:]
        assert f"process 1 on {socket.gethostname()}: config.algorithm.roles.policy" in ended.out
        assert "learning_rate: 0.01 -> 0.02" in ended.out
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_job_of_the_first_process_writes_alone_and_the_others_hear_that_it_was_stopped(
    tmp_path: Path, start: Start
) -> None:
    first, second = start(tmp_path, ["", ""], 1, program="jobs")
    assert first.status == 128 + signal.SIGINT, first.out[-3000:]
    assert second.status == 0, second.out[-3000:]
    assert "read [3]" in first.out
    assert "read [3]" in second.out
    assert f"process 0 on {socket.gethostname()}: it was stopped (Interrupted)" in second.out
