"""Figures as SVG strings: KL against win rate, and the win-rate heat map. Learning curves are in `learning_curves`.

Every figure is made with matplotlib's object interface (no pyplot, no global state), has a transparent background and
text drawn as paths (it looks the same everywhere), and gives each player the same colour, from the colour-blind-safe
palette of Okabe and Ito (2008): the baseline is grey, the human reference black.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from alignjax.evaluate.report import schema

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7B5EA7", "#8C6D31")
BASELINE, HUMAN = "#7A7A7A", "#1A1A1A"
INK, MUTED, GRID = "#222222", "#5F6368", "#E3E5E8"
DASH = " \u2013 "  # en dash
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

# Where a label may stand beside its point: offset in points, and which end of the text is there; the first is liked
# best.
SIDES = (
    (9, 5, "left"),
    (-9, 5, "right"),
    (9, -13, "left"),
    (-9, -13, "right"),
    (0, 22, "center"),
    (0, -30, "center"),
    (14, 16, "left"),
    (14, -26, "left"),
    (-14, -26, "right"),
)


def colours(results: schema.Results) -> dict[str, str]:
    """One colour for each player, in the order of the results."""
    others = [name for name in results["players"] if name not in (results["baseline"], schema.human(results))]
    chosen = {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(others)}
    if schema.human(results):
        chosen[str(schema.human(results))] = HUMAN
    return chosen | {results["baseline"]: BASELINE}


def short(results: schema.Results, player: str, size: int = 24) -> str:
    """A player's or stage's label, cut to what a picture has room for."""
    text = " ".join(schema.label(results, player).split())
    return text if len(text) <= size else text[: size - 1] + "\N{HORIZONTAL ELLIPSIS}"


def shade(win_rate: float) -> tuple[str, str]:
    """Background and text colour of a win rate in the heat map and in the report's table."""
    red, green, blue, _ = DIVERGING(float(np.clip((win_rate - 0.5) / 0.8 + 0.5, 0, 1)))
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
    return to_hex((red, green, blue)), INK if light else "#FFFFFF"


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an <svg> element: reproducible, with ids of its own (several stand in one page) and a description
    for screen readers."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    plain = description.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{plain}" ', 1)


def frontier_figure(results: schema.Results, name: str = "frontier") -> str:
    """Win rate against the baseline (%) over KL to the reference (nats per completion): up and to the left is better.
    Bars are 95 % intervals; small points are other seeds; the human reference, which has no KL, is a line."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.7), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        baseline = results["baseline"]
        frame(axes)
        axes.axhline(50, color=BASELINE, lw=0.9, ls=(0, (4, 3)), zorder=1)
        points = [
            point
            for player, colour in colours(results).items()
            if (point := _frontier_point(axes, results, player, colour))
        ]
        axes.set_xlabel("KL to the reference (nats per completion)")
        axes.set_ylabel(f"win rate against {short(results, baseline)} (%)")
        axes.margins(x=0.1, y=0.14)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        right = max((x for _, _, x, _ in points), default=1) or 1
        axes.set_xlim(min(-0.06 * right, _lowest(results)), axes.get_xlim()[1])
        _human_line(axes, results)
        figure.canvas.draw()
        _label_points(axes, points, results)
        return svg(figure, name, "Win rate against the baseline over KL to the reference, one point per player")


def frame(axes: Axes) -> None:
    """The ground of every plot: a light grid and no ticks."""
    axes.grid(color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def _lowest(results: schema.Results) -> float:
    """The left end of all bars: an estimate of a KL near 0 may be negative."""
    lows = [row["kl"]["low"] for row in results["players"].values() if row.get("kl")]
    highs = [row["kl"]["high"] for row in results["players"].values() if row.get("kl")]
    return min(lows, default=0) - 0.06 * max(highs, default=0) if min(lows, default=0) < 0 else 0.0


def _frontier_point(
    axes: Axes, results: schema.Results, player: str, colour: str
) -> tuple[str, str, float, float] | None:
    """Draw one player with its intervals and its other seeds; returns (label, colour, x, y) for the text."""
    baseline, kl = results["baseline"], results["players"][player].get("kl")
    rate = schema.rate(results, player, baseline)
    if player == baseline:
        axes.plot(0, 50, "o", color=colour, ms=7, zorder=3, clip_on=False)
        return short(results, player), colour, 0.0, 50.0
    if kl is None or rate is None:
        return None
    for run in (results.get("by_seed") or {}).values():
        other, other_kl = (
            run["win_rates"].get(player, {}).get(baseline),
            run.get("players", {}).get(player, {}).get("kl"),
        )
        if other and other_kl:
            axes.plot(other_kl["mean"], 100 * other["mean"], "o", color=colour, ms=4, mew=0, alpha=0.45, zorder=2)
    x, y = kl["mean"], 100 * rate["mean"]
    axes.errorbar(
        x,
        y,
        xerr=_bars(kl),
        yerr=_bars(rate, 100),
        fmt="o",
        color=colour,
        ms=7.5,
        elinewidth=1.6,
        mec="white",
        mew=0.8,
        zorder=4,
    )
    return short(results, player), colour, x, y


def _bars(rate: Mapping[str, float], factor: float = 1) -> list[list[float]]:
    return [[max(rate["mean"] - rate["low"], 0) * factor], [max(rate["high"] - rate["mean"], 0) * factor]]


def _human_line(axes: Axes, results: schema.Results) -> None:
    human = schema.human(results)
    rate = schema.rate(results, human, results["baseline"]) if human else None
    if human is None or rate is None or results["players"][human].get("kl"):
        return
    axes.axhspan(100 * rate["low"], 100 * rate["high"], color=HUMAN, alpha=0.07, lw=0, zorder=0)
    axes.axhline(100 * rate["mean"], color=HUMAN, lw=1.1, zorder=1)
    axes.annotate(
        short(results, human),
        (1, 100 * rate["mean"]),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 4),
        textcoords="offset points",
        ha="right",
        color=HUMAN,
        fontweight="bold",
    )


def _label_points(axes: Axes, points: Sequence[tuple[str, str, float, float]], results: schema.Results) -> None:
    """Write each player's name beside its point, on the side where it covers least of what is drawn."""
    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()
    taken = [text.get_window_extent(renderer) for text in axes.texts] + _drawn(axes, results)
    for text, colour, x, y in points:
        best, best_cost = None, np.inf
        for rank, (dx, dy, side) in enumerate(SIDES):
            note = axes.annotate(
                text, (x, y), xytext=(dx, dy), textcoords="offset points", ha=side, color=colour, fontweight="bold"
            )
            box = note.get_window_extent(renderer)
            outside = not (axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0)
            cost = 10 * outside + sum(box.overlaps(other) for other in taken) + 0.01 * rank
            if cost < best_cost:
                if best is not None:
                    best.remove()
                best, best_cost = note, cost
            else:
                note.remove()
        assert best is not None
        taken.append(best.get_window_extent(renderer))


