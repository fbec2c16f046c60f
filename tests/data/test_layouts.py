"""Rows as published sets have them, each read by every dataset that its layout serves."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from alignjax import data
from alignjax.config import ConfigError, DataError
from alignjax.data import Instructions, Prompts, Rankings
from alignjax.data.datasets.known_layouts import LAYOUTS
from alignjax.data.datasets.layouts import sentence
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.datasets.records import Record
from alignjax.data.datasets.row_shapes import SHAPES, shape_of, shapes
from tests.support.published_lists import TREE, help_steer, rated
from tests.support.published_rows import said_by, talk
from tests.support.row_files import parse_file, parsed
from tests.support.served_rows import FIVE, IDS, SERVED, lines, read


def shown(record: Record, fields: Any) -> tuple[Any, ...]:
    """A record as the cases write it, with those of its further fields that they name."""
    prompt: Any = record.prompt
    if record.chats:
        prompt = tuple((turn["role"], turn["content"]) for turn in record.chats[0]["turns"])
    further = {name: record.meta["answer"] if name == "text" else getattr(record, name) for name in fields}
    return prompt, record.completions, further


@pytest.mark.parametrize(("name", "rows", "kind", "wanted"), SERVED, ids=IDS)
def test_a_published_row_is_read(tmp_path: Path, name: str, rows: Any, kind: str, wanted: Any) -> None:
    file = read(tmp_path, kind, rows)
    assert file.layouts == {name: len(wanted)}
    got = [shown(record, fields) for record, (_, _, fields) in zip(file.records, wanted, strict=True)]
    assert got == wanted
    answers = [record.answer for record in file.records]
    assert [math.isnan(each) for each in answers] == ["answer" not in fields for _, _, fields in wanted]
    (layout,) = [each for each in LAYOUTS if each.name == name]
    assert sentence(file.layouts, file.since).startswith(f"{name} layout: {layout.said} (")


def test_every_layout_of_the_five_datasets_has_a_case() -> None:
    told = {(name, kind) for name, _, kind, _ in SERVED}
    assert told == {(each.name, kind) for each in LAYOUTS for kind in each.reads if kind in FIVE}


def test_the_documentation_has_every_layout() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for each in LAYOUTS:
        columns = ", ".join(f"`{column}`" for column in each.columns)
        assert f"| {each.name} | {columns} | {', '.join(each.reads)} | {each.said} |\n" in text


@pytest.mark.parametrize(("name", "rows", "kind", "wanted"), SERVED, ids=IDS)
def test_order_further_columns_nulls_and_parquet_change_nothing(
    tmp_path: Path, name: str, rows: Any, kind: str, wanted: Any
) -> None:
    plain = read(tmp_path, kind, rows).records
    columns = sorted({column for row in rows for column in row})
    random.Random(name).shuffle(columns)
    whole = [
        {**{column: row.get(column) for column in columns}, "of_no_layout": {"n": n}} for n, row in enumerate(rows)
    ]
    same = read(tmp_path, kind, whole).records
    assert same == plain
    try:
        parquet.write_table(pa.Table.from_pylist(whole), tmp_path / "table")
    except pa.ArrowException:
        return  # rows that have text in one and messages in another
    dataset = getattr(data, kind)(path="x")
    table = parse_file(tmp_path / "table", dataset.parse_all, "refuse", dataset.columns(), None, dataset.together)
    assert table.records == plain


@pytest.mark.parametrize(
    ("kind", "rows", "words"),
    [
        ("Rankings", [help_steer("a", 1, 2)], "a prompt with one response: rows that share a"),
        ("Rankings", TREE[1:], "a parent_id is not among the messages beside it"),
        ("Rankings", [{**TREE[0], "parent_id": "e"}, *TREE[1:]], "a tree without a root"),
        ("Rankings", [*TREE, TREE[1]], "two messages of a tree have one message_id"),
        ("Rankings", TREE[:2], "a tree with no prompt with two replies that have a rank"),
        ("Thumbs", TREE[:1], "a tree with no reply with the label 'quality'"),
        ("Preferences", [{"chosen": "yes", "rejected": "no"}], "share no first word"),
        ("Preferences", [{"prompt_chosen": "p", "chosen": "p a", "prompt_rejected": "q", "rejected": "p b"}],
         "prompt_rejected"),
        ("Preferences", [{"prompt": "p", "chosen": ["a"], "rejected": []}], "empty field 'rejected'"),
        ("Preferences", [{"prompt": "p", "completions": ["a", "a"], "scores": [1, 2]}], "both completions are"),
        ("Preferences", [{"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2}],
         r"score_chosen is below score_rejected \(1; line 1\): 1 and 2"),
        ("Preferences", [{"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: ho\n\nAssistant: b"}],
         "share no first message"),
        ("Preferences", [{"conversation_a": talk("hi", "a"), "conversation_b": talk("hi", "b"), "winner": "c"}],
         r"neither model_a, model_b nor a tie \(1; line 1\): c"),
        ("Thumbs", [{"prompt": "p", "completions": ["a"], "labels": [True, True]}], "not two lists of one length"),
        ("Prompts", [{"prompt": "p", "reward_model": {"style": "rule"}}], "field 'reward_model' has no ground_truth"),
        ("Preferences", [{"input": {"tools": []}, "preferred_output": [], "non_preferred_output": []}],
         "field 'input' has no messages"),
        ("Instructions", [{"problem": "p", "solution": 5}], "field 'solution' is not a list of messages"),
        ("Rankings", [{"instruction": "p", "completions": [rated("a", 1, "N/A"), rated("b", 1, "N/A")]}], "same"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row_is_said(tmp_path: Path, kind: str, rows: Any, words: str) -> None:
    if words == "same":
        with pytest.raises(DataError, match=r"the rating of 'helpfulness' is no number .*: N/A"):
            read(tmp_path, kind, rows, score_field="helpfulness")
        return
    with pytest.raises(DataError, match=words):
        read(tmp_path, kind, rows)


def test_a_shuffled_file_parts_what_belongs_together_and_says_so(tmp_path: Path) -> None:
    rows = [{**help_steer(f"{text} {n}", n, 1), "prompt": f"p{n % 2}"} for n, text in enumerate("abcd")]
    file = parsed(tmp_path / "rows", lines(rows), Rankings(path="x"))
    assert not file.records
    assert list(file.bad.values()) == [[1, 2, 3, 4]]
    together = sorted(rows, key=lambda row: row["prompt"])
    file = parsed(tmp_path / "rows", lines(together), Rankings(path="x"))
    assert [record.meta["line"] for record in file.records] == [1, 3]
    assert file.account()["read"] == 4
    assert sentence(file.layouts, file.since).endswith("(2 records)")


def test_a_later_row_of_another_layout_is_named_by_its_line(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 3 + [
        {"chosen": talk("hi", "a"), "rejected": talk("hi", "b")}
    ] * 2
    file = read(tmp_path, "Preferences", rows)
    said = sentence(file.layouts, file.since, file.unit)
    assert "answers from `chosen` and `rejected` (3 records); two conversations layout: " in said
    assert said.endswith("(2 records, from line 4 on)")


@pytest.mark.parametrize(
    ("kind", "row", "names"),
    [
        ("Prompts", {"problem": "p", "answer": "1", "prompt": "q"}, ("prompt and answer", "problem and answer")),
        ("Instructions", {"instruction": "p", "output": "c", "messages": talk("hi", "c")}, ("messages", "alpaca")),
        ("Preferences", {"prompt": "p", "chosen": "a", "rejected": "b", "completions": ["a", "b"], "scores": [1, 2]},
         ("prompt, chosen and rejected", "prompt, completions and scores")),
    ],
)  # fmt: skip
def test_columns_that_fit_two_layouts_are_refused_with_both_names(
    tmp_path: Path, kind: str, row: Any, names: tuple[str, str]
) -> None:
    with pytest.raises(DataError) as raised:
        read(tmp_path, kind, [row])
    assert all(repr(name) in str(raised.value) for name in names)
    assert "name one with layout=..." in str(raised.value)
    for name in names:
        assert read(tmp_path, kind, [row], layout=name).layouts == {name: 1}
    with pytest.raises(ConfigError, match="layout is 'nectarine'"):
        getattr(data, kind)(path="x", layout="nectarine")


def test_shapes_are_words_and_whole() -> None:
    values = {
        "text": "\n\nHuman: alone", "transcript": "\n\nHuman: a\n\nAssistant:", "truth": False, "number": 0.5,
        "texts": ["a"], "numbers": [1, 2.5], "talk": talk("a"), "reply": talk("a", "b")[1:], "from_talk": said_by("a"),
        "from_reply": said_by("a")[0], "talks": [talk("a")], "objects": [{"x": 1}], "object": {"x": 1}, "list": [],
        "other": None,
    }  # fmt: skip
    assert {name: shape_of(value) for name, value in values.items()} == {name: name for name in SHAPES}
    assert shapes(but="talk list") == shapes() - {"talk", "list"}
    with pytest.raises(ValueError, match="no such shapes"):
        shapes("tekst")


@pytest.fixture
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_cache")
def test_a_whole_text_is_learned_behind_bos_and_is_on_one_side_of_a_split(tmp_path: Path) -> None:
    rows = [{"text": f"text number {n % 20}"} for n in range(40)]
    (tmp_path / "rows").write_text(lines(rows))
    dataset = Instructions(path=str(tmp_path / "rows"), vocab_size=300, test_fraction=0.5)
    sides = []
    for split in dataset.splits:
        source = data.instructions(
            None, 0, dataset=dataset, split=split, batch_size=4, prompt_length=3, completion_length=32
        )
        batch, tokenizer = source[0], data.tokenizer_of(dataset)
        assert batch.prompt[batch.prompt_valid].tolist() == [tokenizer.bos] * 4
        assert batch.mask[0, 0].sum() == batch.valid[0, 0].sum() > 1
        sides.append({tuple(ids[valid]) for ids, valid in zip(batch.tokens[:, 0], batch.valid[:, 0], strict=True)})
    assert not sides[0] & sides[1]


@pytest.mark.usefixtures("_cache")
def test_prompts_without_a_number_as_their_answer_are_named(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "answer": answer} for answer in ("4", "x", "about 5")]
    (tmp_path / "rows").write_text(lines(rows))
    dataset = Prompts(path=str(tmp_path / "rows"), vocab_size=300, test_fraction=0.0)
    settings = {"dataset": dataset, "batch_size": 1, "prompt_length": 8}
    with pytest.raises(ConfigError, match=r"2 prompts without a number as their answer \(of 3; lines 2, 3\)"):
        data.prompts(None, 0, **settings, answers=True)[0]
    assert data.prompts(None, 0, **settings)[0].prompts == {}


# ------------------------------------------------------------------------------------------------------------- damage

DAMAGE = st.sampled_from(
    [
        *(None, True, 5, -1e300, 10**400, "", " ", "\ud800", "#### x", "\n\nHuman: x\n\nAssistant:"),
        *([], {}, [None], [[]], [{}], ["a", 1], {"role": "user"}, [talk("a")], {"from": 1, "value": 2}),
        *([{"role": "assistant", "content": None}], [{"from": "gpt", "value": "x"}], {"messages": 3}),
        *({"replies": [3]}, {"ground_truth": None}, [{"answer": "x", "rank": "first"}]),
    ]
)
MADE = {kind: getattr(data, kind)(path="x") for kind in FIVE}


@given(st.data())
@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=True,
)
def test_a_damaged_row_is_read_or_refused_in_a_sentence(draws: st.DataObject) -> None:
    _, rows, kind, _ = draws.draw(st.sampled_from(SERVED))
    rows = [dict(row) for row in rows]
    for _ in range(draws.draw(st.integers(1, 3))):
        row = draws.draw(st.sampled_from(rows))
        column = draws.draw(st.sampled_from(sorted(row) or ["x"]))
        row[column] = draws.draw(DAMAGE)
    rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
    dataset = MADE[kind]
    keys = [dataset.together(row) for row in rows]
    group = tuple(rows) if None not in keys and len(set(keys)) == 1 else rows[0]
    try:
        records = dataset.parse_all(group)
    except BadRow as error:
        records, said = [], str(error)
    else:
        said = "" if records else "no record and no word"
    assert len(said) < 1500
    assert "\n" not in said
    assert bool(said) != bool(records)
    for record in records:
        texts = (*record.completions, *([] if record.chats or not record.prompt else [record.prompt]))
        assert all(text.encode() and text.strip() for text in texts)
        assert all(math.isfinite(number) for number in (*record.scores, record.weight))
        json.dumps([dict(record.meta), record.chats])
