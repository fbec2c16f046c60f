"""Every pairwise loss on the same SFT policy and the same judged pairs, over seeds.

    python experiments/offline_losses/run.py --seeds 0 1 2 --folder runs/offline_losses

A seed is one pipeline: SFT, two judges, the pairs, a policy per loss, the tournament. Runs what is not there yet (an
interrupted run goes on where it stopped), then writes results.json, results.md and the two figures beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import Any

import drift
import numpy as np
import pictures

from alignjax import algorithms
from alignjax.cli import overrides
from alignjax.cli.config_file import imported
from alignjax.config import Experiment, Pipeline, fn
from alignjax.data import prepare, prompts
from alignjax.data.sources.recorded import recorded
from alignjax.evaluate import tournament
from alignjax.pipelines import loss_families as families, summarization as parts
from alignjax.train.pipeline import run_pipeline
from alignjax.types import Batch, Context, Key
from alignjax.workspace import Workspace

HERE = Path(__file__).parent
table = imported(HERE.parents[1] / "configs" / "losses.py")
WRAPPERS = ("length_desensitised", "with_divergence")  # of another loss; ld_dpo and f_dpo show what they do
PAIRWISE = tuple(
    name
    for name, (_, family) in table.LOSSES.items()
    if family in (families.PAIRS, families.SOFT) and name not in WRAPPERS
)
STEPS = 60  # of 16 posts with all pairs of 4 samples each
COLUMNS = {  # heading -> (key of a row, format)
    "win rate (%)": ("win", "{:.1f}"),
    "above 50 %": ("above", "{}"),
    "against DPO (%)": ("dpo", "{:.1f}"),
    "KL (nats)": ("kl", "{:.2f}"),
    "words": ("words", "{:.1f}"),
    "chosen (nats)": ("chosen", "{:+.2f}"),
    "rejected (nats)": ("rejected", "{:+.2f}"),
    "accuracy (%)": ("accuracy", "{:.1f}"),
    "entropy": ("entropy", "{:.2f}"),
}


def as_sampled(context: Context, batch: Batch, key: Key) -> Batch:
    """The reference's log-probs are those that were written when it made the samples: nothing to score."""
    return batch.with_logps(reference=batch.logps["policy"])


def policy(sizes: Any, name: str) -> Experiment:
    """A line of configs/losses.py at this experiment's budget."""
    if sizes.policy_steps > STEPS:
        sizes = dataclasses.replace(sizes, policy_steps=STEPS)
    step = families.trained(sizes, *table.LOSSES[name])
    experience = {**step.algorithm.experience, "reference": fn(as_sampled)}
    return dataclasses.replace(step, algorithm=dataclasses.replace(step.algorithm, experience=experience))


