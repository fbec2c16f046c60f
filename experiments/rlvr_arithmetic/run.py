"""GRPO, Dr.GRPO, DAPO, RLOO, MaxRL and PPO on verified arithmetic, at equal samples from one SFT start.

    python experiments/rlvr_arithmetic/run.py --tune --folder runs/rlvr       # rates, on a seed of its own
    python experiments/rlvr_arithmetic/run.py --seeds 0 1 2 3 4 --folder runs/rlvr

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

import jax
import numpy as np

from alignjax import algorithms, stages
from alignjax.cli.config_file import imported
from alignjax.config import Experiment, Fn, Pipeline, fn
from alignjax.data import prepare
from alignjax.evaluate.players import sampled
from alignjax.exact_tasks import ARITHMETIC, exact_reward, letters
from alignjax.exact_tasks.arithmetic import DIGITS, grade
from alignjax.models import TransformerConfig, transformer
from alignjax.outside import made_folder
from alignjax.pipelines import exact_study as parts
from alignjax.ranges import Count, Seed
from alignjax.roles import restored
from alignjax.train.checkpoint.read_steps import restore_role
from alignjax.train.token_ids import ends_of
from alignjax.types import Algorithm, Batch, Model
from alignjax.workspace import Workspace

HERE = Path(__file__).parent
study = imported(HERE.parent / "online_ipo" / "over_seeds.py")

DEVELOPMENT = 100  # the seed on which rates are chosen, which is not reported
TUNED = HERE / "tuning.json"
FILE = "accuracies.json"
RATES = (3e-4, 1e-3)  # learning rates, the trials of every method
TEMPERATURES = (1.0, 0.7, 0.5, 0.3)  # of SFT
SEVERAL = 8  # samples of a prompt, in training and in evaluation
REWARD = fn(exact_reward, function=ARITHMETIC.measures[0].function)
LABELS = {
    "sft": "SFT",
    "grpo": "GRPO",
    "dr_grpo": "Dr.GRPO",
    "dapo": "DAPO",
    "rloo": "RLOO",
    "maxrl": "MaxRL",
    "ppo": "PPO",
}


# ------------------------------------------------------------------------------------------------------------- training


def sizes_of(mode: str) -> parts.Sizes:
    """The sizes of this experiment."""
    if mode == "tiny":
        return dataclasses.replace(parts.tiny(ARITHMETIC), samples=SEVERAL)
    runs = {"sft_steps": 1200, "policy_steps": 400}
    return parts.Sizes(ARITHMETIC, samples=SEVERAL, eval_batches=2, eval_batch_size=512, **runs)


def critic(sizes: parts.Sizes) -> Model:
    """The policy's network with a value as its output."""
    config = parts.policy_model(sizes).config
    assert isinstance(config, TransformerConfig)
    return transformer(dataclasses.replace(config, outputs=("value",)))


def verified(recipe: Callable[..., Algorithm], **hyper: Any) -> Any:
    """A recipe from rewards on the verifier's, at a learning rate; no KL towards SFT in any of them."""

    def made(sizes: parts.Sizes, rate: float) -> Algorithm:
        return recipe(
            parts.policy_model(sizes),
            reward=REWARD,
            n=sizes.samples,
            max_tokens=sizes.completion_length,
            start=restored("sft", "policy"),
            optimizer=parts.optimizer(rate, sizes.policy_steps),
            **hyper,
        )

    return made


def ppo(sizes: parts.Sizes, rate: float) -> Algorithm:
    """PPO with a critic on a trunk of its own, which starts from SFT's."""
    begun = {"critic": critic(sizes), "critic_start": restored("sft", "policy", grow=True)}
    no_kl = {"rewards": fn(stages.token_rewards, eta=0.0)}
    return verified(algorithms.ppo, epochs=1, minibatches=2, **begun, **no_kl)(sizes, rate)


METHODS: dict[str, Callable[[parts.Sizes, float], Algorithm]] = {
    "grpo": verified(algorithms.grpo, tau=0.0, minibatches=2),
    "dr_grpo": verified(algorithms.dr_grpo, minibatches=2),
    "dapo": verified(algorithms.dapo, minibatches=2),
    "rloo": verified(algorithms.rloo, tau=0.0),
    "maxrl": verified(algorithms.maxrl),
    "ppo": ppo,
}


def policy(sizes: parts.Sizes, method: str, rate: float) -> Experiment:
    """The step of a method at a rate."""
    return dataclasses.replace(parts.online(sizes, METHODS[method](sizes, rate)), sample=None)


# ----------------------------------------------------------------------------------------------------------- accuracies


