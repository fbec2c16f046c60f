"""The two figures of run.py as SVG: win rate over KL along the training, and the matrix of win rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alignjax.evaluate.report import figures
from alignjax.evaluate.report.figures import BASELINE, INK, PALETTE, STYLE, frame, svg

TITLES = {"held_out": "held-out judge", "training": "judge that they were trained with"}
MARKERS = "osD^vPX*h<>"


def both(results: Mapping[str, Any]) -> dict[str, str]:
    """{name of the file: <svg>} of what run.py has found."""
    players = {row["name"]: {"label": row["label"]} for row in results["rows"]}
    found = {"players": players, "win_rates": results["win_rates"], "baseline": "sft"}
    labels = {row["name"]: row["label"] for row in results["rows"]}
    return {"frontier": paths(results["along"], labels), "win_rates": figures.win_rate_figure(found, "matrix")}


def paths(seeds: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> str:
    """A line per policy through its checkpoints, means over seeds: a panel per judge, and bars of the spread over seeds
    at the last checkpoint."""
    names = list(seeds[0])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.3), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharex=True)
        for axes, judge in zip(panels, TITLES, strict=True):
            _panel(axes, seeds, names, labels, judge)
        handles, shown = panels[0].get_legend_handles_labels()
        columns = -(-len(names) // (1 if len(names) < 5 else 2))
        figure.legend(handles, shown, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
        return svg(figure, "frontier", "Win rate against the SFT policy over KL to it, a line per method")


def _panel(
    axes: Axes, seeds: Sequence[Mapping[str, Any]], names: Sequence[str], labels: Mapping[str, str], judge: str
) -> None:
    frame(axes)
    axes.axhline(50, color=BASELINE, lw=0.9, ls=(0, (4, 3)), zorder=1)
    for number, name in enumerate(names):
        colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
        kl, win = (np.array([[point[key]["mean"] for point in one[name].values()] for one in seeds])
                   for key in ("kl", judge))  # fmt: skip
        x, y = [0, *kl.mean(0)], [50, *(100 * win.mean(0))]
        axes.plot(x, y, "-", color=colour, lw=1.2, alpha=0.8, zorder=3)
        axes.plot(x[1:-1], y[1:-1], marker, color=colour, ms=3, zorder=3)
        axes.plot(x[-1], y[-1], marker, color=colour, ms=7, mec="white", mew=0.7, zorder=5, label=labels[name])
        if len(seeds) > 1:
            bars = {"xerr": kl[:, -1].std(ddof=1), "yerr": 100 * win[:, -1].std(ddof=1)}
            axes.errorbar(x[-1], y[-1], fmt="none", ecolor=colour, elinewidth=0.7, alpha=0.35, zorder=2, **bars)
    axes.set_xscale("function", functions=(_root, lambda x: x * np.abs(x)))
    axes.set_xlabel("KL to the SFT policy (nats per completion, on a root scale)")
    axes.set_ylabel("win rate against SFT (%)")
    axes.set_title(TITLES[judge], color=INK)


def _root(kl: np.ndarray) -> np.ndarray:
    """Small steps of a policy are proportional to it. An estimate near 0 may be negative."""
    return np.sign(kl) * np.sqrt(np.abs(kl))
