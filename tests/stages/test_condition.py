"""Goals in front of prompts: what the stages write, and that rows stay rows through minibatches and microbatches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from alignjax import losses, roles, stages
from alignjax.config import ConfigError, fn
from alignjax.stages.condition import _in_front
from alignjax.train.state import create_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Algorithm, Batch, Context, Role
from alignjax.workspace import Workspace
from tests.support.tiny import as_jax, model, parameters, ragged, run, scorer, sgd

GOALS = ((4, 5), (6,), (7, 8))
EDGES = (0.0, 1.0)
KEY = jax.random.key(0)


def scored(rows: int = 4, n: int = 2, **options: Any) -> Batch:
    """Rewards of every bin, some on an edge."""
    draw = np.random.default_rng(1)
    reward = draw.choice([-2.0, 0.0, 0.5, 1.0, 3.0], (rows, n)).astype(np.float32)
    reward[0] = (-1, 2) if n == 2 else reward[0]
    return dataclasses.replace(ragged(rows=rows, n=n, **options), reward=reward)


def text(batch: Batch, row: int) -> list[int]:
    """The prompt of a row as a model reads it."""
    return batch.prompt[row][batch.prompt_valid[row]].tolist()


def under(goal: tuple[int, ...], prompt: list[int]) -> list[int]:
    return [prompt[0], *goal, *prompt[1:]]


def test_each_completion_is_put_under_the_goal_of_its_reward() -> None:
    batch = scored(rows=6)
    out = run(stages.condition_on_reward, Context(), batch, KEY, edges=EDGES, goals=GOALS)
    assert out.tokens.shape == (12, 1, 7)
    assert out.logps == {}
    for row in range(12):
        b, n = divmod(row, 2)
        reward = float(batch.reward[b, n])
        goal = GOALS[0] if reward < 0 else GOALS[1] if reward < 1 else GOALS[2]
        assert text(out, row) == under(goal, text(batch, b))
        np.testing.assert_array_equal(out.tokens[row, 0], batch.tokens[b, n])
        np.testing.assert_array_equal(out.mask[row, 0], batch.mask[b, n])
        assert out.example_id[row] == batch.example_id[b]
    assert len({tuple(text(out, row)[1:2]) for row in range(12)}) == 3  # every bin occurs


def test_a_goal_leaves_no_gap() -> None:
    """A prompt under a goal is padded on the left alone, and its scores are those of the same text in less room."""
    network, batch = model(), scored()
    out = run(stages.condition_on_reward, Context(), batch, KEY, edges=EDGES, goals=GOALS)
    assert np.all(out.prompt_valid[:, 1:] >= out.prompt_valid[:, :-1])
    texts = [text(out, row) for row in range(8)]
    width = max(map(len, texts))
    prompt = np.zeros((8, width), np.int32)
    valid = np.zeros((8, width), bool)
    for row, one in enumerate(texts):
        prompt[row, width - len(one) :], valid[row, width - len(one) :] = one, True
    dense = out.replace(prompt=prompt, prompt_valid=valid, prompts={})
    score, params = scorer(network), parameters(network)
    ours, theirs = (np.asarray(score(params, each)) for each in (out, dense))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    plain = np.asarray(score(params, batch)).reshape(8, 1, -1)
    assert np.abs(plain - ours).max() > 0.1  # the goal is read


def test_a_goal_replaces_the_one_before_it() -> None:
    batch = scored()
    asked = run(stages.condition_on, Context(), batch, KEY, goal=(9, 9, 9))
    assert text(asked, 1) == under((9, 9, 9), text(batch, 1))
    once = run(stages.hindsight, Context(), batch, KEY, edges=EDGES, goals=GOALS)
    after = run(stages.hindsight, Context(), asked, KEY, edges=EDGES, goals=GOALS)
    assert jax.tree.all(jax.tree.map(np.array_equal, once, after))


def test_hindsight_gives_every_completion_another_instruction_too() -> None:
    batch = scored(rows=16)
    out = run(stages.hindsight, Context(), batch, KEY, edges=EDGES, goals=GOALS)
    match = run(stages.condition_on_reward, Context(), batch, KEY, edges=EDGES, goals=GOALS)
    np.testing.assert_array_equal(out.prompt, match.prompt)
    others = out.replace(prompt=out.prompts["other"], prompt_valid=out.prompts["other_valid"])
    drawn = set()
    for row in range(32):
        plain, here, there = text(batch, row // 2), text(out, row), text(others, row)
        goals = [goal for goal in GOALS if there == under(goal, plain)]
        assert len(goals) == 1
        assert there != here
        drawn.add((here[1], goals[0]))
    assert len(drawn) == 6  # each of three outcomes with both of the others
    shuffled = run(
        stages.hindsight, Context(), jax.tree.map(lambda leaf: leaf[::-1], batch), KEY, edges=EDGES, goals=GOALS
    )
    np.testing.assert_array_equal(shuffled.prompts["other"][:2], out.prompts["other"][-2:])  # a function of the example


def test_a_pair_becomes_two_with_opposite_labels() -> None:
    batch = scored(rows=6)
    out = run(stages.goal_pairs, Context(), batch, KEY, edges=EDGES, goals=GOALS)
    assert out.tokens.shape[:2] == (12, 2)
    bins = np.digitize(batch.reward, EDGES)
    for row in range(12):
        b, g = divmod(row, 2)
        assert text(out, row) == under(GOALS[bins[b, g]], text(batch, b))
        if bins[b, 0] == bins[b, 1]:
            assert out.pair_weight[row, 0, 1] == 0
        else:
            assert (out.preference[row, g, 1 - g], out.preference[row, 1 - g, g]) == (1, 0)
            assert out.pair_weight[row, 0, 1] == 1
    assert 0 < float(out.pair_weight[:, 0, 1].sum()) < 12  # both kinds occur
    np.testing.assert_allclose(out.preference + out.preference.swapaxes(1, 2), 1)


def test_pairs_of_lists_prefer_the_nearer_bin() -> None:
    batch = scored(rows=1, n=3).replace(reward=np.array([[-1.0, 0.5, 2.0]]), preference=None)
    out = run(stages.goal_pairs, Context(), batch, KEY, edges=EDGES, goals=GOALS)
    best_first = [[0, 1, 2], [1, 0, 2], [2, 1, 0]]
    for row, order in enumerate(best_first):
        assert out.preference[row, order[0], order[1]] == 1
        tied = row == 1  # both others are one bin away
        assert out.preference[row, order[1], order[2]] == (0.5 if tied else 1)
        assert out.pair_weight[row, order[1], order[2]] == (0 if tied else 1)


def test_weights_of_pairs_survive_and_missing_completions_are_not_labelled() -> None:
    batch = scored()
    weight = np.zeros((4, 2, 2))
    weight[0] = 0.5
    out = run(stages.goal_pairs, Context(), batch.replace(pair_weight=weight), KEY, edges=EDGES, goals=GOALS)
    assert out.pair_weight[:, 0, 1].tolist() == [0.5, 0.5, 0, 0, 0, 0, 0, 0]
    gone = batch.replace(valid=batch.valid.copy(), reward=batch.reward.copy())
    gone.valid[0, 1], gone.reward[0, 1] = False, np.nan
    out = run(stages.goal_pairs, Context(), gone, KEY, edges=EDGES, goals=GOALS)
    assert not out.pair_weight[:2].any()


def test_configurations_choose_their_own_winner() -> None:
    batch = scored()
    scores = np.zeros((4, 2, 3))
    scores[:, 0, 0] = scores[:, 1, 1] = 1  # the third sees no difference
    given = batch.replace(completions={"scores": scores})
    out = run(stages.configured_pairs, Context(), given, KEY, goals=GOALS)
    assert out.tokens.shape[0] == 12
    assert out.preference[:, 0, 1].tolist() == [1, 0, 0.5] * 4
    assert out.pair_weight[:, 0, 1].tolist() == [1, 1, 0] * 4
    assert [text(out, row) for row in range(3)] == [under(goal, text(batch, 0)) for goal in GOALS]
    with pytest.raises(ConfigError, match=r"\[B,N,3\]"):
        run(stages.configured_pairs, Context(), batch, KEY, goals=GOALS)


def test_an_empty_prompt_stays_empty() -> None:
    batch = scored().replace(prompt_valid=np.zeros((4, 6), bool))
    _, valid = jax.jit(_in_front)(batch, (np.ones((4, 2), np.int32), np.ones((4, 2), bool)))
    assert not valid.any()


@pytest.mark.parametrize(
    ("stage", "hyper", "said"),
    [
        (stages.condition_on_reward, {"edges": (1.0, 0.0), "goals": GOALS}, "edges must rise"),
        (stages.condition_on_reward, {"edges": (1.0,), "goals": GOALS}, "one bin per goal"),
        (stages.goal_pairs, {"edges": EDGES, "goals": ((1,), (1,), (2,))}, "different"),
        (stages.goal_pairs, {"edges": EDGES, "goals": ((1,), (), (2,))}, "non-empty"),
        (stages.hindsight, {"edges": (), "goals": ((1,),)}, "at least two goals"),
        (stages.condition_on, {"goal": ()}, "non-empty"),
    ],
)
def test_what_cannot_be_meant_is_refused(stage: Any, hyper: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        stage(Context(), scored(), KEY, **hyper)


def test_a_missing_reward_is_named() -> None:
    with pytest.raises(ConfigError, match=r"needs batch\.reward"):
        run(stages.hindsight, Context(), ragged(), KEY, edges=EDGES, goals=GOALS)


def looked_at(relabel: Any, loss: Any, **parts: int) -> dict[str, Any]:
    """The metrics of an iteration that moves nothing."""
    network = model(layers=1)
    policy = Role(network, roles.fresh(), optimizer=fn(sgd, learning_rate=0.0))
    algorithm = Algorithm(
        {"relabel": relabel, "reference": fn(stages.logprobs)},
        [loss],
        {"policy": policy, "reference": Role(network, roles.fresh())},
        **parts,
    )
    state = create_state(algorithm, 0, Workspace(Path("unused")))
    batch, _ = make_experience(algorithm)(state, as_jax(scored()))
    return make_update(algorithm)(state, batch)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("relabel", "loss", "parts", "metrics"),
    [
        (stages.goal_pairs, fn(losses.dpo, beta=0.3), "microbatches", ("loss/dpo", "dpo/margin")),
        (stages.hindsight, fn(losses.hir), "minibatches", ("hir/likelihood", "hir/contrast")),
    ],
    ids=["goal_pairs", "hindsight"],
)
def test_relabelled_rows_stay_together(relabel: Any, loss: Any, parts: str, metrics: tuple[str, ...]) -> None:
    """Cut into pieces, the mean over pieces is that of the whole: a completion meets its own goal in every piece.
    Contrasts with instructions of another row would differ."""
    stage = fn(relabel, edges=EDGES, goals=GOALS)
    whole, pieces = looked_at(stage, loss), looked_at(stage, loss, **{parts: 2})
    for metric in metrics:
        assert abs(float(whole[metric])) > 1e-3
        np.testing.assert_allclose(pieces[metric], whole[metric], rtol=1e-4)
