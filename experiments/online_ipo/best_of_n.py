"""More samples in the place of training: the best of 4, 8 and 16 SFT samples by the learned judge, over seeds.

    python experiments/online_ipo/best_of_n.py --seeds 0 1 2 3 4 --folder runs/exact

Takes the SFT policies and judges of run.py's folder, or makes them, and writes best_of_n.json beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import over_seeds as study

from alignjax.config import Pipeline
from alignjax.evaluate.tournament import FILE
from alignjax.outside import made_folder
from alignjax.pipelines import exact_study as parts

HERE = Path(__file__).parent
SEVERAL = (4, 8, 16)


def pipeline(mode: str) -> Pipeline:
    """The quickstart's first steps, and a tournament of SFT against the best of several of its samples."""
    sizes = parts.sizes_of(mode)
    best = [dataclasses.replace(parts.SFT, name=f"best_of_{n}", label=f"best of {n}", best_of=n) for n in SEVERAL]
    players = tuple(dataclasses.replace(player, control=True) for player in best)
    return Pipeline({**parts.prepared(sizes), "best_of_n": parts.tournament(sizes).replace(controls=players)})


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/exact"))
    parser.add_argument("--mode", default="full")
    parser.add_argument("--out", type=made_folder, default=HERE)
    given = parser.parse_args(arguments)
    whole, rows = pipeline(given.mode), {}
    runs = [study.read(study.trained(whole, seed, given.folder), "best_of_n", FILE) for seed in given.seeds]
    for name in (f"best_of_{n}" for n in SEVERAL):
        rows[name] = {
            "exact": [run["players"][name]["measures"]["exact"] for run in runs],
            "gold": [run["win_rates"][name]["sft"] for run in runs],
            "learned": [run["win_rates_by_judge"]["training"][name]["sft"] for run in runs],
        }
    (given.out / "best_of_n.json").write_text(json.dumps({"seeds": given.seeds, "by_seed": rows}, indent=1))
    for name, row in rows.items():
        shown = {what: study.over_seeds([one["mean"] for one in seeds]) for what, seeds in row.items()}
        print(name, {what: study.number(one, 100, 1) for what, one in shown.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
