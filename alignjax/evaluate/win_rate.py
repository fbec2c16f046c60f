"""Win rates between players, from a judge's probability for each prompt.

A judge gives `p[i]`, the probability that player a's answer to prompt i is better than player b's. Two ways to score:
- "probability" (the default, and the headline number of a report): the mean of p. This is the payoff P(a > b) of the
  preference game that Nash learning and online IPO play (arXiv:2312.00886 eq. 1, arXiv:2403.08635 sec. 2).
- "hard": the share of prompts with p > 1/2, ties counting one half. It asks only which answer the judge likes better,
  so it does not depend on how sure the judge is, but it moves in jumps and needs more prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from alignjax.evaluate.intervals import DataError, Interval, as_column, interval
from alignjax.ranges import Count, NonNegative

Judgements = Mapping[tuple[str, str], Any]
Matrix = dict[str, dict[str, Interval]]
SCORES = ("probability", "hard")


def _scored(probability: Any, score: str = "probability") -> np.ndarray:
    """Score each prompt [n] for the first player in [0, 1]: the probability itself, or 1, 1/2, 0 for win, tie, loss."""
    if score not in SCORES:
        raise DataError(f"score is {score!r}; it must be one of {', '.join(map(repr, SCORES))}")
    probability = np.asarray(probability, np.float64)
    return probability if score == "probability" else (np.sign(probability - 0.5) + 1) / 2


def _complement(rate: Interval) -> Interval:
    """Turn a win rate into that of the other player."""
    return {"mean": 1 - rate["mean"], "low": 1 - rate["high"], "high": 1 - rate["low"], "n": rate["n"]}


def win_rate_matrix(
    judgements: Judgements, *, score: str = "probability", draws: Count = 2000
) -> dict[str, dict[str, Interval]]:
    """`win_rates[a][b]` = {"mean", "low", "high", "n"} for both orders of every judged pair, by the bootstrap over
    prompts.

    The two orders are complements exactly: mean[a][b] + mean[b][a] = 1 and low[a][b] + high[b][a] = 1.

    Args:
        judgements: {(a, b): P(a beats b) for each prompt, [n]}, each pair once (in either order) or twice and
            complementary; all pairs on the same prompts in the same order, for their resamples are shared.
        score: "probability" or "hard", see above.
        draws: Resamples of the bootstrap.

    Raises:
        DataError: For numbers outside [0, 1], pairs of unequal length, a player against itself, or two orders that do
            not add up to one.
    """
    return _both_orders(judgements, lambda a, b, probability: interval(_scored(probability, score), draws=draws))


def _both_orders(
    judgements: Judgements,
    measured: Callable[[str, str, np.ndarray], Interval | None],
    turned: Callable[[Interval], Interval] = _complement,
) -> Matrix:
    """Measure each judged pair, by its players and P(a beats b) [n], and turn what that gives into the other order's;
    a pair that gives None is left out."""
    # Each pair is resampled once: two resamples would differ by noise, and the matrix would contradict itself.
    matrix: Matrix = {}
    for (a, b), probability in _checked(judgements).items():
        if (rate := measured(a, b, probability)) is not None:
            matrix.setdefault(a, {})[b] = rate
            matrix.setdefault(b, {})[a] = turned(rate)
    return matrix


def ties(judgements: Judgements, *, margin: NonNegative = 1e-6, draws: Count = 2000) -> Matrix:
    """`ties[a][b]`: the share of prompts on which the judge says 1/2, as for equal answers, in both orders of a pair.

    Args:
        judgements: As of `win_rate_matrix`.
        margin: How near to 1/2 a judgment is a tie.
        draws: Resamples of the bootstrap.
    """

    def even(a: str, b: str, probability: np.ndarray) -> Interval:
        return interval((np.abs(probability - 0.5) <= margin).astype(np.float64), draws=draws)

    return _both_orders(judgements, even, turned=dict)


def length_controlled(judgements: Judgements, lengths: Mapping[str, Any], *, draws: Count = 2000) -> Matrix:
    """Win rates at equal length: what a regression of P(a beats b) on tanh(length difference / its deviation) says
    where the lengths are equal, in both orders of every pair, which are complements exactly.

    Differs from AlpacaEval 2 (arXiv:2404.04475): least squares on the probability instead of a logistic regression, and
    no term for how hard a prompt is, so that it needs no other players. Players whose lengths never differ keep their
    win rate. It controls what is linear in the length; where one side is always longer it extrapolates.

    Args:
        judgements: As of `win_rate_matrix`.
        lengths: The length of every answer, [n] by player.
        draws: Resamples of the bootstrap over prompts, regression included.

    Raises:
        DataError: As of `win_rate_matrix`, or for lengths of another number of prompts.
    """

    def at_equal_length(a: str, b: str, probability: np.ndarray) -> Interval:
        extra = as_column(lengths[a], f"the length of {a}") - as_column(lengths[b], f"the length of {b}")
        if len(extra) != len(probability):
            raise DataError(
                f"{a} and {b} have {len(extra)} lengths but {len(probability)} judgments; give one a prompt"
            )
        longer = np.tanh(extra / (extra.std() or 1))
        columns = np.stack([probability, longer, longer**2, probability * longer], 1)
        return interval(columns, _at_equal_length, draws=draws)

    return _both_orders(judgements, at_equal_length)


def _at_equal_length(means: np.ndarray) -> np.ndarray:
    """The regression's value where the difference is 0, from the means of p, d, d^2 and p d."""
    p, d, dd, pd = np.moveaxis(means, -1, 0)
    spread = dd - d * d
    slope = np.where(spread > 1e-12, (pd - p * d) / np.maximum(spread, 1e-12), 0)
    return np.clip(p - slope * d, 0, 1)


