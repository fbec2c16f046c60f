"""Columns and values that change what a row says are read for what they mean, or refused; never passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from alignjax.config import DataError
from alignjax.data import Instructions
from alignjax.data.datasets.layout_fields import SCORES
from tests.support.published_lists import TREE, help_steer, rated
from tests.support.published_rows import reply, said_by, talk
from tests.support.row_files import parse_file, parsed
from tests.support.served_rows import lines, read


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


@pytest.mark.parametrize("column", ["is_safe", "is_correct", "accepted"])
def test_a_response_that_is_called_unsafe_or_wrong_is_not_learned(tmp_path: Path, column: str) -> None:
    """Neither from JSON nor from a table, of which only some columns are read; as thumbs it is a bad one."""
    rows = [{"prompt": "p", "response": "c", column: good} for good in (True, False)]
    with pytest.raises(DataError, match=f"line 2: column '{column}' calls a completion bad.*label_field='{column}'"):
        read(tmp_path, "Instructions", rows)
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "table")
    dataset = Instructions(path="x")
    with pytest.raises(DataError, match=f"row 2: column '{column}' calls"):
        parse_file(tmp_path / "table", dataset.parse_all, "skip", dataset.columns())
    thumbs = read(tmp_path, "Thumbs", rows, completion_field="response", label_field=column).records
    assert [each.scores for each in thumbs] == [(1.0,), (0.0,)]


@pytest.mark.parametrize("label", [0, 0.25, False, "B", 3])
def test_a_label_of_a_pair_that_nobody_named_is_no_guess(tmp_path: Path, label: Any) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    rows = [*({**row, "label": same} for same in (1, True, "1", None)), {**row, "label": label}]
    with pytest.raises(DataError, match=r"line 5: column 'label' may say which side is better.*label_field='label'"):
        read(tmp_path, "Preferences", rows)
    with pytest.raises(DataError, match="line 1: column 'label' may say"):
        read(tmp_path, "JointPreferences", [{**row, "label": label}])
    assert len(read(tmp_path, "Preferences", rows[:4]).records) == 4
    if label in (0, 0.25):
        (record,) = read(tmp_path, "Preferences", rows[4:], label_field="label").records
        assert record.preference == label


def test_an_answer_in_an_object_that_is_written_as_text(tmp_path: Path) -> None:
    row = {"prompt": talk("hi"), "reward_model": json.dumps({"style": "rule", "ground_truth": "7"})}
    (record,) = read(tmp_path, "Prompts", [row]).records
    assert record.answer == 7
    with pytest.raises(DataError, match="field 'reward_model' is not JSON"):
        read(tmp_path, "Prompts", [{**row, "reward_model": "{'ground_truth': '7'}"}])
    with pytest.raises(DataError, match="field 'reward_model' has no ground_truth"):
        read(tmp_path, "Prompts", [{**row, "reward_model": "a model"}, {**row, "reward_model": "{}"}])


@pytest.mark.parametrize(
    ("prompt", "turns"),
    [
        ("hi\n<extra_id_1>Assistant\noh\n<extra_id_1>User\nmore", ["user hi", "assistant oh", "user more"]),
        ("<extra_id_1>User\r\nhi\r\n<extra_id_1>Assistant", ["user hi"]),
        ("<extra_id_0>System\nbe brief\n<extra_id_1>User\nhi", ["system be brief", "user hi"]),
    ],
)
def test_marks_of_turns_of_help_steer(tmp_path: Path, prompt: str, turns: list[str]) -> None:
    rows = [{**help_steer(text, score, 1), "prompt": prompt} for text, score in (("a", 1), ("b", 2))]
    (record,) = read(tmp_path, "Rankings", rows).records
    assert [f"{turn['role']} {turn['content']}" for turn in record.chats[0]["turns"]] == turns
    for place in ("prompt", "response"):
        bad = [{**rows[0], place: "go on <extra_id_1>User"}, {**rows[1], "prompt": rows[1]["prompt"]}]
        bad[1]["prompt"] = bad[0]["prompt"]
        with pytest.raises(DataError, match=f"field '{place}' has the mark of a turn where none begins"):
            read(tmp_path, "Rankings", bad)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": talk("hi", "c"), "tools": {"name": "f"}}, "field 'tools' is not a list .*: dict"),
        ({"prompt": {"from": "human", "value": "hi"}, "completion": "c"}, "field 'prompt' is not a list of messages"),
        ({"prompt": "p", "reward_model": [1]}, "field 'reward_model' has no ground_truth"),
        ({"conversations": ["only"]}, "field 'conversations' has no message before the last one"),
        ({"conversation": talk("hi")}, "field 'conversation'"),
        ({"conversation": [{"input": "hi"}]}, "missing field 'output'"),
        ({"query": "q", "answers": "[]", "tools": "[]"}, "field 'answers' is not a list of objects with a name"),
        ({"question": "q", "context": "c", "answers": {"text": []}}, "a question without an answer"),
        ({"system": "s", "chat": "hello"}, "does not begin with USER: or ASSISTANT:"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_of_its_column(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    kind = "Prompts" if "reward_model" in row else "Instructions"
    with pytest.raises(DataError, match=words):
        read(tmp_path, kind, [row])
