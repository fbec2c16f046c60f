"""Which tokens an edit touched, and the sources that mark them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from alignjax.config import ConfigError, fn
from alignjax.data import (
    BOS,
    EOS,
    DataError,
    Docstrings,
    Instructions,
    Judgements,
    Preferences,
    instructions,
    judgements,
    revisions,
    tokenizer_of,
)
from alignjax.data.text.edits import edit_masks, line_edit_masks, lines_of

SIZES = {"batch_size": 8, "prompt_length": 160, "completion_length": 48}


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def matches(batch: Any, spec: Any) -> bool:
    return jax.tree.structure(batch) == jax.tree.structure(spec) and jax.tree.all(
        jax.tree.map(lambda leaf, want: leaf.shape == want.shape and leaf.dtype == want.dtype, batch, spec)
    )


# ----------------------------------------------------------------------------------------------------------------
# edit scripts


@pytest.mark.parametrize("alphabet", [2, 5, 40])
def test_what_is_not_marked_is_common_to_both(alphabet: int) -> None:
    """Without the marked tokens the two sides are the same text; a place that is inserted or deleted is marked on one
    side alone."""
    draw = np.random.default_rng(alphabet)
    for _ in range(200):
        one, other = (draw.integers(0, alphabet, draw.integers(0, 30)) for _ in range(2))
        gone, new = edit_masks(one, other)
        assert (gone.shape, new.shape) == (one.shape, other.shape)
        assert one[~gone].tolist() == other[~new].tolist()
        assert gone.any() or new.any() or one.tolist() == other.tolist()


def test_edits_that_are_known() -> None:
    text = [5, 6, 7, 8, 9, 10, 11, 12]
    cases = {
        "same": (text, [], []),
        "replaced": ([5, 6, 99, 8, 9, 10, 11, 12], [2], [2]),
        "inserted": ([5, 6, 7, 98, 99, 8, 9, 10, 11, 12], [], [3, 4]),
        "deleted": ([5, 6, 9, 10, 11, 12], [2, 3], []),
        "empty": ([], list(range(8)), []),
    }
    for name, (revised, gone, new) in cases.items():
        found = edit_masks(text, revised)
        assert [np.flatnonzero(side).tolist() for side in found] == [gone, new], name
        assert [np.flatnonzero(side).tolist() for side in edit_masks(revised, text)] == [new, gone], name
    assert [side.size for side in edit_masks([], [])] == [0, 0]


def test_a_frequent_token_is_not_noise() -> None:
    """difflib's heuristic for long sequences would mark everything here."""
    long = [1] * 300
    gone, new = edit_masks(long, [*long[:150], 2, *long[150:]])
    assert not gone.any()
    assert new.sum() == 1


def test_lines_are_marked_whole() -> None:
    newline = 0
    one = [5, 6, newline, 7, 8, newline, 9]
    other = [5, 6, newline, 7, 99, newline, 9]
    gone, new = line_edit_masks(one, other, {newline})
    assert np.flatnonzero(gone).tolist() == np.flatnonzero(new).tolist() == [3, 4, 5]
    missing = [5, 6, newline, 9]
    gone, new = line_edit_masks(missing, one, {newline})  # the fault is a line that is not there
    assert not gone.any()
    assert np.flatnonzero(new).tolist() == [3, 4, 5]
    assert [side.tolist() for side in line_edit_masks([], [5, newline], {newline})] == [[], [True, True]]
    with pytest.raises(ConfigError, match="token by token"):
        line_edit_masks(one, other, set())


def test_lines_are_the_whole_text() -> None:
    draw = np.random.default_rng(1)
    for _ in range(50):
        tokens = draw.integers(0, 4, draw.integers(0, 20)).tolist()
        lines = lines_of(tokens, {0, 3})
        assert [token for line in lines for token in line] == tokens
        assert all(line and line[-1] in (0, 3) for line in lines[:-1])
        assert all(token not in (0, 3) for line in lines for token in line[:-1])


# ----------------------------------------------------------------------------------------------------------------
# revisions


