"""The basic recipes run from prompts to a moved policy, and start where their losses say they do. The others are in
`train/test_played.py`, which also holds the list of all."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import algorithms, losses, roles, stages
from alignjax.config import ConfigError, fn
from alignjax.sampling import mixture
from alignjax.train.state import create_state
from alignjax.train.step import make_experience, make_update
from alignjax.train.token_ids import fill_token_ids
from alignjax.types import Algorithm, Role
from alignjax.workspace import Workspace
from tests.support.tiny import all_finite, as_jax, difference, model, ragged, scorer, sgd, slow_but

NOWHERE = Workspace(Path("nowhere"))
NETWORK = model(outputs=("reward", "preference"), layers=1)
FULL = as_jax(ragged()).replace(logps={})
PROMPTS = FULL.replace(tokens=None, valid=None, mask=None, preference=None)
OPTIMIZER = fn(sgd, learning_rate=0.05)
SELF_PLAY = {
    "judge": fn(stages.preference_model, role="judge", separator=3),
    "judges": {"judge": Role(NETWORK, roles.fresh())},
    "start": roles.fresh(),
    "max_tokens": 5,
    "stop": (2,),
}


def at_ln_2(p: np.ndarray) -> float:
    return math.log(2)


def at_1(p: np.ndarray) -> float:
    return 1.0


def at_squared_label(p: np.ndarray) -> float:
    """(2p - 1)^2 / (4 tau^2) for tau = 1/2."""
    return float(np.mean((2 * p - 1) ** 2))


# name: (algorithm, its batch, its loss where policy = reference and preferences are as given; None: not known)
RECIPES = {
    "sft": (algorithms.sft(NETWORK, optimizer=OPTIMIZER), FULL, None),
    "preference_model": (
        fill_token_ids(algorithms.preference_model(NETWORK, optimizer=OPTIMIZER), stop=(2,), separator=3),
        FULL,
        None,
    ),
    "reward_model": (algorithms.reward_model(NETWORK, optimizer=OPTIMIZER), FULL, None),
    "dpo": (algorithms.dpo(NETWORK, optimizer=OPTIMIZER, start=roles.fresh()), FULL, at_ln_2),
    "ipo": (algorithms.ipo(NETWORK, tau=0.5, optimizer=OPTIMIZER, start=roles.fresh()), FULL, at_squared_label),
    "slic": (algorithms.slic(NETWORK, optimizer=OPTIMIZER, start=roles.fresh()), FULL, at_1),
    "online_dpo": (algorithms.online_dpo(NETWORK, optimizer=OPTIMIZER, **SELF_PLAY), PROMPTS, at_ln_2),
    "online_ipo": (
        algorithms.online_ipo(NETWORK, tau=0.5, optimizer=OPTIMIZER, **SELF_PLAY),
        PROMPTS,
        at_squared_label,
    ),
    "online_slic": (algorithms.online_slic(NETWORK, optimizer=OPTIMIZER, **SELF_PLAY), PROMPTS, at_1),
    "ipo_md": (algorithms.ipo_md(NETWORK, tau=0.5, optimizer=OPTIMIZER, **SELF_PLAY), PROMPTS, at_squared_label),
}


# That online losses are the offline ones is in test_step.py.
@pytest.mark.parametrize(
    "name", [slow_but(*({*RECIPES} - {"online_ipo", "online_slic"}), name=name) for name in RECIPES]
)
def test_a_recipe_runs_and_moves_only_what_it_trains(name: str) -> None:
    algorithm, batch, at_start = RECIPES[name]
    state = create_state(algorithm, 0, NOWHERE)
    before = jax.tree.map(np.array, state.roles)
    experience, update = make_experience(algorithm), make_update(algorithm)
    given, seen = experience(state, batch)
    assert all_finite((given, seen))
    state, metrics = update(state, given)
    if at_start is not None:
        p = np.asarray(given.preference)[:, 0, 1]
        np.testing.assert_allclose(metrics["loss"], at_start(p), rtol=1e-4)
        np.testing.assert_allclose(metrics["pair/log_ratio"], 0, atol=1e-5)
    assert all_finite((state, metrics))
    for role, tree in before.items():
        moved = difference(tree, state.roles[role])
        assert (moved > 1e-6) if algorithm.roles[role].optimizer is not None else (moved == 0), role


@pytest.mark.parametrize("name", ["sft", "dpo", "ipo"])
def test_a_few_steps_on_one_batch_lower_the_loss(name: str) -> None:
    algorithm, batch, _ = RECIPES[name]
    slow = dataclasses.replace(algorithm.roles["policy"], optimizer=OPTIMIZER.replace(learning_rate=1e-3))
    algorithm = dataclasses.replace(algorithm, roles={**algorithm.roles, "policy": slow})
    state = create_state(algorithm, 0, NOWHERE)
    given, _ = make_experience(algorithm)(state, batch)
    values = []
    for _ in range(8):
        state, metrics = make_update(algorithm)(state, given)
        values.append(float(metrics["loss"]))
    assert values[-1] < values[0]


def test_a_mixture_scores_the_reference_while_it_samples() -> None:
    """IPO-MD is online IPO with another behaviour, and needs no pass of the reference's own."""
    online, mixed = RECIPES["online_ipo"][0], RECIPES["ipo_md"][0]
    assert set(online.experience) - set(mixed.experience) == {"reference"}
    assert mixed.experience["generate"].kwargs["behaviour"].function is mixture
    state = create_state(mixed, 0, NOWHERE)
    reference = create_state(mixed, 1, NOWHERE).roles["policy"]
    state.roles["reference"] = reference
    given, _ = make_experience(mixed)(state, PROMPTS)
    np.testing.assert_allclose(given.logps["reference"], scorer(NETWORK)(reference, given), atol=1e-5)


