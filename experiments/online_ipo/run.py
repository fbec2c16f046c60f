"""The quickstart over several seeds: everything that is drawn is drawn anew in each, demonstrations and judge included.

    python experiments/online_ipo/run.py --seeds 0 1 2 3 4 --folder runs/exact

Runs what is not there yet (an interrupted run is resumed), then writes results.json, results.md and the figure beside
this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import over_seeds as study

from alignjax.cli.config_file import imported
from alignjax.config import Pipeline
from alignjax.evaluate.tournament import FILE
from alignjax.outside import made_folder

HERE = Path(__file__).parent
quickstart = imported(HERE.parents[1] / "configs" / "quickstart.py")
BASELINE = "sft"
# What the claim is about, settled before the seeds were run: pairs of players, of which the first should sort more.
CLAIMS = (("online_ipo", "offline_ipo"), ("ipo_md_mixture", "offline_ipo"), ("online_ipo", "sft_best_of_4"))
COLUMNS = {"exact": "exactly sorted (%)", "gold": "gold win rate (%)", "learned": "learned judge's (%)",
           "kl": "KL (nats)"}  # fmt: skip

Results = Mapping[str, Any]


def pipeline(mode: str) -> Pipeline:
    """The quickstart without the picture of over-optimization and the policies that are in it alone, which the claims
    do not ask for: four of seven policies."""
    steps = quickstart.get_config(mode).steps
    left_out = {"along_kl", "report", *quickstart.further(quickstart.parts.sizes_of(mode))}
    return Pipeline({name: step for name, step in steps.items() if name not in left_out})


def measured(results: Results, player: str) -> dict[str, float | None]:
    """Return what one seed says of a player: means over its held-out prompts."""
    by_gold, learned = results["win_rates"][player], results["win_rates_by_judge"]["training"][player]
    described, others = results["players"][player], player != BASELINE
    return {
        "exact": described["measures"]["exact"]["mean"],
        "gold": by_gold[BASELINE]["mean"] if others else None,
        "learned": learned[BASELINE]["mean"] if others else None,
        "kl": described["kl"]["mean"] if described.get("kl") else None,
    }


def summary(runs: Sequence[Results]) -> dict[str, Any]:
    """Return the rows of all players, the comparisons that the claim is about, and every seed's intervals over
    prompts."""
    players = list(runs[0]["players"])
    rows = {name: [measured(results, name) for results in runs] for name in players}
    means = {name: {key: study.over_seeds([seed[key] for seed in rows[name]]) for key in COLUMNS} for name in players}
    labels = {name: runs[0]["players"][name]["label"] for name in players}
    gaps = {
        f"{labels[better]} sorts more than {labels[worse]}": [
            a["exact"] - b["exact"] for a, b in zip(rows[better], rows[worse], strict=True)
        ]
        for better, worse in CLAIMS
    }
    over_prompts = [
        {name: {"exact": run["players"][name]["measures"]["exact"], "gold": run["win_rates"][name].get(BASELINE)}
         for name in players}
        for run in runs
    ]  # fmt: skip
    against = [run["against_best_control"] for run in runs]
    return {"labels": labels, "by_seed": rows, "over_seeds": means, "claims": study.compared(gaps),
            "over_prompts": over_prompts, "against_best_control": against}  # fmt: skip


def markdown(results: Results) -> str:
    """Lay players and claims out as Markdown tables, in per cent and nats."""
    lines = []
    for name, means in results["over_seeds"].items():
        seeds = " ".join(f"{100 * seed['exact']:.1f}" for seed in results["by_seed"][name])
        cells = [study.number(means[key], *((1, 2) if key == "kl" else (100, 1))) for key in COLUMNS]
        lines.append([results["labels"][name], seeds, *cells])
    players = study.markdown(["player", "exactly sorted, by seed", *COLUMNS.values()], lines)
    return f"{players}\n{study.claims_table(results['claims'])}"


def figures(results: Results) -> dict[str, str]:
    """{name of the file: <svg>}."""
    rows = {results["labels"][name]: [seed["exact"] for seed in seeds] for name, seeds in results["by_seed"].items()}
    words = "Share that every player sorts exactly, by seed, with the interval over seeds"
    return {"exactly_sorted": study.dots(rows, "exactly sorted (%)", "exactly-sorted", words)}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/exact"))
    parser.add_argument("--mode", default="full")
    parser.add_argument("--out", type=made_folder, default=HERE)
    options = parser.parse_args(arguments)
    whole = pipeline(options.mode)
    runs = [study.read(study.trained(whole, seed, options.folder), "evaluate", FILE) for seed in options.seeds]
    results = {"seeds": options.seeds, **summary(runs)}
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    (options.out / "results.md").write_text(markdown(results))
    for name, picture in figures(results).items():
        (options.out / f"{name}.svg").write_text(picture)
    print(markdown(results))


if __name__ == "__main__":
    main(sys.argv[1:])
