"""Other points of a preference game that a method may stop at: the unregularised equilibrium, the pair that sampling
from a mixture leads to, and what maximises a fitted Bradley-Terry reward. float64 NumPy, as in `tabular`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.special import expit, log_softmax

from alignjax.games.game import GameError, TabularGame, best_response, nash

__all__ = [
    "Mixed",
    "Unregularised",
    "fitted_reward",
    "geometric_mixture",
    "mixture_equilibrium",
    "tilted",
    "unregularised_nash",
]


class Unregularised(NamedTuple):
    """policy [..,K] guarantees its player `value` [..] (1/2, for want of rounding); `gap` [..] certifies it."""

    policy: np.ndarray
    value: np.ndarray
    gap: np.ndarray


def unregularised_nash(game: TabularGame, tolerance: float = 1e-9) -> Unregularised:
    """An equilibrium of the game without regularisation, by linear programme: the largest v such that p'P >= v.

    One of several, in general. gap is that of the duality of linear programmes, max_y (P q)_y - min_j (p'P)_j with q
    the multipliers of the constraints: by weak duality no policy guarantees more than the value plus it. Raises
    GameError if it exceeds `tolerance`.
    """
    if game.preference.ndim == 3:
        parts = zip(game.preference, game.reference, strict=True)
        found = [unregularised_nash(TabularGame(p, mu, game.tau), tolerance) for p, mu in parts]
        return Unregularised(*map(np.stack, zip(*found, strict=True)))
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
        raise GameError(f"no unregularised equilibrium found: {solved.message}")
    p, q = (np.maximum(part, 0) / np.maximum(part, 0).sum() for part in (solved.x[:k], -solved.ineqlin.marginals))
    value = np.min(p @ game.preference)
    gap = np.max(game.preference @ q) - value
    if gap > tolerance:
        raise GameError(f"no unregularised equilibrium found: duality gap {gap:.1e}")
    return Unregularised(p, value, gap)


class Mixed(NamedTuple):
    """Where the policy [..,K] stands and what it is sampled from, the mixture [..,K]."""

    policy: np.ndarray
    mixture: np.ndarray


def mixture_equilibrium(game: TabularGame, beta: float) -> Mixed:
    """Where IPO-MD and Nash-MD's policy gradient stop when they sample from policy^(1-beta) mu^beta, normalised over
    whole strings: the mixture is the equilibrium at tau / (1 - beta), the policy the best response to it at tau.

    A square-loss method whose sampler is rho rests iff policy = BR(rho); with rho the mixture, rho solves the
    equilibrium's equation at tau / (1 - beta). Of strings of several tokens mixed token by token only the first half is
    true. Raises GameError unless 0 <= beta < 1.
    """
    if not 0 <= beta < 1:
        raise GameError(f"beta={beta}; the weight of the reference in a mixture that learns lies in [0, 1)")
    mixture = nash(game.replace(tau=game.tau / (1 - beta)))
    return Mixed(best_response(game, mixture), mixture)


def geometric_mixture(game: TabularGame, policy: Any, beta: float) -> np.ndarray:
    """policy^(1-beta) mu^beta over whole strings, normalised [..,K]."""
    with np.errstate(divide="ignore"):
        log_policy = np.log(np.asarray(policy, np.float64))
    return np.exp(log_softmax((1 - beta) * log_policy + beta * np.log(game.reference), axis=-1))


def tilted(game: TabularGame, reward: Any, temperature: float | None = None) -> np.ndarray:
    """The policy mu exp(reward / temperature) / Z [..,K] that maximises a reward less temperature (default: tau) times
    the KL to the reference."""
    temperature = game.tau if temperature is None else temperature
    return np.exp(log_softmax(np.log(game.reference) + np.asarray(reward, np.float64) / temperature, axis=-1))


def fitted_reward(game: TabularGame, sampler: Any = None, tolerance: float = 1e-12) -> np.ndarray:
    """The Bradley-Terry rewards [..,K], of mean 0, that maximise the likelihood of labels on pairs drawn from `sampler`
    (default: the reference): what a reward model, or offline DPO, learns of the game.

    By Newton's method. Raises GameError where some actions never win against the others, so that the likelihood has no
    maximum (Ford's condition).
    """
    sampler = game.reference if sampler is None else np.asarray(sampler, np.float64)
    if game.preference.ndim == 3:
        parts = zip(game.preference, game.reference, sampler, strict=True)
        return np.stack([fitted_reward(TabularGame(p, mu, game.tau), rho, tolerance) for p, mu, rho in parts])
    beaten = np.linalg.matrix_power((game.preference > 0) + np.eye(game.actions), game.actions)
    if not (beaten > 0).all():
        raise GameError("no Bradley-Terry rewards: some actions never win against the others")
    reward, weight = np.zeros(game.actions), np.outer(sampler, sampler)
    for _ in range(100):
        said = expit(np.subtract.outer(reward, reward))
        gradient = np.sum(weight * (game.preference - said), axis=1)
        if np.abs(gradient).max() <= tolerance * weight.max():
            return reward - reward.mean()
        curvature = weight * said * (1 - said)
        laplacian = np.diag(curvature.sum(1)) - curvature
        step = np.linalg.lstsq(laplacian, gradient, rcond=None)[0]
        reward = reward + step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-300))
    raise GameError("no Bradley-Terry rewards found: preferences are too near to 0 and 1")