def test_of_two_samplers_each_logs_its_own_completions() -> None:
    """A metric stands under the name of its stage: an opponent's lengths do not take the place of the policy's."""
    algorithm = algorithms.nash_md(NETWORK, optimizer=OPTIMIZER, n=2, **SELF_PLAY)
    early = algorithm.experience["generate"].replace(stop=tuple(range(2, 12)))
    sampling = {"generate": early, "opponent": algorithm.experience["opponent"].replace(stop=())}
    algorithm = dataclasses.replace(algorithm, experience={**algorithm.experience, **sampling})
    given, seen = make_experience(algorithm)(create_state(algorithm, 0, NOWHERE), PROMPTS)
    assert "length" not in seen
    assert set(seen) >= {"prefer/judge_confidence", "win_rate/win_rate"}
    alone = dataclasses.replace(algorithm, experience=sampling)
    both, _ = make_experience(alone)(create_state(alone, 0, NOWHERE), PROMPTS)
    np.testing.assert_array_equal(both.tokens[:, :2], given.tokens)
    lengths, tokens = np.asarray(both.valid).sum(-1), np.asarray(both.tokens)
    assert lengths[:, :2].mean() < lengths[:, 2:].mean() == 5
    np.testing.assert_allclose(seen["generate/length"], lengths[:, :2].mean(), rtol=1e-6)
    np.testing.assert_allclose(seen["opponent/length"], lengths[:, 2:].mean(), rtol=1e-6)
    stopped = np.any((tokens >= 2) & (tokens < 12) & np.asarray(both.valid), axis=-1)
    np.testing.assert_allclose(seen["generate/finished"], stopped[:, :2].mean(), rtol=1e-6)
    assert seen["opponent/finished"] == 0


def test_labelled_samples_have_no_loss_and_fill_preferences() -> None:
    algorithm = algorithms.labelled_samples(NETWORK, **SELF_PLAY)
    given, _ = make_experience(algorithm)(create_state(algorithm, 0, NOWHERE), PROMPTS)
    assert not algorithm.losses
    assert given.preference.shape == (4, 2, 2)
    assert bool(jnp.any(given.preference != 0.5))


def test_a_preference_model_is_trained_on_its_samplers_texts() -> None:
    sampler = Role(NETWORK, roles.fresh())
    algorithm = algorithms.preference_model(NETWORK, optimizer=OPTIMIZER, sampler=sampler, max_tokens=4)
    algorithm = fill_token_ids(algorithm, stop=(2,), separator=3)
    given, _ = make_experience(algorithm)(create_state(algorithm, 0, NOWHERE), FULL)
    assert given.tokens.shape == (4, 3, 7)
    np.testing.assert_array_equal(given.tokens[:, :2], FULL.tokens)
    np.testing.assert_array_equal(given.preference[:, 0, 1:], 1.0)
    assert algorithm.losses["pair"].kwargs["pairs"] == ((0, 1), (0, 2))


def test_further_losses_are_added() -> None:
    algorithm = algorithms.with_losses(RECIPES["ipo"][0], anchor=fn(losses.sft))
    assert list(algorithm.losses) == ["pair", "anchor"]
    assert list(RECIPES["ipo"][0].losses) == ["pair"]


def test_stages_given_as_a_sequence_are_named_after_their_functions() -> None:
    def past1(context, batch, key):
        return batch

    def past(context, batch, key):
        return batch

    named = Algorithm(experience=[past1, past, past1, past, past]).experience
    assert list(named) == ["past1", "past", "past1_2", "past_2", "past_3"]
    assert [stage.function for stage in named.values()] == [past1, past, past1, past, past]


REWARDED = {
    "judges": {"reward": Role(NETWORK, roles.fresh())},
    "start": roles.fresh(),
    "max_tokens": 5,
    "stop": (2,),
    "optimizer": OPTIMIZER,
}


def test_a_recipe_from_rewards_takes_a_reward_or_a_judge() -> None:
    """One of the two, in words otherwise; a reference only where a KL is computed."""
    judge = fn(stages.preference_model, role="judge")
    for recipe in (algorithms.rloo, algorithms.grpo, algorithms.remax, algorithms.dapo, algorithms.reinforce_pp):
        for both in ({}, {"reward": fn(stages.reward), "judge": judge}):
            with pytest.raises(ConfigError, match=r"takes reward= .* or judge= .*one of the two; (neither|both)"):
                recipe(NETWORK, **both, **REWARDED)
        assert list(recipe(NETWORK, judge=judge, **REWARDED).experience)[:2] in (
            ["generate", "prefer"],
            ["generate", "greedy"],
        )
    assert "reference" in algorithms.grpo(NETWORK, reward=fn(stages.reward), **REWARDED).roles
    without = algorithms.grpo(NETWORK, reward=fn(stages.reward), tau=0.0, **REWARDED)
    assert "reference" not in {*without.roles, *without.experience}
    bonus = {"entropy": fn(losses.entropy_bonus)}
    more = algorithms.dr_grpo(NETWORK, reward=fn(stages.reward), beside=bonus, drop_unfinished=True, **REWARDED)
    assert [*more.losses] == ["surrogate", "entropy"]
    assert [*more.experience] == ["generate", "reward", "drop_unfinished", "advantage"]
    penalized = algorithms.dapo(NETWORK, judge=judge, buffer=2, **REWARDED)
    assert [*penalized.experience] == ["generate", "prefer", "reward", "overlong", "drop_ties", "advantage"]
    with pytest.raises(ConfigError, match="several rewards"):
        algorithms.gdpo(NETWORK, rewards={"one": fn(stages.reward)}, **REWARDED)
