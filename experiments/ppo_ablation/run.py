"""Which stabilizer of PPO-max keeps a policy from collapsing on a reward that can be hacked?

    python experiments/ppo_ablation/run.py --seeds 0 1 2 3 4 5 6 7 --folder runs/ppo_ablation

The learning rate of all and the strength of the KL penalty are chosen first, on seeds of their own, if tuning.json is
not there. Runs what is not there yet, then writes results.json, results.md and the figure beside this file. `--only
nothing "KL penalty alone"` takes these variants, and compares them where both of a pair are among them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import switches
from scipy import stats

from alignjax.cli.compile_cache import keep_compiled_programs
from alignjax.cli.config_file import imported
from alignjax.outside import made_folder

HERE = Path(__file__).parent
study = imported(HERE.parent / "online_ipo" / "over_seeds.py")
forms = imported(HERE.parent / "overoptimization" / "forms.py")
hackable = switches.hackable

DEVELOPMENT = (100, 101, 102)  # the seeds on which rate and strength are chosen, which are not reported
RATES, ETAS = (3e-4, 1e-3), (0.1, 0.2, 0.4)
BLOCKS, EVERY, LAST = 10, 10, 3  # points of a run, iterations between two, and how many make the end
NATS = 2.0  # where paths are compared
Ends = Mapping[str, float]


def followed(variant: str, rate: float, eta: float, seed: int, folder: Path, blocks: int) -> dict[str, list[float]]:
    """The points of a run, from the folder or made now."""
    place = folder / f"seed-{seed}"
    made = hackable.start(place, seed, (switches.SIZE,), switches.CHARGE)
    switched = switches.VARIANTS[variant]

    def run() -> Any:
        algorithm = switches.algorithm(switched, rate, eta)
        return hackable.followed(algorithm, seed, switches.loaded(made), blocks=blocks, every=EVERY)

    strength = f"{eta:g}" if "KL penalty" in switched else "0"
    return hackable.kept(place / f"{variant.replace(' ', '_')}-{rate:g}-{strength}-{blocks}.json", run)


def ended(run: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The means of a run's last points; whether it collapsed, which is to have less gold than SFT, whose gold is 0; and
    the gold where it first came to NATS."""
    found: dict[str, Any] = {name: float(np.mean(run[name][-LAST:])) for name in ("gold", "proxy", "kl", "entropy")}
    return found | {"collapsed": found["gold"] < 0, "at_nats": forms.gold_at(run, NATS)}


def tuned(folder: Path, out: Path, blocks: int) -> dict[str, Any]:
    """Rate and strength, from tuning.json or chosen now: of the rates at which PPO with nothing collapses most often,
    the rate and strength at which PPO with everything ends with the most gold."""
    file = out / "tuning.json"
    if file.is_file():
        return json.loads(file.read_text())

    def over(variant: str, rate: float, eta: float) -> list[dict[str, Any]]:
        return [ended(followed(variant, rate, eta, seed, folder, blocks)) for seed in DEVELOPMENT]

    lost = {rate: sum(one["collapsed"] for one in over("nothing", rate, 0.0)) for rate in RATES}
    rows = [
        {"rate": rate, "eta": eta, "nothing collapses": lost[rate], "of": len(DEVELOPMENT),
         "gold of everything": float(np.mean([one["gold"] for one in over("everything", rate, eta)]))}
        for rate, eta in itertools.product(RATES, ETAS)
    ]  # fmt: skip
    most = max(lost.values())
    best = max((row for row in rows if row["nothing collapses"] == most), key=lambda row: row["gold of everything"])
    made = {"rate": best["rate"], "eta": best["eta"], "trials": rows}
    file.write_text(json.dumps(made, indent=1))
    return made


