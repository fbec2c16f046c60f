"""Players that need no training, a lower temperature or the best of a few samples, and whether a trained policy beats
them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.evaluate.intervals import DataError, as_column, interval
from alignjax.evaluate.players import Player
from alignjax.ranges import Count


def default_controls(baseline: Player, judges: Sequence[str]) -> tuple[Player, ...]:
    """Returns what a trained policy has to beat: the baseline at temperature 0.5, greedy, and the best of four of its
    samples by the training judge, where there is one.

    Args:
        baseline: The first player of a tournament.
        judges: The names of the judges.
    """
    label = baseline.label or baseline.name
    control = functools.partial(dataclasses.replace, baseline, control=True)
    players = [
        control(name=f"{baseline.name}_cool", label=f"{label}, T = 0.5", note="no training", temperature=0.5),
        control(name=f"{baseline.name}_greedy", label=f"{label}, greedy", note="no training", temperature=0.0),
    ]
    if "training" in judges:
        note = f"no training; at most log 4 = {math.log(4):.2f} nats, 0.64 if the judge ranks by a score"
        players.append(control(name=f"{baseline.name}_best_of_4", label=f"{label}, best of 4", note=note, best_of=4))
    return tuple(players)


def against_best_control(
    rates: Mapping[str, Any], players: Sequence[str], controls: Sequence[str], *, draws: Count = 2000
) -> dict[str, dict[str, Any]]:
    """Compares each player with the control that does best, chosen on other prompts than it is compared on.

    The control of the odd prompts is the one with the highest win rate on the even ones, and the other way round, so
    that choosing the luckiest of several costs nothing: on no prompt does the choice know the outcome.

    Args:
        rates: P(beats the baseline) on every prompt [n], by player and control.
        players: Who is compared.
        controls: What with.
        draws: Resamples of the bootstrap over prompts.

    Returns:
        {player: {"controls": the one or two that were chosen, "mean", "low", "high", "n"}}: the paired difference of
        the win rates against the baseline, player less control; {} for fewer than two prompts or without controls.

    Raises:
        DataError: If there are not equally many prompts everywhere.
    """
    columns = {name: as_column(rates[name], name) for name in (*players, *controls)}
    if len({len(column) for column in columns.values()}) > 1:
        raise DataError("against_best_control: all players must have answered the same prompts")
    count = len(next(iter(columns.values()), ()))
    if not controls or count < 2:
        return {}
    odd = np.arange(count) % 2 == 1
    chosen = [
        max(controls, key=lambda name, on=on: columns[name][on].mean()) for on in (odd, ~odd)
    ]  # on odd prompts, on even ones
    control = np.where(odd, columns[chosen[1]], columns[chosen[0]])
    names = list(dict.fromkeys(chosen))
    return {name: {"controls": names, **interval(columns[name] - control, draws=draws)} for name in players}


def warnings(compared: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> list[str]:
    """Writes a sentence for every player that cannot be told apart from its best control, or falls behind it.

    Args:
        compared: What `against_best_control` returns.
        labels: Names in print.
    """
    sentences = []
    for name, gap in compared.items():
        if gap["low"] > 0:
            continue
        control = " or ".join(labels.get(one, one) for one in gap["controls"])
        mean, low, high = (f"{100 * gap[key]:+.1f}" for key in ("mean", "low", "high"))
        words = "falls behind" if gap["high"] < 0 else "is not told apart from"
        sentences.append(
            f"{labels.get(name, name)} {words} its best control, {control}, which took no training: {mean} points of "
            f"win rate ({low} to {high}), the control chosen on other prompts."
        )
    return sentences
