"""Which losses find mu exp(r / beta), the optimum of the problem that preference optimisation starts from? Exact
expectations, tables, minima to machine precision.

    python experiments/closed_form/run.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
from methods import Method, methods
from tabular import World, expected, follow, total_variation, world

from alignjax.outside import made_folder

HERE = Path(__file__).resolve().parent
BETA = 0.5


def solve(method: Method, given: World) -> dict[str, Any]:
    """One row of the table."""
    batches, weights = method.data(given)
    found = follow(expected(method.loss, batches, weights, given, method.state), given, method.smooth)
    own = None if method.target is None else total_variation(found.policy, method.target(given))
    return {
        "loss": method.label,
        "labels": method.data.__name__.replace("_", ", "),
        "claim": method.claim,
        "to_optimum": total_variation(found.policy, given.optimum),
        "to_claim": own,
        "end": found.status,
        "gradient": found.gradient,
        "expected": method.recovers,
        "policy": found.policy.tolist(),
    }


def table(rows: list[dict[str, Any]], given: World) -> str:
    def distance(value: float | None) -> str:
        return "-" if value is None else "< 1e-6" if value < 1e-6 else f"{value:.4f}"

    distances = {name: distance(total_variation(policy, given.optimum))
                 for name, policy in (("mu", given.mu), ("uniform", 0 * given.mu + 1 / given.mu.shape[1]))}  # fmt: skip
    lines = [
        "Total variation (the largest over contexts) of the policy that a loss ends at, to pi* = mu exp(r / beta) and",
        f"to what the loss claims. For comparison, mu itself is {distances['mu']} from pi*, the uniform policy",
        f"{distances['uniform']}. Written by `run.py`.",
        "",
        "| loss | labels | claim | to pi* | to its claim | end |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        shown = [row["loss"], row["labels"], row["claim"], distance(row["to_optimum"]), distance(row["to_claim"])]
        lines.append("| " + " | ".join([*shown, row["end"]]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=made_folder, default=HERE, help="where results are written")
    out = parser.parse_args(arguments).out
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the work
    given = world(beta=BETA)
    rows = []
    for method in methods(BETA):
        row = solve(method, given)
        rows.append(row)
        print(f"{row['loss']:52s} {row['to_optimum']:.1e} {row['to_claim'] or 0:.1e} {row['end']}", flush=True)
    (out / "results.json").write_text(json.dumps({"beta": BETA, "seed": 0, "rows": rows}, indent=1) + "\n")
    (out / "results.md").write_text(table(rows, given))


if __name__ == "__main__":
    main(sys.argv[1:])
