"""Statistics of experiments: a curve at a KL, comparisons corrected for their number, a rule of tuning; and what is
reported follows from the numbers beside it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from alignjax.cli.config_file import imported
from alignjax.exact_tasks import styles
from tests.support.commands import ROOT

PLACE = ROOT / "experiments"
NAMES = ("online_ipo", "online_vs_offline", "online_preference", "judge_in_the_loop")
MODULES = {name: imported(PLACE / name / "run.py") for name in NAMES}
REPORTED = [name for name in MODULES if (PLACE / name / "results.json").is_file()]
CURVES, STUDY = MODULES["online_vs_offline"].curves, MODULES["online_vs_offline"].study


def point(kl: float, win: float) -> dict[str, Any]:
    return {"kl": {"mean": kl}, "win_rates": {"held_out": {"mean": win}}}


def test_a_curve_that_rises_with_the_root_of_its_kl_is_met_everywhere() -> None:
    points = [point(nats, 0.5 + 0.1 * math.sqrt(nats)) for nats in (4.0, 0.25, 1.5)]
    for nats in (0.0, 0.1, 0.25, 1.0, 1.5, 3.9, 4.0):
        assert CURVES.at_kl(points, "held_out", nats, 0.5) == pytest.approx(0.5 + 0.1 * math.sqrt(nats))
    assert CURVES.at_kl(points, "held_out", 4.1, 0.5) is None, "nothing is known beyond the farthest point"


def test_holm_goes_on_until_the_first_that_is_not_shown() -> None:
    """Of p values 0.001, 0.02, 0.03, 0.3 the thresholds are 0.05 / 4, / 3, / 2, / 1: the second fails, and so does the
    third, which alone would be below its own if it were not behind it."""
    draw = np.array([-1.1, -0.4, 0.1, 0.5, 0.9])

    def with_p(p: float, sign: float = 1.0) -> list[float]:
        t = stats.t.ppf(1 - p / 2, len(draw) - 1)
        return list(sign * (draw - draw.mean() + t * stats.sem(draw)))

    gaps = {"b": with_p(0.02), "d": with_p(0.3), "a": with_p(0.001, -1.0), "c": with_p(0.024)}
    rows = STUDY.compared(gaps)
    assert [row["claim"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["p"] for row in rows] == pytest.approx([0.001, 0.02, 0.024, 0.3])
    assert [row["threshold"] for row in rows] == pytest.approx([0.0125, 0.05 / 3, 0.025, 0.05])
    assert [row["verdict"] for row in rows] == ["the opposite holds", "not shown", "not shown", "not shown"]


def test_seeds_of_several_files_are_compared_where_both_curves_were_run(tmp_path: Path) -> None:
    """Seed 7 has one curve in a file and one in another; seed 8 has one alone, and is in no difference."""
    ablations = MODULES["online_vs_offline"]

    def run(curve: str, *wins: float) -> dict[str, Any]:
        right = {where: {"accuracy": {"mean": 0.8}} for where in ablations.ACCURACIES}
        accuracy = {ablations.name(curve, ablations.KEPT): right}
        return {"curves": {curve: [point(4.0, win) for win in wins]}, "accuracy": accuracy}

    files = {
        "a": {"seeds": [7, 8], "runs": [run("online_dpo", 0.7), run("online_dpo", 0.9)]},
        "b": {"seeds": [7], "runs": [run("offline_dpo", 0.6)]},
    }
    for name, found in files.items():
        (tmp_path / name).write_text(json.dumps(found))
    known = ablations.known_of([tmp_path / name for name in files])
    runs = [ablations.with_known(known[seed], {}, ["data", "loss"]) for seed in (7, 8)]
    assert [list(found["curves"]) for found in runs] == [["online_dpo", "offline_dpo"], ["online_dpo"]]
    summary = ablations.summary(runs, ["loss"])
    assert summary["best"] == {"online_dpo": [0.7, 0.9], "offline_dpo": [0.6]}
    (claim,) = summary["claims"]
    assert claim["by_seed"] == pytest.approx([0.05]), "of 0.1 at 4 nats, half at 1"


def test_an_interval_over_seeds_excludes_zero_where_its_p_value_is_below_a_twentieth() -> None:
    values = np.array([0.3, 1.1, 0.2, 0.7])
    for shift in np.linspace(-2, 2, 41):
        (row,) = STUDY.compared({"": list(values + shift)})
        assert (abs(row["mean"]) > row["half"]) == (row["p"] < 0.05)
    assert STUDY.over_seeds([0.1, None]) is None


def test_the_weaker_move_is_taken_of_trials_that_are_not_told_apart() -> None:
    preference = MODULES["online_preference"]

    def trial(tau: float, beaten: float, kl: float) -> dict[str, Any]:
        rivals = dict(zip(preference.RIVALS, (0.4, beaten, 0.3), strict=True))
        measures = {name: {"mean": value} for name, value in {**rivals, "faultless": 0.9}.items()}
        return {"setting": f"{tau}", "measures": measures} | point(kl, 0.6)

    trials = {
        "near": [trial(0.2, 0.609, 1.0), trial(0.1, 0.601, 2.0), trial(0.05, 0.7, 0.5)],
        "far": [trial(0.2, 0.62, 1.0), trial(0.1, 0.601, 2.0), trial(0.05, 0.7, 0.5)],
    }
    assert preference.chosen(trials)["chosen"] == {"near": 0.2, "far": 0.1}


def test_the_rate_of_fewest_nats_is_taken_of_those_that_are_not_told_apart() -> None:
    """On sorting by the win rate, on styles by the best rival, whatever the win rate says."""
    loop = MODULES["judge_in_the_loop"]

    def trial(rate: float, win: float, beaten: float, kl: float) -> dict[str, Any]:
        rivals = dict(zip(loop.uses.RIVALS, (0.4, 0.3, beaten), strict=True))
        found: dict[str, Any] = {"win_rates": {"held_out": {"mean": win}}, "kl": {"mean": kl}}
        return {"setting": f"{rate}"} | found | {"measures": {name: {"mean": value} for name, value in rivals.items()}}

    curves = {"near": [trial(1e-3, 0.701, 0.6, 2.0), trial(3e-4, 0.695, 0.7, 1.0), trial(1e-4, 0.6, 0.591, 3.0)]}
    assert loop.chosen("sorting", curves)["chosen"] == {"near": 3e-4}
    assert loop.chosen("styles", curves)["chosen"] == {"near": 1e-3}


def test_a_pool_that_is_a_cycle_mixes_as_its_nash_mixture() -> None:
    """SFT loses to the three styles, which meet as on the exact task: SFT has no share, and the mixture beats it by as
    much as its parts do, and none of these."""
    loop = MODULES["judge_in_the_loop"]
    names = ("sft", *list(loop.uses.LABELS)[:3])
    wins = np.full((4, 4), 0.5)
    wins[1:, 1:], wins[1:, 0] = styles.WINS, (0.9, 0.7, 0.6)
    wins[0, 1:] = 1 - wins[1:, 0]
    rates = {
        a: {b: {"mean": wins[i, j]} for j, b in enumerate(names) if a != b} | {"human": {"mean": 0.1}}
        for i, a in enumerate(names)
    }
    found = loop.pool({"players": dict.fromkeys((*names, "sft_greedy")), "win_rates": rates})
    assert [found[name]["nash"] for name in names] == pytest.approx([0, *styles.NASH], abs=1e-6)
    assert [found[name]["by_nash"] for name in names] == pytest.approx([styles.NASH @ wins[1:, 0], 0.5, 0.5, 0.5])
    assert [found[name]["exploitability"] for name in names] == pytest.approx([0.9, 0.65, 0.8, 0.7])


def test_each_use_of_a_judge_ends_where_it_would_stay() -> None:
    """Each use stops at its own fixed point: the equilibrium at its best response, the reward at exp(r / 4 tau)."""
    loop = MODULES["judge_in_the_loop"]
    (equilibrium, reward), tau = loop.three_styles().values(), loop.uses.TAU
    mu = np.array(styles.SHARES)
    best = mu * np.exp(styles.WINS @ equilibrium[:3] / tau)
    assert equilibrium[:3] == pytest.approx(best / best.sum(), abs=1e-9)
    log_odds = 4 * tau * np.log(np.array(reward[:3]) / mu)
    fitted = 1 / (1 + np.exp(log_odds - log_odds[:, None]))
    assert fitted @ mu == pytest.approx(styles.WINS @ mu, abs=1e-6), "rewards that win against SFT as the styles do"


@pytest.mark.parametrize("file", sorted(PLACE.glob("*/README.md")), ids=lambda file: file.parent.name)
def test_every_experiment_says_what_it_claims_what_could_refute_it_and_what_would(file: Path) -> None:
    text = file.read_text()
    assert re.search(r"\*\*(Claims? under test|Question)", text)
    assert re.search(r"\bControls?\b", text)
    assert re.search("^## What came out", text, re.MULTILINE)
    assert re.search("^## What would change our mind", text, re.MULTILINE)


@pytest.mark.parametrize("name", REPORTED)
def test_what_is_reported_follows_from_the_numbers(name: str) -> None:
    place, module = PLACE / name, MODULES[name]
    results = json.loads((place / "results.json").read_text())
    assert (place / "results.md").read_text() == module.markdown(results)
    for figure, text in module.figures(results).items():
        assert text.startswith("<svg")
        assert f"{figure}.svg" in (place / "README.md").read_text(), "the README shows it"
