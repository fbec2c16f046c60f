"""PPO on games small enough to know what a step should be."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from alignjax import algorithms, games, losses, roles, stages
from alignjax.config import ConfigError, fn
from alignjax.games.table_policy import Tables
from alignjax.games.world import Contexts
from alignjax.train.state import TrainState, create_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Algorithm, Role
from alignjax.workspace import Workspace
from tests.support.tiny import sgd

NOWHERE = Workspace(Path("nowhere"))
GAME = games.rock_paper_scissors((0.5, 0.3, 0.2), tau=0.1, strength=(0.5, 0.25, 0.4))
PROMPTS = Contexts(1, 8)[0]
OPTIMIZER = fn(sgd, learning_rate=1.0)
REFERENCE = roles.value(Tables({"logits": np.log([[0.2, 0.2, 0.6]])}))
BASELINE = 0.3
CRITIC = roles.value(Tables({"logits": np.zeros((1, 3)), "value": np.full((1, 4, 1), BASELINE)}))
PLAIN = {"advantage": fn(stages.gae, lam=0.95), "value_clip": np.inf, "epochs": 1}


def ppo(**options: Any) -> Algorithm:
    """On the game, with a table of values beside the policy's, from a policy that is not the reference."""
    made = algorithms.ppo(
        games.table_policy(GAME),
        critic=games.table_policy(GAME, ("value",)),
        critic_start=CRITIC,
        optimizer=OPTIMIZER,
        **games.parts(GAME),
        **{"n": 3, **PLAIN, **options},
    )
    apart = {"reference": Role(games.table_policy(GAME), REFERENCE)}
    return dataclasses.replace(made, roles={**made.roles, **apart})


def stepped(algorithm: Algorithm, iterations: int = 1) -> tuple[TrainState, Any, Any]:
    """The state after some iterations, what the last one learned from, and its metrics."""
    state = create_state(algorithm, 0, NOWHERE)
    experience, update = make_experience(algorithm), make_update(algorithm)
    for _ in range(iterations):
        given, seen = experience(state, PROMPTS)
        state, metrics = update(state, given)
    return jax.tree.map(np.asarray, (state, given, {**seen, **metrics}))


def moved(state: TrainState, role: str = "policy", table: str = "logits") -> np.ndarray:
    first = games.start(GAME) if role == "policy" else CRITIC
    return state.roles[role][table] - np.asarray(first.function(None)[table])


@pytest.mark.parametrize("bound", [losses.no_bound, losses.ppo_clip], ids=lambda bound: bound.__name__)
def test_one_step_is_that_of_reinforce_with_a_baseline(bound: Any) -> None:
    """Of one token, with the critic's value for a baseline: the ratio is 1 wherever it is clipped. The same samples, as
    the stages that make them have the same names."""
    state, given, _ = stepped(ppo(bound=fn(bound), rewards=fn(stages.token_rewards, eta=0.2)))
    plain = ppo()
    names = ("generate", "prefer", "reward", "reference")
    simple = dataclasses.replace(
        plain,
        experience={name: plain.experience[name] for name in names},
        losses={"reinforce": fn(losses.reinforce, tau=0.2, baseline=BASELINE)},
        roles={name: role for name, role in plain.roles.items() if name != "critic"},
    )
    other, drawn, _ = stepped(simple)
    np.testing.assert_array_equal(given.tokens, drawn.tokens)
    np.testing.assert_allclose(moved(state), moved(other), atol=1e-6)
    assert np.abs(moved(state)).max() > 0.01


def test_the_critic_learns_the_mean_return() -> None:
    """1/2 (V - R)^2 at weight 1/2: half a gradient step of rate 1 goes half of the way."""
    state, given, metrics = stepped(ppo(value_weight=0.5))
    np.testing.assert_allclose(
        moved(state, "critic", "value")[0, 0, 0], given.returns.mean() / 2 - BASELINE / 2, atol=1e-6
    )
    np.testing.assert_allclose(metrics["value/error"], BASELINE - given.returns.mean(), atol=1e-6)


