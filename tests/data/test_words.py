"""Words of every script, and texts that are alike however their accents are written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alignjax.data import JointPreferences
from alignjax.data.text.corruptions import KINDS, corrupted
from alignjax.data.text.words import joined, pieces_of, same_text, words_of
from tests.support.row_files import parsed, prompts_of


def test_accents_may_be_written_either_way(tmp_path: Path) -> None:
    one, two = "caf\u00e9", "cafe\u0301"
    assert same_text(one, two)
    assert words_of(one) == words_of(two)
    file = parsed(tmp_path / "x", json.dumps({"prompt": "a", "chosen": one, "rejected": two}))
    assert file.bad == {"both completions are the same": [1]}
    sides = {"prompt_chosen": one, "chosen": "a", "prompt_rejected": two, "rejected": "a"}
    file = parsed(tmp_path / "x", json.dumps(sides), JointPreferences(path="x"))
    assert file.bad == {"both sides are the same": [1]}
    file = parsed(tmp_path / "x", json.dumps({"prompt": two, "chosen": "a", "rejected": "b"}))
    assert prompts_of(file) == [two]  # what is learned stays as it is


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Read_csv isn't 3.5", ["read", "csv", "isn", "t", "3", "5"]),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902",
            ["\u0939\u093f\u0928\u094d\u0926\u0940", "\u092e\u0947\u0902"],
        ),
        ("\u6211\u7231\u4f60\u3002Hello", ["\u6211", "\u7231", "\u4f60", "hello"]),
        ("\u0e01\u0e34\u0e19", ["\u0e01\u0e34", "\u0e19"]),
    ],
)
def test_words_of_every_script(text: str, words: list[str]) -> None:
    assert words_of(text) == words
    assert joined(pieces_of(text)) == text


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_sentence_without_spaces_is_corrupted_within(kind: str) -> None:
    text = "\u6211\u4eec\u660e\u5929\u53bb\u5b66\u6821\u3002"
    spoilt = {corrupted(text, kind, np.random.default_rng(seed)) for seed in range(8)}
    assert text not in spoilt
    assert text * 2 not in spoilt
    assert not any(" " in each for each in spoilt)
    assert len(spoilt) > 2
