"""Examples of preference games. Probabilities that sum to 1 in pairs do so exactly; what is random has a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignjax.games.game import GameError, TabularGame
from alignjax.games.strings import Language, log_distribution
from alignjax.ranges import Count, Edge, Natural, NonNegative, Seed


def _from_logits(logits: Any) -> np.ndarray:
    """Compute S(logits) of an antisymmetric matrix, such that pairs sum to 1 exactly."""
    logits = np.asarray(logits, np.float64)
    upper = 1 / (1 + np.exp(-np.abs(logits)))
    return np.where(logits >= 0, upper, 1 - upper)


def rock_paper_scissors(reference: Any, tau: float, strength: float | Sequence[float] = 0.5) -> TabularGame:
    """Each of three actions beats the next with probability 1/2 + strength, one number or one for each of them: 0 over
    1, 1 over 2, 2 over 0. The unregularized equilibrium plays an action as often as the other two meet decisively:
    (s_1, s_2, s_0) / sum.

    Args:
        reference: [3], positive and summing to 1.
        tau: Strength of the regularization.
        strength: In [-1/2, 1/2].
    """
    return cycle(reference, tau, strength, actions=3)


def cycle(reference: Any, tau: float, strength: float | Sequence[float] = 0.5, *, actions: Count = 5) -> TabularGame:
    """Rock-paper-scissors of an odd number of actions: each beats the (actions - 1) / 2 that follow it, around the
    circle, with probability 1/2 + strength (of the action that wins). With one strength, uniform play is the
    unregularized equilibrium.

    Args:
        reference: [K], positive and summing to 1.
        tau: Strength of the regularization.
        strength: In [-1/2, 1/2], one number or [K].
        actions: K, odd.

    Raises:
        GameError: For an even number of actions, or a strength outside its range.
    """
    if actions < 3 or actions % 2 == 0:
        raise GameError(f"actions={actions}; a cycle has an odd number of them, 3 or more")
    force = np.broadcast_to(np.asarray(strength, np.float64), (actions,))
    if np.abs(force).max() > 0.5:
        raise GameError(f"strength={strength} must lie between -1/2 and 1/2")
    ahead = np.subtract.outer(-np.arange(actions), -np.arange(actions)) % actions  # how far j stands after i
    won = np.where((ahead > 0) & (ahead <= actions // 2), force[:, None], 0)
    return TabularGame(0.5 + won - won.T, reference, tau)


def intransitive(
    reference: Any, tau: float, *, seed: Seed, scale: NonNegative = 1.0, language: Language | None = None
) -> TabularGame:
    """P = S(A), A antisymmetric with normal entries of standard deviation `scale`: no order of the actions explains it.
    A reference [X,K] makes X contexts of their own.

    Args:
        reference: [K] or [X,K], positive and summing to 1.
        tau: Strength of the regularization.
        seed: Of the draw.
        scale: Standard deviation of the log-odds.
        language: The strings that the actions are; one token each if not given.
    """
    reference = np.asarray(reference, np.float64)
    draw = np.random.default_rng(seed).normal(size=(*reference.shape, reference.shape[-1]))
    upper = np.triu(draw, 1)
    logits = scale * (upper - upper.swapaxes(-1, -2))
    return TabularGame(_from_logits(logits), reference, tau, language)  # type: ignore[arg-type]


def bradley_terry(reward: Any, reference: Any, tau: float) -> TabularGame:
    """P(i beats j) = S(r_i - r_j), the transitive games; reward [K] or [X,K].

    Args:
        reward: [K] or [X,K].
        reference: [K] or [X,K], positive and summing to 1.
        tau: Strength of the regularization.
    """
    reward = np.asarray(reward, np.float64)
    return TabularGame(_from_logits(reward[..., :, None] - reward[..., None, :]), reference, tau)


def condorcet(reference: Any, tau: float, *, seed: Seed, edge: Edge = 0.05, scale: NonNegative = 2.0) -> TabularGame:
    """Action 0 beats every other with probability 1/2 + edge, while the others beat each other at random and by a lot:
    a Condorcet winner that need not win most often on average (its Borda score), and no Bradley-Terry model fits.

    Args:
        reference: [K] or [X,K], positive and summing to 1.
        tau: Strength of the regularization.
        seed: Of the draw.
        edge: In (0, 1/2].
        scale: Standard deviation of the others' log-odds.

    Raises:
        GameError: For an edge outside its range.
    """
    if not 0 < edge <= 0.5:
        raise GameError(f"edge={edge}; it must lie above 0 and not above 1/2, or action 0 is no Condorcet winner")
    preference = intransitive(reference, tau, seed=seed, scale=scale).preference.copy()
    preference[..., 0, 1:], preference[..., 1:, 0] = 0.5 + edge, 0.5 - edge
    return TabularGame(preference, reference, tau)


def annotators(rewards: Any, weights: Any, reference: Any, tau: float) -> TabularGame:
    """Each of M annotators is a Bradley-Terry model with rewards [M,K] and answers with a frequency [M]: transitive
    people, an intransitive population (Condorcet's paradox) when, say, three of them rank cyclically.

    Args:
        rewards: [M,K].
        weights: [M], not negative and summing to 1.
        reference: [K], positive and summing to 1.
        tau: Strength of the regularization.

    Raises:
        GameError: For other weights.
    """
    rewards, weights = np.asarray(rewards, np.float64), np.asarray(weights, np.float64)
    if weights.shape != rewards.shape[:1] or weights.min() < 0 or abs(weights.sum() - 1) > 1e-9:
        raise GameError(f"weights must be {len(rewards)} numbers, not negative, that sum to 1")
    each = _from_logits(rewards[:, :, None] - rewards[:, None, :]) - 0.5
    upper = np.triu(np.tensordot(weights / weights.sum(), each, axes=1), 1)
    return TabularGame(0.5 + upper - upper.T, reference, tau)


def sequence_game(
    tau: float,
    *,
    seed: Seed,
    vocab: Count = 3,
    length: Count = 2,
    stop: tuple[Natural, ...] = (2,),
    contexts: Count = 1,
    scale: NonNegative = 1.0,
    spread: NonNegative = 1.0,
) -> TabularGame:
    """Strings of at most `length` tokens that end at a stop token; an intransitive preference between whole strings,
    and a reference whose next-token logits have standard deviation `spread` at each prefix.

    Args:
        tau: Strength of the regularization.
        seed: Of preferences and reference.
        vocab: The number of tokens.
        length: Of a string in tokens, at most.
        stop: The tokens that end a string.
        contexts: X.
        scale: Standard deviation of the log-odds between strings.
        spread: Standard deviation of the reference's logits.
    """
    language = Language(vocab, length, stop)
    shape = (vocab,) if length == 1 else (language.prefixes, vocab)
    logits = np.random.default_rng((seed, 1)).normal(size=(contexts, *shape)) * spread
    reference = np.exp(log_distribution(language, logits))
    game = intransitive(reference, tau, seed=seed, scale=scale, language=language)
    return game if contexts > 1 else game.replace(preference=game.preference[0], reference=game.reference[0])


def stack(games: Sequence[TabularGame]) -> TabularGame:
    """Games of one shape and tau as the contexts of one.

    Args:
        games: Games of one context each, with the same tau and the same strings.

    Raises:
        GameError: For others.
    """
    if len({(game.tau, game.language, game.preference.ndim) for game in games}) != 1 or games[0].contexts != 1:
        raise GameError("only games of one context, with the same tau and the same strings, can be put together")
    return games[0].replace(
        preference=np.stack([game.preference for game in games]), reference=np.stack([game.reference for game in games])
    )
