"""Every line of configs/online.py has the shapes of a run, and every online recipe has a line. (test_algorithms.py runs
the recipes, test_experiments_online.py trains some of these lines.)"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import pytest

from alignjax import algorithms, stages
from alignjax.cli import catalogue
from alignjax.cli.config_file import imported
from alignjax.config import Experiment
from alignjax.train.run_record import config_json
from alignjax.train.state import abstract_state
from alignjax.train.step import abstract_experience, make_update
from alignjax.train.token_ids import with_token_ids
from alignjax.workspace import Workspace
from tests.support.commands import ROOT

pytestmark = pytest.mark.slow

TABLE = imported(ROOT / "configs" / "online.py")
# Recipes that learn from what a source gives, and the parts of others.
OFFLINE = {"dpo", "ipo", "slic", "vpo_offline", "sft", "preference_model", "reward_model", "labelled_samples"}
PARTS = {"offline", "online", "policy_gradient", "rounds", "with_lora", "with_losses"}


def steps(mode: str) -> Mapping[str, Any]:
    return TABLE.get_config(mode).steps


@pytest.mark.parametrize("name", TABLE.RECIPES)
def test_has_the_shapes_of_a_run(name: str, tmp_path: Path) -> None:
    step = steps(name)[name]
    assert isinstance(step, Experiment)
    step = with_token_ids(step, Workspace(tmp_path), prepare=False)
    state = abstract_state(step.algorithm)
    batch, _ = abstract_experience(step.algorithm, state, step.source(Workspace(tmp_path), step.seed).spec)
    after, metrics = jax.eval_shape(make_update(step.algorithm), state, batch)
    same = jax.tree.map(lambda old, new: (old.shape, old.dtype) == (new.shape, new.dtype), state, after)
    assert all(jax.tree.leaves(same)), "what goes into an iteration comes out of it"
    assert "loss" in metrics
    assert "gradient_norm/policy" in metrics


def test_every_online_recipe_has_a_line() -> None:
    other = {"ipo_md_half": "ipo_md", "spo": "self_play_pg", "rlhf": "rloo"}  # lines under names of their own
    other |= {"rloo_judged": "rloo", "grpo_judged": "grpo", "ppo_judged": "ppo"}
    lines = {other.get(name, name) for name in TABLE.RECIPES}
    assert lines == {*catalogue.public(algorithms)} - OFFLINE - PARTS


def test_completions_of_a_post_are_as_many_everywhere() -> None:
    """Methods with opponents get no more samples and judgements than those without."""
    sizes = TABLE.parts.sizes_of("full")
    for name in ("online_ipo", "online_dpo", "ipo_md", "self_play_pg", "nash_md", "nash_ema", "spo", "egpo", "rlhf"):
        stages_of = TABLE.trained(sizes, name).algorithm.experience.values()
        made = [stage.kwargs["n"] for stage in stages_of if stage.function is stages.generate]
        assert sum(made) == sizes.samples, name


def test_the_reward_model_learns_the_judges_labels() -> None:
    """Same source, same seed, same sampler under the same stage names: the same texts in the same order."""
    sizes = TABLE.parts.sizes_of("tiny")
    judge, (reward,) = TABLE.parts.judge(sizes, seed=1), TABLE.reward(sizes).values()
    for part in ("source", "seed", "steps"):
        assert config_json(getattr(reward, part)) == config_json(getattr(judge, part))
    assert config_json(reward.algorithm.experience) == config_json(judge.algorithm.experience)
    assert config_json(reward.algorithm.roles["policy"]) == config_json(judge.algorithm.roles["policy"])
    pairs = [loss.kwargs["pairs"] for run in (judge, reward) for loss in run.algorithm.losses.values()]
    assert pairs[0] == pairs[1]
