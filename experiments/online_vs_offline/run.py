"""Why online beats offline, or does not: four hypotheses about the gap, an ablation each, over seeds.

    python experiments/online_vs_offline/run.py --seeds 0 1 --folder runs/online

Shares its first steps, online DPO and online SLiC with experiments/online_preference, so the same folder saves time.
Runs what is not there yet (an interrupted run goes on where it stopped), then writes results.json, results.md and the
three figures beside this file.
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

import ablations
import history
import numpy as np

from alignjax import algorithms
from alignjax.cli import overrides
from alignjax.cli.config_file import imported
from alignjax.config import Experiment, Fn, Pipeline, fn
from alignjax.data import instructions, prepare, prompts
from alignjax.data.sources.recorded import recorded
from alignjax.evaluate import tournament
from alignjax.pipelines import summarization as parts
from alignjax.roles import restored
from alignjax.train.pipeline import run_pipeline
from alignjax.train.resolve import experience_shapes
from alignjax.types import Algorithm, Role
from alignjax.workspace import Workspace

HERE = Path(__file__).parent
comparison = imported(HERE.parent / "online_preference" / "run.py")
drift = imported(HERE.parent / "offline_losses" / "drift.py")
table = comparison.table
ONLINE = "online_ipo_kept"
LABELS = {
    "sft": "SFT",
    "offline_ipo": "offline IPO",
    "shuffled": "offline IPO on the online run's data, shuffled",
    "in_order": "offline IPO on the online run's data, in order",
    "offline_final": "offline IPO on samples of the final online policy",
    "offline_human": "offline IPO on SFT samples and the human text",
    ONLINE: "online IPO",
    "offline_dpo": "offline DPO",
    "online_dpo": "online DPO",
    "offline_slic": "offline SLiC",
    "online_slic": "online SLiC",
    "human": "human",
}
SMALL = {"sft": "SFT", "small_offline": "offline IPO", "small_online": "online IPO", "human": "human"}
TRAINED = tuple(name for name in LABELS if name not in ("sft", "human"))
PATHS = ("offline_ipo", "shuffled", "offline_final", "offline_human", ONLINE)


# ------------------------------------------------------------------------------------------------------ data, policies


def asked(sizes: Any, judge: str = "preference", start: str = "sft") -> dict[str, Any]:
    """What sampling and self-play need beside a policy: a judge of the width in `sizes`, where the policy starts."""
    judges = {"preference": Role(parts.judge_model(sizes), restored(judge, "preference"))}
    return {**parts.judged(sizes), "judges": judges, "start": restored(start, "policy")}


def labelled(sizes: Any, source: Fn, steps: int, **changes: Any) -> Experiment:
    """Completions of posts, all their pairs labelled by a judge, written as a data set."""
    return Experiment(algorithms.labelled_samples(parts.policy_model(sizes), **changes), source, steps)


def posts(sizes: Any) -> Fn:
    return fn(prompts, batch_size=sizes.policy_batch_size, **parts.posts(sizes))


def online_kept(sizes: Any) -> Experiment:
    """Online IPO of configs/online.py, whose experience stays."""
    step = comparison.policy(sizes, "online_ipo")
    stages = {**step.algorithm.experience, history.NAME: history.keeping()}
    return dataclasses.replace(step, algorithm=dataclasses.replace(step.algorithm, experience=stages))


def offline(sizes: Any, recipe: Any, data: str, start: str = "sft", shuffle: bool = True, **hyper: Any) -> Experiment:
    """An offline recipe on the data set of a step, with the online runs' optimizer, batch size and iterations."""
    sizes = comparison.budget(sizes)
    given = {"optimizer": parts.policy_optimizer(sizes), "start": restored(start, "policy"), "n": sizes.samples}
    source = fn(recorded, stage=data, batch_size=sizes.policy_batch_size, shuffle=shuffle)
    step = Experiment(recipe(parts.policy_model(sizes), **given, **hyper), source, sizes.policy_steps)
    return comparison.kept(step)


def replayed(step: Experiment) -> Experiment:
    """Without a stage: what the online run has filed holds the reference's log-probs too."""
    algorithm: Algorithm = step.algorithm
    return dataclasses.replace(step, algorithm=dataclasses.replace(algorithm, experience={}))


# ------------------------------------------------------------------------------------------------------------- pipeline


