"""Builds the text of report.html, which loads nothing, of page.html and page.css; `write_report.py` writes the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from alignjax.evaluate.report import figures, learning_curves, schema
from alignjax.evaluate.report.wording import (
    bias_rows,
    data_sentence,
    duration,
    exploit_rows,
    headline,
    interval_parts,
    judge_rows,
    player_rows,
    scoring,
    seed_rows,
)

# autoescape: samples hold whatever a model says. Only our own SVG and CSS are marked as safe.
ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


def html_report(results: schema.Results, frontier_picture: str) -> str:
    """Render the report as one HTML page.

    Args:
        results: The contents of results.json.
        frontier_picture: The SVG of `figures.frontier_figure`.

    Returns:
        The page, which loads nothing.
    """
    # page.html does the layout; here its values are put together, in the words that Markdown and terminal use too.
    palette = figures.colors(results)
    columns, rows = player_rows(results)
    folder = files("alignjax.evaluate.report")
    return ENVIRONMENT.from_string(folder.joinpath("page.html").read_text(encoding="utf-8")).render(
        style=Markup("\n" + folder.joinpath("page.css").read_text(encoding="utf-8")),
        results=results,
        headline=headline(results),
        facts=_facts(results),
        names={player: schema.label(results, player) for player in results["players"]},
        palette=palette,
        baseline=schema.label(results, results["baseline"]),
        matrix=_matrix(results),
        scoring=scoring(results),
        columns=columns,
        rows=[(player, _parts(cells)) for player, cells in zip(results["players"], rows, strict=True)],
        exploited=[_parts(cells) for cells in exploit_rows(results)],
        seeds=seed_rows(results),
        frontier=Markup(frontier_picture),
        curves=_panels(results),
        samples=[_sample(results, sample, palette) for sample in results["samples"]],
        judges=[_parts(cells) for cells in judge_rows(results)],
        agreement=interval_parts(results["agreement"], 1, 100) if results.get("agreement") else None,
        biases=[_parts(cells) for cells in bias_rows(results)],
        data=data_sentence(results),
        splits=results["data"].get("splits") or {},
        more_data={
            key.replace("_", " "): value
            for key, value in results["data"].items()
            if key not in ("pairs", "packages", "splits") and isinstance(value, (str, int, float))
        },
        times=_times(results),
        total=duration(sum(results["seconds"].values())),
        config=json.dumps(results["config"], indent=2, ensure_ascii=False),
    )


def _parts(cells: Sequence[Any]) -> list[Any]:
    """Cells of a row as the template shows them: a text, or the two parts of an interval."""
    return [cell if isinstance(cell, str) else interval_parts(*cell) for cell in cells]


def _facts(results: schema.Results) -> list[str]:
    """Collect the line under the title."""
    facts = [str(results[key]) for key in ("date", "device") if results.get(key)]
    if results["seconds"]:
        facts.append(duration(sum(results["seconds"].values())))
    if results.get("git"):
        facts.append(f"git {results['git'][:10]}")
    return facts


def _matrix(results: schema.Results) -> list[tuple[str, list[Any]]]:
    """Rows (player, cells); a cell is None or {"mean", "span", "ground", "ink"}."""
    rows = []
    for a in results["players"]:
        cells: list[Any] = []
        for b in results["players"]:
            rate = schema.rate(results, a, b)
            if rate is None:
                cells.append(None)
                continue
            mean, span = interval_parts(rate, 1, 100)
            ground, ink = figures.shade(rate["mean"])
            cells.append({"mean": mean, "span": span, "ground": ground, "ink": ink})
        rows.append((a, cells))
    return rows


def _panels(results: schema.Results) -> dict[str, list[Markup]]:
    return {
        group: [Markup(learning_curves.curve_panel(group, metric, curves)) for metric, curves in metrics.items()]
        for group, metrics in learning_curves.curve_groups(results).items()
    }


def _sample(results: schema.Results, sample: Any, palette: dict[str, str]) -> dict[str, Any]:
    """Collect the post, and (name, color, text) of each output in the order of the players, unknown players last."""
    outputs = sample["outputs"]
    order = [player for player in results["players"] if player in outputs]
    order += [player for player in outputs if player not in order]
    shown = [(schema.label(results, player), palette.get(player, figures.INK), outputs[player]) for player in order]
    return {"post": sample["post"].strip(), "outputs": shown}


def _times(results: schema.Results) -> list[tuple[str, str, float]]:
    """Collect (stage, duration, share of the longest in %)."""
    longest = max(results["seconds"].values(), default=0) or 1
    return [
        (schema.label(results, stage), duration(seconds), 100 * seconds / longest)
        for stage, seconds in results["seconds"].items()
    ]
