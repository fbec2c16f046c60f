"""report.md: tables and links to the figures beside it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.evaluate.report import schema
from alignjax.evaluate.report.wording import (
    bias_rows,
    data_sentence,
    duration,
    exploit_rows,
    headline,
    interval_text,
    judge_rows,
    player_rows,
    scoring,
    seed_rows,
)

SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$!])")


def escaped(text: str) -> str:
    """Escape any text to Markdown on one line that shows just this text."""
    return SPECIAL.sub(r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def fenced(text: str) -> str:
    """Put any text into a code block, in a fence longer than any inside it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.strip()}\n{fence}"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write a Markdown table whose first column is text; cells are strings or arguments of `interval_text`.

    Args:
        columns: The titles.
        rows: The cells of each row, one per column.
    """
    lines = [[escaped(column) for column in columns], ["---"] + ["---:"] * (len(columns) - 1)]
    lines += [[escaped(cell) if isinstance(cell, str) else interval_text(*cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_report(results: schema.Results, figures: Mapping[str, str]) -> str:
    """Write the report as Markdown.

    Args:
        results: The contents of results.json.
        figures: The names of the picture files beside it, by figure.
    """
    parts = [f"# {escaped(results['title'])}", f"**{escaped(headline(results))}**"]
    parts += [escaped(note) for note in results.get("notes") or []]
    parts += _win_rates(results, figures)
    parts += _curves(figures)
    parts += _samples(results)
    parts += _background(results)
    return "\n\n".join(parts) + "\n"


def _win_rates(results: schema.Results, figures: Mapping[str, str]) -> list[str]:
    players = list(results["players"])
    names = [schema.label(results, player) for player in players]
    matrix = [
        [name, *((schema.rate(results, a, b), 1, 100) for b in players)] for a, name in zip(players, names, strict=True)
    ]
    parts = [
        "## Win rates",
        f"The row's player against the column's, in %, with 95 % bootstrap intervals over prompts. {scoring(results)}",
        table(["", *names], matrix),
        "## Players",
        table(*player_rows(results)),
    ]
    parts += [f"![KL to the reference against win rate]({figures['frontier']})"] if "frontier" in figures else []
    exploited = exploit_rows(results)
    if exploited:
        parts += ["Exploitability within this pool, the opponent that does best against each player:"]
        parts += [table(["player", "best opponent", "its win rate (%)"], exploited)]
    columns, rows = seed_rows(results)
    if rows:
        base = schema.label(results, results["baseline"])
        parts += [f"Spread over seeds of the win rate against {escaped(base)} (%):", table(columns, rows)]
    return parts


def _curves(figures: Mapping[str, str]) -> list[str]:
    name = figures.get("learning_curves")
    return ["## Learning curves", f"![Learning curves]({name})"] if name else []


def _samples(results: schema.Results) -> list[str]:
    parts = ["## Samples"] if results["samples"] else []
    for index, sample in enumerate(results["samples"], 1):
        parts += [f"### {index}", fenced(sample["post"])]
        parts += ["\n".join(_outputs(results, sample["outputs"]))]
    return parts


def _outputs(results: schema.Results, outputs: Mapping[str, str]) -> list[str]:
    return [
        f"- **{escaped(schema.label(results, player))}**: {escaped(text) or '*empty*'}"
        for player, text in outputs.items()
    ]


def _background(results: schema.Results) -> list[str]:
    parts = ["## Judges", table(["judge", "accuracy on held-out pairs (%)", "note"], judge_rows(results))]
    if results.get("agreement"):
        parts += [f"The judges prefer the same side on {interval_text(results['agreement'], 1, 100)} % of the pairs."]
    biases = bias_rows(results)
    if biases:
        parts += [table(["length bias of the held-out judge", "correlation of margin and length"], biases)]
    splits = results["data"].get("splits") or {}
    parts += ["## Data", data_sentence(results)]
    if splits:
        rows = [[name, *(f"{split[key]:,}" for key in ("pairs", "packages"))] for name, split in splits.items()]
        parts += [table(["split", "pairs", "packages"], rows)]
    times = [[schema.label(results, stage), duration(seconds)] for stage, seconds in results["seconds"].items()]
    times.append(["total", duration(sum(results["seconds"].values()))])
    parts += ["## Wall clock", table(["stage", "time"], times)]
    config = json.dumps(results["config"], indent=2, ensure_ascii=False)
    facts = [*results["versions"].items(), *((f"seed of {name}", str(seed)) for name, seed in results["seeds"].items())]
    facts += [(key, str(results[key])) for key in ("git", "command", "date", "device") if results.get(key)]
    parts += ["## Reproduction", table(["", ""], [[name, value] for name, value in facts])]
    parts += [f"<details><summary>Resolved config</summary>\n\n{fenced(config)}\n\n</details>"]
    return parts
