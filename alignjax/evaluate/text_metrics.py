"""Metrics of texts that need no judge: overlap with a reference, length, diversity, repetition, copying.

Words are maximal runs of letters and digits, lower-cased ("read_csv" is two words), without stemming.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignjax.evaluate.intervals import DataError, interval

WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-cased words of a text, in order."""
    return WORD.findall(text.lower())


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the dynamic programme at a time in the bits of one integer
    (Hyyrö, Bit-parallel LCS-length computation revisited, 2004): bit i is 0 where the row grows at a[i]."""
    where: dict[str, int] = {}
    for index, word in enumerate(a):
        where[word] = where.get(word, 0) | 1 << index
    every = (1 << len(a)) - 1
    row = every
    for word in b:
        match = row & where.get(word, 0)
        row = ((row + match) | (row - match)) & every
    return len(a) - row.bit_count()


def rouge_l(candidate: str, reference: str) -> float:
    """ROUGE-L F1 (Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004, eq. 2-4 with beta = 1): the
    harmonic mean of LCS / candidate words and LCS / reference words, in [0, 1]; 0 when either has no words."""
    left, right = words(candidate), words(reference)
    # 2 P R / (P + R) with P = L/m, R = L/n is 2 L / (m + n).
    return 2 * lcs_length(left, right) / (len(left) + len(right)) if left and right else 0.0


def ngrams(text: str, order: int) -> list[tuple[str, ...]]:
    """All runs of `order` words, in order, with repeats."""
    found = words(text)
    return list(zip(*(found[start:] for start in range(order)), strict=False))


def distinct_n(texts: Sequence[str], order: int = 2) -> float:
    """Distinct n-grams of the whole collection over all its n-grams (arXiv:1510.03055), in [0, 1]; 0 if there are none.
    It falls with the amount of text, so compare equally many."""
    grams = [gram for text in texts for gram in ngrams(text, order)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(text: str, order: int = 2) -> float:
    """Share of a text's n-grams that it has already said (seq-rep-n, arXiv:1908.04319), in [0, 1); 0 without any."""
    grams = ngrams(text, order)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def copied(text: str, prompt: str) -> bool:
    """Whether the text is an exact copy of a passage of the prompt: its words, at least one, stand there in one run."""
    wanted = words(text)
    return bool(wanted) and f" {' '.join(wanted)} " in f" {' '.join(words(prompt))} "


def text_summary(
    texts: Sequence[str],
    references: Sequence[str],
    prompts: Sequence[str],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """One player's texts in numbers, one text, reference and prompt per row: what a report's table of players shows.

    Returns intervals over prompts ({"mean", "low", "high", "n"}) for `rouge_l`, `length` (words) and `repetition`
    (bigrams), and plain shares in [0, 1] for `distinct_2`, `copied` and `empty` (no words at all).
    Raises DataError when the three differ in length or are empty.
    """
    if not len(texts) == len(references) == len(prompts) or not texts:
        raise DataError(
            f"{len(texts)} texts, {len(references)} references and {len(prompts)} prompts: "
            "give the same number of each, at least one"
        )
    lengths = [len(words(text)) for text in texts]
    rows = {
        "rouge_l": [rouge_l(text, reference) for text, reference in zip(texts, references, strict=True)],
        "length": lengths,
        "repetition": [repetition(text) for text in texts],
    }
    summary: dict[str, Any] = {name: interval(row, draws=draws, seed=seed) for name, row in rows.items()}
    summary["distinct_2"] = distinct_n(texts)
    summary["copied"] = float(np.mean([copied(text, prompt) for text, prompt in zip(texts, prompts, strict=True)]))
    summary["empty"] = float(np.mean([length == 0 for length in lengths]))
    return summary
