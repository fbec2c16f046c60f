"""The six games, all of five actions, so that they share compiled programs, and regularized by TAU; and what is
measured of policies in them."""

from __future__ import annotations

import numpy as np

from alignjax import games
from alignjax.games import TabularGame

TAU = 0.1
MIX = 0.5  # the weight of the reference where a mixture is sampled
MU = (0.35, 0.25, 0.18, 0.12, 0.1)  # the reference of the games with five actions
REWARDS = (0.0, 0.5, -0.5, 1.0, 0.3)
PEOPLE = ((2.0, 1.0, 0.0, -1.0, 0.5), (-1.0, 2.0, 1.0, 0.0, 0.5), (0.0, -1.0, 2.0, 1.0, -0.5))


def in_two_wordings(game: TabularGame, action: tuple[int, ...], reference: tuple[float, ...]) -> TabularGame:
    """The game in which some actions can be said in two ways, as responses can: action[k] is what wording k means."""
    return TabularGame(game.preference[np.ix_(action, action)], np.array(reference), game.tau)


RPS = games.rock_paper_scissors((0.5, 0.3, 0.2), TAU, strength=(0.5, 0.25, 0.4))
GAMES: dict[str, TabularGame] = {
    "rock-paper-scissors": in_two_wordings(RPS, (0, 0, 1, 1, 2), (0.3, 0.2, 0.2, 0.1, 0.2)),
    "cycle of five": games.cycle(MU, TAU, strength=(0.45, 0.3, 0.4, 0.25, 0.35)),
    "intransitive": games.intransitive(MU, TAU, seed=4, scale=1.0),
    "Bradley-Terry": games.bradley_terry(REWARDS, MU, TAU),
    "Condorcet": games.condorcet(MU, TAU, seed=0, edge=0.1, scale=2.0),
    "annotators": games.annotators(PEOPLE, (0.4, 0.3, 0.3), MU, TAU),
}


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.abs(np.asarray(p) - np.asarray(q)).sum(-1) / 2


def gap(game: TabularGame, policy: np.ndarray, free: bool = False) -> np.ndarray:
    """The duality gap of the game at TAU, or (free) of the game without regularisation."""
    return np.maximum(games.duality_gap(game, policy, regularized=not free), 0)


def averages(policies: np.ndarray) -> np.ndarray:
    """The mean of the policies up to each iteration [.., T, K]."""
    return np.cumsum(policies, axis=-2) / np.arange(1, policies.shape[-2] + 1)[:, None]
