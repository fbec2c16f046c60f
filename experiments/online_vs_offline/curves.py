"""Curves of a number over KL, a point for each strength of the regularization, and their values at a KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignjax.evaluate.report.figures import BASELINE, INK, PALETTE, STYLE, frame, svg

Point = Mapping[str, Any]


def value(point: Point, what: str) -> float:
    """The mean of a number of a point: "kl", a judge's win rate or a measure."""
    for place in (point, point["win_rates"], point.get("measures", {})):
        if what in place:
            return float(place[what]["mean"])
    raise KeyError(what)


def at_kl(points: Sequence[Point], what: str, nats: float, start: float) -> float | None:
    """The number at a KL: linear in the root of the KL between the two points beside it, of which the baseline, with
    KL 0 and the number `start`, is one; None beyond the farthest point.

    A small step of a policy changes a win rate in proportion to the root of its KL, hence the root. Where a curve comes
    back (a stronger pull with more KL), its points are taken in the order of their KL.
    """
    order = sorted(points, key=lambda point: value(point, "kl"))
    kl = [0.0, *(max(0.0, value(point, "kl")) for point in order)]
    if nats > kl[-1]:
        return None
    return float(np.interp(np.sqrt(nats), np.sqrt(kl), [start, *(value(point, what) for point in order)]))


def picture(seeds: Sequence[Mapping[str, Sequence[Point]]], panels: Mapping[str, tuple[str, float | None]]) -> str:
    """Draw curves over KL, a panel per number, a color per curve: thin lines for the seeds, a thick one for the means.

    panels: {number: (title, its value at the baseline)}.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.1 * len(panels) + 0.4, 4.4), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for one, (what, (title, start)) in zip(axes, panels.items(), strict=True):
            _panel(one, seeds, what, start)
            one.set_title(title, color=INK)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        return svg(figure, "curves", "Numbers over KL to the SFT policy, a line per method")


def _panel(axes: Axes, seeds: Sequence[Mapping[str, Sequence[Point]]], what: str, start: float | None) -> None:
    """One number over KL."""
    frame(axes)
    if start is not None:
        axes.axhline(100 * start, color=BASELINE, lw=0.9, ls=(0, (4, 3)), zorder=1)
    for place, curve in enumerate(seeds[0]):
        color = PALETTE[place % len(PALETTE)]
        own = [seed[curve] for seed in seeds if curve in seed]
        kl, height = (np.array([[value(point, of) for point in points] for points in own]) for of in ("kl", what))
        for x, y in zip(kl, height, strict=True):
            order = np.argsort(x)
            axes.plot(x[order], 100 * y[order], "-", color=color, lw=0.6, alpha=0.35, zorder=2)
        order = np.argsort(kl.mean(0))
        axes.plot(
            kl.mean(0)[order], 100 * height.mean(0)[order], "o-", color=color, lw=1.8, ms=4.5, label=curve, zorder=3
        )
    axes.set_xlabel("KL to the SFT policy (nats)")
