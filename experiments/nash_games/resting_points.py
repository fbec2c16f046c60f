"""Where algorithms are said to rest in a game, solved without running them; a claim is a function (game) -> policy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import root
from scipy.special import expit, log_softmax
from six_games import MIX, TAU, TabularGame

from alignjax import games

BETA = 4 * TAU  # of the logistic loss: DPO at beta = 4 tau is nearest to IPO at tau
XPO, VPO = 0.005, 0.001  # of the bonuses for exploration


def equilibrium(game: TabularGame) -> np.ndarray:
    return games.nash(game)


def mixed(game: TabularGame) -> np.ndarray:
    """The policy whose mixture with the reference is the equilibrium at tau / (1 - beta)."""
    return games.mixture_equilibrium(game, MIX).policy


def retuned(game: TabularGame) -> np.ndarray:
    """The same for training with tau (1 - beta): the mixture is the equilibrium at tau."""
    return games.mixture_equilibrium(game.replace(tau=game.tau * (1 - MIX)), MIX).policy


def response(game: TabularGame) -> np.ndarray:
    return games.best_response(game, game.reference)


def rewarded(game: TabularGame) -> np.ndarray:
    """The maximiser of the Bradley-Terry reward that pairs of the reference's samples fit."""
    return games.tilted(game, games.fitted_reward(game), BETA)


def logistic(game: TabularGame, *, opponent: str = "policy", bonus: float = 0.0) -> np.ndarray:
    """Where DPO's expected gradient vanishes on pairs of a sample of the policy and one of an opponent, with `bonus`
    times the mean log-prob of the reference's samples in the loss. By Newton's method from the equilibrium."""
    log_mu = np.log(game.reference)

    def gradient(u: np.ndarray) -> np.ndarray:
        policy = np.exp(log_softmax(log_mu + u))
        other = policy if opponent == "policy" else game.reference
        weight = (np.outer(policy, other) + np.outer(other, policy)) / 2
        wrong = expit(BETA * np.subtract.outer(u, u)) - game.preference
        flow = 2 * BETA * np.sum(weight * wrong, axis=1) + bonus * (game.reference - policy)
        return flow / policy + u.mean()  # logits are defined up to a constant: its mean is 0

    found = root(gradient, np.log(games.nash(game)) - log_mu, method="hybr", tol=1e-13)
    if np.abs(found.fun).max() > 1e-9:
        raise ArithmeticError(f"no stationary point: {found.message}")
    return np.exp(log_softmax(log_mu + found.x))


def verdicts(game: TabularGame) -> np.ndarray:
    """Online DPO's point in the game in which the likelier side always wins."""
    hard = game.replace(preference=(np.sign(game.preference - 0.5) + 1) / 2)
    return logistic(hard)


def compressed(game: TabularGame) -> np.ndarray:
    """An equilibrium, without regularisation, of S(2P - 1): what DNO sees when one sample rates another."""
    return games.unregularized_nash(game.replace(preference=_squashed(game.preference))).policy


def _squashed(preference: np.ndarray) -> np.ndarray:
    upper = np.triu(expit(2 * preference - 1) - 0.5, 1)
    return 0.5 + upper - upper.T


def unregularized(game: TabularGame) -> np.ndarray:
    return games.unregularized_nash(game).policy


CLAIMS: dict[str, Callable[[TabularGame], np.ndarray]] = {
    "pi*(tau)": equilibrium,
    "mixture at pi*(tau/(1-b))": mixed,
    "mixture at pi*(tau)": retuned,
    "best response to mu": response,
    "Bradley-Terry maximiser": rewarded,
    "logistic point": logistic,
    "logistic point, pairs with mu": lambda game: logistic(game, opponent="reference", bonus=XPO),
    "logistic point with bonus": lambda game: logistic(game, bonus=VPO * BETA),
    "logistic point of verdicts": verdicts,
    "equilibrium without tau": unregularized,
    "equilibrium of S(2P-1) without tau": compressed,
}
