"""ROUGE-L by hand, by brute force and by invariance; the other text metrics by example."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from alignjax.evaluate import text_metrics
from alignjax.evaluate.intervals import DataError


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        # Lin 2004, section 3.1: "police kill the gunman" shares "police the gunman" with the reference, 3 of 4 and 4
        # words; "the gunman kill police" only "the gunman", 2 of 4 and 4.
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        # precision 2/2, recall 2/4: harmonic mean 2/3
        ("open file", "open the text file", 2 / 3),
        ("Read_CSV!", "read csv", 1.0),
        ("", "anything", 0.0),
        ("!?", "!?", 0.0),
    ],
)
def test_rouge_l_by_hand(candidate, reference, expected):
    assert text_metrics.rouge_l(candidate, reference) == pytest.approx(expected)


def test_lcs_agrees_with_trying_every_subsequence():
    generator = np.random.default_rng(0)
    for _ in range(40):
        a, b = (list(generator.choice(list("abc"), size=generator.integers(0, 8))) for _ in range(2))
        others = {c for size in range(len(b) + 1) for c in itertools.combinations(b, size)}
        longest = max(len(c) for size in range(len(a) + 1) for c in itertools.combinations(a, size) if c in others)
        assert text_metrics.lcs_length(a, b) == longest


def test_lcs_of_long_texts():
    numbers = [str(number) for number in range(500)]
    assert text_metrics.lcs_length(numbers, numbers[::2]) == 250
    assert text_metrics.lcs_length(numbers, numbers[::-1]) == 1


def test_rouge_l_invariances():
    texts = ["return the sum of two numbers", "the sum of all numbers in a list", "Close the file."]
    for a, b in itertools.product(texts, texts):
        assert text_metrics.rouge_l(a, b) == pytest.approx(text_metrics.rouge_l(b, a))
        assert text_metrics.rouge_l(a.upper() + " ...", b) == text_metrics.rouge_l(a, b)
        assert 0 <= text_metrics.rouge_l(a, b) <= 1
    assert all(text_metrics.rouge_l(text, text) == 1 for text in texts)
    assert text_metrics.rouge_l("alpha beta", "gamma delta") == 0


def test_diversity_and_repetition():
    assert text_metrics.distinct_n(["a b c", "a b d"], 2) == pytest.approx(3 / 4)
    assert text_metrics.distinct_n(["a b c"] * 3, 1) == pytest.approx(1 / 3)
    assert text_metrics.repetition("the cat the cat the cat") == pytest.approx(3 / 5)
    assert text_metrics.repetition("every word here is new") == 0
    assert text_metrics.repetition("one") == text_metrics.distinct_n([], 2) == 0


def test_copies_are_whole_words_in_one_run():
    prompt = "Return the sum of two numbers. Raises an error."
    assert text_metrics.copied("the SUM of two", prompt)
    assert text_metrics.copied(prompt, prompt)
    assert not text_metrics.copied("the sum of two num", prompt)
    assert not text_metrics.copied("the sum two", prompt)
    assert not text_metrics.copied("", prompt)


def test_summary_of_a_player():
    found = text_metrics.text_summary(["read a file", ""], ["read a file", "close it"], ["please read a file", "x"])
    assert found["rouge_l"]["mean"] == pytest.approx(0.5)
    assert found["length"]["mean"] == pytest.approx(1.5)
    assert found["copied"] == found["empty"] == 0.5
    with pytest.raises(DataError, match="2 texts, 1 references"):
        text_metrics.text_summary(["a", "b"], ["a"], ["a", "b"])