def ablated(sizes: Any) -> dict[str, Any]:
    """Policies of one width: coverage, quality, losses."""
    steps, ipo = comparison.budget(sizes).policy_steps, {"recipe": algorithms.ipo, "tau": table.TAU}
    online = online_kept(sizes)
    humans = fn(instructions, batch_size=sizes.policy_batch_size, **parts.texts(sizes))
    final = asked(sizes, start=ONLINE)
    return {
        "pairs": parts.sampled_pairs(sizes),
        ONLINE: online,
        "history": fn(history.write, stage=ONLINE, steps=steps, like=lambda: experience_shapes(online)),
        "final_pairs": labelled(sizes, posts(sizes), steps, **final),
        "human_pairs": labelled(sizes, humans, steps, **{**asked(sizes), "n": sizes.samples - 1}),
        "offline_ipo": offline(sizes, data="pairs", **ipo),
        "shuffled": replayed(offline(sizes, data="history", **ipo)),
        "in_order": replayed(offline(sizes, data="history", shuffle=False, **ipo)),
        "offline_final": offline(sizes, data="final_pairs", **ipo),
        "offline_human": offline(sizes, data="human_pairs", **ipo),
        "offline_dpo": offline(sizes, algorithms.dpo, "pairs", beta=table.BETA),
        "offline_slic": offline(sizes, algorithms.slic, "pairs", beta=table.HINGE),
        "online_dpo": comparison.policy(sizes, "online_dpo"),
        "online_slic": comparison.policy(sizes, "online_slic"),
    }


