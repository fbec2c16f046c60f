"""Means over seeds with their intervals, and comparisons settled beforehand, corrected for their number: what all
experiments on exact tasks report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from alignjax.cli import overrides
from alignjax.cli.compile_cache import keep_compiled_programs
from alignjax.config import Pipeline
from alignjax.evaluate.report.figures import BASELINE, PALETTE, STYLE, frame, svg
from alignjax.train.pipeline import run_pipeline
from alignjax.workspace import Workspace

Summary = dict[str, float]


def trained(pipeline: Pipeline, seed: int, folder: Path) -> Workspace:
    """Runs the steps of a seed that are not there yet, an interrupted one from its checkpoint. Experiments that are
    given one folder share its steps of one name, which are refused if they are not the same."""
    keep_compiled_programs()
    place = Workspace(folder / f"seed-{seed}")
    run_pipeline(overrides.apply(pipeline, ["--seed", str(seed)]), place, resume=True, console=Console(width=120))
    return place


def read(place: Workspace, step: str, file: str) -> Any:
    """What a step has written."""
    return json.loads((place.of(step).folder / file).read_text())


def over_seeds(values: Sequence[float | None]) -> Summary | None:
    """Return the mean over seeds and half the width of its 95 % interval by Student's t; None where there is none."""
    numbers = np.asarray([value for value in values if value is not None], float)
    if not numbers.size or len(numbers) < len(values):
        return None
    many = numbers.size > 1
    half = float(stats.t.ppf(0.975, numbers.size - 1) * stats.sem(numbers)) if many else float("nan")
    return {"mean": float(numbers.mean()), "half": half}


def compared(gaps: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Return, for each comparison, the mean of its differences, paired by seed, with its interval and its two-sided p
    value by Student's t, of which Holm's correction decides over all of them, the smallest p first.

    gaps: {what is claimed to be above 0: its value in every seed}.
    """
    rows: list[dict[str, Any]] = []
    for claim, values in gaps.items():
        p = float(stats.ttest_1samp(values, 0).pvalue) if len(values) > 1 else float("nan")
        p = p if any(values) else 1.0  # no difference in any seed, of which t is 0 / 0
        rows.append({"claim": claim, "by_seed": list(values), **(over_seeds(values) or {}), "p": p})
    rows.sort(key=lambda row: row["p"])
    rejected = True
    for number, row in enumerate(rows):
        row["threshold"] = 0.05 / (len(rows) - number)
        rejected = rejected and row["p"] < row["threshold"]
        row["verdict"] = "not shown" if not rejected else "holds" if row["mean"] > 0 else "the opposite holds"
    return rows


def number(summary: Mapping[str, float] | None, scale: float, digits: int) -> str:
    """A mean with half the width of its interval; a dash where there is none."""
    if summary is None:
        return "-"
    half = "" if np.isnan(summary["half"]) else f" ± {scale * summary['half']:.{digits}f}"
    return f"{scale * summary['mean']:.{digits}f}{half}"


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay a table out."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def claims_table(rows: Sequence[Mapping[str, Any]], points: Callable[[str], str] = str) -> str:
    """Lay the comparisons out, in per cent."""
    lines = [
        [points(row["claim"]), " ".join(f"{100 * gap:+.1f}" for gap in row["by_seed"]), number(row, 100, 1),
         f"{row['p']:.2g}", f"{row['threshold']:.3f}", row["verdict"]]
        for row in rows
    ]  # fmt: skip
    return markdown(["claim", "by seed", "points", "p", "needed by Holm", ""], lines)


def dots(rows: Mapping[str, Sequence[float | None]], what: str, name: str, described: str) -> str:
    """Draw a line per row: a small dot per seed, and a diamond with the interval over seeds (%)."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 0.9 + 0.3 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        frame(axes)
        for place, values in enumerate(rows.values()):
            color, summary = PALETTE[place % len(PALETTE)], over_seeds(values)
            if summary is None:
                continue
            seeds = [100 * value for value in values if value is not None]
            axes.plot(seeds, [place + 0.22] * len(seeds), "o", color=color, ms=3, alpha=0.6, zorder=3)
            bar = None if np.isnan(summary["half"]) else 100 * summary["half"]
            axes.errorbar(100 * summary["mean"], place, xerr=bar, fmt="D", color=color, ms=5.5, mec="white", zorder=4)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.grid(axis="x", color=BASELINE, alpha=0.2)
        axes.set_xlabel(what)
        return svg(figure, name, described)
