"""Learning curves: read from metrics.jsonl, thinned for results.json, smoothed and drawn."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy import ndimage

from alignjax.evaluate.report import schema
from alignjax.evaluate.report.figures import INK, STYLE, colors, cut, frame, short, svg
from alignjax.evaluate.report.wording import capital
from alignjax.train.metrics import read_rows

# How metrics are labeled, and in this order which of them a report shows; others follow while there is room.
UNITS = {
    "loss": "loss",
    "nats_per_token": "loss (nats per token)",
    "accuracy": "accuracy (%)",
    "preference": "judge's preference (%)",
    "kl": "KL to reference (nats)",
    "log_ratio": "log-ratio to reference (nats)",
    "margin": "margin (nats)",
    "reward": "reward",
    "length": "length (tokens)",
    "finished": "finished completions (%)",
    "entropy": "entropy (nats per token)",
    "gradient_norm": "gradient norm",
    "judge_confidence": "judge's confidence (%)",
    "learning_rate": "learning rate",
    "chosen_logps": "log-prob of the preferred (nats)",
    "rejected_logps": "log-prob of the other (nats)",
}
HIDDEN = ("time/", "completion_tokens")  # of the machine, not of the learning: in results.json only
PANELS, COLUMNS = 6, 3  # of a group in a report, and in a row of the picture of all
SMOOTHING = 0.045  # standard deviation of the Gaussian, as a share of the number of values
Curve = tuple[str, str, Sequence[float], Sequence[float | None]]  # label, color, steps, values


def read_curves(
    path: Path, metrics: Sequence[str] | None = None, *, points: int = 300
) -> dict[str, dict[str, list[Any]]]:
    """Read the learning curves of a metrics.jsonl, for `curves[stage]` of the results.

    After a resume a step may stand twice: the later line counts. A last line cut short by a kill is skipped.

    Args:
        path: A metrics.jsonl.
        metrics: Metrics to take, in this order; by default all that are numbers.
        points: Longer curves are averaged in equal runs of steps down to this many.

    Returns:
        {metric: {"step": [..], "value": [..]}}.
    """
    rows: dict[int, dict[str, Any]] = {}
    for _, row in read_rows(Path(path)):
        rows.setdefault(row["step"], {}).update(row)
    names = list(dict.fromkeys(name for row in rows.values() for name in row if name != "step"))
    curves = {}
    for name in names if metrics is None else metrics:
        pairs = [(step, row[name]) for step, row in sorted(rows.items()) if _is_number(row.get(name))]
        if pairs:
            curves[name] = _thinned(pairs, points)
    return curves


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _thinned(pairs: list[tuple[int, float]], points: int) -> dict[str, list[Any]]:
    size = -(-len(pairs) // points)
    runs = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return {
        "step": [run[-1][0] for run in runs],
        "value": [schema.plain(sum(value for _, value in run) / len(run)) for run in runs],
    }


def smoothed(values: Sequence[float | None]) -> np.ndarray:
    """Take the local mean under a Gaussian whose width is SMOOTHING of the curve: centered, so that it does not lag
    behind a trend. Gaps (None, NaN) stay gaps.

    Args:
        values: One value per step of the curve.

    Returns:
        As many values.
    """
    raw = np.array(values, np.float64)  # None becomes NaN
    known = np.isfinite(raw)
    spread = functools.partial(ndimage.gaussian_filter1d, sigma=max(SMOOTHING * len(raw), 1e-3), mode="constant")
    weight = spread(known.astype(float))
    mean = spread(np.where(known, raw, 0)) / np.where(weight > 0, weight, 1)
    return np.where(known, mean, np.nan)


def kind(metric: str) -> str | None:
    """Find the entry of UNITS that a metric belongs to: "pair/accuracy" is an accuracy, "gradient_norm/policy" a
    gradient norm, "loss/pair" a loss."""
    return next((part for part in (metric, *metric.split("/")) if part in UNITS), None)


def axis_label(metric: str) -> str:
    """Say what a metric measures, with its unit where that is known, and whose samples it is of if not the policy's."""
    label = UNITS.get(kind(metric) or "", metric.replace("_", " ")[:40])
    stage, _, name = metric.rpartition("/")
    return f"{label}, {stage}" if name in ("length", "finished") and stage not in ("", "generate") else label


def shown(metrics: Mapping[str, list[Curve]]) -> dict[str, list[Curve]]:
    """Choose the metrics of one group that are worth a panel, best known first: none that never moves or is of the
    machine, none twice (a single loss and the total)."""
    order, chosen, seen = list(UNITS), {}, set()

    def rank(metric: str) -> tuple[int, bool]:
        return order.index(kind(metric) or "") if kind(metric) else len(order), metric not in order

    for metric in sorted(metrics, key=rank):
        values = [tuple(curve[3]) for curve in metrics[metric]]
        flat = all((len(curve) > 1 and len(set(curve)) == 1) or not any(curve) for curve in values)
        twice = kind(metric) in seen and kind(metric) in ("loss", "nats_per_token", "gradient_norm")
        if not (flat or twice or metric.startswith(HIDDEN)):
            chosen[metric] = metrics[metric]
            seen |= {kind(metric)} | ({"nats_per_token"} if kind(metric) == "loss" else set())
    return dict(list(chosen.items())[:PANELS])


