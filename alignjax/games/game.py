"""Preference games small enough to solve exactly: the yardstick for everything that claims to find an equilibrium.

float64 NumPy throughout. In each of X contexts K actions, preference[x, i, j] = P(i beats j), reference policy mu > 0,
regularisation tau: payoff(p, q) = p'Pq - tau KL(p||mu) + tau KL(q||mu). The unique equilibrium is symmetric,
pi = mu exp(P pi / tau) / Z (arXiv:2312.00886 section 3). Contexts are separate games: a game of one context may leave
their axis out, and every function here gives a result per context. Further axes of a policy may stand in front.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from alignjax.config import ConfigError
from alignjax.games.strings import Language

__all__ = ["TabularGame", "best_response", "duality_gap", "exploitability", "kl", "nash", "payoff"]


class GameError(ConfigError):
    """Not a preference game, or no equilibrium to the promised accuracy."""


@dataclasses.dataclass(frozen=True, eq=False)
class TabularGame:
    """preference [K,K] or [X,K,K] with P + P' = 1, reference [K] or [X,K] positive and summing to 1, tau > 0.

    language: the strings that the actions are, in its order; one token each if not given. Raises GameError for what is
    not a game.
    """

    preference: np.ndarray
    reference: np.ndarray
    tau: float
    language: Language = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        p, mu = np.asarray(self.preference, np.float64), np.asarray(self.reference, np.float64)
        object.__setattr__(self, "preference", p)
        object.__setattr__(self, "reference", mu)
        if p.ndim not in (2, 3) or p.shape[-1] != p.shape[-2] or np.abs(p + p.swapaxes(-1, -2) - 1).max() > 1e-12:
            raise GameError(f"preference of shape {p.shape} must be square with P + P' = 1")
        if mu.shape != p.shape[:-1] or mu.min() <= 0 or np.abs(mu.sum(-1) - 1).max() > 1e-9 or not self.tau > 0:
            raise GameError(
                f"the reference must be {p.shape[:-1]} positive numbers that sum to 1, and tau={self.tau} positive"
            )
        if self.language is None:
            object.__setattr__(self, "language", Language(self.actions))
        if self.language.size != self.actions:
            raise GameError(f"{self.language} has {self.language.size} strings, the game {self.actions} actions")

    @property
    def actions(self) -> int:
        return self.preference.shape[-1]

    @property
    def contexts(self) -> int:
        return self.preference.shape[0] if self.preference.ndim == 3 else 1

    def replace(self, **changes: Any) -> TabularGame:
        return dataclasses.replace(self, **changes)


def _wins(game: TabularGame, policy: Any) -> np.ndarray:
    """P(y beats policy) for every y, [..,K]."""
    return np.einsum("...ij,...j->...i", game.preference, np.asarray(policy, np.float64))


def _log_best_response(game: TabularGame, policy: Any, tau: float) -> np.ndarray:
    return log_softmax(np.log(game.reference) + _wins(game, policy) / tau, axis=-1)


def best_response(game: TabularGame, policy: Any, *, regularised: bool = True) -> np.ndarray:
    """The policy [..,K] that does best against `policy`: mu exp(P policy / tau) / Z; without regularisation the action
    that beats it most often, the first of several."""
    if regularised:
        return np.exp(_log_best_response(game, policy, game.tau))
    return np.eye(game.actions)[np.argmax(_wins(game, policy), axis=-1)]


def kl(p: Any, q: Any) -> np.ndarray:
    """KL(p || q) in nats [..]; infinite where p has mass and q none."""
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    with np.errstate(divide="ignore"):
        return np.sum(np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - np.log(q)), 0), axis=-1)


def payoff(game: TabularGame, p: Any, q: Any, *, regularised: bool = True) -> np.ndarray:
    """What p gets against q [..]: P(p beats q), less tau KL(p||mu), plus tau KL(q||mu) if regularised."""
    wins = np.sum(np.asarray(p, np.float64) * _wins(game, q), axis=-1)
    return wins - game.tau * (kl(p, game.reference) - kl(q, game.reference)) * regularised


def duality_gap(game: TabularGame, policy: Any, *, regularised: bool = True) -> np.ndarray:
    """max_q payoff(q, policy) - min_q payoff(policy, q) [..], 0 at an equilibrium alone: 2 tau KL(policy || best
    response), or twice the exploitability without regularisation."""
    if not regularised:
        return 2 * exploitability(game, policy)
    policy = np.asarray(policy, np.float64)
    log_policy = np.log(np.where(policy > 0, policy, 1))
    return 2 * game.tau * np.sum(policy * (log_policy - _log_best_response(game, policy, game.tau)), axis=-1)


def exploitability(game: TabularGame, policy: Any) -> np.ndarray:
    """max_y P(y beats policy) - 1/2 [..], without regularisation; not 0 at the regularised equilibrium."""
    return np.max(_wins(game, policy), axis=-1) - 0.5


def nash(game: TabularGame, tolerance: float = 1e-13) -> np.ndarray:
    """The regularised equilibrium [..,K], by Newton's method on log pi = log mu + P pi / tau - log Z, followed down
    from a tau so large that the reference is nearly the solution. Its certificate is its `duality_gap`.

    Raises GameError if the residual stays above `tolerance`.
    """
    if game.preference.ndim == 3:
        parts = zip(game.preference, game.reference, strict=True)
        return np.stack([nash(TabularGame(p, mu, game.tau), tolerance) for p, mu in parts])
    top = max(game.tau, 4.0)
    stages = np.geomspace(top, game.tau, 1 + int(np.ceil(8 * np.log2(top / game.tau))))
    theta = np.log(game.reference)
    for tau in stages:
        theta = _newton(game, theta, float(tau))
    residual = np.abs(_residual(game, theta, game.tau)).max()
    if residual > tolerance * max(1, 1 / game.tau):
        raise GameError(f"no equilibrium found: residual {residual:.1e}")
    return np.exp(theta)


def _residual(game: TabularGame, theta: np.ndarray, tau: float) -> np.ndarray:
    return theta - _log_best_response(game, np.exp(theta), tau)


def _newton(game: TabularGame, theta: np.ndarray, tau: float, steps: int = 60) -> np.ndarray:
    """theta = log pi at `tau`; halves a step until the residual falls."""
    for _ in range(steps):
        value = _residual(game, theta, tau)
        policy = np.exp(theta)
        # The derivative of log pi by logits is I - 1 pi', of the best response (I - 1 b') P diag(pi) (I - 1 pi') / tau.
        project = np.eye(len(theta)) - policy
        answer = np.exp(_log_best_response(game, policy, tau))
        slope = project - (game.preference - answer @ game.preference) @ (policy[:, None] * project) / tau
        step = np.linalg.lstsq(slope, -value, rcond=None)[0]
        size, before = 1.0, np.abs(value).max()
        while size > 1e-6:
            new = theta + size * step
            new = new - np.asarray(logsumexp(new))
            if np.abs(_residual(game, new, tau)).max() < before:
                break
            size /= 2
        else:
            return theta
        theta = new
    return theta
