"""Mixtures of judges whose weights follow what the judges got right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.asking import accepted, check_inner, declares
from alignjax.config import ConfigError
from alignjax.ranges import NonNegative


class Hedged(NamedTuple):
    """Weights of judges over time, and what they cost.

    Attributes:
        weights: Those before each round, and after the last [T+1,N].
        loss: Of the mixture, summed over rounds.
        regret: By how much that is above the loss of the best judge.
        bound: What the regret is at most, sqrt(T ln N / 2).
    """

    weights: np.ndarray
    loss: float
    regret: float
    bound: float


def hedge(verdicts: Any, outcomes: Any) -> Hedged:
    """Weighs judges by what they got wrong: w_i ~ exp(-eta sum of l_i), l_i = |verdict_i - outcome|, with
    eta = sqrt(8 ln N / T).

    AEGIS (arXiv:2404.05993) mixes safety classifiers by a no-regret rule that was not seen; this is Hedge, whose regret
    is at most sqrt(T ln N / 2) for any sequence of losses in [0, 1].

    Args:
        verdicts: P(first is better) by each judge [T,N], in [0, 1].
        outcomes: What was right [T], in [0, 1].

    Returns:
        The weights and their cost.

    Raises:
        ValueError: A number is not in [0, 1], or there is no round or no judge.
    """
    verdicts, outcomes = np.asarray(verdicts, np.float64), np.asarray(outcomes, np.float64)
    if verdicts.ndim != 2 or not verdicts.size or outcomes.shape != verdicts.shape[:1]:
        raise ValueError(f"verdicts {verdicts.shape} must be [T,N] and outcomes {outcomes.shape} [T], of at least one")
    if not all(((each >= 0) & (each <= 1)).all() for each in (verdicts, outcomes)):
        raise ValueError("verdicts and outcomes must be in [0, 1]")
    rounds, count = verdicts.shape
    losses = np.abs(verdicts - outcomes[:, None])
    before = np.concatenate([np.zeros((1, count)), np.cumsum(losses, axis=0)])
    logits = -math.sqrt(8 * math.log(count) / rounds) * before
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    loss = float((weights[:-1] * losses).sum())
    return Hedged(weights, loss, loss - float(before[-1].min()), math.sqrt(rounds * math.log(count) / 2))


def _check(judges: tuple[Any, ...], weights: tuple[float, ...] | None) -> None:
    if not judges:
        raise ConfigError("language_judges.mixture needs judges=(f, g)")
    if weights is not None and (len(weights) != len(judges) or sum(weights) <= 0):
        raise ConfigError(
            f"language_judges.mixture: weights={weights} for {len(judges)} judges, of which one must count"
        )
    for judge in judges:
        check_inner(judge, "language_judges.mixture: a judge")


@declares(check=_check)
def mixture(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    log_extra: Any = None,
    *,
    judges: tuple[Any, ...],
    weights: tuple[NonNegative, ...] | None = None,
    **columns: Sequence[Any],
) -> list[float | None]:
    """Asks several judges and takes the weighted mean of those with an opinion.

    Args:
        prompts: Texts or messages.
        completions: Of a judge pairs, of a reward completions.
        log_extra: Takes what each judge said, as `mixture/NUMBER`.
        judges: Functions of texts, each of which gets what it has parameters for.
        weights: One a judge, as `hedge` gives them; None: alike.
        **columns: The columns.

    Returns:
        A number of each entry, None where no judge that counts has an opinion.
    """
    given = {"prompts": prompts, "completions": completions, **columns}
    said = [list(judge(**{name: given[name] for name in accepted(judge, given)})) for judge in judges]
    factors = weights or (1.0,) * len(judges)
    marks: list[float | None] = []
    for entry in zip(*said, strict=True):
        known = [
            (factor, number) for factor, number in zip(factors, entry, strict=True) if number is not None and factor
        ]
        total = sum(factor for factor, _ in known)
        marks.append(sum(factor * number for factor, number in known) / total if total else None)
    if log_extra is not None:
        for number, values in enumerate(said):
            log_extra(f"mixture/{number}", values)
    return marks
