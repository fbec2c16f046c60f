"""The picture of over-optimization: what the judge that decides and the learned one say of policies further and further
from the baseline."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from alignjax.evaluate.report import schema
from alignjax.evaluate.report.figures import INK, PALETTE, STYLE, bars, colors, markers, over_kl, svg
from alignjax.evaluate.report.wording import judge_name

DASHES = ("--", ":", "-.")  # of the judges beside the one that decides, whose line is solid


def over_optimization_figure(results: schema.Results) -> str | None:
    """Draw win rate against the baseline (%) over KL (nats), a line for every curve and judge: solid by the judge that
    decides, dashed by a learned one. Where they part, the policy pleases the learned judge and not the other.

    Args:
        results: The contents of results.json.

    Returns:
        The figure as an <svg> element, or None if nothing was measured.
    """
    curves = results.get("over_optimization") or {}
    if not curves:
        return None
    palette = {schema.label(results, player): color for player, color in colors(results).items()}
    shapes = markers(results, curves)
    judges = dict.fromkeys(judge for points in curves.values() for point in points for judge in point["win_rates"])
    in_order = sorted(judges, key=lambda judge: judge != "held_out")
    styles: dict[str, str] = dict(zip(in_order, ("-", *DASHES), strict=False))
    with mpl.rc_context(STYLE):
        figure, axes = over_kl(results)
        handles = []
        for index, (curve, points) in enumerate(curves.items()):
            color = palette.get(schema.run_of(results, curve) or curve, PALETTE[index % len(PALETTE)])
            _draw(axes, sorted(points, key=lambda point: point["kl"]["mean"]), styles, color, shapes[curve])
            handles.append(Line2D([], [], color=color, lw=1.7, label=curve, marker=shapes[curve], ms=5))
        handles += [
            Line2D([], [], color=INK, lw=1.7, ls=style, label=judge_name(results, judge))
            for judge, style in styles.items()
        ]
        axes.margins(x=0.1, y=0.12)
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        return svg(
            figure,
            "over_optimization",
            "Win rate by the deciding judge and by the learned one over KL to the reference",
        )


def _draw(axes: Axes, points: list[Any], styles: dict[str, str], color: str, shape: str) -> None:
    """One curve: a line per judge with its intervals, and the setting beside the deciding judge's points."""
    nats = [point["kl"]["mean"] for point in points]
    for judge, style in styles.items():
        rates = [point["win_rates"][judge] for point in points if judge in point["win_rates"]]
        if len(rates) < len(points):  # a judge that another run asked
            continue
        means = [100 * rate["mean"] for rate in rates]
        look: dict[str, Any] = {"marker": shape, "ms": 5.5, "lw": 1.7, "elinewidth": 1.2, "mec": "white", "mew": 0.7}
        axes.errorbar(
            nats, means, yerr=bars(rates, 100), color=color, ls=style, alpha=1 if style == "-" else 0.75, **look
        )
        if style == "-":
            for x, y, point in zip(nats, means, points, strict=True):
                axes.annotate(point["setting"], (x, y), xytext=(4, -10), textcoords="offset points", fontsize=6.5,
                              color=color)  # fmt: skip
