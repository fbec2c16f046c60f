"""Solvers and constructors against values of independent code and against what defines them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from alignjax import games
from alignjax.games import equilibria
from alignjax.games.game import GameError

UNIFORM = np.ones(5) / 5


@pytest.fixture(scope="module")
def oracle(oracles: Any) -> Any:
    return json.loads((oracles / "games.json").read_text())["games"]


def game_of(one: Any) -> games.TabularGame:
    return games.TabularGame(one["P"], np.array(one["mu"]) / np.sum(one["mu"]), one["tau"])


def random_game(seed: int, k: int = 6, tau: float = 0.2) -> games.TabularGame:
    reference = np.random.default_rng((seed, 7)).dirichlet(np.ones(k))
    return games.intransitive(reference, tau, seed=seed, scale=2.0)


def test_where_mixtures_lead_is_what_the_oracle_says(oracle: Any) -> None:
    seen = 0
    for one in oracle:
        game = game_of(one)
        for expected in one.get("mixture_fixed_points", ()) if game.actions <= 8 else ():
            found = games.mixture_equilibrium(game, expected["beta"])
            np.testing.assert_allclose(found.policy, expected["policy"], atol=1e-12)
            np.testing.assert_allclose(found.mixture, expected["mixture"], atol=1e-12)
            np.testing.assert_allclose(
                games.geometric_mixture(game, found.policy, expected["beta"]), found.mixture, atol=1e-12
            )
            assert games.duality_gap(game, found.policy) == pytest.approx(expected["gap_policy"], abs=1e-11)
            assert games.duality_gap(game, found.mixture) == pytest.approx(expected["gap_mixture"], abs=1e-11)
            seen += 1
    assert seen > 10


def test_what_maximises_a_reward_is_what_the_oracle_says(oracle: Any) -> None:
    """Where the oracle fitted rewards it did as we do; of Bradley-Terry games it holds the true ones."""
    seen = 0
    for one in oracle:
        if "reward_maximiser" not in one:
            continue
        game, expected = game_of(one), one["reward_maximiser"]
        found = games.tilted(game, games.fitted_reward(game))
        np.testing.assert_allclose(found, expected["pi"], atol=1e-9, err_msg=one["name"])
        np.testing.assert_allclose(games.duality_gap(game, found), expected["gap"], atol=1e-8)
        seen += 1
    assert seen > 5


@pytest.mark.parametrize("seed", range(5))
def test_no_policy_gains_on_a_best_response(seed: int) -> None:
    game, draw = random_game(seed), np.random.default_rng(seed)
    opponent = draw.dirichlet(np.ones(6))
    for regularized in (True, False):
        best = games.best_response(game, opponent, regularized=regularized)
        gained = games.payoff(game, best, opponent, regularized=regularized)
        others = draw.dirichlet(np.ones(6) / 2, size=200)
        assert games.payoff(game, others, opponent, regularized=regularized).max() <= gained + 1e-12
        # max_q payoff(q, p) - min_q payoff(p, q), and the payoffs of a pair sum to 1
        gap = games.duality_gap(game, opponent, regularized=regularized)
        assert gap == pytest.approx(2 * gained - 1, abs=1e-12)
        assert games.payoff(game, opponent, best, regularized=regularized) == pytest.approx(1 - gained, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_linear_programme_is_certified_and_the_limit_of_weak_regularisation(seed: int) -> None:
    game = random_game(seed)
    found = games.unregularized_nash(game)
    assert found.value == pytest.approx(0.5, abs=1e-9)
    assert found.gap + 1e-12 >= 0
    assert found.gap < 1e-9
    assert games.exploitability(game, found.policy) < 1e-9
    for tau in (1.0, 0.1, 0.01):
        bound = tau * np.log(1 / game.reference.min())
        assert games.exploitability(game, games.nash(game.replace(tau=tau))) <= bound


def test_uneven_rock_paper_scissors_plays_by_what_the_others_risk() -> None:
    game = games.rock_paper_scissors(np.ones(3) / 3, 0.1, strength=(0.5, 0.25, 0.1))
    np.testing.assert_allclose(games.unregularized_nash(game).policy, np.array([0.25, 0.1, 0.5]) / 0.85, atol=1e-9)
    assert game.preference[0, 1] == 1.0
    assert game.preference[2, 0] == 0.6


@pytest.mark.parametrize("k", [3, 5, 7])
def test_a_cycle_is_the_same_for_all_its_actions(k: int) -> None:
    game = games.cycle(np.ones(k) / k, 0.1, strength=0.3, actions=k)
    assert (np.isclose(game.preference, 0.8).sum(1) == k // 2).all()
    np.testing.assert_allclose(game.preference, np.roll(game.preference, (1, 1), axis=(0, 1)))
    assert games.exploitability(game, np.ones(k) / k) == pytest.approx(0)


def test_a_condorcet_winner_need_not_win_most_often() -> None:
    game = games.condorcet(UNIFORM, 0.02, seed=1)
    assert (game.preference[0, 1:] > 0.5).all()
    assert np.argmax(game.preference @ UNIFORM) != 0
    assert games.nash(game).argmax() == 0
    assert games.tilted(game, games.fitted_reward(game)).argmax() != 0


def test_transitive_annotators_make_an_intransitive_population() -> None:
    """Condorcet's paradox: three people whose orders are the rotations of one."""
    rewards = [[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [2.0, 1.0, 3.0]]
    game = games.annotators(5 * np.array(rewards), np.ones(3) / 3, np.ones(3) / 3, 0.1)
    assert game.preference[0, 1] > 0.6
    assert game.preference[1, 2] > 0.6
    assert game.preference[2, 0] > 0.6
    one = games.annotators(rewards, [1.0, 0.0, 0.0], np.ones(3) / 3, 0.1)
    np.testing.assert_allclose(one.preference, games.bradley_terry(rewards[0], np.ones(3) / 3, 0.1).preference)


def test_of_a_bradley_terry_game_the_rewards_come_back() -> None:
    reward = np.array([0.3, -1.0, 2.0, 0.0])
    game = games.bradley_terry(reward, [0.4, 0.3, 0.2, 0.1], 0.2)
    np.testing.assert_allclose(games.fitted_reward(game), reward - reward.mean(), atol=1e-9)


@pytest.mark.parametrize("rare", [1e-4, 1e-8])
def test_rewards_of_rare_actions_are_as_exact_as_others(rare: float) -> None:
    """An action that is hardly ever drawn weighs nothing in the likelihood, and has its maximum there all the same."""
    reward, reference = np.array([0.3, -1.0, 2.0]), [1 - 2 * rare, rare, rare]
    game = games.bradley_terry(reward, reference, 0.2)
    np.testing.assert_allclose(games.fitted_reward(game), reward - reward.mean(), atol=1e-11)
    cyclic = games.rock_paper_scissors(reference, 0.1, strength=(0.4, 0.3, 0.2))
    fitted = games.bradley_terry(games.fitted_reward(cyclic), reference, 0.1)
    wins = fitted.preference @ reference  # a maximum wins as often against the reference as the labels say
    np.testing.assert_allclose(wins, cyclic.preference @ reference, atol=1e-14)


def test_an_equilibrium_costs_a_few_residuals_for_each_tau_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole steps of Newton's method, and no search for a shorter one among roundings; the gap is that of rounding."""
    calls: list[float] = []
    residual = equilibria._residual
    monkeypatch.setattr(
        equilibria, "_residual", lambda game, theta, tau: calls.append(tau) or residual(game, theta, tau)
    )
    for tau in (0.5, 0.05, 0.005):
        game = random_game(3, tau=tau)
        calls.clear()
        assert abs(games.duality_gap(game, games.nash(game))) < 1e-15
        assert len(calls) <= 4 * len(set(calls))
        assert calls.count(tau) <= 8  # of which the last step, that no longer lowers the residual, takes one


def test_contexts_are_games_of_their_own() -> None:
    parts = [random_game(seed, k=4) for seed in range(3)]
    together = games.stack(parts)
    assert (together.contexts, together.actions) == (3, 4)
    policy = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 3))
    for function in (games.nash, games.fitted_reward, lambda game: games.unregularized_nash(game).policy):
        np.testing.assert_allclose(function(together), [function(part) for part in parts], atol=1e-12)
    for function in (games.duality_gap, games.exploitability, games.best_response):
        alone = np.stack([[function(part, policy[i, x]) for x, part in enumerate(parts)] for i in range(2)])
        np.testing.assert_allclose(function(together, policy), alone, atol=1e-12)


