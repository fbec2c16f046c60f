"""Text rewards and judges within the compiled program of a step, which waits for what the host was answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignjax import losses, roles, stages
from alignjax.config import ConfigError, fn
from alignjax.stages.text_functions import text_function
from alignjax.train.state import create_state
from alignjax.train.step import make_experience
from alignjax.types import Algorithm, Batch, Context, Role
from alignjax.workspace import Workspace
from tests.support.asked import (
    HITS,
    Ask,
    batch,
    hits,
    longer,
    no_color,
)


def test_rewards_are_added_up_by_weight_and_what_nobody_knows_counts_nothing(ask: Ask) -> None:
    """Both functions, one of them without an opinion on some: against the sums by hand, and through a loss."""
    stage = fn(stages.text_reward, function=(hits, no_color), weights=(1.0, 0.5))
    alone = fn(stages.text_reward, function=no_color)
    for asked, rewards, weights in (
        (stage, [[1 + 0.5 * 2, 0.375], [2, 0.5], [0, 1 + 0.5 * 3.5]], [[1, 1], [1, 1], [1, 1]]),
        (alone, [[2, 0.75], [0, 1], [0, 3.5]], [[1, 1], [0, 1], [0, 1]]),
    ):
        made = Algorithm({"reward": asked}, roles={"policy": Role(None, roles.value(lambda key: np.zeros(2)))})
        state = create_state(made, 0, Workspace(Path()))
        answer = ask(asked)
        given, metrics = make_experience(made, None, lambda *question, answer=answer: answer)(state, batch())
        np.testing.assert_allclose(given.need("reward", of="this"), rewards)
        np.testing.assert_array_equal(given.completions["weight"], weights)
        known = np.array([2, 0.75, 1, 3.5])
        assert float(metrics["reward/no_color/mean"]) == pytest.approx(known.mean())
        assert float(metrics["reward/no_color/std"]) == pytest.approx(known.std())
        assert float(metrics["reward/no_color/no_opinion"]) == pytest.approx(1 / 3)


def test_a_pair_without_an_opinion_has_no_weight(ask: Ask) -> None:
    asked = fn(stages.text_judge, function=longer)
    for judge in (asked, fn(stages.flipped, judge=asked, epsilon=0.0)):
        made = Algorithm(
            {"prefer": fn(stages.prefer, judge=judge), "win_rate": fn(stages.win_rate_against)},
            roles={"policy": Role(None, roles.value(lambda key: np.zeros(2)))},
        )
        state = create_state(made, 0, Workspace(Path()))
        given, metrics = make_experience(made, None, lambda name, asked, step, batch: ask(asked))(state, batch())
        first = 0.2 + 8 / 11
        np.testing.assert_allclose(given.need("preference", of="this")[0], [[0.5, first], [1 - first, 0.5]], rtol=1e-6)
        np.testing.assert_array_equal(given.need("preference", of="this")[2], 0.5)
        np.testing.assert_array_equal(given.need("pair_weight", of="this")[:, 0, 1], [1, 1, 0])
        np.testing.assert_array_equal(given.completions["weight"][:, 0], [1, 1, 0])
        assert float(metrics["prefer/no_opinion"]) == pytest.approx(1 / 3)
        assert float(metrics["prefer/judge_confidence"]) == pytest.approx((0.4 + 15 / 11) / 2)
    by_reward = fn(stages.chain, stages=(fn(stages.text_reward, function=no_color), fn(stages.prefer_by_reward)))
    made = Algorithm({"labels": by_reward}, roles=made.roles)
    given, _ = make_experience(made, None, lambda name, asked, step, batch: ask(asked))(state, batch())
    np.testing.assert_array_equal(given.need("pair_weight", of="this")[:, 0, 1], [1, 0, 0])


def made_within(context: Context, batch: Batch, key: Any) -> Batch:
    return batch.replace(tokens=batch.need("tokens", of="this") + 1)


def test_a_stage_asks_about_what_was_made_before_it(ask: Ask) -> None:
    """Of its own view too; what it makes itself does not exist when the host is asked."""
    asked = fn(stages.text_reward, function=hits)
    state_of = {"policy": Role(None, roles.value(lambda key: np.zeros(2)))}
    viewed = Algorithm({"there": stages.in_view("other", asked)}, roles=state_of)
    state = create_state(viewed, 0, Workspace(Path()))
    two = batch(views={"other": batch()}, example_id=np.zeros(3, np.int32))
    given, _ = make_experience(viewed, None, lambda name, asked, step, batch: ask(asked, given=batch))(state, two)
    assert given.views["other"].need("reward", of="this").tolist() == HITS
    late = Algorithm({"both": fn(stages.chain, stages=(fn(made_within), asked))}, roles=state_of)
    with pytest.raises(ConfigError, match="stage 'both' asks a text function about texts that it makes itself"):
        make_experience(late, None, lambda name, asked, step, batch: ask(asked))(state, batch())
    with pytest.raises(ConfigError, match="needs the tokenizer of its data"):
        make_experience(viewed)(state, two)
    with pytest.raises(ConfigError, match="is asked by the stages of a run"):
        stages.text_reward(Context(), batch(), None, function=hits)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="asks 2 text functions"):
        text_function(fn(stages.chain, stages=(asked, asked)))
    assert losses.reinforce  # what reads the weights