def measured(
    workspace: Workspace, *, model: Model, players: tuple[str, ...], source: Fn, batches: Count, max_tokens: Count,
    warm: bool = False, seed: Seed = 0,
) -> dict[str, Any]:  # fmt: skip
    """Job that writes every player's accuracies on the same prompts: accuracies.json.

    Args:
        workspace: The run folder of this step.
        model: The network of the players.
        players: Steps whose role "policy" answers, SFT the first.
        source: Prompts.
        batches: How many batches of them.
        max_tokens: The length of an answer in tokens at most.
        warm: Whether SFT also answers at lower temperatures.
        seed: Of source and samples.
    """
    prompts, stop = [source(workspace, seed)[step] for step in range(batches)], ends_of(source, workspace)
    weights = {name: restore_role(workspace.find(name), "policy") for name in players}
    right: Any = jax.jit(ARITHMETIC.measures[0].function)

    def answers(name: str, temperature: float, n: int) -> dict[str, Any]:
        drawn = [
            sampled(model, weights[name], weights[players[0]], batch, jax.random.fold_in(jax.random.key(seed), number),
                    max_tokens, n=n, temperature=temperature, stop=stop)
            for number, batch in enumerate(prompts)
        ]  # fmt: skip
        return accuracies(drawn, [np.asarray(right(batch)) for batch in drawn])

    found = {name: {"1": answers(name, 1.0, SEVERAL), "greedy": answers(name, 0.0, 1)} for name in players}
    if warm:
        found[players[0]] |= {f"{heat:g}": answers(players[0], heat, SEVERAL) for heat in TEMPERATURES[1:]}
    (workspace.folder / FILE).write_text(json.dumps(found, indent=1))
    return {"players": len(players)}


def accuracies(drawn: Sequence[Batch], right: Sequence[np.ndarray]) -> dict[str, Any]:
    """The shares of right answers: of single ones, also by grade; of the most frequent answer of a prompt, the first of
    equals; of prompts with a right answer among theirs (the best of n by the verifier). And the KL to SFT in nats."""
    hits = np.concatenate(right)
    tokens = np.concatenate([np.where(batch.valid, batch.tokens, -1) for batch in jax.device_get(drawn)])
    grades = np.concatenate([np.asarray(grade(batch)) for batch in drawn])
    votes = (tokens[:, :, None] == tokens[:, None]).all(-1).sum(-1)
    ratios: Any = [(b.logps["sampler"] - b.logps["reference"], b.valid) for b in drawn]
    logps = [np.asarray((ratio * valid).sum(-1)) for ratio, valid in ratios]
    return {
        "single": float(hits.mean()),
        "majority": float(np.take_along_axis(hits, votes.argmax(1)[:, None], 1).mean()),
        "any": float(hits.max(1).mean()),
        "kl": float(np.concatenate(logps).mean()),
        "by_grade": [float(hits[grades == g].mean()) for g in range(1, DIGITS + 1)],
    }


def evaluated(sizes: parts.Sizes, players: Sequence[str], split: str, warm: bool = False) -> Fn:
    """The step that measures players on prompts of a split."""
    source = fn(letters, batch_size=sizes.eval_batch_size, split=split, **parts.posts(sizes))
    options = {"batches": sizes.eval_batches, "max_tokens": sizes.completion_length, "warm": warm}
    return fn(measured, model=parts.policy_model(sizes), players=tuple(players), source=source, **options)


def prepared(sizes: parts.Sizes) -> dict[str, Any]:
    """The alphabet and SFT."""
    return {"data": fn(prepare, dataset=sizes.dataset), "sft": parts.sft(sizes)}


# --------------------------------------------------------------------------------------------------------------- tuning


def trials(mode: str) -> Pipeline:
    """Every method at every rate, on prompts of a split of their own."""
    sizes = sizes_of(mode)
    policies = {f"{method}-{rate:g}": policy(sizes, method, rate) for method in METHODS for rate in RATES}
    return Pipeline({**prepared(sizes), **policies, "trials": evaluated(sizes, ("sft", *policies), "dev")})


def chosen(found: Mapping[str, Any]) -> dict[str, Any]:
    """The rule, the same for all: the highest share of right samples at temperature 1, the lower rate of equals."""
    rows = {method: {rate: found[f"{method}-{rate:g}"]["1"]["single"] for rate in RATES} for method in METHODS}
    best = {method: max(RATES, key=lambda rate, row=row: (row[rate], -rate)) for method, row in rows.items()}
    shown = {method: {f"{rate:g}": share for rate, share in row.items()} for method, row in rows.items()}
    return {"seed": DEVELOPMENT, "chosen": best, "trials": shown}


# -------------------------------------------------------------------------------------------------------------- results


def pipeline(mode: str, rates: Mapping[str, float]) -> Pipeline:
    """The whole of one seed, at the rates that were chosen. SFT's best temperature is chosen on other prompts."""
    sizes = sizes_of(mode)
    policies = {method: policy(sizes, method, rate) for method, rate in rates.items()}
    heats = evaluated(sizes, ["sft"], "dev", warm=True)
    return Pipeline(
        {**prepared(sizes), **policies, "heats": heats, "evaluate": evaluated(sizes, ["sft", *policies], "test", True)}
    )


