"""Online methods against each other at equal budget, over seeds: all pairs of policies before a held-out judge.

    python experiments/online_preference/run.py --seeds 0 1 2 --folder runs/online

A seed is one pipeline: SFT, two judges, a reward model, a policy per line of configs/online.py, the tournament. Runs
what is not there yet (an interrupted run goes on where it stopped), then writes results.json, results.md and the two
figures beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import along
import frontiers
import numpy as np

from alignjax.cli import overrides
from alignjax.cli.config_file import imported
from alignjax.config import Experiment, Pipeline, fn
from alignjax.data import instructions, prepare
from alignjax.evaluate import tournament, win_rate
from alignjax.pipelines import summarization as parts
from alignjax.train.pipeline import run_pipeline
from alignjax.workspace import Workspace

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"
table = imported(CONFIGS / "online.py")
LABELS = {
    "sft": "SFT",
    "rlhf": "RL on a reward",
    "online_dpo": "online DPO",
    "online_slic": "online SLiC",
    "online_ipo": "online IPO",
    "ipo_md": "IPO-MD 1/8",
    "ipo_md_half": "IPO-MD 1/2",
    "nash_md": "Nash-MD",
    "nash_ema": "Nash-EMA",
    "human": "human",
}
NAMES = tuple(name for name in LABELS if name in table.RECIPES)
STEPS = 60  # iterations of 16 posts with 4 completions each
EVERY = 15  # iterations between checkpoints, of which all are kept
JUDGES = (("held_out", "held_out"), ("training", "preference"))


def budget(sizes: Any) -> Any:
    """Sizes with this experiment's number of iterations."""
    return dataclasses.replace(sizes, policy_steps=min(STEPS, sizes.policy_steps))


def policy(sizes: Any, name: str) -> Experiment:
    """A line of configs/online.py at this experiment's budget, with checkpoints along the way."""
    return kept(table.trained(budget(sizes), name))


