"""Why online beats offline, or does not: hypotheses about the gap on the sorting task, an ablation each, over seeds.

    python experiments/online_vs_offline/run.py --seeds 0 1 2 3 4 5 6 7 8 9 --folder runs/exact

Shares its first steps with experiments/online_ipo, so the same folder saves time. Runs what is not there yet (an
interrupted run goes on where it stopped), then writes results.json, results.md and the figure beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import curves
import history

from alignjax import algorithms
from alignjax.cli.config_file import imported
from alignjax.config import Experiment, Fn, Pipeline, fn
from alignjax.data.sources.recorded import recorded
from alignjax.evaluate import over_optimization
from alignjax.evaluate.over_optimization import Point
from alignjax.evaluate.tournament import Player
from alignjax.exact_tasks import letters
from alignjax.outside import made_folder
from alignjax.pipelines import exact_study as parts
from alignjax.roles import restored
from alignjax.train.resolve import experience_shapes

HERE = Path(__file__).parent
study = imported(HERE.parent / "online_ipo" / "over_seeds.py")
drift = imported(HERE.parent / "offline_losses" / "drift.py")
losses_run = imported(HERE.parent / "offline_losses" / "run.py")

TAUS = (0.15, 0.09, 0.05)  # the points of every curve; DPO's beta is four times as much
TAUS_OF_LONGER = (0.3, *TAUS)  # more steps go farther from SFT: a stronger pull keeps a point near it
LONGER = 4  # times the steps; of all pairs that SFT's samples were labeled in, that is an epoch
KEPT = TAUS[-1]  # the online run whose samples are learned from offline
RATE = 2e-4  # everybody's learning rate
PROMPTS = 8  # of a step: a quarter of the quickstart's, and of its pairs a quarter is seen
LABELS = {
    "online_ipo": "online IPO",
    "offline_ipo": "offline IPO",
    "shuffled": "offline IPO on the online run's data, shuffled",
    "final": "offline IPO on samples of the final online policy",
    "online_dpo": "online DPO",
    "offline_dpo": "offline DPO",
    "again": f"offline IPO, {LONGER} times the steps on as many labels",
    "longer": f"offline IPO, {LONGER} times the steps and labels",
}
# Each group may be run after the one before it.
GROUPS = {
    "data": ("online_ipo", "offline_ipo", "shuffled"),
    "quality": ("final",),
    "loss": ("online_dpo", "offline_dpo"),
    "longer": ("again", "longer"),
}
NATS = (1.0, 2.0)  # where curves are compared; the claims are about the first
# What is claimed to be above 0, settled before the seeds were run: differences of gold win rates at one nat.
CLAIMS = {
    "data": (
        ("online_ipo", "offline_ipo"),  # there is a gap
        ("shuffled", "offline_ipo"),  # coverage explains some of it
        ("online_ipo", "shuffled"),  # coverage does not explain all of it
    ),
    "quality": (
        ("final", "offline_ipo"),  # better data explain some of it
        ("online_ipo", "final"),  # better data do not explain all of it
    ),
    "loss": (("online_dpo", "offline_dpo"),),
    "longer": (
        ("again", "offline_ipo"),  # more steps explain some of it
        ("online_ipo", "again"),  # more steps do not explain all of it
        ("longer", "offline_ipo"),  # so with as many more labels
        ("online_ipo", "longer"),
    ),
}
ACCURACIES = {"seen": "pairs of SFT samples", "fresh": "pairs of the final online policy's samples"}


# ------------------------------------------------------------------------------------------------------ data, policies


def name(curve: str, tau: float) -> str:
    """The step of a policy."""
    return f"{curve}-{tau}"


def taus(curve: str) -> tuple[float, ...]:
    """The strengths of a curve, the strongest pull first."""
    return TAUS_OF_LONGER if curve in GROUPS["longer"] else TAUS


def online(sizes: parts.Sizes, recipe: Callable[..., Any], **strength: float) -> Experiment:
    """A recipe of self-play from SFT."""
    optimizer = parts.optimizer(RATE, sizes.policy_steps)
    step = parts.online(
        sizes, recipe(parts.policy_model(sizes), optimizer=optimizer, **parts.judged(sizes), **strength)
    )
    return dataclasses.replace(step, sample=None)


def offline(sizes: parts.Sizes, data: str, recipe: Callable[..., Any], **strength: float) -> Experiment:
    """An offline recipe on the pairs that a step has written, in an order of its own."""
    given = {"optimizer": parts.optimizer(RATE, sizes.policy_steps), "start": restored("sft", "policy")}
    algorithm = recipe(parts.policy_model(sizes), n=sizes.samples, **given, **strength)
    if data == "pairs":  # samples of the reference itself, written with their log-probs
        algorithm = dataclasses.replace(algorithm, experience={"reference": fn(losses_run.as_sampled)})
    return Experiment(algorithm, fn(recorded, stage=data, batch_size=sizes.policy_batch_size), sizes.policy_steps)


def keeping(step: Experiment) -> Experiment:
    """An online run whose experience stays."""
    stages = {**step.algorithm.experience, history.NAME: history.keeping()}
    return dataclasses.replace(step, algorithm=dataclasses.replace(step.algorithm, experience=stages))


def replayed(step: Experiment, shuffle: bool = True) -> Experiment:
    """An offline run on what an online one has filed, which holds the reference's log-probs too: no stages."""
    source = step.source.replace(shuffle=shuffle)
    return dataclasses.replace(step, source=source, algorithm=dataclasses.replace(step.algorithm, experience={}))


