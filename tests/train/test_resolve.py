"""An experiment is resolved once: one source, one abstract state, and all that does not go together refused first."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest
from rich.console import Console

from alignjax import stages
from alignjax.config import ConfigError, fn
from alignjax.parallel.mesh import make_mesh
from alignjax.train.loop import train
from alignjax.train.resolve import resolve
from alignjax.train.state import create_state
from alignjax.workspace import Workspace
from tests.support import toy_run


def test_a_run_makes_its_source_once_and_refuses_before_its_folder_is_made(tmp_path: Path) -> None:
    given, made = toy_run.experiment(steps=2), []

    def counted(workspace: Workspace, seed: int) -> Any:
        made.append(seed)
        return given.source(workspace, seed)

    experiment = dataclasses.replace(given, source=fn(counted))
    train(experiment, Workspace(tmp_path / "run"), console=Console(quiet=True))
    assert made == [given.seed]
    stageless = dataclasses.replace(
        experiment, overlap=True, algorithm=dataclasses.replace(experiment.algorithm, experience={})
    )
    with pytest.raises(ConfigError, match="no stages"):
        train(stageless, Workspace(tmp_path / "refused"), console=Console(quiet=True))
    assert not (tmp_path / "refused").exists()


def test_the_abstract_state_is_that_of_the_run(tmp_path: Path) -> None:
    experiment = toy_run.experiment(steps=2)
    resolved = resolve(experiment, Workspace(tmp_path), make_mesh(experiment.mesh))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, resolved.state)
    state = create_state(resolved.algorithm, experiment.seed, Workspace(tmp_path), shardings)
    form = lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding)  # noqa: E731
    assert jax.tree.map(form, state) == jax.tree.map(form, resolved.state)
    assert jax.tree.map(lambda leaf: leaf.shape, resolved.spec) == jax.tree.map(
        lambda leaf: leaf.shape, resolved.source[0]
    )


def right(completions: Any, **columns: Any) -> list[float]:
    return [1.0 for _ in completions]


def judges(context: Any, batch: Any, key: Any) -> Any:
    return batch.tokens


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (
            right,
            r"stage 'reward' is right, which is called as \(context, batch, key\) and takes \(completions, columns\)",
        ),
        (fn(right), r"a function of texts goes into fn\(stages.text_reward, function=right\)"),
        (fn(stages.prefer, judge=fn(right)), r"stage 'reward': judge of prefer is right, which is called as"),
        (None, r"stage 'reward' is None; it must be a function of \(context, batch, key\)"),
        (fn(judges), r"stage 'reward', judges, returned \w+ and no Batch; a judge goes into fn\(stages.prefer"),
    ],
)
def test_what_cannot_be_a_stage_is_refused_in_words(stage: Any, words: str, tmp_path: Path) -> None:
    experiment = toy_run.experiment()
    algorithm = dataclasses.replace(experiment.algorithm, experience={"reward": stage})
    with pytest.raises(ConfigError, match=words):
        _ = resolve(dataclasses.replace(experiment, algorithm=algorithm), Workspace(tmp_path)).filled


def test_what_cannot_be_a_loss_is_refused_in_words(tmp_path: Path) -> None:
    experiment = toy_run.experiment()
    algorithm = dataclasses.replace(experiment.algorithm, losses={"mine": fn(right)})
    with pytest.raises(ConfigError, match=r"loss 'mine' is right, which is called as \(context, batch\) and takes"):
        resolve(dataclasses.replace(experiment, algorithm=algorithm), Workspace(tmp_path))
