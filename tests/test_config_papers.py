"""Every line of configs/papers.py has the shapes of a run, and two of them, with stages of their own, train.

test_papers.py says that each is in the list of papers.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from alignjax.cli.config_file import imported
from alignjax.config import Experiment
from alignjax.train.state import abstract_state
from alignjax.train.step import abstract_experience, make_update
from alignjax.train.token_ids import with_token_ids
from alignjax.workspace import Workspace
from tests.support.commands import ROOT, run

pytestmark = pytest.mark.slow

TABLE = imported(ROOT / "configs" / "papers.py")


@pytest.mark.parametrize("name", TABLE.PAPERS)
def test_has_the_shapes_of_a_run(name: str, tmp_path: Path) -> None:
    shared = {"data", "sft", "labels", "preference"}
    steps = {each: step for each, step in TABLE.get_config(name).steps.items() if isinstance(step, Experiment)}
    for each in steps.keys() - shared:
        step = with_token_ids(steps[each], Workspace(tmp_path), prepare=False)
        state = abstract_state(step.algorithm)
        batch, _ = abstract_experience(step.algorithm, state, step.source(Workspace(tmp_path), step.seed).spec)
        after, metrics = jax.eval_shape(make_update(step.algorithm), state, batch)
        same = jax.tree.map(lambda old, new: (old.shape, old.dtype) == (new.shape, new.dtype), state, after)
        assert all(jax.tree.leaves(same)), "what goes into an iteration comes out of it"
        assert "loss" in metrics or not step.algorithm.losses


@pytest.mark.parametrize("name", ["recap", "spo"])
def test_trains_to_its_report(name: str, tmp_path: Path, session_cache: Path) -> None:
    run(f"alignjax train {ROOT / 'configs' / 'papers.py'}:{name}-tiny --run-dir run", tmp_path, session_cache)
    players = json.loads((tmp_path / "run" / "results.json").read_text())["players"]
    steps, _ = TABLE.PAPERS[name][1](TABLE.parts.sizes_of(f"{name}-tiny", TABLE.PAPERS[name][0]))
    assert {"sft", "sft_greedy", "sft_cool", "sft_best_of_4", *steps} <= players.keys()