def test_random_games_are_their_seeds() -> None:
    for make in (
        lambda seed: games.intransitive(UNIFORM, 0.1, seed=seed),
        lambda seed: games.condorcet(UNIFORM, 0.1, seed=seed),
        lambda seed: games.sequence_game(0.1, seed=seed, contexts=2),
    ):
        np.testing.assert_array_equal(make(3).preference, make(3).preference)
        assert not np.array_equal(make(3).preference, make(4).preference)
        p = make(3).preference
        np.testing.assert_array_equal(p + p.swapaxes(-1, -2), np.ones_like(p))


def test_a_random_game_has_cycles() -> None:
    beats = games.intransitive(UNIFORM, 0.1, seed=0).preference > 0.5
    assert any(beats[i, j] and beats[j, k] and beats[k, i] for i, j, k in itertools.permutations(range(5), 3))


def test_what_is_not_such_a_game_is_refused() -> None:
    with pytest.raises(GameError, match="odd number"):
        games.cycle(np.ones(4) / 4, 0.1, actions=4)
    with pytest.raises(GameError, match="lies in"):
        games.mixture_equilibrium(random_game(0), 1.0)
    with pytest.raises(GameError, match="edge"):
        games.condorcet(UNIFORM, 0.1, seed=0, edge=0.0)
    with pytest.raises(GameError, match="sum to 1"):
        games.annotators(np.eye(3), [0.5, 0.5, 0.5], np.ones(3) / 3, 0.1)
    with pytest.raises(GameError, match="same tau"):
        games.stack([random_game(0), random_game(1, tau=0.3)])
    with pytest.raises(GameError, match="7 strings, the game 5 actions"):
        random_game(0, k=5).replace(language=games.Language(3, 2, (2,)))
    with pytest.raises(GameError, match="never win"):
        games.fitted_reward(games.rock_paper_scissors(np.ones(3) / 3, 0.1).replace(preference=ONE_SIDED))


ONE_SIDED = 0.5 + 0.5 * (np.triu(np.ones((3, 3)), 1) - np.tril(np.ones((3, 3)), -1))  # the first always wins