def claims(ends: Mapping[str, Sequence[Ends]]) -> list[dict[str, Any]]:
    """What was settled before the seeds were run, by gold at the end: everything above everything without each, each
    alone above nothing, and everything above nothing."""
    pairs = [("everything", f"without {name}") for name in switches.ON]
    pairs += [(f"{name} alone", "nothing") for name in switches.ON] + [("everything", "nothing")]
    return study.compared(
        {
            f"{better} above {worse}": [a["gold"] - b["gold"] for a, b in zip(ends[better], ends[worse], strict=True)]
            for better, worse in pairs
            if better in ends and worse in ends
        }
    )


def share(rows: Sequence[Ends]) -> dict[str, float]:
    """The share of collapsed runs with its exact 95 % interval (Clopper and Pearson)."""
    found = stats.binomtest(int(sum(row["collapsed"] for row in rows)), len(rows))
    interval = found.proportion_ci(method="exact")
    return {"mean": float(found.statistic), "low": float(interval.low), "high": float(interval.high)}


def markdown(results: Mapping[str, Any]) -> str:
    """Ends of all variants, comparisons, trials."""
    lines = []
    for name, rows in results["ends"].items():
        lost = results["collapsed"][name]
        numbers = [study.number(study.over_seeds([row[key] for row in rows]), 1, 2) for key in ("gold", "proxy", "kl")]
        there = study.number(study.over_seeds([row["at_nats"] for row in rows]), 1, 2)
        collapsed = f"{100 * lost['mean']:.0f} ({100 * lost['low']:.0f} to {100 * lost['high']:.0f})"
        lines.append([name, *numbers, collapsed, there])
    compared = [
        [row["claim"], " ".join(f"{gap:+.2f}" for gap in row["by_seed"]), study.number(row, 1, 2), f"{row['p']:.2g}",
         f"{row['threshold']:.4f}", row["verdict"]]
        for row in results["claims"]
    ]  # fmt: skip
    trials = [[f"{value:.3g}" for value in row.values()] for row in results["tuning"]["trials"]]
    heading = ["PPO with", "gold", "proxy", "KL (nats)", "collapsed (%)", f"gold at {NATS:g} nats"]
    return "\n".join([
        study.markdown(heading, lines),
        study.markdown(["claim, by gold", "by seed", "mean", "p", "needed by Holm", ""], compared),
        study.markdown(list(results["tuning"]["trials"][0]), trials),
    ])  # fmt: skip


def figures(results: Mapping[str, Any]) -> dict[str, str]:
    """{name of the file: <svg>}."""
    gold = {name: [row["gold"] / 100 for row in rows] for name, rows in results["ends"].items()}  # drawn per cent
    words = "Gold at the end by seed, with the interval over seeds, for PPO with each choice of stabilizers"
    return {"gold": study.dots(gold, "gold at the end, deviations under SFT", "gold", words)}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=list(switches.VARIANTS), default=list(switches.VARIANTS), help="these variants"
    )
    parser.add_argument("--tune", action="store_true", help="choose rate and strength, and stop")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--folder", type=Path, default=Path("runs/ppo_ablation"))
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"points of a run, {EVERY} iterations apart")
    parser.add_argument("--out", type=made_folder, default=HERE)
    given = parser.parse_args(arguments)
    keep_compiled_programs()
    tuning = tuned(given.folder, given.out, given.blocks)
    if given.tune:
        return
    chosen = (tuning["rate"], tuning["eta"])
    runs = {
        name: [followed(name, *chosen, seed, given.folder, given.blocks) for seed in given.seeds] for name in given.only
    }
    ends = {name: [ended(run) for run in each] for name, each in runs.items()}
    results = {"seeds": given.seeds, "tuning": tuning, "collapsed": {name: share(rows) for name, rows in ends.items()},
               "claims": claims(ends), "ends": ends, "runs": runs}  # fmt: skip
    hackable.write(given.out / "results.json", results)
    (given.out / "results.md").write_text(markdown(results))
    for name, text in figures(results).items():
        (given.out / f"{name}.svg").write_text(text)
    print(markdown(results))


if __name__ == "__main__":
    main(sys.argv[1:])