def pipeline(mode: str, names: tuple[str, ...]) -> Pipeline:
    """The whole of one seed. Its first steps are those of configs/quickstart.py."""
    sizes = parts.sizes_of(mode)
    if mode.endswith("tiny"):
        sizes = dataclasses.replace(sizes, samples=3)
    model = parts.policy_model(sizes)
    half = max(1, sizes.eval_batches // 2)
    several = {"batch_size": sizes.eval_batch_size, "shuffle": False}
    ask = algorithms.labelled_samples(model, **parts.judged(sizes))
    posts = parts.posts(sizes) | {"batch_size": sizes.eval_batch_size, "split": "test"}
    measure = {"seen": fn(recorded, stage="pairs", **several), "fresh": fn(recorded, stage="test_pairs", **several)}
    return Pipeline(
        {
            "data": fn(prepare, dataset=sizes.dataset),
            "sft": parts.sft(sizes),
            "preference": parts.judge(sizes, seed=1),
            "held_out": parts.judge(sizes, seed=2),
            "pairs": parts.sampled_pairs(sizes),
            "test_pairs": Experiment(ask, fn(prompts, **posts), half),
            **{name: policy(sizes, name) for name in names},
            "drift": fn(drift.measure, model=model, players=("sft", *names), batches=half, **measure),
            "evaluate": parts.tournament(sizes, *(tournament.Player(name, name) for name in names)),
        }
    )


def trained(whole: Pipeline, seed: int, folder: Path) -> dict[str, Any]:
    """What one seed has found, trained if need be: the tournament, the drift, the seconds of every step."""
    place = Workspace(folder / f"seed-{seed}")
    run_pipeline(overrides.apply(whole, ["--seed", str(seed)]), place, resume=True)
    found = json.loads((place.of("evaluate").folder / tournament.FILE).read_text())
    done = {path.parent.name: json.loads(path.read_text())["seconds"] for path in place.root.glob("*/done.json")}
    moved = json.loads((place.of("drift").folder / drift.FILE).read_text())
    return {"tournament": found, "drift": moved, "seconds": done}


def by_seed(one: dict[str, Any], name: str) -> dict[str, Any]:
    """The numbers of one loss (or of "sft", "human") in one seed."""
    player, rates = one["tournament"]["players"][name], one["tournament"]["win_rates"][name]
    row = {"win": rates.get("sft"), "dpo": rates.get("dpo"), "kl": player.get("kl"), "words": player["length"]}
    moved = one["drift"].get(name, {"seen": {}, "fresh": {}})
    row |= {key: moved["seen"].get(key) for key in ("chosen", "rejected", "chosen_rises", "entropy")}
    row |= {"accuracy": moved["fresh"].get("accuracy"), "seen_accuracy": moved["seen"].get("accuracy")}
    hard = one["tournament"]["win_rates_hard"][name].get("sft")
    return row | {"hard": hard, "seconds": one["seconds"].get(name)}


def rows(found: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Per player: its numbers by seed, their mean and their spread (standard deviation over seeds)."""
    answer = []
    for name in ("sft", *names, "human"):
        seeds = [by_seed(one, name) for one in found]
        row: dict[str, Any] = {"name": name, "by_seed": seeds, "mean": {}, "spread": {}}
        for key in seeds[0]:
            values = [seed[key]["mean"] if isinstance(seed[key], dict) else seed[key] for seed in seeds]
            if all(value is not None for value in values):
                row["mean"][key] = float(np.mean(values))
                row["spread"][key] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        if name != "sft":
            row["above"] = sum(seed["win"]["low"] > 0.5 for seed in seeds)
        answer.append(row)
    return answer


PER_CENT = ("win", "dpo", "accuracy")


def cell(row: dict[str, Any], key: str, form: str, seeds: int) -> str:
    """A mean with its spread over seeds, or a dash."""
    if key == "above":
        return f"{row['above']} of {seeds}" if "above" in row else "-"
    if key not in row["mean"]:
        return "-"
    factor = 100 if key in PER_CENT else 1
    spread = form.replace("+", "").format(factor * row["spread"][key])
    return f"{form.format(factor * row['mean'][key])} ± {spread}"


def markdown(found: list[dict[str, Any]], seeds: int) -> str:
    """The table, best win rate first."""
    order = sorted(found, key=lambda row: -row["mean"].get("win", 0.5))
    lines = [["loss", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    lines += [[row["name"], *(cell(row, *column, seeds) for column in COLUMNS.values())] for row in order]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/offline_losses"))
    parser.add_argument("--losses", nargs="+", default=PAIRWISE)
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(arguments)
    logging.getLogger("alignjax.data").setLevel(logging.ERROR)  # what was cut is in the account of the data
    names = tuple(given.losses)
    whole = pipeline("tiny" if given.tiny else "full", names)
    found = [trained(whole, seed, given.folder) for seed in given.seeds]
    table_rows = rows(found, names)
    settings = {name: {k: v for k, v in table.LOSSES[name][0].kwargs.items() if k != "pairs"} for name in names}
    results = {
        "seeds": given.seeds,
        "losses": settings,
        "rows": table_rows,
        "seconds": [one["seconds"] for one in found],
    }
    (given.out / "results.json").write_text(json.dumps(results, indent=1, default=repr))
    (given.out / "results.md").write_text(markdown(table_rows, len(given.seeds)))
    for name, picture in pictures.both(results).items():
        (given.out / f"{name}.svg").write_text(picture)
    print(markdown(table_rows, len(given.seeds)))


if __name__ == "__main__":
    main(sys.argv[1:])
