"""Figures as SVG strings: KL against win rate, and the win-rate heat map. Learning curves are in `learning_curves`.

Every figure is made with matplotlib's object interface (no pyplot, no global state), has a transparent background and
text drawn as paths (it looks the same everywhere), and gives each player the same color, from the color-blind-safe
palette of Okabe and Ito (2008): the baseline is gray, the human reference black.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignjax.evaluate.report import schema, wording

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7B5EA7", "#8C6D31")
BASELINE, HUMAN = "#7A7A7A", "#1A1A1A"
MARKERS = "osD^vPX*<>"
INK, MUTED, GRID, EMPTY = "#222222", "#5F6368", "#E3E5E8", "#F1F3F4"
# Orange loses, blue wins, white is even.
DIVERGING = LinearSegmentedColormap.from_list("win", ["#C8641B", "#F2C9A1", "#FFFFFF", "#A9CCE8", "#1F6FB0"])
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "path",
    "svg.hashsalt": "alignjax",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#9AA0A6",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def colors(results: schema.Results) -> dict[str, str]:
    """Assign one color to each player, in the order of the results; of several runs one to each run and its players."""
    others = [name for name in results["players"] if name not in (results["baseline"], schema.human(results))]
    chosen = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(results.get("runs") or others)}
    if results.get("runs"):
        chosen |= {name: chosen[run] for name in others if (run := schema.run_of(results, name)) is not None}
    if schema.human(results):
        chosen[str(schema.human(results))] = HUMAN
    return chosen | {results["baseline"]: BASELINE}


def markers(results: schema.Results, names: Iterable[str]) -> dict[str, str]:
    """Assign a marker to each player or curve: of several runs the same to those of one name, otherwise a circle.

    Args:
        results: The contents of results.json.
        names: The players or curves.
    """
    kinds: dict[str, str] = {}
    return {
        name: "o"
        if schema.run_of(results, name) is None
        else kinds.setdefault(name.rpartition(schema.SEPARATOR)[2], MARKERS[len(kinds) % len(MARKERS)])
        for name in names
    }


def short(results: schema.Results, player: str, size: int = 24) -> str:
    """Return a player's or stage's label, cut to what a picture has room for.

    Args:
        results: The contents of results.json.
        player: The player or stage.
        size: The most characters.
    """
    return cut(schema.label(results, player), size if schema.run_of(results, player) is None else 2 * size)


def cut(text: str, size: int = 24) -> str:
    """Return a text on one line, of at most `size` characters, with halves of surrogate pairs, which no font has,
    written out."""
    text = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= size else text[: size - 1] + "\N{HORIZONTAL ELLIPSIS}"


def shade(win_rate: float) -> tuple[str, str]:
    """Choose the background and text color of a win rate in the heat map and in the report's table."""
    red, green, blue, _ = DIVERGING(float(np.clip((win_rate - 0.5) / 0.8 + 0.5, 0, 1)))
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
    return to_hex((red, green, blue)), INK if light else "#FFFFFF"


