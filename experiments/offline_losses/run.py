"""Every pairwise loss on the same SFT policy and the same judged pairs of the sorting task, over seeds.

    python experiments/offline_losses/run.py --seeds 0 1 2 3 4 --folder runs/exact

Shares its first steps with experiments/online_ipo, so the same folder saves time. Runs what is not there yet (an
interrupted run goes on where it stopped), then writes results.json, results.md and the two figures beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import drift
import pictures

from alignjax import algorithms
from alignjax.cli.config_file import imported
from alignjax.config import Experiment, Pipeline, fn
from alignjax.data.sources.recorded import recorded
from alignjax.evaluate import over_optimization
from alignjax.evaluate.over_optimization import Point
from alignjax.evaluate.tournament import Player
from alignjax.exact_tasks import letters
from alignjax.outside import made_folder
from alignjax.pipelines import exact_study as parts, loss_families as families
from alignjax.types import Batch, Context, Key

HERE = Path(__file__).parent
study = imported(HERE.parent / "online_ipo" / "over_seeds.py")
table = imported(HERE.parents[1] / "configs" / "losses.py")
WRAPPERS = ("length_desensitised", "with_divergence")  # of another loss; ld_dpo and f_dpo show what they do
PAIRWISE = tuple(
    name
    for name, (_, family) in table.LOSSES.items()
    if family in (families.PAIRS, families.SOFT) and name not in WRAPPERS
)
MEASURED = 2  # batches of prompts on which log-probs are looked at
COLUMNS = {  # key -> heading, factor, digits
    "gold": ("gold win rate (%)", 100, 1),
    "learned": ("learned judge's (%)", 100, 1),
    "exact": ("exactly sorted (%)", 100, 1),
    "kl": ("KL (nats)", 1, 2),
    "chosen": ("chosen (nats)", 1, 2),
    "rejected": ("rejected (nats)", 1, 2),
    "accuracy": ("accuracy (%)", 100, 1),
    "entropy": ("entropy", 1, 2),
}


def as_sampled(context: Context, batch: Batch, key: Key) -> Batch:
    """The reference's log-probs are those that were written when it made the samples: nothing to score."""
    return batch.with_logps(reference=batch.logps["policy"])


def policy(sizes: parts.Sizes, name: str) -> Experiment:
    """A line of configs/losses.py."""
    step = families.trained(sizes, *table.LOSSES[name])
    experience = {**step.algorithm.experience, "reference": fn(as_sampled)}
    return dataclasses.replace(step, algorithm=dataclasses.replace(step.algorithm, experience=experience))


def pipeline(mode: str, names: Sequence[str]) -> Pipeline:
    """The whole of one seed. Its first steps are those of configs/quickstart.py."""
    sizes = parts.sizes_of(mode)
    model = parts.policy_model(sizes)
    several = {"batch_size": sizes.eval_batch_size, "shuffle": False}
    ask = algorithms.labelled_samples(model, **parts.judged(sizes))
    others = fn(letters, batch_size=sizes.eval_batch_size, split="fresh_pairs", **parts.posts(sizes))
    measure = {"seen": fn(recorded, stage="pairs", **several), "fresh": fn(recorded, stage="fresh_pairs", **several)}
    steps = {name: policy(sizes, name) for name in names}
    # Jobs are named after who takes part: with other losses they are other jobs, and what is trained stays.
    who = "all" if tuple(names) == PAIRWISE else str(len(names))
    return Pipeline(
        {
            **parts.prepared(sizes),
            "pairs": parts.sampled_pairs(sizes),
            "fresh_pairs": Experiment(ask, others, MEASURED),
            **{f"loss-{name}": step for name, step in steps.items()},
            f"drift_{who}": fn(
                drift.measure,
                model=model,
                players=("sft", *(f"loss-{name}" for name in names)),
                batches=MEASURED,
                **measure,
            ),
            f"along_kl_{who}": parts.along_kl(
                sizes, *(Point(name, name, Player(f"loss-{name}", f"loss-{name}")) for name in names)
            ),
        }
    )


def trained(whole: Pipeline, seed: int, folder: Path) -> dict[str, Any]:
    """What one seed says: the numbers of every loss."""
    place = study.trained(whole, seed, folder)
    moved_job, rates_job = (
        next(name for name in whole.steps if name.startswith(start)) for start in ("drift_", "along_kl_")
    )
    moved, rates = study.read(place, moved_job, drift.FILE), study.read(place, rates_job, over_optimization.FILE)
    return {name: by_seed(points[0], moved[f"loss-{name}"]) for name, points in rates.items()}


def by_seed(point: Mapping[str, Any], moved: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one loss in one seed, as intervals over prompts."""
    seen, fresh = moved["seen"], moved["fresh"]
    rates = {"gold": point["win_rates"]["held_out"], "learned": point["win_rates"]["training"]}
    own = {"exact": point["measures"]["exact"], "kl": point["kl"], "accuracy": fresh["accuracy"]}
    return {**rates, **own, **{key: seen[key] for key in ("chosen", "rejected", "chosen_rises", "entropy")}}


def rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per loss: its numbers by seed, and their mean with half the width of its interval over seeds."""
    answer = []
    for name in found[0]:
        seeds = [one[name] for one in found]
        means = {key: study.over_seeds([seed[key]["mean"] for seed in seeds]) for key in COLUMNS}
        answer.append({"name": name, "by_seed": seeds, "over_seeds": means})
    return answer


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """The table, best gold win rate first."""
    order = sorted(found, key=lambda row: -row["over_seeds"]["gold"]["mean"])
    lines = [
        [row["name"], *(study.number(row["over_seeds"][key], *how[1:]) for key, how in COLUMNS.items())]
        for row in order
    ]
    return study.markdown(["loss", *(how[0] for how in COLUMNS.values())], lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/exact"))
    parser.add_argument("--losses", nargs="+", default=PAIRWISE)
    parser.add_argument(
        "--mode", default="full", choices=["full", "tiny"], help="tiny: a few steps, to see that it runs"
    )
    parser.add_argument("--out", type=made_folder, default=HERE)
    given = parser.parse_args(arguments)
    names = tuple(given.losses)
    whole = pipeline(given.mode, names)
    table_rows = rows([trained(whole, seed, given.folder) for seed in given.seeds])
    settings = {name: {k: v for k, v in table.LOSSES[name][0].kwargs.items() if k != "pairs"} for name in names}
    results = {"seeds": given.seeds, "losses": settings, "rows": table_rows}
    (given.out / "results.json").write_text(json.dumps(results, indent=1, default=repr))
    (given.out / "results.md").write_text(markdown(table_rows))
    for name, picture in pictures.both(results).items():
        (given.out / f"{name}.svg").write_text(picture)
    print(markdown(table_rows))


if __name__ == "__main__":
    main(sys.argv[1:])
