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
from alignjax.data.datasets.layout_fields import SCORES
from alignjax.data.datasets.layouts import sentence
from alignjax.data.datasets.parsed_files import ParsedFile, parse_file
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.datasets.records import Record
from alignjax.data.datasets.row_shapes import SHAPES, shape_of, shapes
from tests.support.published_lists import LISTS, TREE, help_steer, rated
from tests.support.published_rows import CASES, reply, said_by, talk
from tests.support.row_files import parsed

FIVE = ("Prompts", "Instructions", "Preferences", "Thumbs", "Rankings")
SERVED = [(name, rows, kind, wanted) for name, rows, served in (*CASES, *LISTS) for kind, wanted in served.items()]
IDS = [f"{name}-{kind}" for name, _, kind, _ in SERVED]


def lines(rows: list[dict[str, Any]]) -> str:
    return "\n".join(map(json.dumps, rows))


def read(path: Path, kind: str, rows: list[dict[str, Any]], **named: Any) -> ParsedFile:
    return parsed(path / "rows", lines(rows), getattr(data, kind)(path=str(path / "rows"), **named), "refuse")


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


# ----------------------------------------------------------------------------------------------- what is said and asked


def test_a_score_is_named_where_rows_have_several(tmp_path: Path) -> None:
    rows = [help_steer("a", 2, 4), help_steer("b", 3, 4)]
    (record,) = read(tmp_path, "Rankings", rows, score_field="correctness").records
    assert record.scores == (4, 4)
    (record,) = read(tmp_path, "Preferences", rows, score_field="correctness").records
    assert record.preference == 0.5
    row = {"instruction": "p", "completions": [rated("a", 1, "5"), rated("b", 2, "3")]}
    for named, scores in (("helpfulness", (5, 3)), ("fine-grained_score", (0.5, 1))):
        assert read(tmp_path, "Rankings", [row], score_field=named).records[0].scores == scores
    with pytest.raises(DataError, match="a completion has no 'kindness', neither beside its response nor in its anno"):
        read(tmp_path, "Rankings", [row], score_field="kindness")
    safe = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0}
    assert read(tmp_path, "Preferences", [safe], score_field="safer_response_id").records[0].completions == ("a", "b")
    assert [each.scores for each in read(tmp_path, "Rankings", TREE, score_field="quality").records] == [(0.25, 0.75)]
    with pytest.raises(DataError, match=r"line 1: score_field='x': rows of the layout .* have no"):
        read(tmp_path, "Preferences", [{"prompt": "p", "chosen": "a", "rejected": "b"}], score_field="x")


def test_answers_stand_in_a_column_that_is_named(tmp_path: Path) -> None:
    rows = [{"Problem": "p", "Answer": 70, "answer": "other"}]
    (record,) = read(tmp_path, "Prompts", rows, prompt_field="Problem", answer_field="Answer").records
    assert (record.prompt, record.answer, record.meta["answer"]) == ("p", 70, "70")
    with pytest.raises(DataError, match="missing field 'Answer'"):
        read(tmp_path, "Prompts", [{"prompt": "p"}], answer_field="Answer")
    (record,) = read(tmp_path, "Prompts", [{"prompt": "p", "reward_model": {"ground_truth": ["x", "y"]}}]).records
    assert record.meta["answer"] == ["x", "y"]


def test_a_system_prompt_is_put_before_messages_and_before_no_text(tmp_path: Path) -> None:
    row = {"prompt": talk("hi"), "completion": "c", "system": "be brief"}
    (record,) = read(tmp_path, "Instructions", [row]).records
    assert record.chats[0]["turns"][0] == {"role": "system", "content": "be brief"}
    for other in ({**row, "prompt": "p"}, {"instruction": "i", "output": "o", "system": "s"}):
        with pytest.raises(DataError, match="column 'system' would change the prompt and is not read"):
            read(tmp_path, "Instructions", [other])
    with pytest.raises(DataError, match="two prompts of the system"):
        read(tmp_path, "Instructions", [{**row, "prompt": [{"role": "system", "content": "be long"}, *talk("hi")]}])


@pytest.mark.parametrize(
    ("column", "value"), [("history", [["a", "b"]]), ("images", ["x.png"]), ("functions", [{"name": "f"}])]
)
def test_a_column_that_changes_what_a_row_says_is_not_passed_over(tmp_path: Path, column: str, value: Any) -> None:
    row = {"instruction": "do", "output": "c"}
    assert read(tmp_path, "Instructions", [{**row, column: []}]).records
    with pytest.raises(DataError, match=f"line 1: column '{column}' would change the"):
        read(tmp_path, "Instructions", [{**row, column: value}])
    parquet.write_table(pa.Table.from_pylist([{**row, column: value}]), tmp_path / "table")
    dataset = Instructions(path="x")
    with pytest.raises(DataError, match=f"row 1: column '{column}' would change the"):
        parse_file(tmp_path / "table", dataset.parse_all, "skip", dataset.columns())


