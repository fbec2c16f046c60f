"""Corruptions of a sentence: negatives for a preference model that has only good sentences to learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from alignjax.data.text.words import joined, pieces_of

Words = list[str]
STOPS = ".!?,\u3002\uff01\uff1f\uff0c"  # the latter four of Chinese and Japanese


def _cut(words: Words, rng: np.random.Generator) -> Words:
    """The sentence ends midway, without its full stop."""
    keep = int(rng.integers(1, max(2, (2 * len(words)) // 3 + 1)))
    return [*words[: keep - 1], words[keep - 1].rstrip(STOPS)]


def _shuffled(words: Words, rng: np.random.Generator) -> Words:
    return [words[k] for k in rng.permutation(len(words))]


def _dropped(words: Words, rng: np.random.Generator) -> Words:
    """About a third of the words are missing, at least one."""
    gone = rng.choice(len(words), size=max(1, len(words) // 3), replace=False)
    return [word for k, word in enumerate(words) if k not in gone]


def _repeated(words: Words, rng: np.random.Generator) -> Words:
    """A run of words is said two or three times."""
    start = int(rng.integers(0, len(words)))
    end = int(rng.integers(start + 1, min(len(words), start + 4) + 1))
    return words[:end] + words[start:end] * int(rng.integers(1, 3)) + words[end:]


KINDS: Mapping[str, Callable[[Words, np.random.Generator], Words]] = {
    "cut": _cut,
    "shuffled": _shuffled,
    "dropped": _dropped,
    "repeated": _repeated,
}


def corrupted(text: str, kind: str, rng: np.random.Generator) -> str:
    """Returns a corrupted text that never equals `text`. A single word is doubled.

    Args:
        text: A sentence.
        kind: A key of KINDS.
        rng: Decides how it is corrupted.
    """
    words = pieces_of(text)
    if len(words) < 2:
        return joined(words * 2)
    for _ in range(8):
        changed = joined(KINDS[kind](words, rng))
        if changed and changed != joined(words):
            return changed
    return joined(words[1:] + words[:1] + words[-1:])


def two_kinds(rng: np.random.Generator) -> tuple[str, str]:
    """Draws two distinct kinds of corruption."""
    first, second = rng.choice(len(KINDS), size=2, replace=False)
    return list(KINDS)[first], list(KINDS)[second]
