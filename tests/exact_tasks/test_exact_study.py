"""Budgets of exact studies are what they say, offline and online alike; every task runs from nothing to its report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from alignjax import stages
from alignjax.cli.config_file import imported
from alignjax.config import Experiment, Fn
from alignjax.pipelines import exact_study
from alignjax.train.resolve import experience_shapes
from alignjax.train.run_record import config_json
from tests.support.commands import ROOT, run

QUICKSTART = imported(ROOT / "configs" / "quickstart.py")
TASKS = imported(ROOT / "configs" / "exact_tasks.py")


def functions(value: Any) -> set[Any]:
    """Every function that a config names, at any depth."""
    if not isinstance(value, Fn):
        return set()
    return {value.function}.union(*(functions(part) for part in value.kwargs.values()))


def test_offline_and_online_policies_have_the_same_prompts_labels_steps_and_start() -> None:
    sizes = exact_study.sizes_of("full")
    steps = QUICKSTART.get_config("full").steps
    pairs, offline, online, mixed = (steps[name] for name in ("pairs", "offline_ipo", "online_ipo", "ipo_md"))
    for step in (online, mixed):
        assert config_json(step.source) == config_json(pairs.source)
        assert step.steps == pairs.steps == offline.steps == sizes.policy_steps
        policy, start = (one.algorithm.roles["policy"] for one in (step, offline))
        assert config_json(policy.start) == config_json(start.start)
        assert config_json(policy.optimizer.replace(learning_rate=1.0)) == config_json(
            start.optimizer.replace(learning_rate=1.0)
        )
        assert config_json(step.algorithm.experience["prefer"]) == config_json(pairs.algorithm.experience["prefer"])
        (loss,), (other,) = (one.algorithm.losses.values() for one in (step, offline))
        assert loss.replace(tau=1.0) == other.replace(tau=1.0), (
            "tau and the rate are tuned, each method's with as many trials"
        )
    assert offline.source.kwargs["batch_size"] == sizes.policy_batch_size
    made = experience_shapes(pairs)
    assert made.preference is not None
    rows, n, _ = made.preference.shape
    assert sizes.queries == pairs.steps * rows * n * (n - 1) // 2
    assert dict(exact_study.budgets(sizes))["labels drawn from people, for the learned judge"] == sizes.labels


def test_nobody_is_trained_on_what_decides() -> None:
    """The annotator's labels are drawn for the learned judge alone; prompts of the tournament are of another split."""
    sizes = exact_study.sizes_of("full")
    steps = QUICKSTART.get_config("full").steps
    trained = {name: step for name, step in steps.items() if isinstance(step, Experiment)}
    asks_gold = {
        name
        for name, step in trained.items()
        if any(sizes.task.gold.function in functions(stage) for stage in step.algorithm.experience.values())
    }
    assert asks_gold == {"labels"}
    splits = {name: step.source.kwargs.get("split") for name, step in trained.items() if "split" in step.source.kwargs}
    assert splits["sft"] != splits["labels"] != splits["online_ipo"]
    assert steps["evaluate"].kwargs["source"].kwargs["split"] == "test" not in splits.values()


def test_judges_are_as_large_and_as_noisy_as_asked() -> None:
    sizes = dataclasses.replace(exact_study.tiny(), label_noise=0.2, judge_width=8, judge_layers=2, label_steps=3)
    step = exact_study.labels(sizes)
    assert stages.flipped in functions(step.algorithm.experience["prefer"])
    assert step.steps == 3
    judge = exact_study.judge(sizes, seed=1)
    shapes = jax.eval_shape(exact_study.judge_model(sizes).init, jax.random.key(0))
    assert {8, 24} & {size for leaf in jax.tree.leaves(shapes) for size in leaf.shape}
    assert "stage" not in config_json(judge.algorithm.roles["preference"].start), "another backbone starts afresh"
    same = exact_study.judge(exact_study.tiny(), seed=1)
    assert config_json(same.algorithm.roles["preference"].start)["stage"] == "sft"


def test_networks_of_one_shape_are_one_object() -> None:
    """Or each step would compile its own."""
    sizes = exact_study.sizes_of("full")
    longer = dataclasses.replace(sizes, policy_steps=7)
    assert exact_study.policy_model(sizes) is exact_study.policy_model(longer)
    assert exact_study.judge_model(sizes) is exact_study.judge_model(longer)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS.TASKS)
def test_every_task_runs_to_its_report(task: str, tmp_path: Path, session_cache: Path) -> None:
    run(f"alignjax train {ROOT / 'configs' / 'exact_tasks.py'}:{task}-tiny --run-dir run", tmp_path, session_cache)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    names = {measure.name for measure in TASKS.TASKS[task].measures}
    assert all(set(row["measures"]) == names for row in results["players"].values())
    assert (tmp_path / "run" / "report.html").is_file()
