"""Every line of configs/losses.py trains, and every loss of the library has one.

All start from the same SFT policy, judge and labelled samples, made once, and go on from there for two iterations.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alignjax.cli.config_file import imported
from alignjax.config import Experiment, Fn, Pipeline
from alignjax.pipelines.loss_families import offline_losses, recorded_samples
from alignjax.train.loop import train
from alignjax.train.pipeline import run_pipeline
from alignjax.train.run_record import config_json
from alignjax.workspace import Workspace
from tests.support.commands import ROOT

pytestmark = pytest.mark.slow

TABLE = imported(ROOT / "configs" / "losses.py")
QUIET = Console(quiet=True)


def steps(mode: str) -> Mapping[str, Any]:
    return TABLE.get_config(mode).steps


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, session_cache: Path) -> Path:
    """A run folder with the steps that all losses of samples share."""
    folder = tmp_path_factory.mktemp("losses")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNJAX_CACHE", str(session_cache / "data"))
        shared = {name: steps("dpo-tiny")[name] for name in ("data", "sft", "labels", "preference", "pairs")}
        run_pipeline(Pipeline(shared), Workspace(folder), console=QUIET)
    return folder


def together() -> list[list[str]]:
    """Lines that learn from the same family, by name."""
    families: list[Any] = []
    for _, family in TABLE.LOSSES.values():
        if not any(family is other for other in families):
            families.append(family)
    return [[name for name, (_, own) in TABLE.LOSSES.items() if own is family] for family in families]


@pytest.mark.parametrize("names", together(), ids=lambda names: f"{names[0]}_and_{len(names) - 1}")
def test_trains(names: list[str], begun: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of one family as entries of one algorithm: one compiled update, in which each has its say."""
    monkeypatch.setenv("ALIGNJAX_CACHE", str(session_cache / "data"))
    mine = {name: steps(f"{name}-tiny") for name in names}
    for done in begun.glob("*/done.json"):
        config, shared = json.loads(done.read_text())["config"], done.parent.name
        assert all(config_json(own[shared]) == config for own in mine.values() if shared in own)
    step = mine[names[0]][names[0]]
    algorithm = step.algorithm
    if len(names) > 1:
        entries = {name: next(iter(own[name].algorithm.losses.values())) for name, own in mine.items()}
        algorithm = dataclasses.replace(algorithm, losses=entries)
    step = dataclasses.replace(step, algorithm=algorithm, steps=2, log_every=1)
    train(step, Workspace(begun, names[0]), console=QUIET)
    lines = [json.loads(line) for line in (begun / names[0] / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert {f"loss/{name}" for name in algorithm.losses} <= set(line)  # finite, or `train` had raised
        assert line["gradient_norm/policy"] > 0


def test_every_loss_of_the_library_has_a_line() -> None:
    ours = {loss.name for loss, family in TABLE.LOSSES.values() for loss in (loss, *family.beside.values())}
    assert ours == set(offline_losses())


def test_all_completions_are_compared() -> None:
    """A loss that takes pairs gets all of them, also one inside another."""

    def pairs(loss: Fn) -> list[Any]:
        inside = [found for part in loss.kwargs.values() if isinstance(part, Fn) for found in pairs(part)]
        return [*inside, *([loss.kwargs["pairs"]] if "pairs" in loss.kwargs else [])]

    for name, (_, family) in TABLE.LOSSES.items():
        step = steps(name)[name]
        assert isinstance(step, Experiment)
        if family.source is recorded_samples:
            compared = [found for loss in step.algorithm.losses.values() for found in pairs(loss)]
            assert all(len(found) == 6 for found in compared), name


def test_the_experiment_takes_losses_of_pairs_only() -> None:
    taken = set(imported(ROOT / "experiments" / "offline_losses" / "run.py").PAIRWISE)
    assert {"dpo", "simpo", "ld_dpo", "tdpo", "wpo", "aot", "orpo"} <= taken
    assert not taken & {"kto", "plackett_luce", "figa", "lcpo", "length_desensitised"}