@pytest.fixture
def pairs(tmp_path: Path) -> Preferences:
    words = ["the", "small", "program", "reads", "every", "record", "of", "the", "old", "file", "and", "prints", "it"]
    rows = []
    for number in range(16):
        spoilt = [*words[: number % 8], "never", *words[number % 8 + number % 3 :]]
        rows.append({"prompt": f"say it {number}", "chosen": " ".join(words), "rejected": " ".join(spoilt), "p": 1.0})
    rows[3]["p"], rows[4]["p"] = 0.25, 0.5  # the rejected is better; neither is
    rows[5]["weight"] = 2.0
    return Preferences(path=written(tmp_path / "p.jsonl", rows), label_field="p", vocab_size=270, test_fraction=0)


def test_revisions_of_preferences(pairs: Preferences) -> None:
    sizes = {**SIZES, "completion_length": 100}
    source = revisions(None, 0, dataset=pairs, shuffle=False, **sizes)
    tokenizer = tokenizer_of(pairs)
    batch = source[0]
    assert matches(batch, source.spec)
    assert (batch.preference[:, 0, 1] == 1).all()
    assert batch.pair_weight[:, 0, 1].tolist() == [1, 1, 1, 1, 0, 2, 1, 1]
    edited = batch.completions["edited"]
    for row in range(8):
        better, worse = (tokenizer.decode(tokens) for tokens in batch.tokens[row])
        assert ("never" in better, "never" in worse) == ((True, False) if row == 3 else (False, True))
        kept = [batch.tokens[row, side][batch.valid[row, side] & (edited[row, side] == 0)] for side in (0, 1)]
        assert kept[0].tolist() == kept[1].tolist()
        assert kept[0][-1] == EOS
        assert edited[row].any()
    assert not edited[~batch.valid].any()


def test_revisions_of_instructions_are_spoilt_texts(docstrings: Docstrings) -> None:
    source = fn(revisions, dataset=docstrings, **SIZES)(None, 3)
    human = instructions(None, 3, dataset=docstrings, **SIZES)
    for step in range(3):
        batch = source[step]
        assert matches(batch, source.spec)
        np.testing.assert_array_equal(batch.tokens[:, 0], human[step].tokens[:, 0])
        assert (batch.tokens[:, 0] != batch.tokens[:, 1]).any(-1).all()
        assert batch.completions["edited"].any((1, 2)).all()
        again = fn(revisions, dataset=docstrings, **SIZES)(None, 3)[step]
        np.testing.assert_array_equal(batch.tokens, again.tokens)


def test_revisions_by_line(tmp_path: Path) -> None:
    good = "def f(x):\n    y = x + 1\n    return y\n"
    bad = "def f(x):\n    y = x - 1\n    return y\n"
    path = written(tmp_path / "code.jsonl", [{"prompt": "add one", "chosen": good, "rejected": bad}] * 8)
    dataset = Preferences(path=path, vocab_size=260, test_fraction=0)  # bytes alone
    tokenizer = tokenizer_of(dataset)
    texts = {}
    for level in ("token", "line"):
        batch = revisions(None, 0, dataset=dataset, level=level, **SIZES)[0]
        marked = batch.completions["edited"][0] > 0
        texts[level] = [tokenizer.decode(batch.tokens[0, side][marked[side]]) for side in (0, 1)]
    assert texts["token"] == ["+", "-"]
    assert texts["line"] == ["    y = x + 1\n", "    y = x - 1\n"]
    with pytest.raises(ConfigError, match="level is 'word'"):
        revisions(None, 0, dataset=dataset, level="word", **SIZES)


def test_a_spoilt_text_that_is_cut_keeps_its_marks_in_place(docstrings: Docstrings) -> None:
    sizes = {**SIZES, "completion_length": 6}
    batch = revisions(None, 0, dataset=docstrings, long_completions="truncate", **sizes)[0]
    for row in range(8):
        edited = batch.completions["edited"][row] > 0
        kept = [batch.tokens[row, side][batch.valid[row, side] & ~edited[side]].tolist() for side in (0, 1)]
        assert kept[0] == kept[1]


# ----------------------------------------------------------------------------------------------------------------
# judgements

ROWS = [
    {"prompt": "add 2 and 2", "response": "5", "judgement": "the sum is wrong"},
    {"prompt": "add 1 and 2", "response": "3", "judgement": ""},
    {"prompt": "add 1 and 3", "response": "4", "judgement": None},
    {"prompt": "add 1 and 4", "response": "5"},
]