def _drawn(axes: Axes, results: schema.Results) -> list[Bbox]:
    """Boxes in pixels of every bar and point of the frontier."""
    baseline, boxes = results["baseline"], []
    runs = [results, *(results.get("by_seed") or {}).values()]
    for main, run in ((run is results, run) for run in runs):
        for player, row in run.get("players", {}).items():
            rate, kl = run["win_rates"].get(player, {}).get(baseline), row.get("kl")
            if rate is None or kl is None:
                continue
            ends = [((kl["mean"], rate["mean"]),) * 2]
            if main:
                ends.append(((kl["low"], rate["mean"]), (kl["high"], rate["mean"])))
                ends.append(((kl["mean"], rate["low"]), (kl["mean"], rate["high"])))
            for one, two in ends:
                corners = axes.transData.transform([(x, 100 * y) for x, y in (one, two)])
                boxes.append(Bbox(corners).padded(6 if main and one == two else 3))
    return boxes


def win_rate_figure(results: schema.Results, name: str = "win_rates") -> str:
    """The win-rate matrix as a heat map with numbers: the row's player against the column's, in %, with intervals."""
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
        palette = colours(results)
        axes.set_xticks(range(count), [short(results, player).replace(" ", "\n", 1) for player in players])
        axes.set_yticks(range(count), [short(results, player) for player in players])
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            for tick, player in zip(ticks, players, strict=True):
                tick.set(color=palette[player], fontweight="bold", fontsize=9)
        axes.tick_params(length=0)
        axes.set_title("win rate of the row against the column (%)", fontweight="normal", color=MUTED, pad=10)
        axes.spines[:].set_visible(False)
        return svg(figure, name, "Win rate of each row's player against each column's player, in per cent")


def _cell(axes: Axes, column: int, row: int, rate: Mapping[str, float] | None) -> None:
    if rate is None:
        axes.fill_between([column - 0.48, column + 0.48], row - 0.46, row + 0.46, color="#F1F3F4", lw=0)
        return
    ground, ink = shade(rate["mean"])
    axes.fill_between([column - 0.48, column + 0.48], row - 0.46, row + 0.46, color=ground, lw=0)
    axes.text(column, row - 0.08, f"{100 * rate['mean']:.1f}", ha="center", va="center", color=ink, fontsize=11)
    span = f"{100 * rate['low']:.1f}{DASH}{100 * rate['high']:.1f}"
    axes.text(column, row + 0.26, span, ha="center", va="center", color=ink, fontsize=7)
