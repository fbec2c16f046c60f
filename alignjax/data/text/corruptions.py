"""Ways to spoil a sentence: negatives for a preference model that has only good sentences to learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Words = list[str]


def _cut(words: Words, rng: np.random.Generator) -> Words:
    """Ends mid-way, without its full stop."""
    keep = int(rng.integers(1, max(2, (2 * len(words)) // 3 + 1)))
    return [*words[: keep - 1], words[keep - 1].rstrip(".!?,")]


def _shuffled(words: Words, rng: np.random.Generator) -> Words:
    return [words[place] for place in rng.permutation(len(words))]


def _dropped(words: Words, rng: np.random.Generator) -> Words:
    """About a third of the words are missing, at least one."""
    gone = rng.choice(len(words), size=max(1, len(words) // 3), replace=False)
    return [word for place, word in enumerate(words) if place not in set(gone.tolist())]


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
    """`text` spoilt in the way that `kind` names; never equal to it. A single word is doubled."""
    words = text.split()
    if len(words) < 2:
        return " ".join(words * 2)
    for _ in range(8):
        spoilt = " ".join(KINDS[kind](words, rng))
        if spoilt and spoilt != " ".join(words):
            return spoilt
    return " ".join(words[1:] + words[:1] + words[-1:])


def two_kinds(rng: np.random.Generator) -> tuple[str, str]:
    """Two different ways."""
    first, second = rng.choice(len(KINDS), size=2, replace=False)
    return list(KINDS)[first], list(KINDS)[second]
