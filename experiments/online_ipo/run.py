"""The quickstart over several seeds: how much of its table is luck.

    python experiments/online_ipo/run.py --seeds 0 1 2 --folder runs/online_ipo     # about 5 minutes a seed on 2 cores

Runs what is not there yet (an interrupted run is resumed), then writes results.json and results.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "quickstart.py"


def trained(seed: int, folder: Path, mode: str) -> dict[str, Any]:
    """results.json of one seed, trained if need be."""
    place = folder / f"seed-{seed}"
    if not (place / "results.json").is_file():
        command = ["alignjax", "train", f"{CONFIG}:{mode}", "--run-dir", str(place), "--seed", str(seed)]
        subprocess.run([*command, *(["--resume"] if place.exists() else [])], check=True)
    return json.loads((place / "results.json").read_text())


def rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per player: each seed's win rate against SFT with its interval, their mean and spread (standard deviation)."""
    found = []
    for player in results[0]["players"]:
        if player == "sft":
            continue
        rates = [one["win_rates"][player]["sft"] for one in results]
        hard = [one["win_rates_hard"][player]["sft"]["mean"] for one in results]
        kl = [one["players"][player].get("kl") for one in results]
        found.append(
            {
                "player": player,
                "by_seed": rates,
                "mean": float(np.mean([rate["mean"] for rate in rates])),
                "spread": float(np.std([rate["mean"] for rate in rates], ddof=1)) if len(rates) > 1 else 0.0,
                "excludes_half": sum(rate["low"] > 0.5 for rate in rates),
                "hard": float(np.mean(hard)),
                "kl": float(np.mean([one["mean"] for one in kl])) if all(kl) else None,
            }
        )
    return found


def table(found: list[dict[str, Any]], seeds: list[int]) -> str:
    """The rows as a Markdown table, in per cent."""
    head = ["player", *[f"seed {seed}" for seed in seeds], "mean ± spread", "above 50 %", "hard wins", "KL (nats)"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    for row in found:
        each = [f"{100 * r['mean']:.1f} ({100 * r['low']:.1f}-{100 * r['high']:.1f})" for r in row["by_seed"]]
        spread = f"{100 * row['mean']:.1f} ± {100 * row['spread']:.1f}"
        above = f"{row['excludes_half']} of {len(seeds)}"
        kl = "-" if row["kl"] is None else f"{row['kl']:.2f}"
        lines.append("| " + " | ".join([row["player"], *each, spread, above, f"{100 * row['hard']:.1f}", kl]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/online_ipo"))
    parser.add_argument("--mode", default="full")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(arguments)
    found = rows([trained(seed, given.folder, given.mode) for seed in given.seeds])
    (given.out / "results.json").write_text(json.dumps({"seeds": given.seeds, "players": found}, indent=1))
    (given.out / "results.md").write_text(table(found, given.seeds))
    print(table(found, given.seeds))


if __name__ == "__main__":
    main(sys.argv[1:])
