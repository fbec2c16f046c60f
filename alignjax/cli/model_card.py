"""The README.md of an exported folder: what the weights were trained from, by which command, on which data, and what
was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignjax.cli.config_file import COMMAND_FILE, DEFAULT_MODE
from alignjax.cli.open_model import record_of_import
from alignjax.evaluate.report import schema
from alignjax.evaluate.report.pages import escaped, table_of
from alignjax.evaluate.report.wording import headline, player_rows
from alignjax.evaluate.write_results import weight_origins
from alignjax.train.run_record import FILE
from alignjax.workspace import Workspace, read_json

FILL_IN = (
    "Fill in: under which license these weights may be used. That of the weights they were made from binds them too."
)
LIBRARIES = {"lm": "text-generation", "reward": "text-classification", "classes": "text-classification"}


def model_card(
    source: Path, name: str, role: str, head: str, *, step: str | None = None, adapters: bool = False
) -> str:
    """Writes a model card from what a run folder, or what `import` wrote, says of itself.

    Args:
        source: The run folder, or the imported checkpoint.
        name: The name of the exported folder.
        role: The role that is exported.
        head: "lm", "reward" or "classes".
        step: The step of a pipeline that trained it.
        adapters: Whether adapters alone are exported.

    Returns:
        The text of a README.md. What nobody has written down is left out; the license is left to the person.
    """
    # Everything is read out of the folder's own records, so that a card can be made of any run at any time.
    record = read_json(source / FILE) or {}
    config = record.get("config") or {}
    bases = base_weights(config, source)
    head_lines = {
        "library_name": "peft" if adapters else "transformers",
        "pipeline_tag": LIBRARIES[head],
        "tags": ["alignjax"],
    }
    asked = [*(f"base_model:  # fill in: {Path(base['folder']).name}" for base in bases[:1]), "license:  # fill in"]
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head_lines.items())]
    lines += [*asked, "---", "", f"# {escaped(name)}", ""]
    versions = record.get("versions") or {}
    version = f" {versions['alignjax']}" if "alignjax" in versions else ""
    what = "LoRA adapters" if adapters else "Weights"
    made = "imported" if "imported" in config else "trained"
    lines += [
        f"{what} of the role `{role}`, {made} with alignjax{version}.",
        "",
    ]
    lines += _section("Made from", [_base_line(base) for base in bases] or ["Its config names no published weights."])
    lines += _section("How", _how(source, config, step))
    lines += _section("Data", [f"- {escaped(line)}" for line in datasets(config)])
    lines += _results(source)
    lines += _section("License", [FILL_IN])
    return "\n".join(lines).rstrip() + "\n"


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []


def base_weights(config: Any, root: Path) -> list[dict[str, Any]]:
    """Finds the published weights that a config starts from, also through what `import` wrote: their folder,
    fingerprint, and what kind of numbers a GGUF file held. Each stands in the list once.

    Args:
        config: The config of a run as JSON, or of what `import` wrote.
        root: The run folder.
    """
    if not isinstance(config, Mapping | list):
        return []
    values = config if isinstance(config, list) else config.values()
    named = [base for value in values for base in base_weights(value, root)]
    if isinstance(config, Mapping) and "fingerprint" in config and "folder" in config:
        named.insert(0, dict(config))
    if isinstance(config, Mapping) and str(config.get("type", "")).endswith(".Restored"):
        record = record_of_import(Workspace(root).find(str(config.get("stage"))))
        named += [] if record is None else base_weights(record["config"]["imported"], root)
    return list({(base["folder"], base["fingerprint"]): base for base in named}.values())


def _base_line(base: Mapping[str, Any]) -> str:
    held = f", {base['numbers']}" if base.get("numbers") else ""
    added = f", with the adapters in {base['adapters']} added" if base.get("adapters") else ""
    return f"- {escaped(Path(base['folder']).name)}{escaped(held)}{escaped(added)} (contents {base['fingerprint']})"


def _how(source: Path, config: Mapping[str, Any], step: str | None) -> list[str]:
    """The command, and the losses with their hyper-parameters of the step that trained the role."""
    command = read_json(source / COMMAND_FILE)
    lines = []
    if isinstance(command, dict):
        mode = command.get("mode")
        name = Path(command.get("config", "")).name + (f":{mode}" if mode and mode != DEFAULT_MODE else "")
        words = " ".join(["alignjax train", name, *command.get("overrides", [])])
        lines += ["```", words, "```", ""]
    experiment = config.get("steps", {}).get(step, config) if step else config
    for name, loss in (experiment.get("algorithm", {}).get("losses") or {}).items():
        numbers = {
            key: value for key, value in loss.items() if isinstance(value, int | float | str) and key != "function"
        }
        said = ", ".join(f"{key}={value}" for key, value in numbers.items())
        lines.append(f"- loss `{name}`{f': {escaped(said)}' if said else ''}")
    if isinstance(experiment.get("steps"), int):
        lines.append(f"- {experiment['steps']:,} steps, seed {experiment.get('seed')}")
    return lines


def datasets(config: Any) -> list[str]:
    """Names the data sets in a config with the files that they read, each once.

    Args:
        config: The config of a run as JSON.
    """
    if isinstance(config, Mapping):
        kind = str(config.get("type", ""))
        inner = [line for value in config.values() for line in datasets(value)]
        if ".data." in kind and "vocab_size" in config:
            files = [
                value for key, value in config.items() if key in ("path", "train", "name") and isinstance(value, str)
            ]
            inner = [" ".join([kind.rpartition(".")[2], *(Path(file).name for file in files if file)]), *inner]
        return list(dict.fromkeys(inner))
    return list(dict.fromkeys(line for value in config for line in datasets(value))) if isinstance(config, list) else []


def _results(source: Path) -> list[str]:
    """The table of players with intervals, if the run has been evaluated."""
    if not (source / "results.json").is_file():
        return []
    results = schema.load(source)
    columns, rows = player_rows(results)
    origins = weight_origins(results["config"], source)
    return _section("Results", [f"**{escaped(headline(results))}**", "", *origins, "", table_of(columns, rows)])
