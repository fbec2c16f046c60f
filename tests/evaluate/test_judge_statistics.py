"""What judges are worth on rows whose answer is known, by constructed judges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from alignjax.evaluate.judge_statistics import KnownRow, agreements, cyclic_triples, statistics


def row(grades, prompt: str = "p", subset: str = "all", lengths=None) -> KnownRow:
    grades = np.asarray(grades, float)
    return KnownRow(prompt, subset, grades, np.asarray(range(1, len(grades) + 1) if lengths is None else lengths))


def by_scores(*scores: float) -> np.ndarray:
    return np.subtract.outer(scores, scores)


def test_accuracy_is_of_rows_and_prompts_are_resampled_whole() -> None:
    """A row of many pairs weighs as one; rows of one prompt are one draw; a tie is half right."""
    rows = [row([1, 0, 0, 0], "a"), row([1, 0], "b"), row([1, 0], "c"), row([1, 0], "c"), row([1, 1], "d")]
    said = [by_scores(1, 0, 2, 3), by_scores(1, 0), by_scores(0, 0), by_scores(0, 1), by_scores(5, 0)]
    made = statistics(rows, said, pairwise=False)
    assert made["accuracy"]["mean"] == pytest.approx((1 / 3 + 1 + 0.5 + 0) / 4)
    assert made["accuracy"]["n"] == 3  # prompts with a pair to be right about
    assert made["ties"]["mean"] == pytest.approx(1 / 4)
    assert made["best"]["mean"] == 0  # the only list puts a worse one first
    assert made["gap_of_equals"]["mean"] == pytest.approx((1 + 2 + 3 + 5) / 4)
    assert made["intransitive"] is None


def test_subsets_have_their_own_accuracy_and_a_mean_that_counts_each_once() -> None:
    rows = [row([1, 0], f"easy {n}", "easy") for n in range(6)] + [row([1, 0], f"hard {n}", "hard") for n in range(2)]
    said = [by_scores(1, 0)] * 6 + [by_scores(0, 1), by_scores(1, 0)]
    made = statistics(rows, said, pairwise=False)
    assert {name: each["mean"] for name, each in made["subsets"].items()} == {"easy": 1.0, "hard": 0.5}
    assert made["accuracy"]["mean"] == 7 / 8
    assert made["mean_of_subsets"]["mean"] == 0.75
    assert made["mean_of_subsets"]["low"] <= 0.75 <= made["mean_of_subsets"]["high"]


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_calibration_error_is_the_distance_of_confidence_from_how_often_it_is_right(sharpness: float) -> None:
    """A judge that says 0.7 and is right in 7 of 10 is calibrated; one of four times the log-odds is off."""
    logit = sharpness * np.log(0.7 / 0.3)
    rows = [row([1, 0], str(n)) for n in range(10)]
    said = [by_scores(logit if n < 7 else -logit, 0) for n in range(10)]
    expected = abs(1 / (1 + np.exp(-logit)) - 0.7)
    error = statistics(rows, said, pairwise=False)["calibration_error"]
    assert error["mean"] == pytest.approx(expected, abs=1e-12)


def test_length_bias_of_a_judge_that_counts_words() -> None:
    lengths = [(2, 5), (7, 3), (4, 9), (6, 1), (3, 3)]
    rows = [row([1, 0], str(n), lengths=each) for n, each in enumerate(lengths)]
    said = [by_scores(*each) for each in lengths]
    length = statistics(rows, said, pairwise=False)["length"]
    assert length["correlation"]["mean"] == pytest.approx(1)
    assert length["takes_longer"]["mean"] == 1
    assert length["longer_is_better"]["mean"] == 0.5
    assert (length["accuracy_if_longer"]["mean"], length["accuracy_if_shorter"]["mean"]) == (1, 0)
    other = statistics(rows, [-each for each in said], pairwise=False)["length"]
    assert other["correlation"]["mean"] == pytest.approx(-1)


def test_triples_go_round_in_two_ways_and_never_by_scores() -> None:
    """Of all 8 tournaments of three, two are cycles."""
    counted = []
    for signs in itertools.product((-1, 1), repeat=3):
        matrix = np.zeros((3, 3))
        matrix[np.triu_indices(3, 1)] = signs
        counted.append(cyclic_triples(matrix - matrix.T))
    assert counted.count((1, 1)) == 2
    assert counted.count((0, 1)) == 6
    assert cyclic_triples(by_scores(3, 1, 2, 0, 4)) == (0, 10)
    made = statistics([row([3, 2, 1])], [matrix - matrix.T], pairwise=True)
    assert made["intransitive"]["mean"] == 0


def test_two_judges_agree_where_they_take_the_same_side() -> None:
    rows = [row([1, 0, 2], "a"), row([1, 0], "b")]
    first = [by_scores(2, 1, 0), by_scores(0, 0)]
    second = [by_scores(2, 0, 1), by_scores(1, 0)]
    same = agreements(rows, {"one": first, "two": second, "three": [-each for each in first]})
    assert same["one & two"]["mean"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert same["one & three"]["mean"] == pytest.approx((0 + 1 / 2) / 2)
    assert set(same) == {"one & two", "one & three", "two & three"}
