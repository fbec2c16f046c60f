"""Gold against proxy over exact KL: best-of-n, PPO, GRPO, DPO and IPO on learned proxies of three sizes.

    python experiments/overoptimization/run.py --seeds 0 1 2 3 4 5 6 7 --folder runs/overoptimization

Learning rates are chosen first, on seeds of their own, for methods that tuning.json does not have. Runs what is not
there yet, then writes results.json, results.md and the figure beside this file. `--only ppo` runs one method, and
leaves what is reported of the others as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import forms
import hackable
import matplotlib as mpl
import numpy as np
import optimizers
from matplotlib.figure import Figure

from alignjax.cli.compile_cache import keep_compiled_programs
from alignjax.cli.config_file import imported
from alignjax.evaluate import best_of_n
from alignjax.evaluate.report.figures import PALETTE, STYLE, frame, svg
from alignjax.outside import made_folder

HERE = Path(__file__).parent
study = imported(HERE.parent / "online_ipo" / "over_seeds.py")

DEVELOPMENT = (100, 101)  # the seeds on which learning rates are chosen, which are not reported
RATES = (3e-4, 1e-3)  # the trials of every method
BLOCKS, EVERY = 15, 10  # points of a run, and iterations between two of them
NUMBERS = tuple(2**k for k in range(11))  # the n of best-of-n
NATS = 2.0  # where methods are compared
PROXIES = (*hackable.SIZES, hackable.CONTROL)
LABELS = {"best_of_n": "best-of-n", "ppo": "PPO", "grpo": "GRPO", "dpo": "DPO", "ipo": "IPO"}
FORM_OF = {"best_of_n": "quadratic", **dict.fromkeys(optimizers.METHODS, "logarithmic")}


# ------------------------------------------------------------------------------------------------------------ the runs


def followed(method: str, rate: float, size: str, seed: int, folder: Path, blocks: int) -> forms.Run:
    """The points of a run, from the folder or made now."""
    place = folder / f"seed-{seed}"
    made = hackable.start(place, seed)

    def run() -> Any:
        trees = hackable.loaded(made, size)
        return hackable.followed(optimizers.METHODS[method](rate), seed, trees, blocks=blocks, every=EVERY)

    return hackable.kept(place / f"{method}-{rate:g}-{size}-{blocks}.json", run)


def best_of(made: Mapping[str, Any], size: str) -> forms.Run:
    """The points of best-of-n by the proxy, n = 1 (SFT) first, by enumeration."""
    proxy, share = made["proxy"][size], np.exp(made["reference"])
    rows: dict[str, list[float]] = {"kl": [], "gold": [], "proxy": [], "entropy": []}
    for n in NUMBERS:
        best = best_of_n.best_of_n(share, proxy, n=n)
        logs = np.log(np.where(best > 0, best, 1))
        rows["kl"].append(best_of_n.best_of_n_kl(share, proxy, n=n).mean())
        rows["entropy"].append(-(best * logs).sum(-1).mean())
        for name, table in (("gold", made["gold"]), ("proxy", proxy)):
            rows[name].append((best * table).sum(-1).mean())
    return {name: np.round(values, 4).tolist() for name, values in rows.items()}


def tuned(method: str, folder: Path, out: Path, blocks: int) -> float:
    """The rate of a method, from tuning.json or chosen now: the one whose mean path over the development seeds has the
    highest gold, mean over sizes; the lower one of equals."""
    file = out / "tuning.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    if method not in known:
        trials = {}
        for rate in RATES:
            paths = {
                size: [followed(method, rate, size, seed, folder, blocks)["gold"] for seed in DEVELOPMENT]
                for size in hackable.SIZES
            }
            trials[f"{rate:g}"] = float(np.mean([np.mean(runs, axis=0).max() for runs in paths.values()]))
        known[method] = {"chosen": max(RATES, key=lambda rate: (trials[f"{rate:g}"], -rate)), "trials": trials}
        file.write_text(json.dumps(known, indent=1))
    return known[method]["chosen"]


# -------------------------------------------------------------------------------------------------------------- results


def claims(runs: Mapping[str, Mapping[str, Sequence[forms.Run]]]) -> list[dict[str, Any]]:
    """What was settled before the seeds were run: that gold declines from the peak to the end, for every method and
    size; that the peak on a large proxy is above that on a small one, for every method; and that a method has more gold
    than best-of-n at NATS, for every size."""
    gaps: dict[str, list[float]] = {}
    for method, by_size in runs.items():
        peaks = {size: forms.peaks(each) for size, each in by_size.items()}
        for size, found in peaks.items():
            if size == hackable.CONTROL:
                continue
            gaps[f"{LABELS[method]}, {size} proxy: gold at the peak above gold at the end"] = [
                one["lost"] for one in found
            ]
        gaps[f"{LABELS[method]}: the peak on the large proxy above that on the small one"] = [
            large["gold"] - small["gold"] for large, small in zip(peaks["large"], peaks["small"], strict=True)
        ]
    for method in runs:
        for size in hackable.SIZES if method != "best_of_n" else ():
            pairs = zip(runs[method][size], runs["best_of_n"][size], strict=True)
            both = [(forms.gold_at(one, NATS), forms.gold_at(other, NATS)) for one, other in pairs]
            known = [one - other for one, other in both if one is not None and other is not None]
            if len(known) == len(both):
                gaps[f"{LABELS[method]} above best-of-n at {NATS:g} nats, {size} proxy"] = known
    return study.compared(gaps)


def summary(runs: Mapping[str, Mapping[str, Sequence[forms.Run]]]) -> dict[str, Any]:
    """The fits of all forms, peaks and ends of every method and size, and the comparisons."""
    made: dict[str, Any] = {"fits": {}, "peaks": {}}
    for method, by_size in runs.items():
        for size, each in by_size.items():
            name = f"{method}/{size}"
            points = [forms.binned(run) for run in each]
            made["fits"][name] = {form: forms.summary(form, points) for form in forms.FORMS}
            found = forms.peaks(each)
            made["peaks"][name] = {key: study.over_seeds([one[key] for one in found]) for key in found[0]} | {
                f"end_{key}": study.over_seeds([run[key][-1] for run in each]) for key in ("gold", "proxy", "kl")
            }
    return {**made, "claims": claims(runs) if "best_of_n" in runs else []}


def markdown(results: Mapping[str, Any]) -> str:
    """Peaks and ends, fits, comparisons, trials."""
    names = {name: [LABELS[name.split("/")[0]], name.split("/")[1]] for name in results["peaks"]}
    keys = ("kl", "gold", "end_kl", "end_gold", "end_proxy")
    ends = [[*names[name], *(study.number(row[key], 1, 2) for key in keys)] for name, row in results["peaks"].items()]
    fits = []
    for name, row in results["fits"].items():
        one = row[FORM_OF[name.split("/")[0]]]
        shown = [
            f"{value:.2f} ({low:.2f} to {high:.2f})"
            for value, low, high in zip(one["coefficients"], one["low"], one["high"], strict=True)
        ]
        missed = [f"{each['missed']:.3f}" if each["missed"] is not None else "-" for each in row.values()]
        form = forms.FORMS[FORM_OF[name.split("/")[0]]]
        fits.append([*names[name], form, *shown, f"{one['explained']:.2f}", *missed])
    trials = [
        [LABELS[method], *(f"{value:.3f}" for value in each["trials"].values()), f"{each['chosen']:g}"]
        for method, each in results["tuning"].items()
    ]
    heading = ["method", "proxy", "nats at the peak", "gold there", "nats at the end", "gold", "proxy's score"]
    missing = [f"{form} misses" for form in forms.FORMS]
    compared = [
        [row["claim"], " ".join(f"{gap:+.2f}" for gap in row["by_seed"]), study.number(row, 1, 2), f"{row['p']:.2g}",
         f"{row['threshold']:.4f}", row["verdict"]]
        for row in results["claims"]
    ]  # fmt: skip
    return "\n".join([
        study.markdown(heading, ends),
        study.markdown(["method", "proxy", "form", "a", "b", "R^2", *missing], fits),
        study.markdown(["claim", "by seed", "mean", "p", "needed by Holm", ""], compared),
        study.markdown(["highest gold of trials", *(f"rate {rate:g}" for rate in RATES), "chosen"], trials),
    ])  # fmt: skip


def figures(results: Mapping[str, Any]) -> dict[str, str]:
    """{name of the file: <svg>}: a panel per method with gold (whole lines) and proxy (dashed) over d, means over seeds
    in the bins of d that half of the seeds reach."""
    runs = results["runs"]
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(2.2 * len(runs) + 0.6, 2.7), layout="constrained")
        panels = np.atleast_1d(drawn.subplots(1, len(runs), sharey=True, sharex=True))
        for axes, (method, by_size) in zip(panels, runs.items(), strict=True):
            frame(axes)
            axes.set_title(LABELS[method])
            axes.set_xlabel("d = sqrt(KL)")
            for color, (size, each) in zip(PALETTE, by_size.items(), strict=False):
                for key, line in (("gold", "-"), ("proxy", "--")):
                    label = size if key == "gold" else None
                    axes.plot(*mean_curve(each, key), line, color=color, lw=1.5, label=label)
        panels[0].set_ylabel("score, deviations under SFT")
        panels[0].legend(title="proxy")
        words = "Gold and proxy scores over the root of the KL to SFT, by method and proxy, means over seeds"
        return {"overoptimization": svg(drawn, "overoptimization", words)}


def mean_curve(runs: Sequence[forms.Run], key: str) -> np.ndarray:
    """d and the mean score of the runs in every bin that half of them reach, SFT first [2,bins+1]."""
    points = [forms.binned({**run, "gold": run[key]}) for run in runs]
    d, score = (np.concatenate(part) for part in zip(*points, strict=True))
    bins = (d / forms.WIDTH).astype(int)
    kept = [each for each in np.unique(bins) if 2 * (bins == each).sum() >= len(runs)]
    return np.array([(0.0, 0.0), *((d[bins == b].mean(), score[bins == b].mean()) for b in kept)]).T


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(LABELS), default=list(LABELS), help="these methods")
    parser.add_argument("--tune", action="store_true", help="choose learning rates, and stop")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--folder", type=Path, default=Path("runs/overoptimization"))
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"points of a run, {EVERY} iterations apart")
    parser.add_argument("--out", type=made_folder, default=HERE)
    given = parser.parse_args(arguments)
    keep_compiled_programs()
    learners = [method for method in given.only if method in optimizers.METHODS]
    rates = {method: tuned(method, given.folder, given.out, given.blocks) for method in learners}
    if given.tune:
        return
    file = given.out / "results.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    runs: dict[str, Any] = known["runs"] if known.get("seeds") == given.seeds else {}
    if "best_of_n" in given.only:
        made = {seed: hackable.start(given.folder / f"seed-{seed}", seed) for seed in given.seeds}
        runs["best_of_n"] = {size: [best_of(made[seed], size) for seed in given.seeds] for size in PROXIES}
    for method, rate in rates.items():
        runs[method] = {
            size: [followed(method, rate, size, seed, given.folder, given.blocks) for seed in given.seeds]
            for size in PROXIES
        }
    runs = {method: runs[method] for method in LABELS if method in runs}
    tuning = json.loads((given.out / "tuning.json").read_text()) if (given.out / "tuning.json").is_file() else {}
    results = {"seeds": given.seeds, "tuning": tuning, **summary(runs), "runs": runs}
    hackable.write(file, results)
    (given.out / "results.md").write_text(markdown(results))
    for name, text in figures(results).items():
        (given.out / f"{name}.svg").write_text(text)
    print(markdown(results))


if __name__ == "__main__":
    main(sys.argv[1:])
