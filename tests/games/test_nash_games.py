"""The quick part of experiments/nash_games: one game, a few algorithms, and the points at which they are said to rest.
results.json there holds all of them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import games, losses
from alignjax.cli.config_file import imported
from alignjax.config import fn
from tests.support.commands import ROOT

FOLDER = ROOT / "experiments" / "nash_games"
PLAYERS, POINTS, SUMMARY = (imported(FOLDER / f"{name}.py") for name in ("players", "resting_points", "summary"))
METHODS, BETA, GAMES, MIX, CLAIMS = PLAYERS.METHODS, POINTS.BETA, SUMMARY.GAMES, SUMMARY.MIX, SUMMARY.CLAIMS
algorithm, play = PLAYERS.algorithm, imported(FOLDER / "playing.py").play
gap, total_variation, interval, slope = SUMMARY.gap, SUMMARY.total_variation, SUMMARY.interval, SUMMARY.slope

pytestmark = pytest.mark.slow
GAME = GAMES["rock-paper-scissors"]
START = float(gap(GAME, GAME.reference))


def ends(*names: str, steps: int = 512) -> dict[str, np.ndarray]:
    """Policies at the end of the expected dynamics."""
    return {name: play([algorithm(METHODS[name], GAME, "expected", steps)], steps=steps, seeds=1, rows=1)[0, 0, -1]
            for name in names}  # fmt: skip


def test_self_play_reaches_the_equilibrium_and_a_fitted_reward_does_not(float64: None) -> None:
    last = ends("online_ipo", "offline_dpo")
    assert total_variation(last["online_ipo"], games.nash(GAME)) < 1e-9
    assert gap(GAME, last["online_ipo"]) < 1e-12
    assert total_variation(last["offline_dpo"], CLAIMS["Bradley-Terry maximiser"](GAME)) < 1e-3
    assert gap(GAME, last["offline_dpo"]) > 1.5 * START


def test_of_a_mixture_it_is_the_mixture_that_arrives(float64: None) -> None:
    last = ends("ipo_md", "ipo_md_retuned")
    limit = GAME.replace(tau=GAME.tau / (1 - MIX))
    policy = last["ipo_md"]
    assert gap(limit, games.geometric_mixture(GAME, policy, MIX)) < 1e-12
    assert gap(GAME, policy) > 0.1 * START
    retuned = last["ipo_md_retuned"]
    assert gap(GAME, games.geometric_mixture(GAME, retuned, MIX)) < 1e-12
    assert gap(GAME, retuned) > 0.1 * START


def test_hinges_do_not_settle(float64: None) -> None:
    policies = play([algorithm(METHODS["online_slic"], GAME, "expected", 512)], steps=512, seeds=1, rows=1)[0, 0]
    assert total_variation(policies[-128:], policies[-1]).max() > 0.05


def test_samples_lead_there_too(float64: None) -> None:
    """Ten seeds of the sampled run of online IPO, a quarter as long: nearer than the reference by far, in the
    mean."""
    policies = play([algorithm(METHODS["online_ipo"], GAME, "sampled", 256)], steps=256, seeds=10, rows=64)[0, :, -1]
    mean, low, high = interval(gap(GAME, policies))
    assert low < mean < high < 0.1 * START


@pytest.mark.parametrize("game", ["rock-paper-scissors", "intransitive", "Bradley-Terry"])
def test_the_logistic_point_is_one_at_which_the_gradient_of_dpo_vanishes(game: str, float64: None) -> None:
    world = GAMES[game]

    def steepness(policy: np.ndarray) -> float:
        params = {"logits": jnp.asarray(np.log(policy))[None]}
        _, gradient = games.expected_gradient(world, fn(losses.dpo, beta=BETA), params)
        return float(np.abs(gradient["logits"]).max())

    point = CLAIMS["logistic point"](world)
    assert steepness(point) < 1e-10
    assert steepness(games.nash(world)) > 1e-5
    if game == "Bradley-Terry":
        np.testing.assert_allclose(point, CLAIMS["Bradley-Terry maximiser"](world), atol=1e-9)


def test_every_line_says_where_it_rests(float64: None) -> None:
    """Claims are distributions in all games; where one is the equilibrium, its gap is 0."""
    assert {method.claim for method in METHODS.values() if method.claim} == set(CLAIMS)
    for name, claim in CLAIMS.items():
        for world in GAMES.values():
            policy: Any = claim(world)
            assert policy.min() >= 0
            assert policy.sum() == pytest.approx(1)
            if name == "pi*(tau)":
                assert gap(world, policy) < 1e-12
            if name == "equilibrium without tau":
                assert gap(world, policy, free=True) < 1e-8


def test_rates_and_intervals() -> None:
    at = np.unique(np.geomspace(1, 4096, 40).astype(int))
    assert slope(at, 3.0 / at**2) == pytest.approx(-2)
    assert slope(at, np.where(at < 100, 1.0 / at, 0)) is not None  # what is above rounding is fitted
    assert slope(at, np.zeros(len(at))) is None
    values = np.random.default_rng(0).normal(3, 1, (2000, 10))
    inside = [low < 3 < high for _, low, high in (interval(row) for row in values)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)
