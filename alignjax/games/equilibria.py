"""Solves a preference game for the points that methods stop at: the regularized equilibrium (`nash`), the unregularized
one, the pair that sampling from a mixture leads to, and what maximizes a fitted Bradley-Terry reward. float64 NumPy, as
in `game`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.special import expit, log_softmax, logsumexp

from alignjax.games.game import GameError, TabularGame, best_response, log_best_response

# Residuals of log pi in nats, of the equation that `nash` solves: what is enough for a tau on the way down, and what
# (at tau = 1) may be nothing but rounding.
ON_THE_WAY, ROUNDING = 1e-6, 1e-12
NEWTON_STEPS = 60  # at most, for one tau


def _one_by_one(game: TabularGame) -> list[TabularGame]:
    """Split a game into those of its contexts."""
    return [TabularGame(p, mu, game.tau) for p, mu in zip(game.preference, game.reference, strict=True)]


def nash(game: TabularGame, tolerance: float = 1e-13) -> np.ndarray:
    """Solve for the regularized equilibrium, by Newton's method on log pi = log mu + P pi / tau - log Z, followed down
    from a tau so large that the reference is nearly the solution. Its certificate is its `duality_gap`.

    Args:
        game: A game.
        tolerance: Of the residual, relative to 1 / tau where that is above 1.

    Returns:
        The policy [..,K].

    Raises:
        GameError: If the residual stays above `tolerance`.
    """
    if game.preference.ndim == 3:
        return np.stack([nash(part, tolerance) for part in _one_by_one(game)])
    top = max(game.tau, 4.0)
    stages = np.geomspace(top, game.tau, 1 + int(np.ceil(8 * np.log2(top / game.tau))))
    theta = np.log(game.reference)
    for tau in stages[:-1]:
        theta, _ = _newton(game, theta, float(tau), enough=ON_THE_WAY)
    theta, residual = _newton(game, theta, game.tau, enough=0)
    if residual > tolerance * max(1, 1 / game.tau):
        raise GameError(f"no equilibrium found: residual {residual:.1e}")
    return np.exp(theta)


def _residual(game: TabularGame, theta: np.ndarray, tau: float) -> np.ndarray:
    return theta - log_best_response(game, np.exp(theta), tau)


def _newton(game: TabularGame, theta: np.ndarray, tau: float, enough: float) -> tuple[np.ndarray, float]:
    """Solve for theta = log pi at `tau` until the largest residual is `enough` or no step lowers it; return both.

    A step is halved until the residual falls, but not where it is that of rounding alone: there whole steps converge,
    and one that lowers nothing is the last.
    """
    value = _residual(game, theta, tau)
    for _ in range(NEWTON_STEPS):
        before = np.abs(value).max()
        if before <= enough:
            break
        policy = np.exp(theta)
        # The derivative of log pi by logits is I - 1 pi', of the best response (I - 1 b') P diag(pi) (I - 1 pi') / tau.
        project = np.eye(len(theta)) - policy
        answer = np.exp(log_best_response(game, policy, tau))
        slope = project - (game.preference - answer @ game.preference) @ (policy[:, None] * project) / tau
        step = np.linalg.lstsq(slope, -value, rcond=None)[0]
        for halvings in range(20 if before > ROUNDING * max(1, 1 / tau) else 1):
            new = theta + 0.5**halvings * step
            new = new - np.asarray(logsumexp(new))
            moved = _residual(game, new, tau)
            if np.abs(moved).max() < before:
                break
        else:
            break
        theta, value = new, moved
    return theta, float(np.abs(value).max())


class Unregularized(NamedTuple):
    """policy [..,K] guarantees its player `value` [..] (1/2, for want of rounding); `gap` [..] certifies it."""

    policy: np.ndarray
    value: np.ndarray
    gap: np.ndarray


def unregularized_nash(game: TabularGame, tolerance: float = 1e-9) -> Unregularized:
    """Solve for an equilibrium of the game without regularization, by linear program: the largest v such that p'P >= v.

    In general it is one of several. gap is that of the duality of linear programs, max_y (P q)_y - min_j (p'P)_j with q
    the multipliers of the constraints: by weak duality no policy guarantees more than the value plus it.

    Args:
        game: A game.
        tolerance: Of the gap.

    Raises:
        GameError: If the gap exceeds `tolerance`.
    """
    # One context at a time, for a linear program has no batch axis. The last variable is the value v, free in sign; the
    # gap is computed from the cleaned solution and not taken from the solver, whose tolerance is looser.
    if game.preference.ndim == 3:
        solutions = [unregularized_nash(part, tolerance) for part in _one_by_one(game)]
        return Unregularized(*map(np.stack, zip(*solutions, strict=True)))
    k = game.actions
    solved = linprog(
        c=[*np.zeros(k), -1.0],
        A_ub=np.column_stack([-game.preference.T, np.ones(k)]),
        b_ub=np.zeros(k),
        A_eq=[[*np.ones(k), 0.0]],
        b_eq=[1.0],
        bounds=[(0, None)] * k + [(None, None)],
        method="highs",
    )
    if solved.x is None:
        raise GameError(f"no unregularized equilibrium found: {solved.message}")
    p, q = (np.maximum(part, 0) / np.maximum(part, 0).sum() for part in (solved.x[:k], -solved.ineqlin.marginals))
    value = np.min(p @ game.preference)
    gap = np.max(game.preference @ q) - value
    if gap > tolerance:
        raise GameError(f"no unregularized equilibrium found: duality gap {gap:.1e}")
    return Unregularized(p, value, gap)


class Mixed(NamedTuple):
    """A policy [..,K], and the mixture [..,K] from which it is sampled."""

    policy: np.ndarray
    mixture: np.ndarray


def mixture_equilibrium(game: TabularGame, beta: float) -> Mixed:
    """Solve for the point where IPO-MD and Nash-MD's policy gradient stop when they sample from policy^(1-beta)
    mu^beta, normalized over whole strings: the mixture is the equilibrium at tau / (1 - beta), the policy the best
    response to it at tau.

    A square-loss method whose sampler is rho rests iff policy = BR(rho); with rho the mixture, rho solves the
    equilibrium's equation at tau / (1 - beta). Of strings of several tokens mixed token by token only the first half is
    true.

    Args:
        game: A game.
        beta: The reference's share of the mixture.

    Raises:
        GameError: Unless 0 <= beta < 1.
    """
    if not 0 <= beta < 1:
        raise GameError(f"beta={beta}; the weight of the reference in a mixture that learns lies in [0, 1)")
    mixture = nash(game.replace(tau=game.tau / (1 - beta)))
    return Mixed(best_response(game, mixture), mixture)


def geometric_mixture(game: TabularGame, policy: Any, beta: float) -> np.ndarray:
    """Mix policy^(1-beta) mu^beta over whole strings, normalized [..,K].

    Args:
        game: A game, whose reference is mu.
        policy: Probabilities [..,K].
        beta: Share of the reference, in [0, 1].

    Returns:
        Probabilities [..,K].
    """
    with np.errstate(divide="ignore"):
        log_policy = np.log(np.asarray(policy, np.float64))
    return np.exp(log_softmax((1 - beta) * log_policy + beta * np.log(game.reference), axis=-1))


def tilted(game: TabularGame, reward: Any, temperature: float | None = None) -> np.ndarray:
    """Compute the policy mu exp(reward / temperature) / Z [..,K] that maximizes a reward [..,K] less temperature
    (default: tau) times the KL to the reference.

    Args:
        game: A game, whose reference is mu.
        reward: Rewards [..,K].
        temperature: Strength of the KL; None for the game's tau.

    Returns:
        Probabilities [..,K].
    """
    temperature = game.tau if temperature is None else temperature
    return np.exp(log_softmax(np.log(game.reference) + np.asarray(reward, np.float64) / temperature, axis=-1))


def fitted_reward(game: TabularGame, sampler: Any = None, tolerance: float = 1e-12) -> np.ndarray:
    """Fit the Bradley-Terry rewards that maximize the likelihood of labels, by Newton's method: what a reward model, or
    offline DPO, learns of the game.

    Args:
        game: A game.
        sampler: The policy [..,K] from which both sides of a pair are drawn (default: the reference).
        tolerance: Of the win rate of each action against the sampler, by the rewards and in the game.

    Returns:
        Rewards [..,K] of mean 0.

    Raises:
        GameError: Where some actions never win against the others, so that the likelihood has no maximum (Ford's
            condition).
    """
    # The likelihood is concave but flat along a common shift: least squares solves the singular Newton system, and
    # steps of at most 2 keep the sigmoid from saturating. Without Ford's condition, checked first, it would diverge.
    # Each row of gradient and system is divided by the action's own probability: where that is tiny, the row would be
    # within any tolerance long before the reward is.
    sampler = game.reference if sampler is None else np.asarray(sampler, np.float64)
    if game.preference.ndim == 3:
        parts = zip(_one_by_one(game), sampler, strict=True)
        return np.stack([fitted_reward(part, rho, tolerance) for part, rho in parts])
    beaten = np.linalg.matrix_power((game.preference > 0) + np.eye(game.actions), game.actions)
    if not (beaten > 0).all():
        raise GameError("no Bradley-Terry rewards: some actions never win against the others")
    reward = np.zeros(game.actions)
    for _ in range(100):
        predicted = expit(np.subtract.outer(reward, reward))
        gradient = (game.preference - predicted) @ sampler
        if np.abs(gradient).max() <= tolerance:
            return reward - reward.mean()
        curvature = predicted * (1 - predicted) * sampler
        laplacian = np.diag(curvature.sum(1)) - curvature
        step = np.linalg.lstsq(laplacian, gradient, rcond=None)[0]
        reward = reward + step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-300))
    raise GameError("no Bradley-Terry rewards found: preferences are too near to 0 and 1")
