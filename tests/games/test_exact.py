"""Expectations by enumeration, against values of independent code, against the theorem, and against sampling."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import algorithms, games, losses, roles, stages
from alignjax.config import ConfigError, fn
from alignjax.games.world import Contexts
from alignjax.sampling import mixture
from alignjax.train.optimizers import sgd
from alignjax.train.state import create_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Role
from alignjax.workspace import Workspace

SIZES = (3, 5)  # two programs of each kind; they are most of the games


@pytest.fixture(scope="module")
def oracle(oracles: Any) -> Any:
    return json.loads((oracles / "games.json").read_text())["games"]


def game_of(one: Any) -> games.TabularGame:
    return games.TabularGame(one["P"], np.array(one["mu"]) / np.sum(one["mu"]), one["tau"])


def pair_of(name: str, tau: float) -> dict[str, Any]:
    """The loss, samplers and stages behind the name of a gradient in the file. Its policy gradients are ascents."""
    kind, _, number = name.rpartition("_")
    if name == "online_ipo":
        return {"loss": fn(losses.ipo, tau=tau)}
    if kind == "ipo_md":
        return {"loss": fn(losses.ipo, tau=tau), "behaviour": fn(mixture, beta=float(number))}
    if name == "selfplay_pg" or kind == "nash_md_pg":
        opponent = fn(mixture, beta=float(number)) if kind == "nash_md_pg" else None
        rated = (fn(stages.win_rate_against, own=1),)
        return {"loss": fn(losses.reinforce, tau=tau, baseline=0.5), "opponent": opponent, "then": rated}
    if kind == "online_dpo":
        return {"loss": fn(losses.dpo, beta=float(number))}
    assert kind == "online_hinge"
    return {"loss": fn(losses.slic, beta=float(number))}


def test_expected_losses_and_gradients_are_those_of_the_oracle(oracle: Any, float64: None) -> None:
    """Of drawn labels, as the file has it: its loss of IPO is larger than that of soft labels."""
    seen = set()
    for one in oracle:
        game = game_of(one)
        for policy in one["policies"].values():
            if "gradients" not in policy or game.actions not in SIZES:
                continue
            params = {"logits": jnp.asarray(policy["logits"])[None]}
            for name, expected in policy["gradients"].items():
                pair = pair_of(name, game.tau)
                seen.add(pair["loss"].name)
                value, gradient = games.expected_gradient(game, params=params, draws=True, **pair)
                wanted = np.array(expected["grad"]) * (-1 if "pg" in name else 1)
                tolerance = 1e-11 * np.abs(wanted).max()
                np.testing.assert_allclose(gradient["logits"][0], wanted, atol=tolerance, rtol=0, err_msg=name)
                if "loss" in expected:
                    assert float(value) == pytest.approx(expected["loss"], rel=1e-12)
    assert seen == {"ipo", "reinforce", "dpo", "slic"}


@pytest.mark.parametrize("draws", [False, True], ids=["preferences", "labels"])
@pytest.mark.parametrize(
    "game",
    [
        games.intransitive(np.full((3, 4), 0.25), 0.3, seed=0, scale=2.0),
        games.condorcet([0.4, 0.3, 0.2, 0.1], 0.1, seed=1),
        games.sequence_game(0.3, seed=2, vocab=3, length=3),
        games.sequence_game(0.2, seed=3, vocab=3, length=2, contexts=2),
    ],
    ids=["contexts", "condorcet", "strings", "strings in contexts"],
)
def test_online_ipo_descends_as_self_play_ascends(game: games.TabularGame, draws: bool, float64: None) -> None:
    """grad E[ipo] = -(4 / tau) E_{y, y' ~ pi}[(P(y > y') - 1/2 - tau log pi/mu (y)) grad log pi(y)] (arXiv:2403.08635),
    with respect to the next-token logits, labels drawn or not."""
    shape = games.start(game).function(jax.random.key(0))["logits"].shape
    logits = jnp.asarray(np.random.default_rng(5).normal(size=shape))
    _, gradient = games.expected_gradient(game, fn(losses.ipo, tau=game.tau), {"logits": logits}, draws=draws)

    log_pi = games.log_distribution(game.language, np.asarray(logits))
    pi, log_mu = np.exp(log_pi), np.log(game.reference).reshape(game.contexts, -1)
    wins = np.einsum("xij,xj->xi", game.preference.reshape(game.contexts, game.actions, game.actions), pi)
    payoff = wins - 0.5 - game.tau * (log_pi - log_mu)
    jacobian = jax.jit(jax.jacobian(lambda logits: games.log_distribution(game.language, logits)))(logits)
    self_play = np.tensordot(pi * payoff, np.asarray(jacobian), axes=2) / game.contexts
    np.testing.assert_allclose(gradient["logits"], -4 / game.tau * self_play, rtol=0, atol=1e-10)
    assert np.abs(gradient["logits"]).max() > 0.1


def token_and_string_mixtures(game: games.TabularGame, logits: Any, beta: float) -> tuple[np.ndarray, np.ndarray]:
    policy = np.exp(games.log_distribution(game.language, np.asarray(logits))).reshape(game.reference.shape)
    token = games.sampled_distribution(game, {"logits": logits}, fn(mixture, beta=beta))
    return token, games.geometric_mixture(game, policy, beta)


def total_variation(p: Any, q: Any) -> np.ndarray:
    return np.abs(p - q).sum(-1) / 2


def test_mixing_token_by_token_is_mixing_strings_only_for_one_token(float64: None) -> None:
    """Exactly for one token and at both ends of beta; for longer strings by the amount that `mixture` states: at a
    Nash policy, the mean and the largest total variation over 20 random sequence games."""
    one = games.intransitive(np.full(5, 0.2), 0.3, seed=0)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5)))
    np.testing.assert_allclose(*token_and_string_mixtures(one, logits, 0.3), rtol=1e-12)
    found = {beta: [] for beta in (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)}
    for seed in range(20):
        game = games.sequence_game(0.1, seed=seed, vocab=3, length=3)
        logits = jnp.asarray(games.conditionals(game.language, games.nash(game)[None]))
        for beta, values in found.items():
            token, string = token_and_string_mixtures(game, logits, beta)
            np.testing.assert_allclose(token.sum(), 1, rtol=1e-12)
            values.append(float(total_variation(token, string)))
    assert max(found[0.0] + found[1.0]) < 1e-12
    for beta, mean, most in ((0.125, 0.0067, 0.0134), (0.25, 0.0115, 0.0227), (0.5, 0.0149, 0.0307)):
        assert np.mean(found[beta]) == pytest.approx(mean, abs=1e-4)
        assert max(found[beta]) == pytest.approx(most, abs=1e-4)


@pytest.mark.parametrize("recipe", [algorithms.ipo_md, pytest.param(algorithms.online_dpo, marks=pytest.mark.slow)])
def test_enumerating_is_what_sampling_tends_to(recipe: Any, float64: None) -> None:
    game = games.sequence_game(0.4, seed=1, vocab=3, length=2, contexts=2, scale=3.0)
    start = games.start(games.sequence_game(0.4, seed=9, vocab=3, length=2, contexts=2))
    parts = {**games.parts(game), "start": start}
    algorithm = recipe(games.table_policy(game), optimizer=fn(sgd, learning_rate=1.0), **parts)
    reference = Role(games.table_policy(game), games.start(game))
    algorithm = dataclasses.replace(algorithm, roles={**algorithm.roles, "reference": reference})
    changes = []
    for played, size in ((algorithm, 40000), (games.exact(algorithm, game.language), 2)):
        state = create_state(played, 0, Workspace("."))
        before = np.asarray(state.roles["policy"]["logits"])
        batch, _ = make_experience(played)(state, jax.tree.map(jnp.asarray, Contexts(2, size)[0]))
        changes.append(np.asarray(make_update(played)(state, batch)[0].roles["policy"]["logits"]) - before)
    sampled, expected = changes
    assert np.abs(expected).max() > 0.002
    assert np.linalg.norm(sampled - expected) < 0.04 * np.linalg.norm(expected)


def test_what_cannot_be_enumerated_is_refused() -> None:
    game = games.rock_paper_scissors(np.ones(3) / 3, 0.1)
    parts = {"optimizer": fn(sgd), **games.parts(game)}
    noisy = {**parts, "judge": fn(stages.flipped, judge=parts["judge"], epsilon=0.1)}
    with pytest.raises(ConfigError, match="has no table"):
        games.exact(algorithms.online_ipo(games.table_policy(game), **noisy), game.language)
    sampled = algorithms.online_ipo(games.table_policy(game), **parts)
    warm = {**sampled.experience, "generate": sampled.experience["generate"].replace(temperature=0.5)}
    with pytest.raises(ConfigError, match="temperature 1"):
        games.exact(dataclasses.replace(sampled, experience=warm), game.language)
    offline = algorithms.ipo(games.table_policy(game), optimizer=fn(sgd), start=roles.fresh())
    with pytest.raises(ConfigError, match="one or two `generate`"):
        games.exact(offline, game.language)


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        (algorithms.egpo, "'pair' compares pairs that a third has rated"),
        (algorithms.dno, r"'soft' \(prefer_by_rivals\) chooses among samples"),
        (algorithms.selm, "'extremes' .*chooses among samples"),
        (algorithms.active_dpo, "'bootstrap' .*chooses among samples"),
        (algorithms.xpo, "'pair' explores samples"),
        (algorithms.vpo, "'pair' explores samples"),
    ],
)
def test_what_rests_on_three_samples_of_a_prompt_is_refused(recipe: Any, why: str) -> None:
    game = games.rock_paper_scissors(np.ones(3) / 3, 0.1)
    made = recipe(games.table_policy(game), optimizer=fn(sgd), **games.parts(game))
    with pytest.raises(ConfigError, match=why):
        games.exact(made, game.language)


def test_gradients_vanish_where_the_oracle_says_that_methods_rest(oracle: Any, float64: None) -> None:
    """IPO-MD and Nash-MD's policy gradient at the point where the mixture is an equilibrium; online DPO at its own."""
    seen = set()
    for one in oracle:
        game = game_of(one)
        if game.actions not in SIZES:
            continue
        resting = [(f"{kind}_{point['beta']}", point["policy"])
                   for kind in ("ipo_md", "nash_md_pg") for point in one.get("mixture_fixed_points", ())]  # fmt: skip
        resting += [(f"online_dpo_{point['beta']}", point["pi"]) for point in one.get("online_dpo_stationary", ())]
        for name, policy in resting:
            pair = pair_of(name, game.tau)
            seen.add(pair["loss"].name)
            params = {"logits": jnp.asarray(games.conditionals(game.language, np.array(policy)))[None]}
            _, gradient = games.expected_gradient(game, params=params, draws=True, **pair)
            np.testing.assert_allclose(gradient["logits"], 0, atol=1e-11, err_msg=f"{one['name']} {name}")
    assert seen == {"ipo", "reinforce", "dpo"}
