"""Builds the texts of report.html, which loads nothing, and of report.md: page.html and page.md lay out one set of
values; `write_report.py` writes the files."""

from __future__ import annotations

import functools
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from alignjax.evaluate.report import definitions, figures, learning_curves, schema, wording

# What pages of win rates and of judges link to.
PLAYED, JUDGED = {"interval", "win-rate", "kl"}, {"exploitability", "judge-accuracy", "agreement", "length-bias"}
SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$!])")


def escaped(text: str) -> str:
    """Escape any text to Markdown on one line that shows just this text."""
    return SPECIAL.sub(r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def fenced(text: str) -> str:
    """Put any text into a code block, in a fence longer than any inside it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.strip()}\n{fence}"


def _markdown_cell(cell: Any) -> str:
    """A text, escaped, or an interval on one line."""
    return escaped(cell) if isinstance(cell, str) else wording.interval_text(*cell)


def table_of(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lays out a table in Markdown, as report.md has it.

    Args:
        columns: The titles.
        rows: Cells: a text, or the arguments of `interval_parts`.
    """
    lines = [
        map(escaped, columns),
        ["---"] + ["---:"] * (len(columns) - 1),
        *(map(_markdown_cell, row) for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _parts(cell: Any) -> Any:
    """A text as it is, or the two parts of an interval."""
    return cell if isinstance(cell, str) else wording.interval_parts(*cell)


def _rendered(name: str, *, autoescape: bool, **values: Any) -> str:
    environment = jinja2.Environment(autoescape=autoescape, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": _markdown_cell, "fenced": fenced, "parts": _parts, "duration": wording.duration}
    template = files("alignjax.evaluate.report").joinpath(name).read_text(encoding="utf-8")
    # Halves of surrogate pairs, of JSON and of file names that are not UTF-8, have no bytes: they are written out.
    return environment.from_string(template).render(**values).encode("utf-8", "backslashreplace").decode()


def _values(results: schema.Results) -> dict[str, Any]:
    """What both pages show, in the words that the terminal uses too."""
    # What several values are made of comes first; of the definitions those that the page links to.
    columns, rows = wording.player_rows(results)
    players, splits = results["players"], results["data"].get("splits") or {}
    names = {player: schema.label(results, player) for player in players}
    curves = {
        group: {metric: definitions.of_curve(learning_curves.kind(metric)) for metric in metrics}
        for group, metrics in learning_curves.curve_groups(results).items()
    }
    alone = not results.get("runs")
    played = alone or any(results["win_rates"].values())
    anchors = {"wall-clock", *(anchor for row in curves.values() for anchor in row.values())}
    anchors |= {*PLAYED, *map(definitions.of_column, columns[1:])} if played else set()
    anchors |= JUDGED if alone else set()
    return {
        "results": results,
        "headline": results.get("headline") or wording.headline(results),
        "played": played,
        "tables": _tables(results),
        "label": functools.partial(schema.label, results),
        "names": names,
        "baseline": names[results["baseline"]],
        "matrix": [[names[a], *((schema.rate(results, a, b), 1, 100) for b in players)] for a in players],
        "scoring": wording.scoring(results),
        "columns": columns,
        "said_of": functools.partial(wording.said_of, results),
        "defined": definitions.of_column,
        "definitions": definitions.chosen(anchors),
        "rows": rows,
        "exploited": wording.exploit_rows(results),
        "seeds": wording.seed_rows(results),
        "judges": wording.judge_rows(results),
        "biases": wording.bias_rows(results),
        "data": wording.data_sentence(results),
        "splits": [[name, *(f"{split[key]:,}" for key in ("pairs", "packages"))] for name, split in splits.items()],
        "times": [[schema.label(results, name), wording.duration(time)] for name, time in results["seconds"].items()],
        "total": wording.duration(sum(results["seconds"].values())),
        "config": json.dumps(results["config"], indent=2, ensure_ascii=False),
    }


def _tables(results: schema.Results) -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables of texts that only reports on several runs, or on one that goes on, have: title, columns, rows."""
    titles = {"progress": "How far it is", "runs": "Runs", "differences": "What differs in the configs"}
    tables = []
    for key, title in titles.items():
        rows = results.get(key) or {}
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        if rows:
            cells = [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
            tables.append((title, ["", *columns], cells))
    return tables


def markdown_report(results: schema.Results, pictures: Mapping[str, str]) -> str:
    """Write the report as Markdown.

    Args:
        results: The contents of results.json.
        pictures: The names of the picture files beside it, by figure.
    """
    facts = [*results["versions"].items(), *((f"seed of {name}", str(seed)) for name, seed in results["seeds"].items())]
    facts += [(key, str(results[key])) for key in ("git", "command", "date", "device") if results.get(key)]
    return _rendered("page.md", autoescape=False, **_values(results), figures=pictures, facts=facts) + "\n"


def html_report(
    results: schema.Results,
    frontier_picture: str | None = None,
    over_optimization: str | None = None,
    *,
    refresh: int | None = None,
) -> str:
    """Render the report as one HTML page.

    Args:
        results: The contents of results.json.
        frontier_picture: The SVG of `figures.frontier_figure`; None where nobody has played.
        over_optimization: The SVG of `over_optimization_figure`, if there is one.
        refresh: After how many seconds a browser reads the page again; never if None.

    Returns:
        The page, which loads nothing.
    """
    # autoescape: samples hold whatever a model says. Only our own SVG and CSS are marked as safe.
    return _rendered(
        "page.html",
        autoescape=True,
        **_values(results),
        style=Markup("\n" + files("alignjax.evaluate.report").joinpath("page.css").read_text(encoding="utf-8")),
        facts=_facts(results),
        refresh=refresh,
        palette=figures.colors(results),
        ink=figures.INK,
        shade=figures.shade,
        frontier=Markup(frontier_picture or ""),
        over_optimization=Markup(over_optimization) if over_optimization else None,
        curves={
            group: [
                (
                    definitions.of_curve(learning_curves.kind(metric)),
                    Markup(learning_curves.curve_panel(group, metric, curves)),
                )
                for metric, curves in metrics.items()
            ]
            for group, metrics in learning_curves.curve_groups(results).items()
        },
        more_data={
            key.replace("_", " "): value
            for key, value in results["data"].items()
            if key not in ("pairs", "packages", "splits", "sentence") and isinstance(value, (str, int, float))
        },
        longest=max(results["seconds"].values(), default=0) or 1,
    )


def _facts(results: schema.Results) -> list[str]:
    """Collect the line under the title."""
    facts = [str(results[key]) for key in ("date", "device") if results.get(key)]
    if results["seconds"]:
        facts.append(wording.duration(sum(results["seconds"].values())))
    return [*facts, f"git {results['git'][:10]}"] if results.get("git") else facts
