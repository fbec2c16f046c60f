"""Every line of configs/lora.py has the shapes of a run in which adapters learn and whole weights lie once.
(train/test_lora_training.py runs what they are made of.)"""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from alignjax.cli.config_file import imported
from alignjax.cli.start_checks import check_starts
from alignjax.models import parameter_count
from alignjax.train.state import abstract_state
from alignjax.train.step import abstract_experience, make_update
from alignjax.train.token_ids import with_token_ids
from alignjax.workspace import Workspace
from tests.support.commands import ROOT

pytestmark = pytest.mark.slow

TABLE = imported(ROOT / "configs" / "lora.py")


@pytest.mark.parametrize("name", TABLE.RECIPES)
def test_has_the_shapes_of_a_run(name: str, tmp_path: Path) -> None:
    config = TABLE.get_config(name + TABLE.TINY)
    check_starts(config, Workspace(tmp_path))
    step = config.steps[name]
    step = with_token_ids(step, Workspace(tmp_path), prepare=False)
    state = abstract_state(step.algorithm)
    batch, _ = abstract_experience(step.algorithm, state, step.source(Workspace(tmp_path), step.seed).spec)
    after, metrics = jax.eval_shape(make_update(step.algorithm), state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert "gradient_norm/policy" in metrics
    whole = parameter_count(step.algorithm.roles["policy"].model)
    small = sum(leaf.size for leaf in jax.tree.leaves(state.roles["policy"]))
    assert small < whole / 5
    assert not jax.tree.leaves(state.roles["reference"])


def test_its_docstring_says_how_to_run_it() -> None:
    assert "alignjax train configs/lora.py:dpo\n" in TABLE.__doc__
