"""What recipes remember: replayed pairs with their weights, responses that are used again, pools of past policies, and
all of it in a resumed run."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from alignjax import algorithms, games
from alignjax.cli.config_file import imported
from alignjax.config import ConfigError, Experiment, fn
from alignjax.data.sources.source import OpenedSource, Source, endless
from alignjax.games.world import Contexts
from alignjax.sampling import mixture
from alignjax.train.begin import warn_of_no_reuse
from alignjax.train.loop import train
from alignjax.train.resolve import Resolved
from alignjax.train.state import abstract_state, create_state
from alignjax.train.step import abstract_experience, make_update
from alignjax.types import Batch
from alignjax.workspace import Workspace
from tests.support import toy_run
from tests.support.commands import ROOT
from tests.support.tiny import model, sgd
from tests.support.toy_recipes import PLAYED, RECIPES, iterations

NOWHERE = Workspace(Path("nowhere"))
SMALL = {"vocab": 12, "width": 8, "layers": 1, "heads": 2, "kv_heads": 1, "mlp": 8}
OPTIMIZER = fn(sgd, learning_rate=0.05)
GAME = games.sequence_game(0.3, seed=1, vocab=3, length=2)


# ------------------------------------------------------------------------------------------------------------ replay


@pytest.mark.parametrize("name", ["active_dpo", "online_dpo"])
def test_replayed_pairs_count_as_they_did(name: str) -> None:
    """Of a budget those that were bought, with their labels; without one all."""
    parts = {"optimizer": fn(sgd, learning_rate=0.1), "n": 4, **games.parts(GAME)}
    parts |= {"count": 2} if name == "active_dpo" else {}
    base = getattr(algorithms, name)(games.table_policy(GAME), **parts)
    sizes = {"slots": 8, "rows": 12, "max_age": 3, "prompt_tokens": 1, "n": 4, "max_tokens": GAME.language.length}
    algorithm = algorithms.with_replay(base, **sizes)
    _, seen = iterations(algorithm, create_state(algorithm, 0, NOWHERE), Contexts(1, 4)[0], 2)
    (first, _), (second, _) = seen
    replay, off_diagonal = second.views["replay"], 1 - np.eye(4)
    drawn = np.asarray(replay.valid).any((1, 2))
    assert drawn.any()
    bought = np.ones((4, 4, 4)) if first.pair_weight is None else np.asarray(first.pair_weight)
    assert (bought * off_diagonal).sum() == (4 if name == "active_dpo" else 48)  # each pair stands there twice
    rows = np.asarray(replay.example_id)[drawn]
    np.testing.assert_array_equal(replay.pair_weight[drawn], bought[rows])
    np.testing.assert_array_equal(replay.preference[drawn], first.preference[rows])
    assert not np.any(replay.pair_weight[~drawn])


def test_a_reference_that_moves_is_not_remembered() -> None:
    parts = {"optimizer": fn(sgd), **games.parts(GAME)}
    sizes = {"slots": 8, "rows": 2, "max_age": 3, "prompt_tokens": 1, "n": 2, "max_tokens": GAME.language.length}
    moving = algorithms.iterated_dpo(games.table_policy(GAME), sync_every=1, **parts)
    with pytest.raises(ConfigError, match=r"reference='reference'.* that moves; write reference=None"):
        algorithms.with_replay(moving, **sizes)
    with pytest.raises(ConfigError, match=r"reference='referense'.* that does not exist.*Did you mean 'reference'"):
        algorithms.with_replay(algorithms.online_dpo(games.table_policy(GAME), **parts), reference="referense", **sizes)
    scored = algorithms.with_replay(moving, reference=None, **sizes)
    given, _ = abstract_experience(scored, abstract_state(scored), Contexts(1, 4)[0])
    assert not given.views["replay"].logps
    jax.eval_shape(make_update(scored), abstract_state(scored), given)


# ------------------------------------------------------------------------------------------------------------- reuse


class Ten:
    """Ten prompts, two at a time."""

    def __init__(self, rows: int = 10) -> None:
        self.size, self.spec = rows, Contexts(1, 2).spec


@pytest.mark.parametrize(("steps", "warned"), [(5, True), (6, False)])
def test_a_run_that_can_reuse_nothing_is_told_so(steps: int, warned: bool) -> None:
    made = PLAYED["optune"](model(**SMALL, outputs=("reward", "preference")), optimizer=OPTIMIZER)
    experiment = Experiment(made, fn(Contexts), steps)
    resolved = Resolved(experiment, experiment, Ten(), made, abstract_state(made))
    out = io.StringIO()
    warn_of_no_reuse(resolved, Console(file=out, width=500))
    assert ("no prompt of the 10 comes twice in 10" in out.getvalue()) == warned
    other = RECIPES["sft"](model(**SMALL), optimizer=OPTIMIZER)
    warn_of_no_reuse(dataclasses.replace(resolved, algorithm=other), Console(file=out, width=500))
    assert out.getvalue().count("\n") == warned


def test_the_config_of_optune_has_posts_that_come_again() -> None:
    config = imported(ROOT / "configs" / "online.py")
    rows = [Batch(example_id=np.asarray(number)) for number in range(40)]

    def whole(workspace: Any, seed: int) -> Source:
        spec = Batch(prompt=jax.ShapeDtypeStruct((4, 1), np.int32), example_id=jax.ShapeDtypeStruct((4,), np.int32))
        return Source(spec, lambda: OpenedSource(endless(rows, seed, True), len(rows), {}))

    source = config.again(None, 3, source=fn(whole), batches=3)
    first = [source[step].example_id.tolist() for step in range(3)]
    assert [source[step].example_id.tolist() for step in range(3, 9)] == first * 2
    assert first == [whole(None, 3)[step].example_id.tolist() for step in range(3)]
    assert source.size == 12


def resumable(steps: int) -> Experiment:
    """A queue of past policies, and a replay of judged pairs beside it."""
    network = games.table_policy(GAME)
    against = algorithms.self_play_pg(
        network, pool=2, sync_every=2, n=2, optimizer=fn(sgd, learning_rate=0.1), **games.parts(GAME)
    )
    pairs = algorithms.online_dpo(network, optimizer=fn(sgd, learning_rate=0.1), **games.parts(GAME))
    both = dataclasses.replace(pairs, roles={**pairs.roles, "pool": against.roles["pool"]})
    stage = both.experience["generate"]
    both = dataclasses.replace(
        both,
        experience={**both.experience, "generate": stage.replace(behaviour=fn(mixture, beta=0.5, reference="pool"))},
    )
    replayed = algorithms.with_replay(
        both, slots=8, rows=4, max_age=2, prompt_tokens=1, n=2, max_tokens=GAME.language.length
    )
    return Experiment(replayed, fn(games.contexts, batch_size=4), steps=steps, seed=2, log_every=1, checkpoint_every=1)


@pytest.mark.slow
def test_pool_and_replay_go_on_where_they_stopped(tmp_path: Path) -> None:
    quiet = {"console": Console(quiet=True)}
    whole = train(resumable(6), Workspace(tmp_path / "whole"), **quiet)
    train(resumable(3), Workspace(tmp_path / "cut"), **quiet)
    resumed = train(resumable(6), Workspace(tmp_path / "cut"), resume=True, **quiet)
    assert toy_run.state_bytes(resumed) == toy_run.state_bytes(whole)
    assert int(whole.roles["pool"]["pushed"]) == 4
    assert np.all(np.asarray(whole.roles["memory"]["owner"])[:4] == np.arange(4))
