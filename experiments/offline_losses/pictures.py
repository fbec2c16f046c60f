"""The two figures of run.py as SVG: win rate over KL, and how far chosen and rejected log-probs have moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from matplotlib.transforms import Bbox

from alignjax.evaluate.report.figures import BASELINE, INK, MUTED, PALETTE, STYLE, frame, svg

ANCHORED, FREE = PALETTE[0], PALETTE[1]  # losses with a reference, and without
# Where a name may stand: distance from its point, in points of type, nearest first.
PLACES = [
    (radius * np.cos(angle), radius * np.sin(angle))
    for radius in (9, 15, 23, 33)
    for angle in np.arange(16) * np.pi / 8
]


def both(results: Mapping[str, Any]) -> dict[str, str]:
    """{name of the file: <svg>} of what run.py has found."""
    shown = [_with_means(row) for row in results["rows"]]
    free = {name for name, hyper in results["losses"].items() if "reference" in hyper and hyper["reference"] is None}
    return {"frontier": _frontier(shown, free), "displacement": _displacement(shown, free)}


def _with_means(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the mean of every number and half the width of its interval over seeds, 0 for one seed."""
    halves = {key: float(np.nan_to_num(value["half"])) for key, value in row["over_seeds"].items()}
    return {"name": row["name"], "half": halves, "mean": {key: v["mean"] for key, v in row["over_seeds"].items()}}


def _frontier(rows: Sequence[Mapping[str, Any]], free: set[str]) -> str:
    with mpl.rc_context(STYLE):
        axes = _axes("KL to the SFT policy (nats per completion)", "gold win rate against SFT (%)")
        axes.axhline(50, color=BASELINE, lw=0.9, ls=(0, (4, 3)), zorder=1)
        # An estimate of a KL may be below 0, which has no place on a logarithmic axis; nor has an axis without points.
        inside = _shown(axes, rows, lambda row: row["mean"]["gold"] > 0.38 and row["mean"]["kl"] > 0, "kl", "gold", 100)
        if inside:
            axes.set_xscale("log")
        _points(axes, inside, free, "kl", "gold", 100)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        return svg(axes.figure, "frontier", "Win rate against the SFT policy over KL to it, a point per loss")


def _displacement(rows: Sequence[Mapping[str, Any]], free: set[str]) -> str:
    with mpl.rc_context(STYLE):
        axes = _axes(
            "change of log-prob of rejected completions (nats)", "change of log-prob of chosen completions (nats)"
        )
        inside = _shown(axes, rows, lambda row: row["mean"]["chosen"] > -15, "rejected", "chosen", 1)
        _points(axes, inside, free, "rejected", "chosen", 1)
        axes.autoscale(False)
        axes.axhline(0, color=BASELINE, lw=0.9, ls=(0, (4, 3)), zorder=1)
        axes.axvline(0, color=BASELINE, lw=0.9, ls=(0, (4, 3)), zorder=1)
        axes.axline((0, 0), slope=1, color=MUTED, lw=0.8, zorder=1)
        return svg(axes.figure, "displacement", "Change of chosen over change of rejected log-probs, a point per loss")


def _shown(
    axes: Axes, rows: Sequence[Mapping[str, Any]], inside: Callable[[Any], bool], x: str, y: str, factor: float
) -> list[Mapping[str, Any]]:
    """The rows that are drawn. The others, so far off that they would squeeze these together, are named in a line."""
    far = [f"{row['name']} ({row['mean'][x]:.0f}, {factor * row['mean'][y]:.0f})" for row in rows if not inside(row)]
    if far:
        axes.set_title(f"outside the frame: {', '.join(far)}", fontsize=7, fontweight="normal", color=MUTED)
    return [row for row in rows if inside(row)]


def _axes(across: str, up: str) -> Axes:
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    frame(axes)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.margins(0.09)
    return axes


def _points(axes: Axes, rows: Sequence[Mapping[str, Any]], free: set[str], x: str, y: str, factor: float) -> None:
    """Means over seeds; bars are 95 % intervals over seeds."""
    for colour, label, own in (
        (ANCHORED, "with a reference", [row for row in rows if row["name"] not in free]),
        (FREE, "without a reference", [row for row in rows if row["name"] in free]),
    ):
        if own:
            across, up = [row["mean"][x] for row in own], [factor * row["mean"][y] for row in own]
            bars = {"xerr": [row["half"][x] for row in own], "yerr": [factor * row["half"][y] for row in own]}
            axes.errorbar(across, up, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.3, **bars)
            axes.plot(across, up, "o", color=colour, ms=5.5, mec="white", mew=0.6, label=label, zorder=4)
    if not rows:
        return
    axes.legend(frameon=False, fontsize=8, loc="best")
    _names(axes, [(row["name"], row["mean"][x], factor * row["mean"][y]) for row in rows])


def _names(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Each name beside its point, where it covers least of the other names and points."""
    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    scale = axes.figure.dpi / 72  # pixels of a point of type
    where = axes.transData.transform([(x, y) for _, x, y in points])
    taken = [Bbox([centre - 4 * scale, centre + 4 * scale]) for centre in where]
    for number in np.argsort(where[:, 0]):
        name, x, y = points[number]
        size = _size(axes, name, canvas)
        boxes = [_box(where[number] + scale * np.array(place), size, place) for place in PLACES]
        costs = [
            sum(box.overlaps(other) for other in taken) + 10 * (not _within(box, axes.bbox)) + 0.01 * np.hypot(*place)
            for box, place in zip(boxes, PLACES, strict=True)
        ]
        best = int(np.argmin(costs))
        far = {"arrowstyle": "-", "color": MUTED, "lw": 0.4, "shrinkA": 0, "shrinkB": 2}
        arrow = far if np.hypot(*PLACES[best]) > 12 else None
        how = {"ha": _side(PLACES[best]), "va": "center", "fontsize": 6.5, "color": INK, "arrowprops": arrow}
        axes.annotate(name, (x, y), PLACES[best], textcoords="offset points", **how)
        taken.append(boxes[best])


def _size(axes: Axes, name: str, canvas: FigureCanvasAgg) -> np.ndarray:
    """Width and height of a name in pixels."""
    probe = axes.text(0, 0, name, fontsize=6.5)
    box = probe.get_window_extent(canvas.get_renderer())
    probe.remove()
    return np.array([box.width, box.height])


def _side(place: tuple[float, float]) -> str:
    return "left" if place[0] > 1 else "right" if place[0] < -1 else "center"


def _box(anchor: np.ndarray, size: np.ndarray, place: tuple[float, float]) -> Bbox:
    shift = {"left": 0.0, "center": 0.5, "right": 1.0}[_side(place)]
    low = anchor - size * np.array([shift, 0.5])
    return Bbox([low, low + size])


def _within(box: Bbox, frame: Any) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