def policies(sizes: parts.Sizes, group: str) -> dict[str, Any]:
    """The curves of a group, and the data that they learn from."""
    last = name("online_ipo", KEPT)
    if group == "loss":
        return {
            **{name("online_dpo", tau): online(sizes, algorithms.online_dpo, beta=4 * tau) for tau in TAUS},
            **{name("offline_dpo", tau): offline(sizes, "pairs", algorithms.dpo, beta=4 * tau) for tau in TAUS},
        }
    if group == "quality":
        again = {**parts.judged(sizes), "start": restored(last, "policy")}
        return {
            "final_pairs": parts.online(sizes, algorithms.labelled_samples(parts.policy_model(sizes), **again)),
            **{name("final", tau): offline(sizes, "final_pairs", algorithms.ipo, tau=tau) for tau in TAUS},
        }
    if group == "longer":
        more = dataclasses.replace(sizes, policy_steps=LONGER * sizes.policy_steps)
        data = {"again": "few_pairs", "longer": "pairs"}
        return {
            "few_pairs": parts.sampled_pairs(sizes),  # as many labels as the others learn from
            **{name(c, tau): offline(more, data[c], algorithms.ipo, tau=tau) for c in data for tau in taus(c)},
        }
    own = {name("online_ipo", tau): keeping(online(sizes, algorithms.online_ipo, tau=tau)) for tau in TAUS}
    return {
        **own,
        "history": fn(history.write, stage=last, steps=sizes.policy_steps, like=lambda: experience_shapes(own[last])),
        **{name("offline_ipo", tau): offline(sizes, "pairs", algorithms.ipo, tau=tau) for tau in TAUS},
        **{name("shuffled", tau): replayed(offline(sizes, "history", algorithms.ipo, tau=tau)) for tau in TAUS},
    }


# ------------------------------------------------------------------------------------------------------------- pipeline


def gold_pairs(sizes: parts.Sizes, start: str) -> Experiment:
    """Samples of a policy on other prompts, with gold's labels: what implicit rewards are measured on."""
    asked = {"judge": sizes.task.gold, "judges": {}, "start": restored(start, "policy")}
    more: dict[str, Any] = {"max_tokens": sizes.completion_length, "n": sizes.samples}
    source = fn(letters, batch_size=sizes.eval_batch_size, split="accuracy", **parts.posts(sizes))
    return Experiment(algorithms.labelled_samples(parts.policy_model(sizes), **asked, **more), source, 2)


def accuracy(sizes: parts.Sizes, names: Sequence[str]) -> Fn:
    """The job that measures how well implicit rewards order pairs."""
    several = {"batch_size": sizes.eval_batch_size, "shuffle": False}
    seen, fresh = (fn(recorded, stage=f"gold_pairs_{where}", **several) for where in ("sft", "online"))
    options = {"model": parts.policy_model(sizes), "players": ("sft", *names), "batches": 2}
    return fn(drift.measure, seen=seen, fresh=fresh, **options)


