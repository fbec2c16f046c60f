"""What cannot start is said before the first step runs: roles from steps that keep no whole weights, merges of roles
that are not there, overlap of what is only right on-policy, engines that nobody could send weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from alignjax import algorithms, losses, roles, stages
from alignjax.cli.start_checks import check_starts
from alignjax.config import ConfigError, Experiment, Fn, MeshConfig, Pipeline, fn
from alignjax.models import lora, quantize
from alignjax.ranges import Count
from alignjax.roles import adapters_of, copy_of, restored, through
from alignjax.train import step
from alignjax.train.adapter_jobs import merge
from alignjax.train.pipeline import run_pipeline
from alignjax.train.step import make_experience
from alignjax.types import Algorithm, Role
from alignjax.workspace import Workspace
from tests.support.tiny import model, sgd

NETWORK = model(layers=1)
SGD = fn(sgd)


def never(*arguments: Any) -> Any:
    raise AssertionError("nothing is to be opened")


def adapters() -> Algorithm:
    """Adapters over a base that is kept in few bits."""
    parts = {
        "base": Role(NETWORK, through(roles.fresh(), fn(quantize))),
        "policy": Role(NETWORK, adapters_of("base", fn(lora.init)), SGD, build=fn(lora.build, base="base", alpha=1.0)),
    }
    return Algorithm({}, {"sft": fn(losses.sft)}, parts)


def experiment(algorithm: Algorithm, **more: Any) -> Experiment:
    return Experiment(algorithm, fn(never), steps=1, **more)


def after(*, stage: str, role: str = "policy", merged: str = "policy") -> Pipeline:
    start = {"policy": Role(NETWORK, restored(stage, role), SGD)}
    last = experiment(Algorithm({}, {"sft": fn(losses.sft)}, start))
    first = experiment(adapters())
    return Pipeline({"first": first, "merged": fn(merge, stage="first", algorithm=adapters, role=merged), "last": last})


@pytest.mark.parametrize("role", ["policy", "base"])
def test_adapters_and_quantized_weights_are_to_be_merged_first(role: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"role 'policy' does not have the shapes of role '.*merge it first"):
        check_starts(after(stage="first", role=role), Workspace(tmp_path))
    check_starts(after(stage="merged", role=role, merged=role), Workspace(tmp_path))


def test_a_merge_of_a_role_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'merged' merges role 'polcy'; the roles there are 'base', 'policy'. Did"):
        check_starts(after(stage="merged", merged="polcy"), Workspace(tmp_path))


def opened(workspace: Any, seed: int, *, batch_size: Count) -> Any:
    raise AssertionError("nothing is to be opened")


@pytest.mark.parametrize(
    ("size", "micro", "mini", "said"),
    [
        (8, 3, 1, "8 prompts do not split into 3 microbatches; make batch_size, which is 8, a multiple"),
        (8, 1, 5, "8 prompts do not split into 5 minibatches"),
        (12, 4, 2, "6 prompts do not split into 4 microbatches; make batch_size, which is 12"),
        (12, 3, 2, ""),
        (1, 1, 1, ""),
    ],
)
def test_batches_that_do_not_split_are_said_before_an_earlier_step_runs(
    size: int, micro: int, mini: int, said: str, tmp_path: Path
) -> None:
    plain, start = {"sft": fn(losses.sft)}, {"policy": Role(NETWORK, roles.fresh(), SGD)}
    last = Experiment(Algorithm({}, plain, start, microbatches=micro, minibatches=mini), fn(opened, batch_size=size), 1)
    both = Pipeline({"first": experiment(Algorithm({}, plain, start)), "last": last})
    if not said:
        check_starts(both, Workspace(tmp_path))
        return
    with pytest.raises(ConfigError, match=f"^step 'last': {said}"):
        check_starts(both, Workspace(tmp_path))
    with pytest.raises(ConfigError, match=f"^{said}"):
        check_starts(last, Workspace(tmp_path))


def test_a_mesh_of_a_later_step_is_compared_with_the_devices_first(tmp_path: Path) -> None:
    start = {"policy": Role(NETWORK, roles.fresh(), SGD)}
    wide = experiment(Algorithm({}, {"sft": fn(losses.sft)}, start), mesh=MeshConfig(fsdp=4096))
    steps = Pipeline({"first": fn(never), "last": wide})
    with pytest.raises(ConfigError, match=r"^step 'last': mesh .* needs 4096 devices; there are"):
        run_pipeline(steps, Workspace(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def reinforced(loss: Fn) -> Algorithm:
    parts = {"policy": Role(NETWORK, roles.fresh(), SGD), "reference": Role(NETWORK, copy_of("policy"))}
    return Algorithm({"generate": fn(stages.generate, n=2, max_tokens=2, stop=(2,))}, {"learn": loss}, parts)


def wrapped(loss: Fn) -> Fn:
    return losses.on("own", fn(losses.weighted, loss=loss, weight=0.5))


@pytest.mark.parametrize("wrap", [lambda loss: loss, wrapped])
def test_reinforce_is_overlapped_with_importance_weights_or_not_at_all(wrap: Any, tmp_path: Path) -> None:
    plain = experiment(reinforced(wrap(fn(losses.reinforce))), overlap=True)
    with pytest.raises(ConfigError, match=r"loss 'learn' is reinforce without behaviour.*behaviour=\"sampler\""):
        check_starts(plain, Workspace(tmp_path))
    check_starts(dataclasses.replace(plain, overlap=False), Workspace(tmp_path))
    weighed = reinforced(wrap(fn(losses.reinforce, behaviour="sampler")))
    check_starts(dataclasses.replace(plain, algorithm=weighed), Workspace(tmp_path))


def test_iterations_that_take_turns_are_not_overlapped(tmp_path: Path) -> None:
    judged = {
        "judge": fn(stages.preference_model, role="judge", separator=3),
        "judges": {"judge": Role(NETWORK, roles.fresh())},
    }
    algorithm = algorithms.egpo(NETWORK, **judged, optimizer=SGD, start=roles.fresh(), max_tokens=2, stop=(2,))
    with pytest.raises(ConfigError, match="role 'policy' has the rule return_to"):
        check_starts(experiment(algorithm, overlap=True), Workspace(tmp_path))


def test_an_engine_that_is_sent_weights_is_asked_by_one_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def asking(**settings: Any) -> Algorithm:
        asked = stages.engine(url="http://localhost/v1", model="policy", n=2, max_tokens=2, **settings)
        return dataclasses.replace(reinforced(fn(losses.reinforce)), experience=asked)

    make_experience(asking(sync=fn(never)))
    monkeypatch.setattr(step.processes, "is_multi_process", lambda: True)
    make_experience(asking())
    with pytest.raises(ConfigError, match=r"stage 'generate': ask_engine\(sync=..\) cannot send weights"):
        make_experience(asking(sync=fn(never)))
