"""Exact solvers against values computed by independent code, and against what defines an equilibrium."""

from __future__ import annotations

import json

import numpy as np
import pytest

from alignjax import games


@pytest.fixture(scope="module")
def oracle(oracles):
    return json.loads((oracles / "games.json").read_text())["games"]


def test_equilibria_gaps_and_best_responses_are_those_of_the_oracle(oracle):
    for one in oracle:
        game = games.TabularGame(one["P"], np.array(one["mu"]) / np.sum(one["mu"]), one["tau"])
        np.testing.assert_allclose(games.nash(game), one["pi_star"], atol=1e-12, err_msg=one["name"])
        for name, policy in one["policies"].items():
            pi = policy.get("pi", one["mu"] if name == "mu" else None)
            if pi is None:
                continue
            assert games.duality_gap(game, np.array(pi)) == pytest.approx(policy["gap"], abs=1e-10)
            assert games.exploitability(game, np.array(pi)) == pytest.approx(
                policy["exploitability_unregularised"], abs=1e-12
            )
            np.testing.assert_allclose(games.best_response(game, np.array(pi)), policy["best_response"], atol=1e-12)


@pytest.mark.parametrize("tau", [0.02, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_equilibrium_is_its_own_best_response_and_has_no_gap(tau, seed):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.uniform(-0.5, 0.5, (6, 6)), 1)
    game = games.TabularGame(0.5 + upper - upper.T, rng.dirichlet(np.ones(6)), tau)
    policy = games.nash(game)
    np.testing.assert_allclose(games.best_response(game, policy), policy, atol=1e-11)
    assert abs(games.duality_gap(game, policy)) < 1e-11
    assert games.duality_gap(game, game.reference) > 0


def test_with_a_uniform_reference_rock_paper_scissors_is_played_uniformly():
    game = games.rock_paper_scissors(np.ones(3) / 3, tau=0.1)
    np.testing.assert_allclose(games.nash(game), np.ones(3) / 3, atol=1e-12)


def test_strong_regularisation_stays_at_the_reference_and_weak_finds_the_best_action():
    reward, mu = np.array([0.0, 1.0, 3.0]), np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(games.nash(games.bradley_terry(reward, mu, tau=1e6)), mu, atol=1e-6)
    assert games.nash(games.bradley_terry(reward, mu, tau=0.02))[2] > 0.999


def test_what_is_not_a_game_is_refused():
    with pytest.raises(games.game.GameError, match="P \\+ P' = 1"):
        games.TabularGame(np.full((2, 2), 0.6), np.ones(2) / 2, 1.0)
    with pytest.raises(games.game.GameError, match="positive"):
        games.TabularGame(np.full((2, 2), 0.5), np.array([1.0, 0.0]), 1.0)
