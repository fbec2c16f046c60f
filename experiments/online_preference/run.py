"""Online methods against each other on a preference that is a cycle by construction, whose Nash mixture is known.

    python experiments/online_preference/run.py --tune --folder runs/styles       # strengths, on a seed of its own
    python experiments/online_preference/run.py --seeds 0 1 2 3 4 --folder runs/styles

Runs what is not there yet (an interrupted run goes on where it stopped). The first writes tuning.json, which the second
reads; that writes results.json, results.md and the figure beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax import algorithms, losses, stages
from alignjax.cli.config_file import imported
from alignjax.config import Experiment, Fn, Pipeline, fn
from alignjax.evaluate import over_optimization, tournament
from alignjax.evaluate.over_optimization import Point
from alignjax.evaluate.tournament import Player
from alignjax.exact_tasks import STYLES
from alignjax.models import TransformerConfig, transformer
from alignjax.outside import made_folder
from alignjax.pipelines import exact_study as parts
from alignjax.pipelines.judged_pairs import recorded_batches
from alignjax.roles import copy_of, restored
from alignjax.sampling import mixture
from alignjax.types import Algorithm, Model, Role

HERE = Path(__file__).parent
study = imported(HERE.parent / "online_ipo" / "over_seeds.py")

DEVELOPMENT = 100  # the seed on which strengths are chosen, which is not reported
TUNED = HERE / "tuning.json"
STRENGTHS = (0.2, 0.1, 0.05)  # tau, the trials of every method
NEAR = 0.01  # trials whose exploitability differs by less are not told apart
BETA = 0.25  # weight of the reference in the mixtures of IPO-MD and Nash-MD, not tuned
RIVALS = ("beaten_by_ascending", "beaten_by_descending", "beaten_by_as_they_stand")
LABELS = {
    "rlhf": "RL on a Bradley-Terry reward",
    "online_dpo": "online DPO",
    "online_slic": "online SLiC",
    "online_ipo": "online IPO",
    "ipo_md": "IPO-MD",
    "nash_md": "Nash-MD",
}
MIXED = ("ipo_md", "nash_md")  # their equilibrium is that of the mixture that they sample from
# What is claimed to be above 0, settled before the seeds were run: differences of exploitability by gold.
CLAIMS = (
    ("rlhf", "online_ipo"),
    ("rlhf", "ipo_md_mixture"),
    ("rlhf", "nash_md_mixture"),
    ("online_dpo", "online_ipo"),
    ("online_slic", "online_ipo"),
    ("ipo_md", "ipo_md_mixture"),
)


# ------------------------------------------------------------------------------------------------------------- policies


def sizes_of(mode: str) -> parts.Sizes:
    """The sizes of this experiment: the quickstart's but for shorter runs, since the letters are six."""
    if mode == "tiny":
        return parts.tiny(STYLES)
    return dataclasses.replace(parts.Sizes(STYLES), sft_steps=400, judge_steps=400, policy_rate=5e-4)


def reward_network(sizes: parts.Sizes) -> Model:
    """The judge's backbone with a reward as its output."""
    config = parts.policy_model(sizes).config
    assert isinstance(config, TransformerConfig)
    return transformer(dataclasses.replace(config, outputs=("reward",)))


def reward(sizes: parts.Sizes) -> Experiment:
    """The step that trains a Bradley-Terry reward model as the judge is: same start, labels, order, steps."""
    taught = parts.judge(sizes, seed=1)
    algorithm = algorithms.reward_model(
        reward_network(sizes),
        n=sizes.samples,
        optimizer=parts.optimizer(sizes.judge_rate, sizes.judge_steps),
        start=restored("sft", "policy", grow=True),
    )
    return dataclasses.replace(
        taught, algorithm=algorithm, source=recorded_batches("labels", parts.labels(sizes), sizes.judge_batch_size)
    )


def rlhf(sizes: parts.Sizes, tau: float) -> Algorithm:
    """Policy gradient on the reward with a KL towards SFT; baseline: the mean reward of the prompt's other samples.
    Rewards are log-odds, which rise four times as steeply as win rates near 1/2, so its KL counts 4 tau."""
    experience = {
        "generate": fn(stages.generate, n=sizes.samples, max_tokens=sizes.completion_length),
        "reward": fn(stages.reward),
        "reference": fn(stages.logprobs, role="reference"),
    }
    model = parts.policy_model(sizes)
    roles = {
        "policy": Role(model, restored("sft", "policy"), parts.policy_optimizer(sizes)),
        "reference": Role(model, copy_of("policy")),
        "reward": Role(reward_network(sizes), restored("reward", "reward")),
    }
    return Algorithm(experience, {"reinforce": fn(losses.reinforce, tau=4 * tau, leave_one_out=True)}, roles)


