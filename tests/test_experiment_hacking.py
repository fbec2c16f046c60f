"""The world of experiments/overoptimization and ppo_ablation is what it says, what is fitted to its curves is found
again, and every switch of PPO-max is thrown."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.cli.config_file import imported
from alignjax.evaluate import best_of_n
from alignjax.roles import Restored
from tests.support.commands import ROOT

PLACE = ROOT / "experiments"
CURVES, ABLATION = imported(PLACE / "overoptimization" / "run.py"), imported(PLACE / "ppo_ablation" / "run.py")
WORLD, FORMS, SWITCHES = CURVES.hackable, CURVES.forms, ABLATION.switches
MODULES = {"overoptimization": CURVES, "ppo_ablation": ABLATION}
REPORTED = [name for name in MODULES if (PLACE / name / "results.json").is_file()]
STRINGS = WORLD.LANGUAGE.strings[0]


def run_of(kl: Any, gold: Any, **more: Any) -> dict[str, Any]:
    """A run with SFT before its points."""
    return {"kl": [0.0, *kl], "gold": [0.0, *gold], "proxy": [0.0, *gold], **more}


def test_who_repeats_loses_gold_and_gains_with_annotators() -> None:
    free, charged = WORLD.planted(3), WORLD.planted(3, 0.7)
    repeats = np.array([sum(a == b for a, b in itertools.pairwise(text)) for text in STRINGS.tolist()])
    np.testing.assert_array_equal(free["gold"], free["annotator"])
    np.testing.assert_allclose(free["gold"] - charged["gold"], np.broadcast_to(0.7 * repeats, (6, 1296)), atol=1e-12)
    np.testing.assert_allclose(charged["annotator"] - charged["gold"], [1.4 * repeats] * 6, atol=1e-12)
    np.testing.assert_allclose(np.exp(charged["people"]).sum(-1), 1)
    assert np.abs(WORLD.planted(4)["gold"] - free["gold"]).max() > 1, "every seed has a gold of its own"


def test_gold_of_a_string_is_a_sum_over_letters_and_neighbors() -> None:
    """What a change of the last letter is worth does not depend on the first two."""
    gold = WORLD.planted(5)["gold"].reshape(6, 6, 6, 6, 6)
    worth = gold[..., 4] - gold[..., 1]
    np.testing.assert_allclose(worth, np.broadcast_to(worth[:, :1, :1], worth.shape), atol=1e-12)
    assert np.ptp(worth, axis=3).min() > 0.01, "and does on the third"


def test_a_score_is_centered_under_the_policy_in_every_context() -> None:
    draw = np.random.default_rng(0)
    log_policy = np.log(draw.dirichlet(np.ones(1296), size=6))
    score = WORLD.centered(draw.normal(size=(6, 1296)) * 3 + np.arange(6)[:, None], log_policy)
    np.testing.assert_allclose((np.exp(log_policy) * score).sum(-1), 0, atol=1e-12)
    assert WORLD.spread(score, log_policy) == pytest.approx(1)
    tables = {name: jnp.asarray(table) for name, table in (("gold", score), ("proxy", 2 * score))}
    found = WORLD.measured(jnp.asarray(log_policy), {**tables, "reference": jnp.asarray(log_policy)})
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {"gold": 0, "proxy": 0, "kl": 0, "entropy": -(np.exp(log_policy) * log_policy).sum(-1).mean()}, abs=1e-5
    )


def test_labels_are_drawn_with_the_odds_of_the_score() -> None:
    """Of two strings the better wins as often as its odds say, and strings are drawn as SFT writes them."""
    score, share = np.zeros((6, 1296)), np.full((6, 1296), 1e-12)
    score[:, 7], share[:, 7], share[:, 11] = 1.5, 0.3, 0.7
    pairs = WORLD.labels(score, np.log(share / share.sum(-1, keepdims=True)), seed=2)
    first, second = pairs["strings"].T
    assert set(np.unique(pairs["strings"])) == {7, 11}
    assert (pairs["strings"] == 7).mean() == pytest.approx(0.3, abs=0.03)
    better = np.where(first == 7, pairs["wins"], 1 - pairs["wins"])[first != second]
    assert better.mean() == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.05)


def test_published_forms_are_found_again() -> None:
    d = np.linspace(0.3, 2.4, 9)
    curves = {"quadratic": d * (0.9 - 0.25 * d), "logarithmic": d * (0.9 - 0.25 * np.log(d))}
    for form, gold in curves.items():
        np.testing.assert_allclose(FORMS.fitted(form, d, gold), [0.9, 0.25], atol=1e-9)
        other = next(each for each in curves if each != form)
        miss = [FORMS.left_out(each, [(d, gold), (d + 0.05, gold)]) for each in (form, other)]
        assert miss[0] < miss[1]
    plain = FORMS.fitted("saturating", d, 0.8 * (1 - np.exp(-FORMS.BENT[60] * d)))
    np.testing.assert_allclose(plain, [0.8, FORMS.BENT[60]])


def test_a_run_that_rests_counts_once() -> None:
    d, gold = FORMS.binned(run_of([0.25, 4.0, 4.0, 4.2], [0.5, 0.1, 0.2, 0.3]))
    np.testing.assert_allclose(d, [0.5, (4 + math.sqrt(4.2)) / 3])
    np.testing.assert_allclose(gold, [0.5, 0.2])


def test_a_peak_is_where_the_others_peak() -> None:
    """By the others' paths the first run has its peak at the second point, where it is not at its own highest."""
    runs = [run_of([1, 2, 3], gold) for gold in ([0.9, 0.5, 0.1], [0.2, 0.8, 0.3], [0.1, 0.7, 0.2])]
    found = FORMS.peaks(runs)
    assert [one["gold"] for one in found] == [0.5, 0.8, 0.7]
    assert [one["lost"] for one in found] == pytest.approx([0.4, 0.5, 0.5])
    assert [one["kl"] for one in found] == [2, 2, 2]


