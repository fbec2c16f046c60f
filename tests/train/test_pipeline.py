"""Pipelines: each step once, in order; changes to what is finished are named."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from alignjax.config import ConfigError, Experiment, Pipeline, fn
from alignjax.train.pipeline import run_pipeline
from alignjax.types import Batch, Context, Mean, Metrics
from alignjax.workspace import Workspace
from tests.support import toy_run


def note(workspace: Workspace, *, text: str = "x", fail: bool = False) -> dict[str, Any]:
    """A job: adds a line to a file in its folder."""
    with (workspace.folder / "notes").open("a") as file:
        file.write(text)
    if fail:
        raise RuntimeError("job failed")
    return {"length": len((workspace.folder / "notes").read_text())}


def pipeline(**changes: Any) -> Pipeline:
    return Pipeline({"data": fn(note), "first": toy_run.experiment(steps=4), "report": fn(note, text="yy")} | changes)


def run(pipeline: Pipeline, folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    console = Console(width=300)
    with console.capture() as said:
        summaries = run_pipeline(pipeline, Workspace(folder), console=console, **options)
    return summaries, said.get()


def test_steps_run_once_and_in_order(tmp_path: Path) -> None:
    summaries, said = run(pipeline(), tmp_path)
    assert list(summaries) == ["data", "first", "report"]
    assert summaries["report"] == {"length": 2}
    assert summaries["first"]["step"] == 4
    assert np.isfinite(summaries["first"]["loss"])
    assert said.index("[1/3] data") < said.index("[2/3] first") < said.index("[3/3] report")
    assert (tmp_path / "first/metrics.jsonl").exists()
    assert json.loads((tmp_path / "config.json").read_text())["config"]["steps"]["first"]["steps"] == 4
    again, said = run(pipeline(), tmp_path, resume=True)
    assert again == summaries
    assert said.count("done before") == 3
    assert (tmp_path / "data/notes").read_text() == "x"
    with pytest.raises(ConfigError, match="--resume"):
        run(pipeline(), tmp_path)


def test_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="job failed"):
        run(pipeline(report=fn(note, fail=True)), tmp_path)
    assert not (tmp_path / "report/done.json").exists()
    summaries, said = run(pipeline(), tmp_path, resume=True)
    assert said.count("done before") == 2
    assert summaries["report"] == {"length": 3}  # the job is simply run again


def test_an_interrupted_experiment_stops_the_pipeline_and_goes_on(tmp_path: Path) -> None:
    whole, _ = run(pipeline(), tmp_path / "whole")
    stopped = pipeline(first=toy_run.experiment(steps=4, sample=fn(stopping), sample_every=2))
    with pytest.raises(SystemExit) as caught:
        run(stopped, tmp_path / "run")
    assert caught.value.code == 143
    assert not (tmp_path / "run/first/done.json").exists()
    assert not (tmp_path / "run/report").exists()
    rest, said = run(stopped, tmp_path / "run", resume=True)
    assert "goes on after step 2" in said
    assert rest == whole


def interrupted(workspace: Workspace) -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_a_job(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    try:
        with pytest.raises(SystemExit) as caught:
            run(pipeline(data=fn(interrupted)), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code == 130
    assert not (tmp_path / "data/done.json").exists()


def stopping(experiment: Experiment, workspace: Workspace) -> Any:
    """Asks the run to stop at its second step, once."""

    def sample(state: Any, batch: Any, step: int) -> list[dict[str, str]]:
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return []

    return sample


def test_a_finished_step_with_another_config_is_named(tmp_path: Path) -> None:
    run(pipeline(), tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)data.*another config.*text: \"x\" -> \"z\""):
        run(pipeline(data=fn(note, text="z")), tmp_path, resume=True)
    with pytest.raises(ConfigError, match=r"(?s)first.*steps: 4 -> 5"):
        run(pipeline(first=toy_run.experiment(steps=5)), tmp_path, resume=True)
    run(pipeline(first=toy_run.experiment(steps=4, keep=1)), tmp_path, resume=True)


def unlabeled(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
    return Mean.of(batch.need("reward", of="unlabeled")), {}


def test_losses_of_later_steps_are_looked_at_before_the_first(tmp_path: Path) -> None:
    """A step of which nothing can be known yet is left until it begins."""
    good = toy_run.experiment(steps=4)
    algorithm = dataclasses.replace(good.algorithm, losses={**good.algorithm.losses, "more": fn(unlabeled)})
    bad = dataclasses.replace(good, algorithm=algorithm)
    with pytest.raises(ConfigError, match=r"step 'second': unlabeled needs batch\.reward"):
        run(pipeline(second=bad), tmp_path)
    assert not (tmp_path / "data").exists()
    with pytest.raises(ValueError, match="nothing was written"):
        run(pipeline(second=dataclasses.replace(bad, source=fn(unwritten))), tmp_path)
    assert (tmp_path / "first/done.json").exists()


def unwritten(workspace: Workspace | None, seed: int) -> Any:
    raise ValueError("nothing was written")


def test_a_tag_is_a_trackers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tags name 'wandbb', which is no tracker\. Did you mean 'wandb'\?"):
        run(Pipeline({"first": toy_run.experiment(tags={"wandbb": "mine"})}), tmp_path)


def test_names_must_be_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder"):
        run(Pipeline({"a/b": fn(note)}), tmp_path)
