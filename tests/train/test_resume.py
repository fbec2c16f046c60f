"""Interrupted + resumed = uninterrupted, bit for bit: killed outright at awkward moments, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alignjax.train import checkpoint, step as step_module
from alignjax.train.loop import train
from alignjax.workspace import Workspace
from tests.support import toy_online, toy_run
from tests.support.commands import ROOT
from tests.support.compiled import compilations
from tests.support.programs import Ended, programs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Ended]]:
    """run(folder, arguments): a run in a process of its own."""
    with programs(tmp_path_factory.mktemp("processes")) as forks:

        def started(folder: Path, *arguments: Any, script: str = "toy_run") -> Ended:
            (ended,) = forks(script, [[str(folder), *map(str, arguments)]])
            return ended

        yield started


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The file without what the clock said."""
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("straight")
    state = train(toy_run.experiment(), Workspace(folder / "run"), console=Console(quiet=True))
    return folder / "run", toy_run.state_bytes(state)


@pytest.mark.slow
@pytest.mark.smoke
def test_killed_at_any_point(straight: tuple[Path, dict[str, str]], run: Callable[..., Ended], tmp_path: Path) -> None:
    folder, final = straight
    # Before a checkpoint is begun; when the role that never changes is written and not in its place, before any step;
    # while a step is being written in the background, at any moment and at that one; after the last step, before its
    # checkpoint.
    now = int(signal.SIGKILL)
    ways: list[tuple[tuple[Any, ...], list[int]]] = [
        (("--signal-at", 4, now), []),
        (("--die-writing", "frozen"), []),
        (("--die-writing", "checkpoints/4"), []),
        (("--signal-at", 9, now), [4]),
        (("--signal-at", 12, now), [4]),
    ]
    for number, (way, first) in enumerate(ways):
        killed = run(tmp_path / "run", *(["--resume"] if number else []), *way)
        assert killed.status == -signal.SIGKILL, killed.out
        assert checkpoint.steps(tmp_path / "run")[:1] == first
        assert (tmp_path / "run/checkpoints/frozen").is_dir() == (number > 0)
    assert len([*(tmp_path / "run/checkpoints/frozen").iterdir()]) == 1
    # What a crash may leave besides: half a line, and half a checkpoint.
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    (tmp_path / "run/checkpoints/12.orbax-checkpoint-tmp").mkdir(exist_ok=True)
    ended = run(tmp_path / "run", "--resume")
    assert ended.status == 0, ended.out
    assert json.loads((tmp_path / "run/final.json").read_text()) == final
    assert lines(tmp_path / "run") == lines(folder)
    assert lines(tmp_path / "run", "samples.jsonl") == lines(folder, "samples.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_saves_and_says_how_to_go_on(
    straight: tuple[Path, dict[str, str]], run: Callable[..., Ended], tmp_path: Path, number: int, status: int
) -> None:
    folder, final = straight
    stopped = run(tmp_path / "run", "--signal-at", 5, int(number))
    assert stopped.status == status, stopped.out
    assert "saved after step 5" in stopped.out
    assert "--resume" in stopped.out
    assert "Traceback" not in stopped.out
    assert os.path.isdir(tmp_path / "run/checkpoints/5")
    state = train(toy_run.experiment(), Workspace(tmp_path / "run"), resume=True, console=Console(quiet=True))
    assert toy_run.state_bytes(state) == final
    assert lines(tmp_path / "run") == lines(folder)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.toy_run", str(tmp_path / "run"), "--slow", "30", "--steps", "100"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # The first batch takes 30 s to come: the signal is noted meanwhile, and the second one need not wait for it.
        toy_ready = process.stdout.readline()
        assert toy_ready.startswith("waiting")
        process.send_signal(signal.SIGINT)
        assert any("press Ctrl-C again" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == -signal.SIGINT


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_time_only(straight: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, final = straight
    with pytest.raises(SystemExit):
        train(
            toy_run.experiment(checkpoint_every=2),
            Workspace(tmp_path),
            console=Console(quiet=True),
            on_step=lambda step, state, values: os.kill(os.getpid(), signal.SIGTERM) if step == 7 else None,
        )
    for file in (tmp_path / "checkpoints/7/state").rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)
    console = Console(record=True, quiet=True)
    with console.capture() as said:
        console.quiet = False
        state = train(toy_run.experiment(checkpoint_every=2), Workspace(tmp_path), resume=True, console=console)
    assert "checkpoints/7 is damaged" in said.get()
    assert "goes on after step 6" in said.get()
    assert toy_run.state_bytes(state) == final
    assert (tmp_path / "checkpoints/damaged-7").is_dir()
    assert lines(tmp_path) == lines(folder)


@pytest.mark.slow
@pytest.mark.smoke
def test_sampling_goes_on_bit_for_bit_in_another_process(run: Callable[..., Ended], tmp_path: Path) -> None:
    """IPO-MD with a real sampler and judge, of adapters over a base that is written once: one process is killed while
    it writes a step, another one goes on."""
    killed = run(tmp_path / "run", script="toy_online")
    assert killed.status == -signal.SIGKILL, killed.out
    assert checkpoint.steps(tmp_path / "run") == [2]
    experiment, quiet = toy_online.experiment(adapters=True), Console(quiet=True)
    heard, straight = toy_online.Heard(), toy_online.Heard()
    compiled = compilations(step_module._experience, step_module._update)
    ended = train(experiment, Workspace(tmp_path / "run"), resume=True, console=quiet, on_step=heard)
    whole = train(experiment, Workspace(tmp_path / "whole"), console=quiet, on_step=straight)
    assert len([*(tmp_path / "run/checkpoints/frozen").iterdir()]) == 1
    # A restored state, a new one and one that an update returned are all the same to the compiler.
    assert compiled() == [2, 1]
    assert heard.steps == straight.steps[-len(heard.steps) :]
    assert 0 < len(heard.steps) < len(straight.steps)
    assert toy_run.state_bytes(ended) == toy_run.state_bytes(whole)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    sampled = [row["samples"] for row in lines(tmp_path / "whole", "samples.jsonl")]
    assert [row["samples"] for row in lines(tmp_path / "run", "samples.jsonl")] == sampled
    assert len({json.dumps(one) for one in sampled}) == len(sampled)  # it does sample anew each time
