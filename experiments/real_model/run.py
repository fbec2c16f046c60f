"""The pipeline of configs/smollm2.py over several seeds, on all held-out prompts and longer runs.

    python experiments/real_model/run.py --seeds 0 1 2 --folder runs/real_model
    python experiments/real_model/run.py --only evaluate --seeds 0     # one step of one seed, and what it needs
    python experiments/real_model/run.py --mode quick --seeds 0        # less of everything

Runs what is not there yet (an interrupted run is resumed), then writes results.json and results.md beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax.cli import overrides
from alignjax.cli.compile_cache import keep_compiled_programs
from alignjax.cli.config_file import imported
from alignjax.config import Pipeline
from alignjax.evaluate.gold_report import markdown, sentence
from alignjax.evaluate.gold_study import FILE
from alignjax.evaluate.write_results import weight_origins
from alignjax.outside import made_folder
from alignjax.train.pipeline import run_pipeline
from alignjax.workspace import Workspace

HERE = Path(__file__).parent
smollm2 = imported(HERE.parents[1] / "configs" / "smollm2.py")
# full: 256 held-out prompts x 4 completions and twice the steps of the config; quick: 48 x 2, and fewer than it.
NUMBERS: dict[str, dict[str, int]] = {
    "full": {"label_steps": 40, "judge_steps": 80, "policy_steps": 60, "eval_batches": 16, "eval_samples": 4},
    "quick": {"policy_steps": 20, "eval_batches": 3},
    "tiny": {},
}


def pipeline(mode: str) -> Pipeline:
    """The pipeline of the config, with the numbers of the mode."""
    sizes = smollm2.sizes_of(mode)
    return smollm2.pipeline(dataclasses.replace(sizes, **NUMBERS[mode]), mode)


def until(whole: Pipeline, last: str) -> Pipeline:
    """The steps up to one."""
    names = [*whole.steps]
    if last not in names:
        raise SystemExit(f"there is no step {last!r}; steps: {', '.join(names)}")
    return Pipeline({name: whole.steps[name] for name in names[: names.index(last) + 1]})


def claims(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each policy, in how many seeds it beats the start model, its best temperature and its best control by gold,
    with intervals over prompts that exclude even; a seed in which it left the language counts for none."""
    counted: dict[str, dict[str, Any]] = {}
    for name in runs[0]["policies"]:
        beats = {"start": 0, "temperature": 0, "control": 0, "hacked": 0}
        for run in runs:
            row = run["players"][name]
            beats["hacked"] += row["hacked"]
            beats["start"] += not row["hacked"] and row["win_rate"]["low"] > 0.5
            for key in ("temperature", "control"):
                gap = run[f"against_{key}"].get(name)
                beats[key] += not row["hacked"] and gap is not None and gap["low"] > 0
        counted[name] = {"label": runs[0]["players"][name]["label"], "seeds": len(runs), **beats}
    return counted


def report(runs: Mapping[int, Mapping[str, Any]], weights: str) -> str:
    """Every seed's sentence and tables, behind what holds in how many seeds."""
    lines = ["| | seeds | beats the start model | its best temperature | its best control | hacked |", f"|{'---|' * 6}"]
    for row in claims([*runs.values()]).values():
        cells = [row["label"], *(str(row[key]) for key in ("seeds", "start", "temperature", "control", "hacked"))]
        lines.append(f"| {' | '.join(cells)} |")
    parts = ["# A real language model, over seeds", weights, "\n".join(lines)]
    parts += [f"Seed {seed}: {sentence(run)}" for seed, run in runs.items()]
    parts += [markdown(run, f"Seed {seed}", weights, ()).replace("\n## ", "\n### ") for seed, run in runs.items()]
    return "\n\n".join(parts)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/real_model"))
    parser.add_argument("--mode", default="full", choices=[*NUMBERS])
    parser.add_argument("--only", default="evaluate", help="the last step to run")
    parser.add_argument("--out", type=made_folder, default=HERE)
    options = parser.parse_args(arguments)
    keep_compiled_programs()
    whole, runs, weights = until(pipeline(options.mode), options.only), {}, ""
    for seed in options.seeds:
        place = Workspace(options.folder / f"seed-{seed}")
        run_pipeline(overrides.apply(whole, ["--seed", str(seed)]), place, resume=True)
        file = place.of("evaluate").folder / FILE
        config = json.loads((place.root / "config.json").read_text())
        weights = " ".join(weight_origins(config, place.root))
        if file.is_file():
            runs[seed] = json.loads(file.read_text())
    if len(runs) < len(options.seeds):
        return
    (options.out / "results.json").write_text(json.dumps(runs, indent=1))
    (options.out / "results.md").write_text(report(runs, weights))
    print(report(runs, weights))


if __name__ == "__main__":
    main(sys.argv[1:])