def half_as_wide(sizes: Any) -> dict[str, Any]:
    """SFT, offline and online IPO of networks of half the width, before the same judges."""
    small = dataclasses.replace(sizes, width=sizes.width // 2)
    ask, model = asked(sizes, start="small_sft"), parts.policy_model(small)
    budget = comparison.budget(small)
    online = algorithms.online_ipo(model, tau=table.TAU, optimizer=parts.policy_optimizer(budget), **ask)
    return {
        "small_sft": parts.sft(small),
        "small_pairs": labelled(small, posts(small), budget.policy_steps, **ask),
        "small_offline": offline(small, algorithms.ipo, "small_pairs", start="small_sft", tau=table.TAU),
        "small_online": comparison.kept(Experiment(online, posts(small), budget.policy_steps)),
    }


def pipeline(mode: str) -> Pipeline:
    """The whole of one seed."""
    sizes = parts.sizes_of(mode)
    model, half = parts.policy_model(sizes), max(1, sizes.eval_batches // 2)
    fresh = fn(prompts, **parts.posts(sizes) | {"batch_size": sizes.eval_batch_size, "split": "test"})
    several = {"batch_size": sizes.eval_batch_size, "shuffle": False}
    pairs = {where: fn(recorded, stage=f"test_{where}", **several) for where in ("sft", "online")}
    players = [tournament.Player(name, name, label=LABELS[name]) for name in TRAINED]
    versus = parts.tournament(sizes, *players)
    small = [("sft", "small_sft"), ("small_offline", "small_offline"), ("small_online", "small_online")]
    few = tuple(tournament.Player(name, stage, label=SMALL[name]) for name, stage in small)
    narrow = parts.policy_model(dataclasses.replace(sizes, width=sizes.width // 2))
    return Pipeline(
        {
            "data": fn(prepare, dataset=sizes.dataset),
            "sft": parts.sft(sizes),
            "preference": parts.judge(sizes, seed=1),
            "held_out": parts.judge(sizes, seed=2),
            **ablated(sizes),
            **half_as_wide(sizes),
            "test_sft": labelled(sizes, fresh, half, **asked(sizes, "held_out")),
            "test_online": labelled(sizes, fresh, half, **asked(sizes, "held_out", start=ONLINE)),
            "accuracy": fn(
                drift.measure,
                model=model,
                players=("sft", *TRAINED),
                seen=pairs["sft"],
                fresh=pairs["online"],
                batches=half,
            ),
            "ablations_along": comparison.alongside(sizes, model, "sft", *PATHS),
            "ablations": versus,
            "ablations_small": versus.replace(model=narrow, players=few),
        }
    )


# -------------------------------------------------------------------------------------------------------------- results


def trained(whole: Pipeline, seed: int, folder: Path) -> dict[str, Any]:
    """What one seed has found, trained if need be."""
    place = Workspace(folder / f"seed-{seed}")
    run_pipeline(overrides.apply(whole, ["--seed", str(seed)]), place, resume=True)

    def read(step: str, file: str) -> Any:
        return json.loads((place.of(step).folder / file).read_text())

    return {
        "tournament": read("ablations", tournament.FILE),
        "small": read("ablations_small", tournament.FILE),
        "accuracy": read("accuracy", drift.FILE),
        "along": read("ablations_along", comparison.along.FILE),
    }


def by_seed(one: Mapping[str, Any], name: str, table_of: str = "tournament") -> dict[str, Any]:
    """The numbers of one player in one seed."""
    found = one[table_of]
    player, judges = found["players"][name], found["win_rates_by_judge"]
    rates = found["win_rates"][name]
    right = one["accuracy"].get(name, {}) if name != "sft" else {}  # SFT's margins are 0
    return {
        "win": rates.get("sft"),
        "online": rates.get(ONLINE) or rates.get("small_online"),
        "training": judges["training"][name].get("sft"),
        "kl": player.get("kl"),
        "words": player["length"],
        "accuracy_sft": right.get("seen", {}).get("accuracy"),
        "accuracy_online": right.get("fresh", {}).get("accuracy"),
    }


def rows(found: Sequence[Mapping[str, Any]], labels: Mapping[str, str], table_of: str) -> list[dict[str, Any]]:
    """Per player: its numbers by seed, their mean and their spread (standard deviation over seeds)."""
    answer = []
    for name, label in labels.items():
        seeds = [by_seed(one, name, table_of) for one in found]
        row: dict[str, Any] = {"name": name, "label": label, "by_seed": seeds, "mean": {}, "spread": {}}
        for key in seeds[0]:
            values = [seed[key]["mean"] for seed in seeds if seed[key]]
            if len(values) == len(seeds):
                row["mean"][key] = float(np.mean(values))
                row["spread"][key] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        for key, ends in (("win", "above"), ("online", "below")):
            if key in row["mean"]:
                row[ends] = sum(s[key]["low"] > 0.5 if ends == "above" else s[key]["high"] < 0.5 for s in seeds)
        answer.append(row)
    return answer


COLUMNS = {  # heading -> (key of a row, format, factor)
    "win rate (%)": ("win", "{:.1f}", 100),
    "against online IPO (%)": ("online", "{:.1f}", 100),
    "training judge (%)": ("training", "{:.1f}", 100),
    "KL (nats)": ("kl", "{:.2f}", 1),
    "words": ("words", "{:.1f}", 1),
    "accuracy, SFT pairs (%)": ("accuracy_sft", "{:.1f}", 100),
    "accuracy, online pairs (%)": ("accuracy_online", "{:.1f}", 100),
}


def markdown(results: Mapping[str, Any]) -> str:
    """A table per width."""
    text, seeds = "", len(results["seeds"])
    for heading, players in results["rows"].items():
        lines = [[heading, "above 50 %", *COLUMNS], ["---"] * (len(COLUMNS) + 2)]
        for row in players:
            above = f"{row['above']} of {seeds}" if "above" in row else "-"
            lines.append([row["label"], above, *(comparison.cell(row, *column) for column in COLUMNS.values())])
        text += "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"
    return text.rstrip("\n") + "\n"


def figures(results: Mapping[str, Any]) -> dict[str, str]:
    """{name of the file: <svg>}."""
    return ablations.all_of(results, comparison.frontiers.paths)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--folder", type=Path, default=Path("runs/online"))
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(arguments)
    logging.getLogger("alignjax.data").setLevel(logging.ERROR)  # what was cut is in the account of the data
    mode = "tiny" if given.tiny else "full"
    whole, width = pipeline(mode), parts.sizes_of(mode).width
    found = [trained(whole, seed, given.folder) for seed in given.seeds]
    tables = {
        f"width {width}": rows(found, LABELS, "tournament"),
        f"width {width // 2}": rows(found, SMALL, "small"),
    }
    results = {
        "seeds": given.seeds,
        "rows": tables,
        "win_rates_by_seed": [one["tournament"]["win_rates"] for one in found],
        "judges": [one["tournament"]["judges"] for one in found],
        "along": [one["along"] for one in found],
    }
    (given.out / "results.json").write_text(json.dumps(results, indent=1))
    (given.out / "results.md").write_text(markdown(results))
    for name, picture in figures(results).items():
        (given.out / f"{name}.svg").write_text(picture)
    print(markdown(results))


if __name__ == "__main__":
    main(sys.argv[1:])