def test_completions_that_are_called_bad_are_not_learned(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "c", "label": label} for label in (True, "math", False)]
    with pytest.raises(DataError, match="line 3: column 'label' calls a completion bad"):
        read(tmp_path, "Instructions", rows)


@pytest.mark.parametrize("bad", [0, "0", "False"])
def test_zero_and_texts_of_tables_call_a_completion_bad_too(tmp_path: Path, bad: Any) -> None:
    rows = [{"prompt": "p", "completion": "c", "label": label} for label in (1, None, bad)]
    with pytest.raises(DataError, match="line 3: column 'label' calls a completion bad"):
        read(tmp_path, "Instructions", rows)
    rows = [{"instruction": "p", "output": "c", "kto_tag": label} for label in (True, False)]
    with pytest.raises(DataError, match="line 2: column 'kto_tag' calls a completion bad"):
        read(tmp_path, "Instructions", rows)


@pytest.mark.parametrize("column", ["input", "query", "problem", "context", "conversation"])
def test_two_texts_beside_a_prompt_of_another_name_have_no_prompt_in_common(tmp_path: Path, column: str) -> None:
    row = {"chosen": "I like it", "rejected": "I hate it", column: "what?"}
    with pytest.raises(DataError, match="missing field 'prompt'"):
        read(tmp_path, "Preferences", [row])
    assert read(tmp_path, "Preferences", [row], prompt_field=column).records[0].prompt == "what?"


@pytest.mark.parametrize("column", ["context", "input"])
def test_a_part_of_a_prompt_of_text_is_not_passed_over(tmp_path: Path, column: str) -> None:
    for row in (
        {"question": "q", "answer": "a"},
        {"prompt": "q", "completion": "a"},
        {"question": "q", "response": "a"},
    ):
        assert read(tmp_path, "Instructions", [{**row, column: " "}]).records
        with pytest.raises(DataError, match=f"line 1: column '{column}' would change the prompt"):
            read(tmp_path, "Instructions", [{**row, column: "CREATE TABLE t"}])
    assert read(tmp_path, "Instructions", [{"messages": talk("hi", "c"), column: "meta"}]).records


@pytest.mark.parametrize("names", SCORES, ids=" ".join)
def test_scores_of_two_sides_have_several_names(tmp_path: Path, names: tuple[str, str]) -> None:
    pairs = {"two conversations": (talk("hi", "a"), talk("hi", "b")), "prompt, chosen and rejected": ("a", "b")}
    for layout, (chosen, rejected) in pairs.items():
        prompt = {"prompt": "hi"} if chosen == "a" else {}
        rows = [
            {**prompt, "chosen": chosen, "rejected": rejected, names[0]: 4.5, names[1]: worse} for worse in (3, 4.5)
        ]
        file = read(tmp_path, "Preferences", rows)
        assert [each.preference for each in file.records] == [1, 0.5]
        assert file.layouts == {layout: 2}
        with pytest.raises(DataError, match=f"{names[0]} is below {names[1]}"):
            read(tmp_path, "Preferences", [{**rows[0], names[1]: 5}])


@pytest.mark.parametrize("asked", ["Human", "User", "human"])
@pytest.mark.parametrize("answers", ["AI", "Assistant", "model", "gpt"])
def test_speakers_are_called_as_templates_call_them(tmp_path: Path, asked: str, answers: str) -> None:
    row = {"messages": [{"role": asked, "content": "hi"}, {"role": answers, "content": "a"}]}
    for kind in ("Prompts", "Instructions"):
        (record,) = read(tmp_path, kind, [row]).records
        assert record.chats[0]["turns"] == talk("hi")
    with pytest.raises(DataError, match="'messages' has no message before the last one"):
        read(tmp_path, "Prompts", [{"messages": row["messages"][1:]}])


@pytest.mark.parametrize("content", [None, "wait"])
def test_a_call_in_openai_s_older_form_is_not_lost(tmp_path: Path, content: str | None) -> None:
    call = {"name": "add", "arguments": '{"a": 1}'}
    turns = [*talk("hi"), {"role": "assistant", "content": content, "function_call": call}]
    (record,) = read(tmp_path, "Instructions", [{"messages": turns}]).records
    assert record.chats[0]["ends"][0]["tool_calls"] == [{"type": "function", "function": call}]
    after = [*turns, {"role": "function", "name": "add", "content": "2"}, *talk("", "two")[1:]]
    (record,) = read(tmp_path, "Instructions", [{"messages": after}]).records
    assert record.chats[0]["turns"][1]["tool_calls"] == [{"type": "function", "function": call}]


