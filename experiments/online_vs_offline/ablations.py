"""The three figures of run.py as SVG: win rates, win rate over accuracy, and win rate over KL along the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alignjax.evaluate.report.figures import BASELINE, INK, MUTED, PALETTE, STYLE, frame, svg

ONLINE, OFFLINE, REPLAYED = PALETTE[1], PALETTE[0], PALETTE[2]
PAIRS = {"accuracy_sft": "pairs of SFT samples", "accuracy_online": "pairs of the online policy's samples"}


def all_of(results: Mapping[str, Any], paths: Callable[[Sequence[Any], Mapping[str, str]], str]) -> dict[str, str]:
    """{name of the file: <svg>} of what run.py has found. paths: the figure of online_preference."""
    first = next(iter(results["rows"].values()))
    shown = {row["name"]: row["label"].replace("offline IPO on ", "") for row in first}
    return {
        "win_rates": win_rates(results["rows"]),
        "accuracy": accuracy([row for row in first if row["name"] not in ("sft", "human")]),
        "frontier": paths(results["along"], shown),
    }


def colour(name: str) -> str:
    """By where the completions of the training come from."""
    if name in ("shuffled", "in_order"):
        return REPLAYED
    return ONLINE if "online" in name else OFFLINE


def win_rates(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A line per policy: a small point per seed with its interval over posts, a large one for the mean."""
    rows = [(width, row) for width, table in tables.items() for row in table if row["name"] not in ("sft", "human")]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.9 + 0.34 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        frame(axes)
        axes.axvline(50, color=BASELINE, lw=0.9, ls=(0, (4, 3)), zorder=1)
        for place, (_, row) in enumerate(rows):
            _line(axes, place, row)
        first = next(iter(tables))
        names = [row["label"] + ("" if width == first else f", {width}") for width, row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        axes.set_xlabel("win rate against the SFT policy of the same width (%)")
        return svg(figure, "win-rates", "Win rate against the SFT policy, a line per policy")


def _line(axes: Axes, place: int, row: Mapping[str, Any]) -> None:
    seeds, own = [seed["win"] for seed in row["by_seed"]], colour(row["name"])
    for number, rate in enumerate(seeds):
        height = place + 0.18 * (number - (len(seeds) - 1) / 2)
        axes.plot([100 * rate["low"], 100 * rate["high"]], [height] * 2, color=own, lw=1, alpha=0.45, zorder=2)
        axes.plot(100 * rate["mean"], height, "o", color=own, ms=3, alpha=0.6, zorder=3)
    axes.plot(100 * row["mean"]["win"], place, "D", color=own, ms=6, mec="white", mew=0.8, zorder=4)


def accuracy(rows: Sequence[Mapping[str, Any]]) -> str:
    """Win rate over how often the implicit reward orders a held-out pair as the held-out judge does: a panel per kind
    of pairs."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (key, title) in zip(panels, PAIRS.items(), strict=True):
            frame(axes)
            axes.axhline(50, color=BASELINE, lw=0.9, ls=(0, (4, 3)), zorder=1)
            axes.axvline(50, color=BASELINE, lw=0.9, ls=(0, (4, 3)), zorder=1)
            for number, row in enumerate(rows, 1):
                x, y = 100 * row["mean"][key], 100 * row["mean"]["win"]
                bars = {"xerr": 100 * row["spread"][key], "yerr": 100 * row["spread"]["win"]}
                axes.errorbar(x, y, fmt="none", ecolor=colour(row["name"]), elinewidth=0.7, alpha=0.3, **bars)
                shown = f"{number}  {row['label']}" if key == "accuracy_sft" else None
                axes.plot(x, y, "o", color=colour(row["name"]), ms=11, mec="white", mew=0.8, zorder=4, label=shown)
                axes.text(x, y, str(number), ha="center", va="center_baseline", color="white", fontsize=6.5, zorder=5)
            axes.set_title(title, color=INK)
            axes.set_xlabel("accuracy of the implicit reward (%)")
        panels[0].set_ylabel("win rate against SFT (%)")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7.5, labelcolor=MUTED)
        return svg(figure, "accuracy", "Win rate over the accuracy of the implicit reward, a point per policy")