def curve_groups(results: schema.Results) -> dict[str, dict[str, list[Curve]]]:
    """Group curves as {group: {metric: curves}}. Stages that train a player (other than the baseline) share their
    panels, for they do the same job in different ways; every other stage has panels of its own. Only metrics that are
    `shown`. Of several runs, those of one stage share their panels, a curve a run."""
    palette, groups = colors(results), {}
    for stage, metrics in results["curves"].items():
        player = stage in results["players"] and stage != results["baseline"]
        group = "Preference optimization" if player else capital(schema.label(results, stage))
        text, color, run = short(results, stage), palette.get(stage, INK), schema.run_of(results, stage)
        if run is not None:
            group = capital(stage.rpartition(schema.SEPARATOR)[2].replace("_", " "))
            text, color = cut(run), palette[run]
        for metric, curve in metrics.items():
            line = (text, color, curve["step"], curve["value"])
            groups.setdefault(group, {}).setdefault(metric, []).append(line)
    return {group: some for group, metrics in groups.items() if (some := shown(metrics))}


def draw_curves(axes: Axes, metric: str, curves: Sequence[Curve]) -> None:
    """Draw one panel: raw values faint, smoothed ones over them, a name for each if there are several.

    Args:
        axes: Where it is drawn.
        metric: The metric, which decides title and unit.
        curves: (label, color, steps, values) of each curve.
    """
    frame(axes)
    axes.set_title(axis_label(metric))
    factor = 100 if "(%)" in axis_label(metric) else 1
    for text, color, steps, values in curves:
        raw = np.array(values, np.float64) * factor
        smooth = smoothed(values) * factor
        if len(raw) > 20:
            axes.plot(steps, raw, color=color, lw=0.7, alpha=0.25)
        axes.plot(steps, smooth, color=color, lw=1.7, label=text, marker="o" if len(raw) == 1 else None)
        _limit(axes, smooth, raw)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8, loc="best", handlelength=1.2, labelcolor="linecolor")
    steps = {step for curve in curves for step in curve[2]}
    if len(steps) == 1:
        axes.set_xticks(list(steps))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("step")


def _limit(axes: Axes, smooth: np.ndarray, raw: np.ndarray) -> None:
    """Keep single wild values out of the scale, by bounding it to the smooth curve and the bulk of the raw one."""
    finite = raw[np.isfinite(raw)]
    if not finite.size:
        return
    low = min(np.quantile(finite, 0.01), np.nanmin(smooth))
    high = max(np.quantile(finite, 0.99), np.nanmax(smooth))
    pad = 0.06 * (high - low) or abs(high) * 0.05 or 0.5
    old = axes.get_ylim() if axes.get_autoscaley_on() is False else (np.inf, -np.inf)
    axes.set_ylim(min(low - pad, old[0]), max(high + pad, old[1]))


def curve_panel(group: str, metric: str, curves: Sequence[Curve]) -> str:
    """Draw one panel as an SVG of its own, for pages that arrange panels by the width there is.

    Args:
        group: The group of stages.
        metric: The metric.
        curves: (label, color, steps, values) of each curve.

    Returns:
        The figure as an <svg> element.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 2.35), layout="constrained")
        draw_curves(figure.add_subplot(), metric, curves)
        safe = re.sub(r"\W+", "-", f"curve-{group}-{metric}").lower()
        return svg(figure, safe, f"{group}: {axis_label(metric)} over training steps")


def curves_figure(results: schema.Results) -> str | None:
    """Draw all learning curves in one picture, a band per group of stages.

    Args:
        results: The contents of results.json.

    Returns:
        The figure as an <svg> element, or None when there are no curves.
    """
    groups = curve_groups(results)
    if not groups:
        return None
    rows = {group: -(-len(metrics) // COLUMNS) for group, metrics in groups.items()}
    heights = [2.15 * count + 0.32 for count in rows.values()]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.15 * COLUMNS, sum(heights)), layout="constrained")
        bands = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)
        for band, (group, metrics) in zip(bands.ravel(), groups.items(), strict=True):
            band.suptitle(group[:80], x=0.012, ha="left", fontweight="bold", fontsize=11)
            for index, (metric, curves) in enumerate(metrics.items()):
                draw_curves(band.add_subplot(rows[group], COLUMNS, index + 1), metric, curves)
        return svg(figure, "learning_curves", "Learning curves of every training stage")
