"""report.html: one file with its styles and pictures inside, that loads nothing."""

from __future__ import annotations

import json
from typing import Any

import jinja2
from markupsafe import Markup

from alignjax.evaluate.report import figures, learning_curves, schema
from alignjax.evaluate.report.template import STYLE, TEMPLATE
from alignjax.evaluate.report.wording import (
    data_sentence,
    duration,
    exploit_rows,
    headline,
    interval_parts,
    judge_name,
    player_rows,
    scoring,
    seed_rows,
)

# autoescape: samples hold whatever a model says. Only our own SVG and CSS are marked as safe.
ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


def html_report(results: schema.Results, frontier_picture: str) -> str:
    """The report as one HTML page; frontier_picture: the SVG of `figures.frontier_figure`."""
    palette = figures.colours(results)
    columns, rows = player_rows(results)
    config = json.dumps(results["config"], indent=2, ensure_ascii=False)
    return ENVIRONMENT.from_string(TEMPLATE).render(
        style=Markup(STYLE),
        results=results,
        headline=headline(results),
        facts=_facts(results),
        names={player: schema.label(results, player) for player in results["players"]},
        palette=palette,
        baseline=schema.label(results, results["baseline"]),
        matrix=_matrix(results),
        scoring=scoring(results),
        columns=columns,
        rows=[
            (player, [cell if isinstance(cell, str) else interval_parts(*cell) for cell in cells])
            for player, cells in zip(results["players"], rows, strict=True)
        ],
        exploited=[(player, by, *interval_parts(rate, 1, 100)) for player, by, rate in exploit_rows(results)],
        seeds=seed_rows(results),
        frontier=Markup(frontier_picture),
        curves=_panels(results),
        samples=[_sample(results, sample, palette) for sample in results["samples"]],
        judges=_judges(results),
        agreement=interval_parts(results["agreement"], 1, 100) if results.get("agreement") else None,
        biases=[
            (schema.label(results, name) if name else "all pairs", *interval_parts(bias, 2))
            for name, bias in schema.length_biases(results).items()
        ],
        data=data_sentence(results),
        splits=results["data"].get("splits") or {},
        more_data={
            key.replace("_", " "): value
            for key, value in results["data"].items()
            if key not in ("pairs", "packages", "splits") and isinstance(value, (str, int, float))
        },
        times=_times(results),
        total=duration(sum(results["seconds"].values())),
        config=config,
    )


def _facts(results: schema.Results) -> list[str]:
    """The line under the title."""
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
    """The post, and (name, colour, text) of each output in the order of the players, unknown players last."""
    outputs = sample["outputs"]
    order = [player for player in results["players"] if player in outputs]
    order += [player for player in outputs if player not in order]
    shown = [(schema.label(results, player), palette.get(player, figures.INK), outputs[player]) for player in order]
    return {"post": sample["post"].strip(), "outputs": shown}


def _judges(results: schema.Results) -> list[tuple[str, str, str, str]]:
    return [
        (
            judge_name(results, name).removeprefix("the "),
            *interval_parts(judge.get("accuracy"), 1, 100),
            judge.get("note") or "",
        )
        for name, judge in results["judges"].items()
    ]


def _times(results: schema.Results) -> list[tuple[str, str, float]]:
    """(stage, duration, share of the longest in %)."""
    longest = max(results["seconds"].values(), default=0) or 1
    return [
        (schema.label(results, stage), duration(seconds), 100 * seconds / longest)
        for stage, seconds in results["seconds"].items()
    ]
