"""Win rates, bootstrap intervals and diagnostics, against known distributions and by symmetry."""

from __future__ import annotations

import numpy as np
import pytest

from alignjax.evaluate import diagnostics, intervals, tournament, win_rate
from alignjax.evaluate.intervals import DataError
from tests.evaluate.conftest import judgements


def test_intervals_cover_the_true_mean_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    samples = generator.beta(2, 1, size=(400, 80))  # mean 2/3, skewed
    spans = [intervals.interval(row, draws=400, seed=index) for index, row in enumerate(samples)]
    covered = np.mean([span["low"] <= 2 / 3 <= span["high"] for span in spans])
    assert 0.91 <= covered <= 0.98  # 95 % less the bootstrap's small bias, with 400 trials' noise of 1.1 %


def test_an_interval_is_as_wide_as_the_normal_theory_says():
    values = np.random.default_rng(1).normal(size=2000)
    span = intervals.interval(values, draws=4000)
    assert span["high"] - span["low"] == pytest.approx(2 * 1.96 * values.std() / np.sqrt(2000), rel=0.05)


def test_constant_and_single_values_have_intervals_of_no_width():
    for values in (np.full(20, 0.3), np.array([0.3])):
        span = intervals.interval(values)
        assert [span[key] for key in ("mean", "low", "high")] == pytest.approx([0.3] * 3)


def test_resamples_depend_on_the_seed_alone_and_pieces_do_not_matter(monkeypatch):
    values = np.random.default_rng(3).normal(size=(50, 2))
    whole = intervals.resampled(values, draws=100, seed=5)
    assert not np.array_equal(whole, intervals.resampled(values, draws=100, seed=6))
    monkeypatch.setattr(intervals, "CHUNK", 50 * 7)
    np.testing.assert_allclose(intervals.resampled(values, draws=100, seed=5), whole, atol=1e-12)


@pytest.mark.parametrize("score", ["probability", "hard"])
def test_the_two_orders_of_a_pair_are_complements(score):
    given = judgements(4, n=60)
    rates = win_rate.win_rate_matrix(given, score=score, draws=200)
    turned = win_rate.win_rate_matrix({(b, a): 1 - p for (a, b), p in given.items()}, score=score, draws=200)
    for a, row in rates.items():
        assert set(row) == set(rates) - {a}
        for b, rate in row.items():
            assert rate["mean"] + rates[b][a]["mean"] == pytest.approx(1)
            assert rate["low"] + rates[b][a]["high"] == pytest.approx(1)
            assert rate["low"] <= rate["mean"] <= rate["high"]
            assert rate["n"] == 60
            for key in ("mean", "low", "high"):
                assert turned[a][b][key] == pytest.approx(rate[key], abs=0.01)


def test_hard_wins_count_ties_as_half():
    rates = win_rate.win_rate_matrix({("a", "b"): [0.9, 0.51, 0.5, 0.0]}, score="hard", draws=10)
    assert rates["a"]["b"]["mean"] == pytest.approx(2.5 / 4)
    assert win_rate.win_rate_matrix({("a", "b"): [0.9, 0.5, 0.5, 0.1]}, draws=10)["a"]["b"]["mean"] == pytest.approx(
        0.5
    )


def test_exploitability_finds_the_cycle_of_an_intransitive_game():
    rates = win_rate.win_rate_matrix(
        {("rock", "scissors"): [0.9, 0.9], ("scissors", "paper"): [0.8, 0.8], ("paper", "rock"): [0.7, 0.7]}, draws=10
    )
    worst = win_rate.exploitability(rates)
    assert {player: row["by"] for player, row in worst.items()} == {
        "rock": "paper",
        "scissors": "rock",
        "paper": "scissors",
    }
    assert worst["scissors"]["mean"] == pytest.approx(0.9)