def pipeline(mode: str, groups: Sequence[str]) -> Pipeline:
    """The whole of one seed. A group is measured when its policies are there, so that another one may follow later."""
    sizes = parts.sizes_of(mode)
    steps = {**parts.prepared(sizes), "pairs": parts.sampled_pairs(sizes)}
    sizes = dataclasses.replace(sizes, policy_batch_size=PROMPTS)
    last = name("online_ipo", KEPT)  # every group is measured on its samples
    steps |= {last: policies(sizes, "data")[last]}
    steps |= {"gold_pairs_sft": gold_pairs(sizes, "sft"), "gold_pairs_online": gold_pairs(sizes, last)}
    for group in groups:
        steps |= policies(sizes, group)
        every = [(curve, tau) for curve in GROUPS[group] for tau in taus(curve)]
        names = [name(curve, tau) for curve, tau in every]
        points = [Point(curve, f"{tau:g}", Player(name(curve, tau), name(curve, tau))) for curve, tau in every]
        steps[f"along_kl_{group}"] = parts.along_kl(sizes, *points)
        steps[f"accuracy_{group}"] = accuracy(sizes, names)
    return Pipeline(steps)


# -------------------------------------------------------------------------------------------------------------- results


def trained(whole: Pipeline, groups: Sequence[str], seed: int, folder: Path) -> dict[str, Any]:
    """What one seed says: {"curves": {curve: points}, "accuracy": {step: ..}}."""
    place = study.trained(whole, seed, folder)
    found: dict[str, Any] = {"curves": {}, "accuracy": {}}
    for group in groups:
        found["curves"] |= study.read(place, f"along_kl_{group}", over_optimization.FILE)
        found["accuracy"] |= study.read(place, f"accuracy_{group}", drift.FILE)
    return found


def known_of(files: Sequence[Path]) -> dict[int, dict[str, Any]]:
    """{seed: what the files results.json say of it together}."""
    known: dict[int, dict[str, Any]] = {}
    for found in (json.loads(file.read_text()) for file in files):
        for seed, run in zip(found["seeds"], found["runs"], strict=True):
            own = known.setdefault(seed, {"curves": {}, "accuracy": {}})
            for what in own:
                own[what] |= run[what]
    return known


def with_known(known: Mapping[str, Any], found: Mapping[str, Any], groups: Sequence[str]) -> dict[str, Any]:
    """What one seed says, curves in the order of the groups."""
    both = {what: {**known.get(what, {}), **found.get(what, {})} for what in ("curves", "accuracy")}
    order = [curve for group in groups for curve in GROUPS[group] if curve in both["curves"]]
    return {**both, "curves": {curve: both["curves"][curve] for curve in order}}


def having(runs: Sequence[Mapping[str, Any]], *names: str) -> list[Mapping[str, Any]]:
    """The seeds in which all these curves were run."""
    return [run for run in runs if {*names} <= {*run["curves"]}]


def at_nats(runs: Sequence[Mapping[str, Any]], curve: str, nats: float, what: str = "held_out") -> list[float | None]:
    """A curve's gold win rate against SFT at a KL, by seed."""
    return [curves.at_kl(run["curves"][curve], what, nats, 0.5) for run in having(runs, curve)]


def best(points: Sequence[Any]) -> float:
    """The highest gold win rate of a curve's points."""
    return max(curves.value(point, "held_out") for point in points)


def right(run: Mapping[str, Any], curve: str, where: str) -> float:
    """How often the implicit reward of a curve's last policy orders a pair as gold does."""
    return float(run["accuracy"][name(curve, KEPT)][where]["accuracy"]["mean"])