def played(recipe: Callable[..., Algorithm], scale: float = 1.0, key: str = "tau", **more: Any) -> Any:
    """A recipe of self-play at a strength: its hyper-parameter `key` is `scale` times tau."""

    def made(sizes: parts.Sizes, tau: float) -> Algorithm:
        options = {"optimizer": parts.policy_optimizer(sizes), **parts.judged(sizes), **more, key: scale * tau}
        return recipe(parts.policy_model(sizes), **options)

    return made


def nash_md(sizes: parts.Sizes, tau: float) -> Algorithm:
    """Half of the samples are the opponent's, the price of having one."""
    half = max(1, sizes.samples // 2)
    return played(algorithms.nash_md, beta=BETA, n=half, opponents=half)(sizes, tau)


METHODS: dict[str, Callable[[parts.Sizes, float], Algorithm]] = {
    "rlhf": rlhf,
    "online_dpo": played(algorithms.online_dpo, 4.0, "beta"),
    "online_slic": played(algorithms.online_slic, 2.0, "beta"),
    "online_ipo": played(algorithms.online_ipo),
    "ipo_md": played(algorithms.ipo_md, beta=BETA),
    "nash_md": nash_md,
}


def policy(sizes: parts.Sizes, method: str, tau: float) -> Experiment:
    """The step of a method at a strength."""
    return dataclasses.replace(parts.online(sizes, METHODS[method](sizes, tau)), sample=None)


def player(method: str, stage: str, mixed: bool) -> Player:
    """A method's policy, or the mixture that it samples from."""
    label = LABELS[method] + (", mixture" if mixed else "")
    behaviour = fn(mixture, beta=BETA) if mixed else None
    return Player(f"{stage}_mixture" if mixed else stage, stage, label=label, behaviour=behaviour)


def prepared(sizes: parts.Sizes) -> dict[str, Any]:
    """SFT, labels, the judge and the reward model."""
    return {**parts.prepared(sizes), "reward": reward(sizes)}


# --------------------------------------------------------------------------------------------------------------- tuning


def exploitability(measures: Mapping[str, Any]) -> float:
    """How often the best of three rivals, each of which keeps to a style, beats a player by gold."""
    return max(measures[rival]["mean"] for rival in RIVALS)


def trials(mode: str) -> Pipeline:
    """Every method at every strength, on prompts of a split of their own."""
    sizes = sizes_of(mode)
    names = {(method, tau): f"{method}-{tau}" for method in METHODS for tau in STRENGTHS}
    points = [Point(method, f"{tau}", player(method, name, method in MIXED)) for (method, tau), name in names.items()]
    measure: Fn = parts.along_kl(sizes, *points)
    source = measure.kwargs["source"].replace(split="dev")
    policies = {name: policy(sizes, *of) for of, name in names.items()}
    return Pipeline({**prepared(sizes), **policies, "trials": measure.replace(source=source)})


def chosen(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The rule, the same for all: the least exploitability by gold, of the mixture where a method samples from one; of
    trials within NEAR of it the one with the least KL."""
    rows = {
        method: [
            {"tau": float(point["setting"]), "exploitability": exploitability(point["measures"])}
            | {"kl": point["kl"]["mean"], "gold": point["win_rates"]["held_out"]["mean"]}
            | {"faultless": point["measures"]["faultless"]["mean"]}
            for point in points
        ]
        for method, points in curves.items()
    }
    best: dict[str, float] = {}
    for method, found in rows.items():
        least = min(row["exploitability"] for row in found)
        near = [row for row in found if row["exploitability"] < least + NEAR]
        best[method] = min(near, key=lambda row: row["kl"])["tau"]
    return {"seed": DEVELOPMENT, "chosen": best, "trials": rows}


# -------------------------------------------------------------------------------------------------------------- results


def pipeline(mode: str, taus: Mapping[str, float]) -> Pipeline:
    """The whole of one seed, at the strengths that were chosen."""
    sizes = sizes_of(mode)
    policies = {method: policy(sizes, method, tau) for method, tau in taus.items()}
    players = [
        player(method, method, mixed) for method in taus for mixed in (False, True) if method in MIXED or not mixed
    ]
    return Pipeline({**prepared(sizes), **policies, "evaluate": parts.tournament(sizes, *players)})


def by_seed(found: Mapping[str, Any], name: str) -> dict[str, float | None]:
    """The numbers of one player in one seed."""
    row, learned = found["players"][name], found["win_rates_by_judge"]["training"][name]
    wins = found["win_rates"][name].get("sft")
    shares = {
        key: row["measures"][key]["mean"]
        for key in ("faultless", "against_nash", "ascending", "descending", "as_they_stand")
    }
    return {
        "exploitability": exploitability(row["measures"]),
        "win": wins["mean"] if wins else None,
        "learned": learned["sft"]["mean"] if wins else None,
        "kl": row["kl"]["mean"] if row.get("kl") else None,
        **shares,
    }


COLUMNS = {  # key -> heading, factor, digits
    "exploitability": ("exploitability (%)", 100, 1),
    "against_nash": ("against the Nash mixture (%)", 100, 1),
    "win": ("gold win rate (%)", 100, 1),
    "learned": ("learned judge's (%)", 100, 1),
    "faultless": ("faultless (%)", 100, 1),
    "ascending": ("ascending (%)", 100, 0),
    "descending": ("descending (%)", 100, 0),
    "as_they_stand": ("as they stand (%)", 100, 0),
    "kl": ("KL (nats)", 1, 2),
}


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Players over seeds, all pairs of them, and the comparisons."""
    labels = {name: row["label"] for name, row in found[0]["players"].items()}
    rows = {name: [by_seed(one, name) for one in found] for name in labels}
    matrix = {
        a: {b: study.over_seeds([one["win_rates"][a][b]["mean"] for one in found]) for b in labels if b != a}
        for a in labels
    }
    gaps = {
        f"{labels[worse]} more exploitable than {labels[better]}": [
            a["exploitability"] - b["exploitability"] for a, b in zip(rows[worse], rows[better], strict=True)
        ]
        for worse, better in CLAIMS
    }
    return {"labels": labels, "by_seed": rows, "win_rates": matrix, "claims": study.compared(gaps)}


def markdown(results: Mapping[str, Any]) -> str:
    """The players, least exploitable first; the win rates of all pairs by gold; the comparisons; the trials."""
    labels, rows = results["labels"], results["by_seed"]
    means = {
        name: {key: study.over_seeds([seed[key] for seed in seeds]) for key in COLUMNS} for name, seeds in rows.items()
    }
    order = sorted(rows, key=lambda name: means[name]["exploitability"]["mean"])
    lines = [
        [labels[name], *(study.number(means[name][key], *how[1:]) for key, how in COLUMNS.items())] for name in order
    ]
    text = study.markdown(["player", *(how[0] for how in COLUMNS.values())], lines)
    pairs = [[labels[a], *(study.number(results["win_rates"][a].get(b), 100, 1) for b in order)] for a in order]
    text += "\n" + study.markdown(["row against column, gold (%)", *(labels[name] for name in order)], pairs)
    trial = [
        [LABELS[method], f"{row['tau']:g}", f"{100 * row['exploitability']:.1f}", f"{100 * row['gold']:.1f}",
         f"{row['kl']:.2f}", "chosen" if row["tau"] == results["tuning"]["chosen"][method] else ""]
        for method, found in results["tuning"]["trials"].items() for row in found
    ]  # fmt: skip
    heading = ["trial, seed 100", "tau", "exploitability (%)", "gold win rate (%)", "KL (nats)", ""]
    return f"{text}\n{study.claims_table(results['claims'])}\n{study.markdown(heading, trial)}"


def figures(results: Mapping[str, Any]) -> dict[str, str]:
    """{name of the file: <svg>}."""
    labels, by_player = results["labels"], results["by_seed"]
    rows = {labels[name]: [seed["exploitability"] for seed in seeds] for name, seeds in by_player.items()}
    words = "Exploitability of every player by seed, with the interval over seeds"
    return {"exploitability": study.dots(rows, "beaten by the best of three rivals, gold (%)", "exploitability", words)}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tune", action="store_true", help=f"choose strengths on seed {DEVELOPMENT}, and stop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/styles"))
    parser.add_argument(
        "--mode", default="full", choices=["full", "tiny"], help="tiny: a few steps, to see that it runs"
    )
    parser.add_argument("--out", type=made_folder, default=HERE)
    given = parser.parse_args(arguments)
    if given.tune:
        place = study.trained(trials(given.mode), DEVELOPMENT, given.folder)
        tuning = chosen(study.read(place, "trials", over_optimization.FILE))
        (given.out / TUNED.name).write_text(json.dumps(tuning, indent=1))
        return
    tuning = json.loads((given.out / TUNED.name).read_text())
    whole = pipeline(given.mode, tuning["chosen"])
    found = [study.read(study.trained(whole, seed, given.folder), "evaluate", tournament.FILE) for seed in given.seeds]
    results = {"seeds": given.seeds, "tuning": tuning, **summary(found)}
    (given.out / "results.json").write_text(json.dumps(results, indent=1))
    (given.out / "results.md").write_text(markdown(results))
    for file, picture in figures(results).items():
        (given.out / f"{file}.svg").write_text(picture)
    print(markdown(results))


if __name__ == "__main__":
    main(sys.argv[1:])
