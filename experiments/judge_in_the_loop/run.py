"""The same pairwise judge as a label, as a group's win rate and as a fitted reward, transitive and intransitive.

    python experiments/judge_in_the_loop/run.py --seeds 0 1 2 3 4 --folder runs/judge_in_the_loop

Learning rates are chosen first, on a seed of their own, for tasks that tuning.json does not have. Runs what is not
there yet (an interrupted run goes on where it stopped), then writes results.json, results.md and the figure beside this
file. `--only styles` runs one task, and leaves what is reported of the other as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diversity
import judge_uses as uses
import numpy as np

from alignjax import games
from alignjax.cli.config_file import imported
from alignjax.config import Fn, Pipeline, fn
from alignjax.evaluate import over_optimization, tournament
from alignjax.evaluate.controls import default_controls
from alignjax.evaluate.over_optimization import Point
from alignjax.exact_tasks import styles
from alignjax.outside import made_folder
from alignjax.pipelines import exact_study as parts

HERE = Path(__file__).parent
study = imported(HERE.parent / "online_ipo" / "over_seeds.py")

DEVELOPMENT = 100  # the seed on which learning rates are chosen, which is not reported
RATES = (3e-4, 1e-3)  # the trials of every method
NEAR = 0.012  # trials whose aim differs by less are not told apart
ANSWERS = 8  # to a prompt, of which the distinct ones are counted


# --------------------------------------------------------------------------------------------------------------- tuning


def measured(task: str, sizes: parts.Sizes, names: Mapping[tuple[str, float], str]) -> Fn:
    """The step that measures policies, named by method and rate, on prompts of a split of their own."""
    points = [Point(method, f"{rate:g}", uses.player(method, name)) for (method, rate), name in names.items()]
    measure: Fn = parts.along_kl(sizes, *points)
    return measure.replace(source=measure.kwargs["source"].replace(split="dev"), **uses.judges(task, sizes))


def trials(task: str, mode: str) -> Pipeline:
    """Every method at every rate."""
    sizes = uses.sizes_of(task, mode)
    names = {(method, rate): f"{method}-{rate:g}" for method in uses.LABELS for rate in RATES}
    policies = {name: uses.policy(task, sizes, *of) for of, name in names.items()}
    return Pipeline({**uses.prepared(task, sizes), **policies, "trials": measured(task, sizes, names)})


def longer(task: str, mode: str, rates: Mapping[str, float], times: int) -> Pipeline:
    """Every method at its rate, in more steps: to see what the length of the runs decides."""
    sizes = uses.sizes_of(task, mode)
    long = dataclasses.replace(sizes, policy_steps=times * sizes.policy_steps)
    names = {(method, rate): f"{method}-x{times}" for method, rate in rates.items()}
    policies = {name: uses.policy(task, long, *of) for of, name in names.items()}
    return Pipeline({**uses.prepared(task, sizes), **policies, "longer": measured(task, sizes, names)})


def chosen(task: str, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The rule, the same for all: the trial of the highest aim; of those within NEAR of it the one with the least
    KL."""
    rows = {
        method: [
            {"rate": float(point["setting"]), "aim": uses.TASKS[task].aim(point), "kl": point["kl"]["mean"]}
            | {key: value["mean"] for key, value in point["measures"].items()}
            for point in points
        ]
        for method, points in curves.items()
    }
    best: dict[str, float] = {}
    for method, found in rows.items():
        most = max(row["aim"] for row in found)
        best[method] = min((row for row in found if row["aim"] > most - NEAR), key=lambda row: row["kl"])["rate"]
    return {"seed": DEVELOPMENT, "chosen": best, "trials": rows}


def tuned(task: str, mode: str, folder: Path, out: Path) -> dict[str, Any]:
    """The rates of a task, from tuning.json or chosen now."""
    file = out / "tuning.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    if task not in known:
        place = study.trained(trials(task, mode), DEVELOPMENT, folder / task)
        known[task] = chosen(task, study.read(place, "trials", over_optimization.FILE))
        file.write_text(json.dumps(known, indent=1))
    return known[task]


# -------------------------------------------------------------------------------------------------------------- results


def pipeline(task: str, mode: str, rates: Mapping[str, float]) -> Pipeline:
    """The whole of one seed of a task, at the rates that were chosen."""
    sizes = uses.sizes_of(task, mode)
    policies = {method: uses.policy(task, sizes, method, rate) for method, rate in rates.items()}
    players = [uses.player(method, method) for method in rates]
    evaluate = parts.tournament(sizes, *players).replace(**uses.judges(task, sizes))
    held_out = parts.held_out(sizes)
    many = fn(
        diversity.measure,
        players=(parts.SFT, *players, *default_controls(parts.SFT, ())),
        n=ANSWERS,
        **{key: held_out[key] for key in ("model", "source", "batches", "max_tokens")},
    )
    return Pipeline({**uses.prepared(task, sizes), **policies, "evaluate": evaluate, "diversity": many})