def test_messages_in_a_text_are_messages(tmp_path: Path) -> None:
    asked = json.dumps(talk("hi, you"))
    doubled = asked.replace('"', '""')
    cells = f'prompt,chosen,rejected\n"{doubled}",a,b\n'
    for content in (cells, lines([{"prompt": asked, "chosen": "a", "rejected": "b"}])):
        (record,) = parsed(tmp_path / "rows", content, None, "refuse").records
        assert record.chats[0]["turns"] == talk("hi, you")
    (record,) = read(tmp_path, "Instructions", [{"messages": json.dumps(talk("hi", "c"))}]).records
    assert record.chats[0]["turns"] == talk("hi")
    (record,) = read(tmp_path, "Instructions", [{"conversations": json.dumps(said_by("hi", "c"))}]).records
    assert record.chats[0]["turns"] == talk("hi")
    for text, why in ((str(talk("hi")), "as Python writes them"), (asked[:-1], "'prompt' is not JSON")):
        with pytest.raises(DataError, match=why):
            read(tmp_path, "Prompts", [{"prompt": text}])
    assert read(tmp_path, "Prompts", [{"prompt": '[{"a": 1}] is what?'}]).records[0].prompt == '[{"a": 1}] is what?'


def test_tools_beside_a_prompt_of_text_are_not_passed_over(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "c"}
    assert read(tmp_path, "Instructions", [{**row, "tools": []}, {**row, "tools": "[]"}]).records
    for tools in ([{"name": "add"}], '[{"name": "add"}]'):
        with pytest.raises(DataError, match="column 'tools' would change the prompt and is not read: write prompts as"):
            read(tmp_path, "Instructions", [{**row, "tools": tools}])


def test_a_column_that_is_named_is_there(tmp_path: Path) -> None:
    pair = {"prompt": "what?", "chosen": "I like it", "rejected": "I hate it"}
    with pytest.raises(DataError, match=r"missing field 'promt' .*it has chosen, prompt, rejected"):
        read(tmp_path, "Preferences", [pair], prompt_field="promt")
    for kind, named in (("Prompts", {"prompt_field": "ask"}), ("Instructions", {"completion_field": "say"})):
        with pytest.raises(DataError, match=f"missing field '{next(iter(named.values()))}'"):
            read(tmp_path, kind, [{"messages": talk("hi", "c")}], **named)


def test_no_answer_goes_on_with_a_message_of_the_assistant(tmp_path: Path) -> None:
    asked = talk("hi", "Sure,")
    rows = {
        "Instructions": {"prompt": asked, "completion": reply(" a")},
        "Preferences": {"prompt": asked, "chosen": " a", "rejected": " b"},
        "Thumbs": {"prompt": asked, "completion": " a", "label": True},
        "Rankings": {"prompt": asked, "completions": [" a", " b"], "scores": [1, 2]},
        "Prompts": {"prompt": asked},
    }
    for kind, row in rows.items():
        with pytest.raises(DataError, match="field 'prompt' ends in a message of the assistant"):
            read(tmp_path, kind, [row])
    (record,) = read(tmp_path, "Instructions", [{"messages": [*asked, *reply("a")]}]).records
    assert record.chats[0]["turns"] == asked


@pytest.mark.parametrize(("flag", "says"), [("weight", 1), ("train", True), ("training", True)])
def test_messages_that_are_not_to_be_learned_are_not_learned(tmp_path: Path, flag: str, says: Any) -> None:
    for value in (says, None):
        turns = [*talk("hi"), {**reply("a")[0], flag: value}]
        assert read(tmp_path, "Instructions", [{"messages": turns}]).records
    with pytest.raises(DataError, match=f"a message has a {flag}, which is not read: leave the row out, or the {flag}"):
        read(tmp_path, "Instructions", [{"messages": [*talk("hi"), {**reply("a")[0], flag: False}]}])


def test_tools_and_calls_of_functions_are_the_templates(tmp_path: Path) -> None:
    tools = [{"name": "add", "parameters": {"a": "int"}}]
    turns = [
        {"from": "human", "value": "hi"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "two"},
    ]
    (record,) = read(tmp_path, "Instructions", [{"conversations": turns, "tools": json.dumps(tools)}]).records
    (chat,) = record.chats
    assert chat["words"] == {"tools": tools}
    assert [turn["role"] for turn in chat["turns"]] == ["user", "assistant", "tool"]
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert chat["turns"][1]["tool_calls"] == [call]
    for bad, words in (
        ({"conversations": turns, "tools": "{"}, "field 'tools' is not JSON"),
        ({"conversations": [{**turns[1], "value": "add(1)"}, turns[3]]}, "a call in 'conversations' is not JSON"),
        (
            {"conversations": [{"from": "narrator", "value": "x"}, turns[3]]},
            "who is known.*narrator",
        ),
        ({"conversations": [turns[0], {**turns[3], "weight": 0}]}, "a message has a weight"),
    ):
        with pytest.raises(DataError, match=words):
            read(tmp_path, "Instructions", [bad])
    masked = [{**turns[0], "weight": 0}, {**turns[3], "weight": 1}]
    assert read(tmp_path, "Instructions", [{"conversations": masked}]).records


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