def test_no_human_text_exploits_a_policy():
    """It beats both players of a tournament, and is no policy that could be played."""
    verdict = {("sft", "ours"): [0.4, 0.2], ("sft", "human"): [0.1, 0.1], ("ours", "human"): [0.2, 0.2]}
    found = tournament._statistics({"held_out": {pair: np.array(column) for pair, column in verdict.items()}})
    assert {player: row["by"] for player, row in found["exploitability"].items()} == {"sft": "ours", "ours": "sft"}
    assert found["win_rates"]["human"]["sft"]["mean"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "no judgments"),
        ({("a", "a"): [0.5]}, "itself"),
        ({("a", "b"): [1.2]}, r"\[0, 1\]"),
        ({("a", "b"): [0.5, float("nan")]}, "1 of 2 values"),
        ({("a", "b"): []}, "at least one prompt"),
        ({("a", "b"): [0.5], ("a", "c"): [0.5, 0.5]}, "same prompts"),
        ({("a", "b"): [0.6], ("b", "a"): [0.6]}, "add up to 1"),
    ],
)
def test_judgements_that_cannot_be_meant_are_refused(given, says):
    with pytest.raises(DataError, match=says):
        win_rate.win_rate_matrix(given)


def test_unknown_scores_are_refused():
    with pytest.raises(DataError, match="hard"):
        win_rate.win_rate_matrix({("a", "b"): [0.5]}, score="soft")


def test_sequence_kl_is_unbiased_for_a_policy_small_enough_to_enumerate():
    generator = np.random.default_rng(7)
    policy, reference = (generator.dirichlet(np.ones(4)) for _ in range(2))
    exact = 3 * np.sum(policy * np.log(policy / reference))  # three independent tokens
    tokens = generator.choice(4, size=(4000, 2, 5), p=policy)
    mask = np.zeros(tokens.shape)
    mask[..., :3] = 1
    found = diagnostics.sequence_kl(np.log(policy)[tokens], np.log(reference)[tokens], mask, draws=500)
    assert found["kl"]["low"] <= exact <= found["kl"]["high"]
    assert found["kl_per_token"]["mean"] == pytest.approx(found["kl"]["mean"] / 3)


def test_sequence_kl_is_zero_at_the_reference_whatever_stands_on_padding():
    logps = np.full((4, 1, 3), -2.0)
    mask = np.array([[[1, 1, 0]]] * 4)
    padded = logps.copy()
    padded[..., 2] = -np.inf
    found = diagnostics.sequence_kl(padded, logps, mask)
    assert found["kl"] == {"mean": 0, "low": 0, "high": 0, "n": 4}


def test_sequence_kl_refuses_what_it_cannot_average():
    with pytest.raises(DataError, match="prompts, completions, tokens"):
        diagnostics.sequence_kl(np.zeros((2, 3)), np.zeros((2, 3)), np.ones((2, 3)))
    with pytest.raises(DataError, match="no token"):
        diagnostics.sequence_kl(*[np.zeros((2, 1, 3))] * 3)
    with pytest.raises(DataError, match="NaN"):
        diagnostics.sequence_kl(np.full((2, 1, 3), np.nan), np.zeros((2, 1, 3)), np.ones((2, 1, 3)))


def test_length_bias_is_pearsons_r_and_ignores_scale():
    generator = np.random.default_rng(8)
    length = generator.normal(100, 30, size=200)
    margin = 0.01 * length + generator.normal(size=200)
    found = diagnostics.length_bias(margin, length, draws=300)
    assert found["mean"] == pytest.approx(np.corrcoef(margin, length)[0, 1])
    assert found["low"] < found["mean"] < found["high"]
    assert diagnostics.length_bias(margin * 1e4 + 7, length, draws=300) == pytest.approx(found)
    assert diagnostics.length_bias(-length, length)["mean"] == pytest.approx(-1)
    assert diagnostics.length_bias(margin, np.full(200, 5.0))["mean"] == 0


def test_judges_agree_with_themselves_and_by_half_when_undecided():
    p = np.random.default_rng(9).uniform(size=50)
    assert diagnostics.agreement(p, p)["mean"] == 1
    assert diagnostics.agreement(p, 1 - p)["mean"] == 0
    assert diagnostics.accuracy(np.full(50, 0.5), p > 0.5)["mean"] == 0.5