def summary(runs: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> dict[str, Any]:
    """Curves over seeds, their values at a KL, and the comparisons."""
    names = [curve for group in groups for curve in GROUPS[group]]
    gaps, missing = {}, []
    for better, worse in (claim for group in groups for claim in CLAIMS[group]):
        seeds = having(runs, better, worse)
        both = list(zip(at_nats(seeds, better, NATS[0]), at_nats(seeds, worse, NATS[0]), strict=True))
        claim = f"{LABELS[better]} above {LABELS[worse]}"
        if any(a is None or b is None for a, b in both):
            missing.append(claim)
        else:
            gaps[claim] = [a - b for a, b in both if a is not None and b is not None]
    return {
        "at_nats": {f"{nats:g}": {curve: at_nats(runs, curve, nats) for curve in names} for nats in NATS},
        "best": {curve: [best(run["curves"][curve]) for run in having(runs, curve)] for curve in names},
        "accuracy": {
            where: {curve: [right(run, curve, where) for run in having(runs, curve)] for curve in names}
            for where in ACCURACIES
        },
        "claims": study.compared(gaps),
        "not_reached": missing,
    }  # fmt: skip


def markdown(results: Mapping[str, Any]) -> str:
    """Every policy, every curve at a KL, and the comparisons, as tables."""
    runs, rows = results["runs"], []
    for curve in runs[0]["curves"]:
        for place, point in enumerate(runs[0]["curves"][curve]):
            own = [run["curves"][curve][place] for run in having(runs, curve)]
            cells = [
                study.over_seeds([curves.value(one, what) for one in own])
                for what in ("held_out", "training", "exact", "kl")
            ]
            shown = [study.number(cell, *scale) for cell, scale in zip(cells, [(100, 1)] * 3 + [(1, 2)], strict=True)]
            rows.append([LABELS[curve], point["setting"], str(len(own)), *shown])
    heading = ["policy", "tau", "seeds", "gold win rate (%)", "learned judge's (%)", "exactly sorted (%)", "KL (nats)"]
    values = [
        [LABELS[curve],
         *(study.number(study.over_seeds(results["at_nats"][f"{nats:g}"][curve]), 100, 1) for nats in NATS),
         study.number(study.over_seeds(results["best"][curve]), 100, 1),
         *(study.number(study.over_seeds(results["accuracy"][where][curve]), 100, 1) for where in ACCURACIES)]
        for curve in runs[0]["curves"]
    ]  # fmt: skip
    at = [f"gold win rate at {nats:g} nat{'s' * (nats != 1)} (%)" for nats in NATS]
    headings = [f"accuracy on {pairs}, tau = {KEPT} (%)" for pairs in ACCURACIES.values()]
    second = study.markdown(["curve", *at, "best of its points (%)", *headings], values)
    rest = "".join(f"\nNot compared, one of the two never came as far: {claim}.\n" for claim in results["not_reached"])
    return f"{study.markdown(heading, rows)}\n{second}\n{study.claims_table(results['claims'])}{rest}"


def figures(results: Mapping[str, Any]) -> dict[str, str]:
    """{name of the file: <svg>}."""
    panels = {"held_out": ("gold win rate against SFT (%)", 0.5), "training": ("the learned judge's (%)", 0.5)}
    seeds = [{LABELS[curve]: points for curve, points in run["curves"].items()} for run in results["runs"]]
    return {"curves": curves.picture(seeds, panels)}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(10)])
    parser.add_argument("--groups", nargs="+", choices=[*GROUPS], default=[*GROUPS])
    parser.add_argument("--folder", type=Path, default=Path("runs/exact"))
    parser.add_argument(
        "--mode", default="full", choices=["full", "tiny"], help="tiny: a few steps, to see that it runs"
    )
    parser.add_argument("--out", type=made_folder, default=HERE)
    parser.add_argument(
        "--known", type=Path, nargs="+", default=(), help="files results.json, whose seeds and groups are not run again"
    )
    parser.add_argument("--report", action="store_true", help="of what is known alone: nothing is run")
    given = parser.parse_args(arguments)
    known, runs = known_of(given.known), []
    for seed in given.seeds:
        own = known.get(seed, {"curves": {}})
        missing = [group for group in given.groups if not {*GROUPS[group]} <= {*own["curves"]} and not given.report]
        found = trained(pipeline(given.mode, missing), missing, seed, given.folder) if missing else {}
        runs.append(with_known(own, found, given.groups))
    results = {"seeds": given.seeds, **summary(runs, given.groups), "runs": runs}
    (given.out / "results.json").write_text(json.dumps(results, indent=1))
    (given.out / "results.md").write_text(markdown(results))
    for file, picture in figures(results).items():
        (given.out / f"{file}.svg").write_text(picture)
    print(markdown(results))


if __name__ == "__main__":
    main(sys.argv[1:])
