"""Preference games small enough to solve exactly: the yardstick for everything that claims to find an equilibrium.

float64 NumPy throughout. K actions, preference[i, j] = P(i beats j), reference policy mu > 0, regularisation tau:
payoff(p, q) = p'Pq - tau KL(p||mu) + tau KL(q||mu). The unique equilibrium is symmetric, pi = mu exp(P pi / tau) / Z
(arXiv:2312.00886 section 3).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import log_softmax, logsumexp

from alignjax.config import ConfigError

__all__ = [
    "TabularGame",
    "best_response",
    "bradley_terry",
    "duality_gap",
    "exploitability",
    "nash",
    "rock_paper_scissors",
]


class GameError(ConfigError):
    """Not a preference game, or no equilibrium to the promised accuracy."""


@dataclasses.dataclass(frozen=True, eq=False)
class TabularGame:
    """preference [K,K] with P + P' = 1, reference [K] positive and summing to 1, tau > 0. Raises GameError
    otherwise."""

    preference: np.ndarray
    reference: np.ndarray
    tau: float

    def __post_init__(self) -> None:
        p, mu = np.asarray(self.preference, np.float64), np.asarray(self.reference, np.float64)
        object.__setattr__(self, "preference", p)
        object.__setattr__(self, "reference", mu)
        if p.ndim != 2 or p.shape[0] != p.shape[1] or np.abs(p + p.T - 1).max() > 1e-12:
            raise GameError(f"preference of shape {p.shape} must be square with P + P' = 1")
        if mu.shape != p.shape[:1] or mu.min() <= 0 or abs(mu.sum() - 1) > 1e-9 or not self.tau > 0:
            raise GameError(
                f"the reference must be {len(p)} positive numbers that sum to 1, and tau={self.tau} positive"
            )


def rock_paper_scissors(reference: np.ndarray, tau: float, strength: float = 0.5) -> TabularGame:
    """Each of three actions beats the next with probability 1/2 + strength."""
    cycle = np.roll(np.eye(3), 1, axis=1) - np.roll(np.eye(3), -1, axis=1)
    return TabularGame(0.5 + strength * cycle, reference, tau)


def bradley_terry(reward: np.ndarray, reference: np.ndarray, tau: float) -> TabularGame:
    """P(i beats j) = S(r_i - r_j), the transitive games."""
    gap = np.subtract.outer(np.asarray(reward, np.float64), reward)
    upper = 1 / (1 + np.exp(-np.abs(gap)))
    return TabularGame(np.where(gap >= 0, upper, 1 - upper), reference, tau)


def best_response(game: TabularGame, policy: np.ndarray) -> np.ndarray:
    """The policy [K] that does best against `policy`: mu exp(P policy / tau) / Z."""
    return np.exp(_log_best_response(game, policy, game.tau))


def _log_best_response(game: TabularGame, policy: np.ndarray, tau: float) -> np.ndarray:
    return log_softmax(np.log(game.reference) + game.preference @ policy / tau)


def duality_gap(game: TabularGame, policy: np.ndarray) -> float:
    """max_q payoff(q, policy) - min_q payoff(policy, q) = 2 tau KL(policy || best response), 0 at the equilibrium
    alone."""
    policy = np.asarray(policy, np.float64)
    log_policy = np.log(np.where(policy > 0, policy, 1))
    return float(2 * game.tau * np.sum(policy * (log_policy - _log_best_response(game, policy, game.tau))))


def exploitability(game: TabularGame, policy: np.ndarray) -> float:
    """max_y P(y beats policy) - 1/2, without regularisation; not 0 at the regularised equilibrium."""
    return float(np.max(game.preference @ policy) - 0.5)


def nash(game: TabularGame, tolerance: float = 1e-13) -> np.ndarray:
    """The regularised equilibrium [K], by Newton's method on log pi = log mu + P pi / tau - log Z, followed down from a
    tau so large that the reference is nearly the solution. Raises GameError if the residual stays above `tolerance`."""
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
