"""Distances of a policy from the points of a preference game: payoffs, the duality gap, exploitability and KL. float64
NumPy, as in `game`."""

from __future__ import annotations

from typing import Any

import numpy as np

from alignjax.games.game import TabularGame, action_win_rates, log_best_response


def kl(p: Any, q: Any) -> np.ndarray:
    """Compute KL(p || q) in nats [..] of distributions [..,K]; infinite where p has mass and q none.

    Args:
        p: Probabilities [..,K].
        q: Probabilities [..,K].

    Returns:
        Nats [..].
    """
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    with np.errstate(divide="ignore"):
        return np.sum(np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - np.log(q)), 0), axis=-1)


def payoff(game: TabularGame, p: Any, q: Any, *, regularized: bool = True) -> np.ndarray:
    """Compute what p gets against q: P(p beats q) - tau KL(p||mu) + tau KL(q||mu).

    Args:
        game: A game.
        p: A policy [..,K].
        q: Its opponent [..,K].
        regularized: False for P(p beats q) alone.

    Returns:
        The payoff [..].
    """
    wins = np.sum(np.asarray(p, np.float64) * action_win_rates(game, q), axis=-1)
    return wins - game.tau * (kl(p, game.reference) - kl(q, game.reference)) * regularized


def duality_gap(game: TabularGame, policy: Any, *, regularized: bool = True) -> np.ndarray:
    """Compute max_q payoff(q, policy) - min_q payoff(policy, q), which is 0 at an equilibrium alone.

    Args:
        game: A game.
        policy: A policy [..,K].
        regularized: True for 2 tau KL(policy || best response), False for twice the exploitability.

    Returns:
        The gap [..].
    """
    if not regularized:
        return 2 * exploitability(game, policy)
    policy = np.asarray(policy, np.float64)
    log_policy = np.log(np.where(policy > 0, policy, 1))
    return 2 * game.tau * np.sum(policy * (log_policy - log_best_response(game, policy, game.tau)), axis=-1)


def exploitability(game: TabularGame, policy: Any) -> np.ndarray:
    """Compute max_y P(y beats policy) - 1/2 [..], without regularization; not 0 at the regularized equilibrium.

    Args:
        game: A game.
        policy: Probabilities [..,K].

    Returns:
        Probabilities [..], from 0 to 1/2.
    """
    return np.max(action_win_rates(game, policy), axis=-1) - 0.5