def by_seed(found: Mapping[str, Any], heats: Mapping[str, Any]) -> dict[str, Any]:
    """One seed: players, and SFT's controls, which take no training."""
    rows = {
        name: {"sampled": each["1"]["single"], "greedy": each["greedy"]["single"], "majority": each["1"]["majority"],
               "any": each["1"]["any"], "kl": each["1"]["kl"], "by_grade": each["1"]["by_grade"]}
        for name, each in found.items()
    }  # fmt: skip
    names = [f"{heat:g}" for heat in TEMPERATURES]
    cool = max(names, key=lambda heat: heats["sft"][heat]["single"])
    crowd = max(names, key=lambda heat: heats["sft"][heat]["majority"])
    controls = {
        "greedy": rows["sft"]["greedy"],
        "best temperature": found["sft"][cool]["single"],
        "majority of 8": found["sft"][crowd]["majority"],
    }
    return {"players": rows, "controls": controls, "temperatures": {"single": cool, "majority": crowd}}


def claims(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was settled before the seeds were run: greedy answers against the best control of each seed, any of eight
    against SFT's any of eight, and single samples against GRPO's."""
    gaps: dict[str, list[float]] = {}
    for method in METHODS:
        rows = [seed["players"] for seed in seeds]
        gaps[f"{LABELS[method]}, greedy, above SFT's best control"] = [
            seed["players"][method]["greedy"] - max(seed["controls"].values()) for seed in seeds
        ]
        gaps[f"{LABELS[method]}, any of 8, above SFT, any of 8"] = [
            row[method]["any"] - row["sft"]["any"] for row in rows
        ]
        if method != "grpo":
            gaps[f"{LABELS[method]} above GRPO, samples"] = [
                row[method]["sampled"] - row["grpo"]["sampled"] for row in rows
            ]
    return study.compared(gaps)


COLUMNS = {"sampled": "samples", "greedy": "greedy", "majority": "majority of 8", "any": "any of 8"}


def markdown(results: Mapping[str, Any]) -> str:
    """Players, SFT's controls, grades, comparisons and trials."""
    seeds = results["by_seed"]

    def over(read: Callable[[Mapping[str, Any]], float], scale: float = 100, digits: int = 1) -> str:
        return study.number(study.over_seeds([read(seed) for seed in seeds]), scale, digits)

    def line(name: str) -> list[str]:
        cells = [over(lambda seed, key=key: seed["players"][name][key]) for key in COLUMNS]
        return [LABELS[name], *cells, over(lambda seed: seed["players"][name]["kl"], 1, 2)]

    def by_grade(name: str) -> list[str]:
        cells = [over(lambda seed, g=g: seed["players"][name]["by_grade"][g]) for g in range(DIGITS)]
        return [LABELS[name], *cells]

    controls = [[f"SFT, {name}", over(lambda seed, name=name: seed["controls"][name])] for name in seeds[0]["controls"]]
    tuning = results["tuning"]
    rates = [
        [LABELS[method], *(f"{100 * share:.1f}{' chosen' if float(rate) == tuning['chosen'][method] else ''}"
                           for rate, share in row.items())]
        for method, row in tuning["trials"].items()
    ]  # fmt: skip
    return "\n".join(
        (
            study.markdown(["right answers (%)", *COLUMNS.values(), "KL (nats)"], [line(name) for name in LABELS]),
            study.markdown(["control, no training", "right (%)"], controls),
            study.markdown(
                ["samples by digits (%)", *map(str, range(1, DIGITS + 1))], [by_grade(name) for name in LABELS]
            ),
            study.claims_table(results["claims"]),
            study.markdown([f"trials, seed {DEVELOPMENT}, samples (%)", *(f"rate {rate:g}" for rate in RATES)], rates),
        )
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tune", action="store_true", help=f"choose rates on seed {DEVELOPMENT}, and stop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/rlvr"))
    parser.add_argument(
        "--mode", default="full", choices=["full", "tiny"], help="tiny: a few steps, to see that it runs"
    )
    parser.add_argument("--out", type=made_folder, default=HERE)
    given = parser.parse_args(arguments)
    if given.tune:
        place = study.trained(trials(given.mode), DEVELOPMENT, given.folder)
        (given.out / TUNED.name).write_text(json.dumps(chosen(study.read(place, "trials", FILE)), indent=1))
        return
    tuning = json.loads((given.out / TUNED.name).read_text())
    whole = pipeline(given.mode, tuning["chosen"])
    places = [study.trained(whole, seed, given.folder) for seed in given.seeds]
    rows = [by_seed(study.read(place, "evaluate", FILE), study.read(place, "heats", FILE)) for place in places]
    results = {"seeds": given.seeds, "tuning": tuning, "by_seed": rows, "claims": claims(rows)}
    (given.out / "results.json").write_text(json.dumps(results, indent=1))
    (given.out / "results.md").write_text(markdown(results))
    shares = {label: [seed["players"][name]["sampled"] for seed in rows] for name, label in LABELS.items()}
    words = "Right samples of every player by seed, with the interval over seeds"
    (given.out / "accuracy.svg").write_text(study.dots(shares, "right samples (%)", "accuracy", words))
    print(markdown(results))


if __name__ == "__main__":
    main(sys.argv[1:])