def where_both(judgements: Judgements, counted: Mapping[str, Any], baseline: str) -> Matrix:
    """Win rates against a baseline over the prompts on which both sides count (have ended, say), in both orders; a pair
    without such a prompt is left out.

    Args:
        judgements: As of `win_rate_matrix`.
        counted: Which prompts count, bool [n] by player.
        baseline: The player of every pair.
    """

    def where_counted(a: str, b: str, probability: np.ndarray) -> Interval | None:
        both = np.asarray(counted[a], bool) & np.asarray(counted[b], bool)
        return interval(probability[both]) if baseline in (a, b) and both.any() else None

    return _both_orders(judgements, where_counted)


def _checked(judgements: Judgements) -> dict[tuple[str, str], np.ndarray]:
    """Validate judgments and keep each unordered pair once."""
    if not judgements:
        raise DataError("there are no judgments: give at least one pair of players, {(a, b): probabilities [n]}")
    pairs: dict[tuple[str, str], np.ndarray] = {}
    for (a, b), values in judgements.items():
        name = f"P({a} beats {b})"
        if a == b:
            raise DataError(f"{name} compares a player with itself; leave it out")
        column = as_column(values, name)
        if column.min() < 0 or column.max() > 1:
            raise DataError(
                f"{name} has values from {column.min():.3g} to {column.max():.3g}; probabilities lie in [0, 1]"
            )
        if (b, a) in pairs:
            other = pairs[b, a]
            if len(other) != len(column) or np.abs(other + column - 1).max() > 1e-5:
                raise DataError(f"{name} and P({b} beats {a}) do not add up to 1 on every prompt; give one order only")
            continue
        pairs[a, b] = column
    lengths = {f"{a} against {b}": len(column) for (a, b), column in pairs.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"all pairs must be judged on the same prompts, but the numbers of prompts differ: {lengths}")
    return pairs


def exploitability(win_rates: Mapping[str, Mapping[str, Interval]]) -> dict[str, Interval]:
    """For each player the opponent that does best against it: {player: {"by": opponent, "mean", "low", "high", "n"}},
    the numbers being that opponent's win rate.

    The maximum over the players at hand is a lower bound of what a best response could reach; 1/2 or less says that no
    other player of this pool beats this one. The interval is that of the chosen opponent, not corrected for choosing.

    Args:
        win_rates: What `win_rate_matrix` returns.
    """
    worst: dict[str, Interval] = {}
    for player in win_rates:
        against = {other: row[player] for other, row in win_rates.items() if player in row}
        if against:
            by = max(against, key=lambda other: against[other]["mean"])
            worst[player] = {"by": by, **against[by]}
    return worst
