"""The loop: what it writes, what it refuses and when, how often it looks at the device."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from rich.console import Console

from alignjax import roles
from alignjax.config import ConfigError, Experiment, fn
from alignjax.train import checkpoint, metrics, step as step_module
from alignjax.train.checkpoint.read_steps import CheckpointError
from alignjax.train.loop import NotFinite, train
from alignjax.types import Algorithm, Role
from alignjax.workspace import Workspace
from tests.support import toy_run
from tests.support.compiled import compilations


def run(experiment: Experiment, folder: Path, **options: Any) -> tuple[Any, str]:
    """The final state and what was printed."""
    console = Console(width=300)
    with console.capture() as said:
        state = train(experiment, Workspace(folder), console=console, **options)
    return state, said.get()


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_what_a_run_leaves(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    state, said = run(
        toy_run.experiment(steps=11),
        tmp_path,
        on_step=lambda step, state, values: seen.append({name: float(value) for name, value in values.items()}),
    )
    assert int(state.step) == 11
    assert [row["step"] for row in rows(tmp_path)] == [3, 6, 9, 11]
    for row, first in zip(rows(tmp_path), (0, 3, 6, 9), strict=True):
        assert row["loss"] == pytest.approx(np.mean([values["loss"] for values in seen[first : row["step"]]]))
        assert row["time/prompts_per_second"] > 0
    assert sum(row["completion_tokens"] * size for row, size in zip(rows(tmp_path), (3, 3, 3, 2), strict=True)) == (
        sum(int(toy_run.Rows(7, 4, 0.0)[step].valid.sum()) for step in range(11))
    )
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["algorithm"]["losses"]["distance"] == {
        "function": "tests.support.toy_run.distance",
        "power": 2.0,
    }
    assert {"python", "jax", "flax", "optax", "orbax-checkpoint", "alignjax"} <= set(record["versions"])
    assert len(record["hash"]) == 16
    assert checkpoint.steps(tmp_path) == [8, 11]
    assert [json.loads(line)["step"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()] == [4, 8, 11]
    assert "train 11/11" in said
    restored, meta = checkpoint.restore(tmp_path, state)
    assert toy_run.state_bytes(restored) == toy_run.state_bytes(state)
    assert meta["iterator"] == {"next_step": 11}
    assert meta["config"] == record["config"]


def test_one_compilation_and_no_look_at_the_device_between_logged_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches: list[int] = []
    fetched = metrics.fetched
    monkeypatch.setattr(metrics, "fetched", lambda pending: (fetches.append(len(pending)), fetched(pending))[1])
    compiled = compilations(step_module._experience, step_module._update)
    experiment = toy_run.experiment(steps=20, log_every=5, checkpoint_every=20)
    run(experiment, tmp_path)
    assert fetches == [5, 5, 5, 5]
    assert compiled() == [1, 1]


def test_a_folder_with_a_run_is_not_touched_without_resume(tmp_path: Path) -> None:
    run(toy_run.experiment(steps=2), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume.*--run-dir"):
        run(toy_run.experiment(steps=2), tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)another config.*noise\.scale: 0\.3 -> 0\.5"):
        run(changed_noise(toy_run.experiment(steps=2)), tmp_path, resume=True)
    with pytest.raises(ConfigError, match=r"2 steps already.*asks for 1"):
        run(toy_run.experiment(steps=1), tmp_path, resume=True)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def changed_noise(experiment: Experiment) -> Experiment:
    algorithm = dataclasses.replace(experiment.algorithm, experience={"noise": fn(toy_run.noise, scale=0.5)})
    return dataclasses.replace(experiment, algorithm=algorithm)


def test_a_finished_run_is_returned_and_can_be_lengthened(tmp_path: Path) -> None:
    first, _ = run(toy_run.experiment(steps=6), tmp_path / "a")
    again, said = run(
        toy_run.experiment(steps=6), tmp_path / "a", resume=True, on_step=lambda *_: pytest.fail("trained")
    )
    assert "has taken all 6 steps" in said
    assert toy_run.state_bytes(again) == toy_run.state_bytes(first)
    longer, said = run(toy_run.experiment(steps=9), tmp_path / "a", resume=True)
    straight, _ = run(toy_run.experiment(steps=9), tmp_path / "b")
    assert toy_run.state_bytes(longer) == toy_run.state_bytes(straight)


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    run(toy_run.experiment(steps=2), tmp_path / "a")
    run(toy_run.experiment(steps=2, seed=8), tmp_path / "b")
    (tmp_path / "a/checkpoints").rename(tmp_path / "kept")
    (tmp_path / "b/checkpoints").rename(tmp_path / "a/checkpoints")
    with pytest.raises(ConfigError, match="seed: 8 -> 7"):
        run(toy_run.experiment(steps=4), tmp_path / "a", resume=True)


def test_resume_without_anything_begins(tmp_path: Path) -> None:
    state, _ = run(toy_run.experiment(steps=2), tmp_path, resume=True)
    assert int(state.step) == 2


def test_divergence_names_step_and_metric_and_keeps_the_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match=r"loss = (nan|inf).* at step 7\b.*checkpoint of step 6 is kept"):
        run(toy_run.experiment(steps=12, checkpoint_every=2, poison=6), tmp_path)
    assert checkpoint.steps(tmp_path)[-1] == 6
    assert rows(tmp_path)[-1]["step"] == 6


def breaking() -> optax.GradientTransformation:
    return optax.scale(-np.inf)


def test_weights_that_broke_in_the_last_update_are_not_saved(tmp_path: Path) -> None:
    experiment = toy_run.experiment(steps=1)
    policy = dataclasses.replace(experiment.algorithm.roles["policy"], optimizer=fn(breaking))
    named = {**experiment.algorithm.roles, "policy": policy}
    broken = dataclasses.replace(experiment, algorithm=dataclasses.replace(experiment.algorithm, roles=named))
    with pytest.raises(NotFinite, match=r"weights policy/x are not finite after step 1"):
        run(broken, tmp_path)
    assert checkpoint.steps(tmp_path) == []


def test_an_unwritable_folder_and_a_full_disk_are_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/config\.json cannot be written: .*name another folder"):
        run(toy_run.experiment(steps=2), tmp_path / "file")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    monkeypatch.setattr("alignjax.train.loop.run_steps", lambda *_: pytest.fail("trained"))
    with pytest.raises(CheckpointError, match="10 B free"):
        run(toy_run.experiment(steps=2), tmp_path / "full")


def test_signal_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(toy_run.experiment(steps=1), tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def recording(steps: int) -> Experiment:
    algorithm = Algorithm(
        experience={"noise": fn(toy_run.noise, scale=0.3)},
        roles={"counter": Role(None, roles.value(toy_run.start_ring), rule=fn(toy_run.remembered))},
    )
    return Experiment(algorithm, fn(toy_run.rows), steps=steps, checkpoint_every=3)


def test_an_algorithm_without_losses_writes_its_batches(tmp_path: Path) -> None:
    state, _ = run(recording(5), tmp_path / "a")
    assert int(state.roles["counter"]["count"]) == 5
    with pytest.raises(SystemExit):
        run(recording(5), tmp_path / "b", on_step=interrupt_at(4))
    run(recording(5), tmp_path / "b", resume=True)
    files = sorted(path.name for path in (tmp_path / "a/batches").glob("0*.npz"))
    assert len(files) == 5
    for name in files:
        with np.load(tmp_path / "a/batches" / name) as one, np.load(tmp_path / "b/batches" / name) as other:
            assert set(one) == set(other) >= {"prompts/noise"}
            assert all(np.array_equal(one[field], other[field]) for field in one)


def interrupt_at(when: int) -> Any:
    return lambda step, state, values: signal.raise_signal(signal.SIGTERM) if step == when else None


def test_the_source_may_prefetch(tmp_path: Path) -> None:
    asked: list[int] = []

    class Ahead(toy_run.Rows):
        def prefetched(self, start: int) -> Any:
            asked.append(start)
            return (self[start + offset] for offset in range(10**9))

    def ahead(workspace: Workspace, seed: int) -> Ahead:
        return Ahead(seed, 4, 0.0)

    plain = toy_run.experiment(steps=4)
    state, _ = run(plain, tmp_path / "a")
    fetched, _ = run(dataclasses.replace(plain, source=fn(ahead)), tmp_path / "b")
    assert asked == [0]
    assert toy_run.state_bytes(fetched) == toy_run.state_bytes(state)


class Bucketed(toy_run.Rows):
    """Says that its prompts come in several shapes."""

    buckets = ((2, 0), (4, 0))


def bucketed(workspace: Workspace, seed: int) -> Bucketed:
    return Bucketed(seed, 4, 0.0)


def remembering(experiment: Experiment, **fields: Any) -> Experiment:
    kept = Role(None, roles.memory(8, **fields), rule=fn(roles.remember))
    algorithm = experiment.algorithm
    return dataclasses.replace(
        experiment, algorithm=dataclasses.replace(algorithm, roles={**algorithm.roles, "kept": kept})
    )


def test_what_does_not_go_with_buckets_is_told_first(tmp_path: Path) -> None:
    plain = dataclasses.replace(toy_run.experiment(steps=1), source=fn(bucketed))
    for name, given, words in (
        ("overlapped", dataclasses.replace(plain, overlap=True), "neither overlapped nor recorded"),
        ("recorded", dataclasses.replace(recording(1), source=fn(bucketed)), "neither overlapped nor recorded"),
        ("remembered", remembering(plain, prompt=((4,), "int32")), r"kept\['prompt'\] several"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(given, tmp_path / name)
        assert not (tmp_path / name / "metrics.jsonl").exists()
    # Completions of a source of prompts are sampled, all of one length.
    state, _ = run(remembering(plain, valid=((2, 3), "bool")), tmp_path / "sampled")
    assert np.any(state.roles["kept"]["owner"] >= 0)