def judged(path: Path, rows: list[dict[str, Any]], **settings: Any) -> Judgements:
    return Judgements(path=written(path / "j.jsonl", rows), vocab_size=260, test_fraction=0, **settings)


SMALL = {"batch_size": 4, "prompt_length": 32, "completion_length": 8, "shuffle": False}


def test_judgements_stand_in_the_prompt_of_a_view(tmp_path: Path) -> None:
    dataset = judged(tmp_path, ROWS, suffix="\nAnswer:", prefix="Do: ")
    source = judgements(None, 0, dataset=dataset, judgement_length=32, **SMALL)
    batch, tokenizer = source[0], tokenizer_of(dataset)
    assert matches(batch, source.spec)
    assert batch.prompts["judged"].tolist() == [1, 0, 0, 0]
    view = batch.views["judged"]
    np.testing.assert_array_equal(view.tokens, batch.tokens)
    np.testing.assert_array_equal(view.example_id, batch.example_id)
    prompts = [tokenizer.decode(ids) for ids in view.prompt]
    assert prompts[0] == "Do: add 2 and 2\nJudgement: the sum is wrong\nAnswer:"
    assert prompts[1:] == [tokenizer.decode(ids) for ids in batch.prompt[1:]]
    for ids, valid in zip(view.prompt, view.prompt_valid, strict=True):
        assert valid.tolist() == sorted(valid.tolist())
        assert ids[valid][0] == BOS


def test_long_judgements_are_refused_or_cut_and_said(tmp_path: Path) -> None:
    dataset = judged(tmp_path, ROWS)
    with pytest.raises(ConfigError, match=r"1 judgments of more than 20 tokens \(of 4; line 1\).*'truncate'"):
        judgements(None, 0, dataset=dataset, judgement_length=20, **SMALL)[0]
    source = judgements(None, 0, dataset=dataset, judgement_length=20, long_judgements="truncate", **SMALL)
    assert source.counts["cut_long_judgements"] == 1
    text = tokenizer_of(dataset).decode(source[0].views["judged"].prompt[0])
    assert text == "add 2 and 2\nJudgement: the sum "
    with pytest.raises(ConfigError, match="long_judgements is 'skip'"):
        judgements(None, 0, dataset=dataset, judgement_length=20, long_judgements="skip", **SMALL)


def test_a_prompt_that_is_cut_is_cut_alike_in_the_view(tmp_path: Path) -> None:
    dataset = judged(tmp_path, [{**row, "prompt": "please " * 9 + row["prompt"]} for row in ROWS], suffix="!")
    for policy in ("truncate_left", "truncate_right"):
        batch = judgements(None, 0, dataset=dataset, judgement_length=32, long_prompts=policy, **SMALL)[0]
        plain, told = (tokenizer_of(dataset).decode(b.prompt[0]) for b in (batch, batch.views["judged"]))
        assert told == plain[:-1] + "\nJudgement: the sum is wrong!"


def test_bad_judgements_are_named(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        {"prompt": "p", "response": "r", "judgement": 3},
        {"prompt": "p", "judgement": "no"},
        {"response": "r"},
    ]
    dataset = judged(tmp_path, rows, bad_rows="refuse")
    with pytest.raises(DataError, match="3 bad rows") as caught:
        judgements(None, 0, dataset=dataset, judgement_length=32, **SMALL)[0]
    assert "field 'judgement' is int, must be text (1; line 5)" in str(caught.value)
    assert "missing field 'response' (1; line 6)" in str(caught.value)
    assert "missing field 'prompt' (1; line 7)" in str(caught.value)


def test_the_wrong_dataset_is_refused(tmp_path: Path) -> None:
    dataset = Instructions(path=written(tmp_path / "i.jsonl", [{"prompt": "p", "completion": "c"}]))
    with pytest.raises(ConfigError, match=r"instructions holds instructions .*needed: judgements \(a prompt, a resp"):
        judgements(None, 0, dataset=dataset, judgement_length=32, **SMALL)
    with pytest.raises(ConfigError, match="needed: preferences"):
        revisions(None, 0, dataset=judged(tmp_path, ROWS), **SIZES)
