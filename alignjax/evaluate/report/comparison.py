"""Several runs as one set of results, which the report of a single run shows: every player under its run's name,
against the baseline of its own run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.evaluate.report import schema
from alignjax.evaluate.report.run_folders import Run, progress
from alignjax.evaluate.report.schema import SEPARATOR

MATRICES = ("win_rates", "win_rates_hard", "ties", "win_rates_length_controlled", "win_rates_both_ended")
BASELINE = "baseline"
MOST_DIFFERENCES, MOST_SAMPLES, LONGEST = 40, 8, 60
MISSING = "\N{EN DASH}"


def compared(runs: Sequence[Run], *, title: str) -> dict[str, Any]:
    """Makes the results of a report on several runs, or on one that is not finished.

    Args:
        runs: The runs, of different names.
        title: The title of the report.

    Returns:
        What results.json would hold, with "runs", "differences" and, of a single run, "progress".
    """
    # What belongs to a player, curve or judge gets the name of the run in front; of one run alone nothing else is said.
    played = {run.name: run.results for run in runs if run.results is not None}
    starts = {schema.label(results, results["baseline"]) for results in played.values()}
    base = f"its {starts.pop()}" if len(starts) == 1 else "its baseline"
    versions = [run.record["versions"] for run in runs]
    return {
        "title": title,
        "baseline": BASELINE,
        "headline": "" if played else f"{_joined([run.name for run in runs])}: no tournament has been played.",
        "runs": {run.name: _facts(run) for run in runs},
        "differences": differences({run.name: run.record["config"] for run in runs}),
        **({"progress": progress(runs[0])} if len(runs) == 1 else {}),
        "players": {BASELINE: {"label": base}, **_players(played)},
        **{key: _matrix({run: results.get(key) or {} for run, results in played.items()}, played) for key in MATRICES},
        "win_rates_by_judge": _by_judge(played),
        "judges": _judges(played),
        "measures": {name: row for each in played.values() for name, row in (each.get("measures") or {}).items()},
        "over_optimization": {
            f"{run}{SEPARATOR}{curve}": points
            for run, results in played.items()
            for curve, points in (results.get("over_optimization") or {}).items()
        },
        "curves": {
            f"{run.name}{SEPARATOR}{name}": dict(stage.curves)
            for run in runs
            for name, stage in run.stages.items()
            if stage.curves
        },
        "samples": _samples(runs),
        "data": {"pairs": 0, "packages": 0, "sentence": "that of each run is in its own report"},
        "seconds": {run.name: took for run in runs if (took := sum(each.seconds or 0 for each in run.stages.values()))},
        "config": {run.name: run.record["config"] for run in runs},
        "versions": {name: _joined(each.get(name, MISSING) for each in versions) for name in versions[0]},
        "seeds": {
            f"{run}{SEPARATOR}{name}": seed
            for run, results in played.items()
            for name, seed in results["seeds"].items()
        },
        "git": None,
        "notes": [
            "Each win rate is against the baseline of the same run, on its prompts; a difference between two runs "
            "is one between their seeds too."
        ]
        * bool(played),
    }


def _joined(texts: Any) -> str:
    return ", ".join(dict.fromkeys(texts))


def _facts(run: Run) -> dict[str, str]:
    """A row of the table of runs."""
    record, ready = run.record, sum(stage.done for stage in run.stages.values())
    return {
        "config": run.command,
        "commit": (record["git"] or MISSING)[:10],
        "alignjax": record["versions"].get("alignjax", MISSING),
        "device": record["versions"].get("device", MISSING),
        "stages done": f"{ready} of {len(run.stages)}",
    }


def _players(played: Mapping[str, schema.Results]) -> dict[str, Any]:
    """Every player but the baselines and the human texts."""
    players: dict[str, Any] = {}
    for run, results in played.items():
        for name in _others(results):
            label = f"{run}{SEPARATOR}{schema.label(results, name)}"
            players[f"{run}{SEPARATOR}{name}"] = {**results["players"][name], "label": label}
    return players


def _others(results: schema.Results) -> list[str]:
    return [name for name in results["players"] if name not in (results["baseline"], schema.human(results))]


def _matrix(rates: Mapping[str, Any], played: Mapping[str, schema.Results]) -> dict[str, Any]:
    """Of the matrices of runs what is against their baselines, in both orders."""
    rows: dict[str, Any] = {BASELINE: {}}
    for run, matrix in rates.items():
        base = played[run]["baseline"]
        for name in _others(played[run]):
            there, back = (matrix.get(a, {}).get(b) for a, b in ((name, base), (base, name)))
            if there is not None and back is not None:
                key = f"{run}{SEPARATOR}{name}"
                rows[key], rows[BASELINE][key] = {BASELINE: there}, back
    return rows


def _by_judge(played: Mapping[str, schema.Results]) -> dict[str, Any]:
    """What the judges say that do not decide."""
    judges = dict.fromkeys(judge for each in played.values() for judge in each.get("win_rates_by_judge") or {})
    return {
        judge: _matrix(
            {run: (each.get("win_rates_by_judge") or {}).get(judge, {}) for run, each in played.items()}, played
        )
        for judge in judges
    }


def _judges(played: Mapping[str, schema.Results]) -> dict[str, Any]:
    """The names of judges, where the runs agree. What each is worth is a number of its run."""
    labels: dict[str, set[str]] = {"held_out": set()}
    for results in played.values():
        for name, row in results["judges"].items():
            labels.setdefault(name, set()).add(row.get("label") or name.replace("_", "-"))
    return {name: {"label": min(some) if len(some) == 1 else f"{name} judge"} for name, some in labels.items()}


def _shown_as(results: schema.Results | None, name: str) -> str:
    """The name of a player among those of a comparison; of one that is none there, what it is called in print."""
    assert results is not None
    return name if name in _others(results) else schema.label(results, name)


def _samples(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Answers to the same prompt side by side, those first to which most runs have some: of an evaluated run
    everybody's, of another one the newest that it has logged."""
    prompts: dict[str, dict[str, Any]] = {}
    shared: dict[str, set[str]] = {}

    def add(run: str, post: str, outputs: Mapping[str, str], verdicts: Mapping[str, Mapping[str, Any]]) -> None:
        sample = prompts.setdefault(post, {"post": post, "outputs": {}, "verdicts": {}})
        shared.setdefault(post, set()).add(run)
        sample["outputs"] |= {f"{run}{SEPARATOR}{name}": text for name, text in outputs.items()}
        for judge, row in verdicts.items():
            row = {f"{run}{SEPARATOR}{name}": p for name, p in row.items()}
            sample["verdicts"].setdefault(judge, {}).update(row)

    for run in runs:
        for sample in run.results["samples"] if run.results else ():
            named = {_shown_as(run.results, name): text for name, text in sample["outputs"].items()}
            add(run.name, sample["post"], named, sample.get("verdicts") or {})
        logged = [] if run.results else [stage.samples for stage in run.stages.values() if stage.samples]
        for row in logged[-1] if logged else ():
            texts = {name: str(text) for name, text in row.items() if name != "prompt"}
            add(run.name, str(row.get("prompt", "")), texts, {})
    order = sorted(prompts, key=lambda post: -len(shared[post]))
    return [prompts[post] for post in order[:MOST_SAMPLES]]


def differences(configs: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Lists where configs differ: {path: {run: value}}, at most MOST_DIFFERENCES paths and a row that counts the rest.

    Args:
        configs: The config of each run as JSON.
    """
    found = _differing(list(configs.values()), "")
    rows = {path: dict(zip(configs, map(_short, values), strict=True)) for path, values in found[:MOST_DIFFERENCES]}
    left = len(found) - len(rows)
    return rows | ({f"and {left} more": dict.fromkeys(configs, "")} if left else {})


def _differing(values: Sequence[Any], where: str) -> list[tuple[str, Sequence[Any]]]:
    """(path, values) of the deepest places at which values are not all equal; MISSING where one has nothing."""
    if all(value == values[0] for value in values):
        return []
    if all(isinstance(value, dict) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        inner = [([value.get(name, MISSING) for value in values], f"{where}.{name}".lstrip(".")) for name in names]
        return [row for each, path in inner for row in _differing(each, path)]
    if all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
        return [row for i, each in enumerate(zip(*values, strict=True)) for row in _differing(each, f"{where}[{i}]")]
    return [(where, values)]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
