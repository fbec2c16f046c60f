"""How many labels does a new user need before a reward of their own is better than one reward for all?

python experiments/pluralism/run.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from population import HELD_OUT, LABELS, METHODS, curves

from alignjax.evaluate.intervals import interval
from alignjax.outside import made_folder

HERE = Path(__file__).resolve().parent
SEEDS = tuple(range(5))
POPULATION = "population BT"


def measured(planted: bool) -> dict[str, list[dict[str, Any]]]:
    """Accuracy of every method by the number of labels, and its lead over one reward for all, user by user.

    Users of one seed share what was trained, so that seeds are resampled beside them: the interval is the wider of that
    over all users and that over the means of seeds."""
    program = jax.jit(curves, static_argnames="planted")
    each = [jax.tree.map(np.asarray, program(jax.random.key(seed), planted=planted)) for seed in SEEDS]
    return {
        name: [
            {
                "labels": labels,
                "accuracy": widest([one[name][k] for one in each]),
                "lead": widest([one[name][k] - one[POPULATION][k] for one in each]),
            }
            for k, labels in enumerate(LABELS)
        ]
        for name in METHODS
    }


def widest(by_seed: list[np.ndarray]) -> dict[str, float]:
    """The mean over users [seeds][U], with the wider of both intervals."""
    found = [dict(interval(columns)) for columns in (np.concatenate(by_seed), np.mean(by_seed, axis=1))]
    return max(found, key=lambda one: one["high"] - one["low"])  # type: ignore[return-value]


def table(found: dict[str, Any]) -> list[str]:
    shown = lambda one: f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"  # noqa: E731
    lines = ["| method | " + " | ".join(map(str, LABELS)) + " |", "| --- |" + " --- |" * len(LABELS)]
    for name, row in found.items():
        lines.append(f"| {name} | " + " | ".join(shown(one["accuracy"]) for one in row) + " |")
    for name, row in found.items():
        if name != POPULATION:
            lines.append(f"| {name}, lead | " + " | ".join(shown(one["lead"]) for one in row) + " |")
    return lines


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=made_folder, default=HERE, help="where results are written")
    out = parser.parse_args(arguments).out
    found = {title: measured(planted) for title, planted in (("planted", True), ("unstructured", False))}
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        f"Accuracy on held-out users ({HELD_OUT} a seed, {len(SEEDS)} seeds) by how many of their labels are known,",
        "and its lead over one reward for all, with 95 % intervals. Written by `run.py`.",
    ]
    for title, rows in found.items():
        lines += ["", f"## {title.capitalize()} tastes", "", *table(rows)]
    (out / "results.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