def test_while_it_warms_up_only_the_critic_moves() -> None:
    for iterations, still in ((2, True), (3, False)):
        state, _, _ = stepped(ppo(warm_up=2), iterations)
        assert (np.abs(moved(state)).max() < 1e-7) == still
        assert np.abs(moved(state, "critic", "value")).max() > 0.01


def test_a_value_moves_no_further_than_its_clip() -> None:
    """Many epochs, of which those past the clip have no gradient: one step may go beyond, and none follows."""
    far = roles.value(Tables({"logits": np.zeros((1, 3)), "value": np.full((1, 4, 1), 5.0)}))
    free, held = (
        stepped(
            dataclasses.replace(
                made, roles={**made.roles, "critic": dataclasses.replace(made.roles["critic"], start=far)}
            )
        )[0].roles["critic"]["value"][0, 0, 0]
        for made in (ppo(epochs=12, value_clip=clip, value_weight=0.1) for clip in (np.inf, 0.5))
    )
    assert 5 - 0.5 - 0.1 * 5 < held < 4.5
    assert free < 3.5


def test_against_the_reference_its_samples_are_opponents_only() -> None:
    state, given, metrics = stepped(ppo(n=2, against=3))
    assert given.tokens.shape[1] == given.reward.shape[1] == given.advantage.shape[1] == 2
    assert {"policy", "reference", "sampler"} <= set(given.logps)
    np.testing.assert_allclose(given.logps["policy"], given.logps["sampler"], atol=1e-6)
    assert np.abs(moved(state)).max() > 0.001
    assert "opponent/length" in metrics
    with pytest.raises(ConfigError, match=r"ppo\(against=2\) needs a judge"):
        algorithms.ppo(
            games.table_policy(GAME, ("value",)), reward=fn(stages.reward), against=2,
            optimizer=OPTIMIZER, start=roles.fresh(), max_tokens=1,
        )  # fmt: skip
    with pytest.raises(ConfigError, match=r'the policy has no head "value".*or give a critic of its own'):
        algorithms.ppo(games.table_policy(GAME), optimizer=OPTIMIZER, **games.parts(GAME))


def test_its_state_moves_with_it() -> None:
    """Moments of the scores and the coefficient of the KL are roles, so a checkpoint has them."""
    options = {"normalize": fn(stages.normalize_reward, clip=3.0), "target": 0.01}
    state, given, metrics = stepped(ppo(**options))
    assert metrics["rewards/kl"] < 0.008  # of few samples, so that the coefficient falls by as much as it may
    np.testing.assert_allclose(state.roles["beta"]["coefficient"], 0.05 * 0.98, rtol=1e-5)
    later, _, metrics = stepped(ppo(**options), 2)
    np.testing.assert_allclose(metrics["rewards/coefficient"], 0.05 * 0.98, rtol=1e-5)
    assert later.roles["moments"]["count"] == 2 * state.roles["moments"]["count"] == 2 * 8 * 3
    assert np.abs(given.completions["raw_reward"] - given.reward).max() > 0.1


def test_stale_samples_are_weighed_from_where_the_update_begins() -> None:
    """Sampled at another temperature, with weights that bring them back: the ratio that is clipped starts at 1."""
    made = ppo(importance=fn(stages.importance, mode="sequence_truncate", cap=np.inf))
    hot = made.experience["generate"].replace(temperature=2.0)
    made = dataclasses.replace(made, experience={**made.experience, "generate": hot})
    _, given, metrics = stepped(made)
    np.testing.assert_allclose(metrics["surrogate/ratio"], 1, rtol=1e-5)
    ratio = np.exp(given.logps["policy"] - given.logps["sampler"])
    np.testing.assert_allclose(given.completions["importance"], ratio, rtol=1e-5)
    assert 0 < metrics["importance/effective"] < 0.999