def pool(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the final policies, SFT among them, are to each other: the win rates by gold, the best rival of each, the
    Nash mixture of the pool and how often it beats each."""
    names = ["sft", *(name for name in found["players"] if name in uses.LABELS)]
    wins = np.array([[0.5 if a == b else found["win_rates"][a][b]["mean"] for b in names] for a in names])
    wins = (wins + 1 - wins.T) / 2
    mixture = games.unregularized_nash(games.TabularGame(wins, np.full(len(names), 1 / len(names)), 1.0)).policy
    beaten = (wins - np.eye(len(names))).max(axis=0)
    return {
        name: {"exploitability": float(beaten[i]), "nash": float(mixture[i]), "by_nash": float(mixture @ wins[:, i])}
        for i, name in enumerate(names)
    }


def three_styles() -> dict[str, list[float]]:
    """Where the two uses of a judge end in closed form, on faultless answers in three styles, from people's shares:
    {use: shares of the styles, and how often the best of the three beats them}."""
    game = games.TabularGame(styles.WINS, np.array(styles.SHARES), uses.TAU)
    ends = {
        "win rate or label: the regularized equilibrium": games.nash(game),
        "Bradley-Terry reward": games.tilted(game, games.fitted_reward(game), uses.STEEP * uses.TAU),
    }
    return {use: [*shares, (styles.WINS @ shares).max()] for use, shares in ends.items()}


def by_seed(task: str, found: Mapping[str, Any], spread: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The numbers of one player in one seed; None where there is none."""
    row, rated = found["players"][name], found["win_rates"][name].get("sft")
    learned = found["win_rates_by_judge"]["training"][name].get("sft")
    many, among = spread.get(name, {}), pool(found).get(name, {})
    rivals = [row["measures"][rival]["mean"] for rival in uses.RIVALS if rival in row["measures"]]
    return {
        "measure": row["measures"][uses.TASKS[task].measure]["mean"],
        "win": rated["mean"] if rated else None,
        "judge": learned["mean"] if learned else None,
        "kl": row["kl"]["mean"] if row.get("kl") else None,
        **{key: many[key]["mean"] if many else None for key in ("distinct", "entropy")},
        **{key: row["measures"][key]["mean"] if rivals else None for key in uses.STYLES_OF},
        **{key: among.get(key) for key in ("exploitability", "nash", "by_nash")},
        "rival": max(rivals) if rivals else None,
    }


COLUMNS = {  # key -> heading, factor, digits
    "measure": ("{measure} (%)", 100, 1),
    "win": ("gold win rate against SFT (%)", 100, 1),
    "judge": ("by the judge in the loop (%)", 100, 1),
    "kl": ("KL (nats)", 1, 2),
    "distinct": ("distinct of 8 (%)", 100, 1),
    "entropy": ("entropy (nats)", 1, 2),
    "exploitability": ("best of the pool beats it (%)", 100, 1),
    "by_nash": ("Nash mixture of the pool beats it (%)", 100, 1),
    "nash": ("share of that mixture (%)", 100, 0),
    "rival": ("best of three rivals beats it (%)", 100, 1),
    **{style: (f"{style.replace('_', ' ')} (%)", 100, 1) for style in uses.STYLES_OF},
}
AIM = {"sorting": ("win", 1, "wins more often by gold than"), "styles": ("rival", -1, "is beaten less than")}


def summary(task: str, runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """Players over seeds, the win rates of all pairs, the comparisons, and every seed's intervals over prompts."""
    labels = {name: row["label"] for name, row in runs[0][0]["players"].items()}
    rows = {name: [by_seed(task, *run, name) for run in runs] for name in labels}
    matrix = {
        a: {b: study.over_seeds([found["win_rates"][a][b]["mean"] for found, _ in runs]) for b in labels if b != a}
        for a in labels
    }
    key, sign, words = AIM[task]
    gaps = {
        f"{labels[a]}, {words} {labels[b]}": [
            sign * (one[key] - other[key]) for one, other in zip(rows[a], rows[b], strict=True)
        ]
        for a, b in uses.TASKS[task].claims
    }
    over_prompts = [
        {
            name: {"win": found["win_rates"][name].get("sft"), "kl": found["players"][name].get("kl")}
            | {"measures": found["players"][name]["measures"], **spread.get(name, {})}
            for name in labels
        }
        for found, spread in runs
    ]
    measure = runs[0][0]["measures"][uses.TASKS[task].measure]["label"]
    against = [found["against_best_control"] for found, _ in runs]
    return {"measure": measure, "labels": labels, "by_seed": rows, "win_rates": matrix, "over_prompts": over_prompts,
            "claims": study.compared(gaps), "against_best_control": against}  # fmt: skip


def table(task: str, results: Mapping[str, Any]) -> str:
    """The players, the win rates of all pairs by gold, the comparisons, each against its best control, the trials."""
    labels, rows = results["labels"], results["by_seed"]
    columns = {key: how for key, how in COLUMNS.items() if any(seeds[0][key] is not None for seeds in rows.values())}
    lines = [
        [labels[name]]
        + [study.number(study.over_seeds([seed[key] for seed in seeds]), *how[1:]) for key, how in columns.items()]
        for name, seeds in rows.items()
    ]
    headings = ["player", *(how[0].format(measure=results["measure"]) for how in columns.values())]
    pairs = [[labels[a], *(study.number(results["win_rates"][a].get(b), 100, 1) for b in uses.LABELS)] for a in labels]
    controls = [
        [labels[name], *(f"{100 * one[name]['mean']:+.1f} ({100 * one[name]['low']:+.1f} to "
                         f"{100 * one[name]['high']:+.1f})" for one in results["against_best_control"])]
        for name in uses.LABELS
    ]  # fmt: skip
    seeds = [f"seed {seed}" for seed in results["seeds"]]
    return "\n".join([
        f"## {task}\n",
        study.markdown(headings, lines),
        study.markdown(["row against column, gold (%)", *(labels[name] for name in uses.LABELS)], pairs),
        study.claims_table(results["claims"]),
        study.markdown(["gold win rate less that of the best control, points (95 % over prompts)", *seeds], controls),
        trials_table("trial", results["tuning"]["trials"], results),
        *(trials_table(f"{times} times the steps", rows, results) for times, rows in results["longer"].items()),
    ])  # fmt: skip


def trials_table(heading: str, trials: Mapping[str, Sequence[Mapping[str, Any]]], results: Mapping[str, Any]) -> str:
    """What was measured on the development seed: the number by which rates are chosen, the KL, the styles."""
    shares = [style for style in uses.STYLES_OF if style in next(iter(trials.values()))[0]]
    lines = [
        [results["labels"][method], f"{row['rate']:g}", f"{100 * row['aim']:.1f}", f"{row['kl']:.2f}"]
        + [f"{100 * row[style]:.1f}" for style in shares]
        + ["chosen" if row["rate"] == results["tuning"]["chosen"][method] else ""]
        for method, found in trials.items()
        for row in found
    ]
    named = [f"{style.replace('_', ' ')} (%)" for style in shares]
    return study.markdown([f"{heading}, seed {DEVELOPMENT}", "rate", "aim (%)", "KL (nats)", *named, ""], lines)


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of all tasks."""
    ends = [[use, *(f"{100 * each:.1f}" for each in row)] for use, row in three_styles().items()]
    headings = [
        "styles in closed form (%)",
        *(style.replace("_", " ") for style in uses.STYLES_OF),
        "beaten by the best",
    ]
    tables = [table(task, results[task]) for task in uses.TASKS if task in results]
    return "\n".join([*tables, study.markdown(headings, ends)])


def figures(results: Mapping[str, Any]) -> dict[str, str]:
    """{name of the file: <svg>}."""
    rows = {
        f"{task}: {found['labels'][name]}": [seed["exploitability"] for seed in found["by_seed"][name]]
        for task, found in results.items()
        for name in ("sft", *uses.LABELS)
    }
    words = "How often the best other policy of the pool beats each, by seed, with the interval over seeds"
    return {"exploitability": study.dots(rows, "beaten by the best of the pool, gold (%)", "exploitability", words)}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(uses.TASKS), default=list(uses.TASKS), help="these tasks")
    parser.add_argument("--tune", action="store_true", help=f"choose rates on seed {DEVELOPMENT}, and stop")
    parser.add_argument(
        "--longer", type=int, metavar="K", help=f"the same on seed {DEVELOPMENT} in K times the steps, and stop"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/judge_in_the_loop"))
    parser.add_argument(
        "--mode", default="full", choices=["full", "tiny"], help="tiny: a few steps, to see that it runs"
    )
    parser.add_argument("--out", type=made_folder, default=HERE)
    given = parser.parse_args(arguments)
    file = given.out / "results.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    for task in given.only:
        tuning = tuned(task, given.mode, given.folder, given.out)
        if given.longer:
            whole = longer(task, given.mode, tuning["chosen"], given.longer)
            place = study.trained(whole, DEVELOPMENT, given.folder / task)
            found = chosen(task, study.read(place, "longer", over_optimization.FILE))["trials"]
            (given.out / f"longer_{task}.json").write_text(json.dumps({given.longer: found}, indent=1))
        if given.tune or given.longer:
            continue
        whole = pipeline(task, given.mode, tuning["chosen"])
        places = [study.trained(whole, seed, given.folder / task) for seed in given.seeds]
        runs = [
            (study.read(place, "evaluate", tournament.FILE), study.read(place, "diversity", diversity.FILE))
            for place in places
        ]
        long = given.out / f"longer_{task}.json"
        more = json.loads(long.read_text()) if long.is_file() else {}
        results[task] = {"seeds": given.seeds, "tuning": tuning, "longer": more, **summary(task, runs)}
    if given.tune or given.longer:
        return
    file.write_text(json.dumps(results, indent=1))
    (given.out / "results.md").write_text(markdown(results))
    for name, picture in figures(results).items():
        (given.out / f"{name}.svg").write_text(picture)
    print(markdown(results))


if __name__ == "__main__":
    main(sys.argv[1:])
