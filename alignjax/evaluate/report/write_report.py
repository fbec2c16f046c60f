"""Reports: results.json to report.html, report.md and figures, and the table that a terminal ends with.

Everything shown comes from the results, whose schema stands in `schema.py`, so that a report can be made
again at any time (`rebuild`, the command `alignjax report RUN_DIR`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignjax.evaluate.report import figures, learning_curves, schema
from alignjax.evaluate.report.over_optimization_figure import over_optimization_figure
from alignjax.evaluate.report.pages import html_report, markdown_report
from alignjax.evaluate.report.wording import DASH, headline, interval_parts, interval_text, player_rows
from alignjax.outside import visible

COMPACT = ("player", "win rate", "vs", "KL to", "ROUGE", "length")  # columns of the terminal's table
LONGEST = 200  # characters of a text in the terminal


def write_report(results: schema.Results, folder: Path | str) -> dict[str, Path]:
    """Validate results and write `results.json`, `report.html` (self-contained), `report.md` and its figures.

    Args:
        results: The contents of results.json.
        folder: A run folder, made if need be.

    Returns:
        {"results", "html", "markdown", "frontier", "win_rates", "learning_curves": path}; "learning_curves" only if
        there are any.

    Raises:
        ResultsError: Naming what is missing, before anything is written.
    """
    results = schema.plain(results)
    schema.validate(results)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    schema.save(results, folder / "results.json")
    return _render(results, folder)


def rebuild(folder: Path | str) -> dict[str, Path]:
    """Render the report of a run folder again from its results.json.

    Args:
        folder: A run folder.

    Returns:
        The paths that `write_report` returns.

    Raises:
        ResultsError: If there is no results.json, or a wrong one.
    """
    return _render(schema.load(Path(folder)), Path(folder))


def _render(results: schema.Results, folder: Path) -> dict[str, Path]:
    played = not results.get("runs") or any(results["win_rates"].values())
    pictures = {
        "frontier": figures.frontier_figure(results) if played else None,
        "win_rates": None if results.get("runs") else figures.win_rate_figure(results),
        "over_optimization": over_optimization_figure(results),
        "learning_curves": learning_curves.curves_figure(results),
    }
    paths = {"results": folder / "results.json", "html": folder / "report.html", "markdown": folder / "report.md"}
    for name, picture in pictures.items():
        if picture is not None:
            paths[name] = folder / f"{name}.svg"
            # On their own, pictures get a white ground: a README may be shown on a dark one.
            on_white = picture.replace("<svg ", '<svg style="background:#ffffff" ', 1)
            paths[name].write_text('<?xml version="1.0" encoding="utf-8"?>\n' + on_white, encoding="utf-8")
    paths["html"].write_text(
        html_report(results, pictures["frontier"], pictures["over_optimization"]), encoding="utf-8"
    )
    shown = {name: path.name for name, path in paths.items() if path.suffix == ".svg"}
    paths["markdown"].write_text(markdown_report(results, shown), encoding="utf-8")
    return paths


def terminal_table(results: schema.Results, console: Console) -> None:
    """Print the headline, what warns of it, one line per player (win rate against the baseline and the human, KL,
    ROUGE-L, length; of tasks with exact measures the first of these, ties and the learned judge's view), what it cost,
    and one prompt with everybody's answer.

    Args:
        results: The contents of results.json.
        console: Where it is printed.
    """
    columns, rows = player_rows(results)
    table = Table(header_style="bold", pad_edge=False, box=None)
    shown = _shown(results, columns)
    for index in shown:
        table.add_column(_terminal_title(columns[index]), justify="right" if index else "left", no_wrap=index == 0)
    for cells in rows:
        table.add_row(*(Text(_terminal_cell(columns[index], cells[index])) for index in shown))
    console.print()
    console.print(results.get("headline") or headline(results), style="bold", markup=False, highlight=False)
    for warning in (*filter(None, [results.get("weights")]), *(results.get("warnings") or [])):
        console.print(warning, markup=False, highlight=False)
    console.print()
    console.print(table)
    if budgets := results.get("budgets"):
        console.print()
        console.print("; ".join(f"{count:,} {what}" for what, count in budgets.items()), markup=False, highlight=False)
    for sample in results["samples"][:1]:
        console.print()
        console.print(_answers(results, sample))


def _answers(results: schema.Results, sample: Any) -> Table:
    """One prompt and everybody's answer, long texts cut."""
    grid = Table(show_header=False, pad_edge=False, box=None)
    answers = {schema.label(results, player): text for player, text in sample["outputs"].items()}
    for name, text in {"prompt": sample["post"], **answers}.items():
        line = visible(" ".join(text.split()))
        grid.add_row(Text(visible(name), style="bold"), Text(line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."))
    return grid


def _shown(results: schema.Results, columns: Sequence[str]) -> list[int]:
    """Which columns have room in a terminal."""
    gold = [measure["label"] for measure in (results.get("measures") or {}).values()][:1]
    if gold:
        kinds = ("player", *gold, "win rate", "ties", "KL to")
        return [i for i, column in enumerate(columns) if column.startswith(kinds) or " by " in column]
    return [i for i, column in enumerate(columns) if column.startswith(COMPACT) and " by " not in column]


def _terminal_title(column: str) -> str:
    if " by the " in column:
        column = column[column.index("by the ") :].replace("the ", "")
    for long, narrow in (("win rate vs", "vs"), (" to ref.", ""), ("length (words)", "words")):
        column = column.replace(long, narrow)
    return column


def _terminal_cell(column: str, cell: Any) -> str:
    """Intervals of the win rates only, and no spaces in them, so that the table fits 80 columns."""
    if isinstance(cell, str):
        return cell
    wide = column.startswith(("win rate", "vs")) and " by the " not in column
    return interval_text(*cell).replace(f" {DASH} ", DASH) if wide else interval_parts(*cell)[0]