def svg(figure: Figure, name: str, description: str) -> str:
    """Write a figure as an <svg> element: reproducible, with ids of its own (several stand in one page) and a
    description for screen readers.

    Args:
        figure: A matplotlib figure.
        name: What its ids begin with.
        description: What screen readers say.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    plain = description.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{plain}" ', 1)


def frontier_figure(results: schema.Results) -> str:
    """Draw win rate against the baseline (%) over KL to the reference (nats per completion): up and to the left is
    better. Bars are 95 % intervals; small points are other seeds; the human reference, which has no KL, is a line.

    Args:
        results: The contents of results.json.

    Returns:
        The figure as an <svg> element.
    """
    with mpl.rc_context(STYLE):
        figure, axes = over_kl(results)
        palette, shapes = colors(results), markers(results, results["players"])
        for player in [name for name in palette if name in shapes]:
            _frontier_point(axes, results, player, palette[player], shapes[player])
        axes.margins(x=0.1, y=0.14)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        columns = 2 if results.get("runs") else 3
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=8, labelcolor="linecolor")
        return svg(figure, "frontier", "Win rate against the baseline over KL to the reference, one point per player")


def over_kl(results: schema.Results) -> tuple[Figure, Axes]:
    """Begin a plot of win rates against the baseline (%) over KL to the reference, with a line where wins are even."""
    figure = Figure(figsize=(5.2, 4.1), layout="constrained")
    axes = figure.add_subplot()
    frame(axes)
    axes.axhline(50, color=BASELINE, lw=0.9, ls=(0, (4, 3)), zorder=1)
    axes.set_xlabel("KL to the reference (nats per completion)")
    axes.set_ylabel(f"win rate against {short(results, results['baseline'])} (%)")
    return figure, axes


def frame(axes: Axes) -> None:
    """Prepare the ground of every plot: a light grid and no ticks."""
    axes.grid(color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _frontier_point(axes: Axes, results: schema.Results, player: str, color: str, shape: str) -> None:
    """Draw one player with its intervals and its other seeds; the human reference, which has no KL, as a line."""
    baseline, kl = results["baseline"], results["players"][player].get("kl")
    rate, label = schema.rate(results, player, baseline), short(results, player)
    if player == baseline:
        axes.plot(0, 50, "o", color=color, ms=7, zorder=3, clip_on=False, label=label)
    elif rate is not None and kl is None and player == schema.human(results):
        axes.axhspan(100 * rate["low"], 100 * rate["high"], color=color, alpha=0.07, lw=0, zorder=0)
        axes.axhline(100 * rate["mean"], color=color, lw=1.1, zorder=1, label=label)
    elif rate is not None and kl is not None:
        for run in (results.get("by_seed") or {}).values():
            other = run["win_rates"].get(player, {}).get(baseline)
            other_kl = run.get("players", {}).get(player, {}).get("kl")
            if other and other_kl:
                axes.plot(other_kl["mean"], 100 * other["mean"], "o", color=color, ms=4, mew=0, alpha=0.45, zorder=2)
        style: dict[str, Any] = {"fmt": shape, "ms": 7.5, "elinewidth": 1.6, "mec": "white", "mew": 0.8, "zorder": 4}
        style |= {"mfc": "white", "mec": color, "mew": 1.4} if results["players"][player].get("control") else {}
        spans = {"xerr": bars([kl]), "yerr": bars([rate], 100)}
        axes.errorbar(kl["mean"], 100 * rate["mean"], **spans, color=color, label=label, **style)


def bars(rates: Sequence[Mapping[str, float]], factor: float = 1) -> list[list[float]]:
    """Return the lengths of error bars, below and above, of intervals times a factor."""
    sides = (("mean", "low"), ("high", "mean"))
    return [[max(rate[upper] - rate[lower], 0) * factor for rate in rates] for upper, lower in sides]


def win_rate_figure(results: schema.Results) -> str:
    """Draw the win-rate matrix as a heat map with numbers: the row's player against the column's, in %, with
    intervals.

    Args:
        results: The contents of results.json.

    Returns:
        The figure as an <svg> element.
    """
    # The figure grows with the number of players, so that a cell always has room for its number and interval; names
    # have the players' colors of the other figures and need no legend.
    rates, players = results["win_rates"], list(results["players"])
    count = len(players)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.7 + 1.02 * count, 0.75 + 0.62 * count), layout="constrained")
        axes = figure.add_subplot()
        for row, a in enumerate(players):
            for column, b in enumerate(players):
                _cell(axes, column, row, rates.get(a, {}).get(b))
        axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
        axes.xaxis.tick_top()
        palette = colors(results)
        axes.set_xticks(range(count), [short(results, player).replace(" ", "\n", 1) for player in players])
        axes.set_yticks(range(count), [short(results, player) for player in players])
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            for tick, player in zip(ticks, players, strict=True):
                tick.set(color=palette[player], fontweight="bold", fontsize=9)
        axes.tick_params(length=0)
        axes.set_title("win rate of the row against the column (%)", fontweight="normal", color=MUTED, pad=10)
        axes.spines[:].set_visible(False)
        return svg(figure, "win_rates", "Win rate of each row's player against each column's player, in per cent")


def _cell(axes: Axes, column: int, row: int, rate: Mapping[str, float] | None) -> None:
    ground, ink = shade(rate["mean"]) if rate else (EMPTY, INK)
    axes.fill_between([column - 0.48, column + 0.48], row - 0.46, row + 0.46, color=ground, lw=0)
    if rate is None:
        return
    axes.text(column, row - 0.08, f"{100 * rate['mean']:.1f}", ha="center", va="center", color=ink, fontsize=11)
    _, span = wording.interval_parts(rate, 1, 100)
    axes.text(column, row + 0.26, span, ha="center", va="center", color=ink, fontsize=7)