def kept(step: Experiment) -> Experiment:
    return dataclasses.replace(step, sample=None, checkpoint_every=EVERY, keep=-(-step.steps // EVERY))


def alongside(sizes: Any, model: Any, *players: str) -> Any:
    """The job that measures policies along their training, on half of the tournament's posts."""
    held_out = {"split": "test", "batch_size": sizes.eval_batch_size}
    return fn(
        along.measure,
        model=model,
        judge_model=parts.judge_model(sizes),
        players=players,
        judges=JUDGES,
        source=fn(instructions, **parts.texts(sizes), **held_out),
        batches=max(1, sizes.eval_batches // 2),
        max_tokens=sizes.completion_length,
    )


def pipeline(mode: str, names: Sequence[str]) -> Pipeline:
    """The whole of one seed. Its first steps are those of configs/online.py."""
    sizes = parts.sizes_of(mode)
    return Pipeline(
        {
            "data": fn(prepare, dataset=sizes.dataset),
            "sft": parts.sft(sizes),
            "preference": parts.judge(sizes, seed=1),
            "held_out": parts.judge(sizes, seed=2),
            **table.reward(sizes),
            **{name: policy(sizes, name) for name in names},
            "along": alongside(sizes, parts.policy_model(sizes), "sft", *names),
            "evaluate": parts.tournament(sizes, *(tournament.Player(name, name, label=LABELS[name]) for name in names)),
        }
    )


def trained(whole: Pipeline, seed: int, folder: Path) -> dict[str, Any]:
    """What one seed has found, trained if need be: the tournament, the paths."""
    place = Workspace(folder / f"seed-{seed}")
    run_pipeline(overrides.apply(whole, ["--seed", str(seed)]), place, resume=True)
    found = json.loads((place.of("evaluate").folder / tournament.FILE).read_text())
    return {
        "tournament": found,
        "along": json.loads((place.of("along").folder / along.FILE).read_text()),
        "pool": pool(found["win_rates"]),
    }


def pool(rates: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Exploitability of every policy by the best of the others: a human summary is no policy."""
    policies = [name for name in rates if name != "human"]
    return win_rate.exploitability({a: {b: rates[a][b] for b in policies if b != a} for a in policies})


def by_seed(one: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The numbers of one player in one seed."""
    found = one["tournament"]
    player, judges = found["players"][name], found["win_rates_by_judge"]
    return {
        "win": found["win_rates"][name].get("sft"),
        "hard": found["win_rates_hard"][name].get("sft"),
        "training": judges["training"][name].get("sft"),
        "kl": player.get("kl"),
        "words": player["length"],
        "exploitability": one["pool"].get(name),
    }


def rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per player: its numbers by seed, their mean and their spread (standard deviation over seeds)."""
    answer = []
    for name, player in found[0]["tournament"]["players"].items():  # controls are named by the tournament
        seeds = [by_seed(one, name) for one in found]
        label = LABELS.get(name, player["label"])
        row: dict[str, Any] = {"name": name, "label": label, "by_seed": seeds, "mean": {}, "spread": {}}
        for key in seeds[0]:
            values = [seed[key]["mean"] if isinstance(seed[key], dict) else seed[key] for seed in seeds]
            if all(value is not None for value in values):
                row["mean"][key] = float(np.mean(values))
                row["spread"][key] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        answer.append(row)
    return answer


def matrix(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{a: {b: mean over seeds; what their intervals over posts cover together; "above", "below": seeds whose interval
    excludes 1/2}}."""
    tables = [one["tournament"]["win_rates"] for one in found]

    def over_seeds(a: str, b: str) -> dict[str, Any]:
        own = [rates[a][b] for rates in tables]
        means = [rate["mean"] for rate in own]
        sides = {"above": sum(rate["low"] > 0.5 for rate in own), "below": sum(rate["high"] < 0.5 for rate in own)}
        ends = {"low": min(rate["low"] for rate in own), "high": max(rate["high"] for rate in own)}
        return {"mean": float(np.mean(means)), **ends, "n": len(means), **sides}

    return {a: {b: over_seeds(a, b) for b in tables[0][a]} for a in tables[0]}


COLUMNS = {  # heading -> (key of a row, format, factor)
    "win rate (%)": ("win", "{:.1f}", 100),
    "hard wins (%)": ("hard", "{:.1f}", 100),
    "training judge (%)": ("training", "{:.1f}", 100),
    "KL (nats)": ("kl", "{:.2f}", 1),
    "words": ("words", "{:.1f}", 1),
    "exploitability (%)": ("exploitability", "{:.1f}", 100),
}


def markdown(results: Mapping[str, Any]) -> str:
    """Both tables of results.md: the players, best first; and the win rates of all pairs in the same order."""
    rates, seeds = results["win_rates"], len(results["seeds"])
    order = sorted(results["rows"], key=lambda row: -row["mean"].get("win", 0.5))
    lines = [["player", "above 50 %", *COLUMNS], ["---"] * (len(COLUMNS) + 2)]
    for row in order:
        above = "-" if row["name"] == "sft" else f"{rates[row['name']]['sft']['above']} of {seeds}"
        lines.append([row["label"], above, *(cell(row, *column) for column in COLUMNS.values())])
    labels = {row["name"]: row["label"] for row in order}
    lines += [[], ["row against column (%)", *labels.values()], ["---"] * (len(labels) + 1)]
    lines += [[label, *(_rate(rates[a].get(b)) for b in labels)] for a, label in labels.items()]
    return "".join(f"| {' | '.join(line)} |\n" if line else "\n" for line in lines)


def figures(results: Mapping[str, Any]) -> dict[str, str]:
    """{name of the file: <svg>}."""
    return frontiers.both(results)


def cell(row: Mapping[str, Any], key: str, form: str, factor: float) -> str:
    """A mean with its spread over seeds, of a single seed with its interval over posts, or a dash."""
    if key not in row["mean"]:
        return "-"
    if len(row["by_seed"]) == 1:
        values = (round(factor * row["by_seed"][0][key][end], 6) + 0.0 for end in ("mean", "low", "high"))  # no -0.00
        mean, *ends = map(form.format, values)
        return f"{mean} ({' to '.join(ends)})"
    return f"{form.format(factor * row['mean'][key])} ± {form.format(factor * row['spread'][key])}"


def _rate(rate: Mapping[str, Any] | None) -> str:
    """A mean over seeds; + or - for each seed whose interval over posts lies on one side of 1/2."""
    return "" if rate is None else f"{100 * rate['mean']:.1f}{'+' * rate['above']}{'-' * rate['below']}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/online"))
    parser.add_argument("--recipes", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(arguments)
    logging.getLogger("alignjax.data").setLevel(logging.ERROR)  # what was cut is in the account of the data
    whole = pipeline("tiny" if given.tiny else "full", tuple(given.recipes))
    found = [trained(whole, seed, given.folder) for seed in given.seeds]
    results = {
        "seeds": given.seeds,
        "rows": rows(found),
        "win_rates": matrix(found),
        "win_rates_by_seed": [one["tournament"]["win_rates"] for one in found],
        "judges": [one["tournament"]["judges"] for one in found],
        "agreement": [one["tournament"]["agreement"] for one in found],
        "along": [one["along"] for one in found],
    }
    (given.out / "results.json").write_text(json.dumps(results, indent=1))
    (given.out / "results.md").write_text(markdown(results))
    for name, picture in figures(results).items():
        (given.out / f"{name}.svg").write_text(picture)
    print(markdown(results))


if __name__ == "__main__":
    main(sys.argv[1:])
