"""The quickstart over several seeds: everything that is drawn is drawn anew in each, demonstrations and judge included.

    python experiments/online_ipo/run.py --seeds 0 1 2 3 4 --folder runs/online_ipo   # 9 CPU minutes a seed

Runs what is not there yet (an interrupted run is resumed), then writes results.json and results.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "quickstart.py"
BASELINE = "sft"
# What the claim is about, settled before the seeds were run: pairs of players, of which the first should sort more.
CLAIMS = (("online_ipo", "offline_ipo"), ("ipo_md_mixture", "offline_ipo"), ("online_ipo", "sft_best_of_4"))

Results = Mapping[str, Any]


def trained(seed: int, folder: Path, mode: str) -> Results:
    """Return results.json of one seed, trained if need be."""
    place = folder / f"seed-{seed}"
    if not (place / "results.json").is_file():
        command = ["alignjax", "train", f"{CONFIG}:{mode}", "--run-dir", str(place), "--seed", str(seed)]
        subprocess.run([*command, *(["--resume"] if place.exists() else [])], check=True)
    return json.loads((place / "results.json").read_text())


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


def over_seeds(values: Sequence[float | None]) -> dict[str, float] | None:
    """Return the mean over seeds and half the width of its 95 % interval by Student's t; None where there is none."""
    numbers = np.asarray([value for value in values if value is not None], float)
    if not numbers.size:
        return None
    many = numbers.size > 1
    half = float(stats.t.ppf(0.975, numbers.size - 1) * stats.sem(numbers)) if many else float("nan")
    return {"mean": float(numbers.mean()), "half": half}


def compared(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return, for each pair of CLAIMS, the difference of exactly sorted shares, paired by seed, with its interval and
    its two-sided p value by Student's t, of which Holm's correction decides over all three."""
    found = []
    for better, worse in CLAIMS:
        gaps = [a["exact"] - b["exact"] for a, b in zip(rows[better], rows[worse], strict=True)]
        p = float(stats.ttest_1samp(gaps, 0).pvalue) if len(gaps) > 1 else float("nan")
        found.append({"better": better, "worse": worse, **(over_seeds(gaps) or {}), "p": p})
    found.sort(key=lambda row: row["p"])
    holds = True
    for number, row in enumerate(found):
        row["threshold"] = 0.05 / (len(found) - number)
        holds = holds and row["p"] < row["threshold"]
        row["holds"] = holds and row["mean"] > 0
    return found


def summary(runs: Sequence[Results]) -> dict[str, Any]:
    """Return the rows of all players and the comparisons that the claim is about."""
    players = [name for name in runs[0]["players"] if name != "human"]
    rows = {name: [measured(results, name) for results in runs] for name in players}
    means = {
        name: {key: over_seeds([seed[key] for seed in seeds]) for key in ("exact", "gold", "learned", "kl")}
        for name, seeds in rows.items()
    }
    labels = {name: runs[0]["players"][name]["label"] for name in players}
    return {"labels": labels, "by_seed": rows, "over_seeds": means, "claims": compared(rows)}


def table(found: Mapping[str, Any]) -> str:
    """Lay both out as Markdown tables, in per cent and nats."""

    def cell(number: Mapping[str, float] | None, scale: float, digits: int) -> str:
        return "-" if number is None else f"{scale * number['mean']:.{digits}f} ± {scale * number['half']:.{digits}f}"

    titles = ("player", "exactly sorted, by seed", "exactly sorted", "gold win rate", "learned judge's", "KL (nats)")
    lines = ["| " + " | ".join(titles) + " |", "| " + " | ".join(["---"] * len(titles)) + " |"]
    for name, means in found["over_seeds"].items():
        seeds = " ".join(f"{100 * seed['exact']:.1f}" for seed in found["by_seed"][name])
        shares = [cell(means[key], 100, 1) for key in ("exact", "gold", "learned")]
        lines.append("| " + " | ".join([found["labels"][name], seeds, *shares, cell(means["kl"], 1, 2)]) + " |")
    lines += ["", "| sorts more | than | by points | p | below | holds |", "| --- | --- | --- | --- | --- | --- |"]
    for row in found["claims"]:
        names = [found["labels"][row[side]] for side in ("better", "worse")]
        rest = [cell(row, 100, 1), f"{row['p']:.2g}", f"{row['threshold']:.3f}", "yes" if row["holds"] else "no"]
        lines.append("| " + " | ".join([*names, *rest]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/online_ipo"))
    parser.add_argument("--mode", default="full")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    found = summary([trained(seed, options.folder, options.mode) for seed in options.seeds])
    (options.out / "results.json").write_text(json.dumps({"seeds": options.seeds, **found}, indent=1))
    (options.out / "results.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main(sys.argv[1:])
