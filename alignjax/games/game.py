"""Preference games small enough to solve exactly: the yardstick for everything that claims to find an equilibrium.

float64 NumPy throughout. In each of X contexts K actions, preference[x, i, j] = P(i beats j), reference policy mu > 0,
regularization tau: payoff(p, q) = p'Pq - tau KL(p||mu) + tau KL(q||mu). The unique equilibrium is symmetric,
pi = mu exp(P pi / tau) / Z (arXiv:2312.00886 section 3). Contexts are separate games: a game of one context may leave
their axis out, and every function here gives a result per context. Further axes of a policy may stand in front.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy.special import log_softmax

from alignjax.config import ConfigError
from alignjax.games.strings import Language
from alignjax.ranges import NonNegative


class GameError(ConfigError):
    """This is no preference game, or has no equilibrium to the promised accuracy."""


@dataclasses.dataclass(frozen=True, eq=False)
class TabularGame:
    """A preference game of K actions in each of X contexts.

    Args:
        preference: [K,K] or [X,K,K] with P + P' = 1.
        reference: [K] or [X,K], positive and summing to 1.
        tau: Strength of the regularization, above 0.
        language: The strings that the actions are, in its order; one token each if not given.

    Raises:
        GameError: For what is not a game.
    """

    preference: np.ndarray
    reference: np.ndarray
    tau: NonNegative
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


def action_win_rates(game: TabularGame, policy: Any) -> np.ndarray:
    """Compute P(y beats policy) for every y, [..,K]."""
    return np.einsum("...ij,...j->...i", game.preference, np.asarray(policy, np.float64))


def log_best_response(game: TabularGame, policy: Any, tau: float) -> np.ndarray:
    """Find the logarithm of the best response at `tau`, log mu + P policy / tau - log Z, [..,K] in nats."""
    return log_softmax(np.log(game.reference) + action_win_rates(game, policy) / tau, axis=-1)


def best_response(game: TabularGame, policy: Any, *, regularized: bool = True) -> np.ndarray:
    """Find the policy that does best against another: mu exp(P policy / tau) / Z.

    Args:
        game: A game.
        policy: The opponent [..,K].
        regularized: False for the action that beats the opponent most often, the first of several.

    Returns:
        A policy [..,K].
    """
    if regularized:
        return np.exp(log_best_response(game, policy, game.tau))
    return np.eye(game.actions)[np.argmax(action_win_rates(game, policy), axis=-1)]