def test_gold_at_a_kl_is_read_where_a_run_first_comes_there() -> None:
    run = run_of([1.0, 3.0, 1.0, 3.0], [0.4, 0.8, 0.0, 0.0])
    assert FORMS.gold_at(run, 2.0) == pytest.approx(0.6)
    assert FORMS.gold_at(run, 3.1) is None


def test_no_difference_in_any_seed_is_not_shown() -> None:
    rows = CURVES.study.compared({"none": [0.0, 0.0, 0.0], "some": [0.1, 0.11, 0.1]})
    assert [(row["claim"], row["verdict"]) for row in rows] == [("some", "holds"), ("none", "not shown")]
    assert rows[1]["p"] == 1


def test_best_of_n_by_gold_itself_never_declines() -> None:
    """The control: without a proxy's errors gold only rises, and it does fall by a proxy that is wrong."""
    draw = np.random.default_rng(1)
    reference = np.log(draw.dirichlet(np.ones(1296), size=6))
    gold = WORLD.centered(draw.normal(size=(6, 1296)), reference)
    wrong = np.where(gold > 2, -gold, gold)
    made = {"gold": gold, "reference": reference, "proxy": {"gold": gold, "wrong": wrong, "opposite": -gold}}
    runs = {size: CURVES.best_of(made, size) for size in made["proxy"]}
    assert (np.diff(runs["gold"]["gold"]) > 0).all()
    assert (np.diff(runs["opposite"]["gold"]) < 0).all()
    assert runs["wrong"]["gold"][-1] < runs["gold"]["gold"][-1] - 0.2
    bounds = [best_of_n.best_of_n_kl_bound(n) for n in CURVES.NUMBERS]
    assert all(kl <= bound + 1e-4 for kl, bound in zip(runs["gold"]["kl"], bounds, strict=True))


def test_every_switch_is_thrown_once_each_way() -> None:
    """Every variant differs from the next by one stabilizer, and each changes the algorithm."""
    switches = SWITCHES.VARIANTS
    assert len(switches) == 2 * len(SWITCHES.ON) + 2
    for name in SWITCHES.ON:
        assert set(switches["everything"]) - set(switches[f"without {name}"]) == {name}
        assert switches[f"{name} alone"] == (name,)
    given = {key for each in SWITCHES.ON.values() for key in each}
    assert given == set(SWITCHES.OFF)
    made = {name: SWITCHES.algorithm(each, 1e-3, 0.3) for name, each in switches.items()}
    described = {name: repr((each.experience, each.losses, each.roles)) for name, each in made.items()}
    assert len(set(described.values())) == len(made)
    restored = {name for name, each in made.items() if isinstance(each.roles["critic"].start, Restored)}
    assert restored == {name for name, each in switches.items() if "critic from the reward model" in each}
    eta = {name: each.experience["rewards"].kwargs["eta"] for name, each in made.items()}
    assert set(eta.values()) == {0.0, 0.3}


def test_a_run_has_collapsed_if_it_ends_below_sft() -> None:
    more = {"entropy": [1.0] * 5}
    above, below = (ABLATION.ended(run_of([1, 2, 3, 4], [9, *gold], **more)) for gold in ([-1, 0, 2], [-2, 0, 1]))
    assert (above["collapsed"], below["collapsed"]) == (False, True)
    assert below["gold"] == pytest.approx(-1 / 3)
    found = ABLATION.share([above, below, below, below])
    assert (found["mean"], round(found["low"], 3), round(found["high"], 3)) == (0.75, 0.194, 0.994)


@pytest.mark.parametrize("name", REPORTED)
def test_what_is_reported_follows_from_the_numbers(name: str) -> None:
    place, module = PLACE / name, MODULES[name]
    results = json.loads((place / "results.json").read_text())
    assert (place / "results.md").read_text() == module.markdown(results)
    for figure, text in module.figures(results).items():
        assert text.startswith("<svg")
        assert f"{figure}.svg" in (place / "README.md").read_text(), "the README shows it"
