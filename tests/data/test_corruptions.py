from __future__ import annotations

import collections

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from alignjax.data.text.corruptions import KINDS, corrupted, two_kinds

SENTENCE = "Return the largest of the values that were found."


@settings(deadline=None)
@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=8), st.sampled_from(sorted(KINDS)), st.integers(0, 99))
def test_never_the_same_text(words: list[str], kind: str, seed: int) -> None:
    spoilt = corrupted(" ".join(words), kind, np.random.default_rng(seed))
    assert spoilt
    assert spoilt != " ".join(words)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_does_what_it_says(kind: str) -> None:
    words = collections.Counter(SENTENCE.split())
    for seed in range(20):
        spoilt = collections.Counter(corrupted(SENTENCE, kind, np.random.default_rng(seed)).split())
        if kind == "shuffled":
            assert spoilt == words
        elif kind == "dropped":
            assert spoilt < words
        elif kind == "repeated":
            assert spoilt > words
        else:
            text = corrupted(SENTENCE, kind, np.random.default_rng(seed))
            assert SENTENCE.startswith(text)
            assert not text.endswith(".")


def test_the_same_numbers_spoil_the_same_way() -> None:
    texts = [corrupted(SENTENCE, "shuffled", np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


def test_two_kinds_differ() -> None:
    seen = {two_kinds(np.random.default_rng(seed)) for seed in range(200)}
    assert len(seen) == len(KINDS) * (len(KINDS) - 1)
    assert all(one != other for one, other in seen)
