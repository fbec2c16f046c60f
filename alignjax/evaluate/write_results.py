"""The last job of a pipeline: everything that the others measured, in results.json and its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from alignjax import outside
from alignjax.config import ConfigError
from alignjax.data import Dataset
from alignjax.data.prepared import located, read_account
from alignjax.evaluate import over_optimization
from alignjax.evaluate.report import write_report
from alignjax.evaluate.report.learning_curves import read_curves
from alignjax.evaluate.report.run_folders import COMMAND
from alignjax.ranges import Natural
from alignjax.train.pipeline import Done
from alignjax.train.run_record import git_hash, versions
from alignjax.workspace import Workspace, read_json, read_record

FILE = "tournament.json"
ANEW = "run the evaluation step again (`alignjax evaluate`) to write it anew"


def write(
    workspace: Workspace,
    *,
    title: str,
    dataset: Dataset,
    command: str = "",
    notes: tuple[str, ...] = (),
    budgets: tuple[tuple[str, Natural], ...] = (),
) -> dict[str, Any]:
    """Job that writes results.json, report.html and report.md into the run folder, from the tournament, the stages'
    curves and the config, and prints the table and where the report is.

    Args:
        workspace: The run folder of this step.
        title: The title of the report.
        dataset: The dataset whose account is shown.
        command: What was typed.
        notes: Sentences under the headline.
        budgets: (what, how many) of labels and steps that the results cost.

    Returns:
        {"report": the path of report.html}.

    Raises:
        ConfigError: Before the evaluation step has run.
    """
    # One mapping holds all that a report shows, so that `alignjax report` can make it again from results.json.
    root = workspace.root
    outcome = next(iter(sorted(root.glob(f"*/{FILE}"))), None)
    if outcome is None:
        raise ConfigError(f"no {FILE} below {root}: run the evaluation step first")
    played = read_record(outcome, dict[str, Any], ANEW)
    account = read_account(located(dataset, workspace))
    done = {path.parent.name: read_record(path, Done) for path in sorted(root.glob("*/done.json"), key=_age)}
    config: Any = read_record(root / "config.json", dict[str, Any]) or {}
    curve = next(iter(sorted(root.glob(f"*/{over_optimization.FILE}"))), None)
    further = read_record(curve, dict[str, list[dict[str, Any]]], ANEW) if curve else {}
    # Policies that are points of a curve only have no learning curves in the report, or nobody would find the others.
    unseen = {point["stage"] for points in further.values() for point in points} - {*played["players"]}
    logs = [path for path in sorted(root.glob("*/metrics.jsonl"), key=_age) if path.parent.name not in unseen]
    origins = weight_origins(config.get("config", config), root)
    results = {
        **played,
        **({"over_optimization": further} if further else {}),
        "title": title,
        "curves": {path.parent.name: read_curves(path) for path in logs},
        "data": _data(account, dict(budgets)),
        "budgets": dict(budgets),
        "seconds": {name: record["seconds"] for name, record in done.items()},
        "config": config.get("config", config),
        "versions": versions(),
        "seeds": _seeds(config.get("config", config)),
        "git": git_hash(),
        "command": command,
        "device": str(jax.devices()[0].device_kind),
        "notes": [*played.get("warnings", ()), *origins, *notes, *changed_settings(root)],
        **({"weights": " ".join(origins)} if origins else {}),
    }
    return {"report": _reported(results, root)}


def weight_origins(config: Any, root: Path) -> list[str]:
    """Says of what kind the numbers of weights were that came out of GGUF files: every table that shows such a model
    says so.

    Args:
        config: The config of a run as JSON.
        root: The run folder, from which imported checkpoints are found.

    Returns:
        A sentence for each file.
    """
    # A start names its file, or the checkpoint that `alignjax import` made of one; a source's `numbers` are columns.
    if isinstance(config, list):
        return list(dict.fromkeys(line for value in config for line in weight_origins(value, root)))
    if not isinstance(config, Mapping):
        return []
    start = config
    if str(config.get("type", "")).endswith(".Restored"):
        record = read_json(Workspace(root).find(str(config.get("stage"))) / "config.json")
        start = (record.get("config") or {}).get("imported", {}) if isinstance(record, dict) else {}
    held = start.get("numbers")
    own = [f"Weights of {Path(start['folder']).name}: {held}."] if isinstance(held, str) else []
    return list(dict.fromkeys([*own, *(line for value in config.values() for line in weight_origins(value, root))]))


def changed_settings(root: Path) -> list[str]:
    """Says what the command line changed of a run's config, since a report counts labels and steps as the config does.

    Args:
        root: The run folder.

    Returns:
        A sentence, or none where nothing was changed or no command line was there.
    """
    record = read_json(root / COMMAND)
    changed = record.get("overrides") if isinstance(record, dict) else None
    if not changed:
        return []
    words = " ".join(str(word) for word in changed)
    return [f"The command line changed the config by {words}; labels and steps are counted as without that."]


def _reported(results: Mapping[str, Any], root: Path) -> str:
    """Writes the report into the run folder, prints its table and says where it is."""
    report, console = write_report.write_report(results, root)["html"], outside.console()
    write_report.terminal_table(results, console)
    console.print(f"\n{report}", highlight=False, soft_wrap=True)
    return str(report)


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _data(account: Mapping[str, Any], budgets: Mapping[str, int]) -> dict[str, Any]:
    """What a report says of the data; a dataset without rows says its own sentence."""
    packages = account.get("packages", {})
    splits = {
        name: {"pairs": count, "packages": len(packages.get(name, ()))} for name, count in account["rows"].items()
    }
    total = {key: sum(split[key] for split in splits.values()) for key in ("pairs", "packages")}
    return {**total, "splits": splits, **({} if splits else {"sentence": account["sentence"]}), **budgets}


def _seeds(config: Mapping[str, Any]) -> dict[str, int]:
    steps = config.get("steps", {})
    return {name: step["seed"] for name, step in steps.items() if isinstance(step, Mapping) and "seed" in step}
