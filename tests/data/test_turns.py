"""Conversations of several turns: each turn of the assistant is learned as it is sampled, and nothing else is."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from alignjax.config import ConfigError
from alignjax.data import Instructions, Preferences, Tokenizer, load_tokenizer
from alignjax.data.datasets.conversations import written
from alignjax.data.datasets.framing import OTHERS, Tokens, encoded
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.datasets.records import Record
from alignjax.data.prepared import rows_of
from alignjax.data.text.chat import without_thinking
from tests.support.chat_families import FAMILIES, write_tokenizer

ASK, AGAIN = {"role": "user", "content": " What is two and two?\n"}, {"role": "user", "content": "Why is the sky blue?"}
ANSWER, BECAUSE = ({"role": "assistant", "content": text} for text in ("It is four. ", "Because of the air é."))
MORE = [{"role": "user", "content": "And then?"}, {"role": "assistant", "content": "says hello"}]
TALK = [ASK, ANSWER, AGAIN, BECAUSE, *MORE]
THOUGHTS = [ASK, {**ANSWER, "content": "<think>\nhm\n</think>\n\nFour."}, AGAIN, BECAUSE]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"b": 1, "a": [2]}}}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2}}}]}
PARTLY = """{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'user' %}{{- m.content }}
    {%- else %}
        {{- m.content.split(' ')[0] + ' ' }}
        {%- generation %}{{- m.content.split(' ')[1:] | join(' ') }}{%- endgeneration %}
    {%- endif %}
    {{- '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
CALLED = [ASK, CALL, {"role": "tool", "content": "4 says the tool"}, ANSWER, AGAIN, CALL, *MORE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("families")

    @functools.cache
    def of(name: str, template: str = "") -> Path:
        family = FAMILIES[name]._replace(template=template) if template else FAMILIES[name]
        return write_tokenizer(root / f"{name}{hash(template)}", family)

    return of


def records_of(at: Path, row: dict[str, Any], **settings: Any) -> list[Record]:
    dataset = Instructions(path="unread", tokenizer=str(at), **{"turns": "all", **settings})
    results = list(written([dataset.parse(row)], dataset.template, dataset.template_words))
    if error := next((error for _, error in results if error), None):
        raise error
    return [record for record, _ in results]


def tokens_of(record: Record, at: Path) -> tuple[Tokens, Tokens, Tokenizer]:
    tokenizer = load_tokenizer(at)
    ((prompt, (completion,)),), _ = encoded(record.framed, tokenizer)
    return prompt, completion, tokenizer


def ids_of(at: Path, talk: list[dict[str, Any]], opened: bool, **words: Any) -> list[int]:
    theirs = transformers.AutoTokenizer.from_pretrained(at)
    return theirs.apply_chat_template(talk, return_dict=False, add_generation_prompt=opened, **words)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("qwen3", "tools")])
def test_each_turn_is_learned_from_its_prompt_to_its_end(folder, name: str) -> None:
    """The whole conversation is the tokens of transformers, and learned is what stands behind each opened prompt, up to
    and with the end of the turn."""
    at, (record,) = folder(name), records_of(folder(name), {"messages": TALK})
    prompt, completion, tokenizer = tokens_of(record, at)
    every = [*prompt.ids, *completion.ids]
    end = tokenizer.backend.token_to_id(FAMILIES[name].end)
    theirs = ids_of(at, TALK, opened=False)
    assert every == theirs[: len(every)]
    assert end not in theirs[len(every) :]
    learned = [0] * len(every)
    for k in (1, 3, 5):
        start = len(ids_of(at, TALK[:k], opened=True))
        learned[start : every.index(end, start) + 1] = [1] * (every.index(end, start) + 1 - start)
    assert [0] * len(prompt.ids) + [int(part != OTHERS) for part in completion.parts] == learned


def test_calls_are_learned_and_results_of_tools_are_not(folder) -> None:
    at = folder("tools")
    (record,) = records_of(at, {"messages": CALLED, "tools": TOOLS})
    prompt, completion, tokenizer = tokens_of(record, at)
    theirs = transformers.AutoTokenizer.from_pretrained(at).apply_chat_template(
        CALLED, tools=TOOLS, return_dict=True, return_assistant_tokens_mask=True
    )
    every = [*prompt.ids, *completion.ids]
    learned = [0] * len(prompt.ids) + [int(part != OTHERS) for part in completion.parts]
    assert every == theirs["input_ids"][: len(every)]
    assert learned == theirs["assistant_masks"][: len(every)]
    assert sum(learned) == sum(theirs["assistant_masks"])
    said = tokenizer.decode(token for token, known in zip(every, learned, strict=True) if known)
    assert said.count('<call>{"name": "add"') == 2
    assert "the tool" not in said
    without_marks = folder(
        "tools", FAMILIES["tools"].template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    )
    (same,) = records_of(without_marks, {"messages": CALLED, "tools": TOOLS})
    assert tokens_of(same, without_marks)[:2] == (prompt, completion)


def test_marks_say_what_is_learned_and_the_end_is_learned_with_it(folder) -> None:
    """{% generation %} around a part of each answer, its end left out."""
    at = folder("chatml", PARTLY)
    (record,) = records_of(at, {"messages": TALK[:4]})
    _, completion, tokenizer = tokens_of(record, at)
    parts = zip(completion.ids, completion.parts, strict=True)
    learned = [token for token, part in parts if part != OTHERS]
    backend = tokenizer.backend
    assert backend.decode(learned, skip_special_tokens=False) == " is four. <|im_end|> of the air é.<|im_end|>"
    theirs = transformers.AutoTokenizer.from_pretrained(at).apply_chat_template(
        TALK[:4], return_dict=True, return_assistant_tokens_mask=True
    )
    marks = zip(theirs["input_ids"], theirs["assistant_masks"], strict=True)
    assert [token for token in learned if token not in tokenizer.ends] == [token for token, mark in marks if mark]


def test_a_turn_that_is_written_otherwise_later_is_a_row_of_its_own(folder, tmp_path: Path) -> None:
    """Of a template that takes thoughts out of earlier turns, each turn is learned behind the prompt that it is sampled
    from, and all turns of a conversation are on one side of a split."""
    at = folder("qwen3")
    records = records_of(at, {"messages": THOUGHTS})
    assert [record.meta["turn"] for record in records] == [1, 3]
    end = load_tokenizer(at).backend.token_to_id("<|im_end|>")
    for record, k in zip(records, (1, 3), strict=True):
        prompt, completion, _ = tokens_of(record, at)
        assert list(prompt.ids) == ids_of(at, THOUGHTS[:k], opened=True)
        whole = ids_of(at, THOUGHTS[: k + 1], opened=False)
        assert [*prompt.ids, *completion.ids] == whole[: len(whole) - whole[::-1].index(end)]
        assert OTHERS not in completion.parts
    assert "hm" in records[0].framed[0].ends[0][0]
    assert "hm" not in records[1].framed[0].prompt
    talks = [[{**ASK, "content": f"question {n}"}, *THOUGHTS[1:]] for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    dataset = Instructions(path=str(tmp_path / "rows.jsonl"), tokenizer=str(at), turns="all", test_fraction=0.4)
    sides = {}
    for split in ("train", "test"):
        rows, _ = rows_of(dataset, split)
        sides[split] = [json.loads(rows[n]["meta"])["line"] for n in range(len(rows))]
        assert sides[split] == sorted([*sides[split][::2]] * 2)
    assert not {*sides["train"]} & {*sides["test"]}
    assert len(sides["train"] + sides["test"]) == 60


def test_where_neither_marks_nor_renderings_say_it_a_row_is_refused(folder) -> None:
    counts = "{{ messages | length }}" + FAMILIES["chatml"].template
    with pytest.raises(BadRow, match="writes the prompt otherwise once it is answered"):
        records_of(folder("chatml", counts), {"messages": TALK})
    empty = "{% generation %}{% endgeneration %}" + FAMILIES["chatml"].template
    with pytest.raises(BadRow, match="marks none of the assistant's words"):
        records_of(folder("chatml", empty), {"messages": TALK})


def test_marks_in_a_text_that_the_template_works_on_are_passed_over(folder) -> None:
    """Where the places of marks are not known, the renderings say where turns are."""
    plain = FAMILIES["chatml"].template
    counted = (
        "{%- set x %}{% generation %}{{ messages[-1].content }}{% endgeneration %}{% endset %}{{- x | length }}" + plain
    )
    at = folder("chatml", counted.replace("messages[-1]", "messages[0]"))
    (record,) = records_of(at, {"messages": TALK})
    (same,) = records_of(folder("chatml"), {"messages": TALK})
    assert tokens_of(record, at)[1] == tokens_of(same, folder("chatml"))[1]


def test_a_conversation_of_many_turns_has_its_time(folder) -> None:
    talk = [{"role": ("user", "assistant")[k % 2], "content": f"word {k} " * 40} for k in range(240)]
    at = folder("llama3")
    (record,) = records_of(at, {"messages": talk})
    assert len(record.framed[0].turns) == 120


def test_thoughts_are_kept_or_taken_out(folder) -> None:
    at = folder("qwen3")
    reasoned = {**BECAUSE, "reasoning_content": "let me see"}
    row = {"messages": [*THOUGHTS[:3], reasoned]}
    texts = {
        thinking: [record.framed[0].ends[0][0] for record in records_of(at, row, thinking=thinking)]
        for thinking in ("keep", "strip")
    }
    assert ["hm" in text for text in texts["keep"]] == [True, False]
    assert ["let me see" in text for text in texts["keep"]] == [False, True]
    plain = [ASK, {**ANSWER, "content": "Four."}, AGAIN, BECAUSE]
    assert texts["strip"] == [record.framed[0].ends[0][0] for record in records_of(at, {"messages": plain})]
    pair = {"prompt": "why", "chosen": "<think>a</think>\n\nyes", "rejected": "b</think>no"}
    kinds = {kind: Preferences(path="unread", thinking=kind).parse(pair).completions for kind in ("keep", "strip")}
    assert kinds == {"keep": (pair["chosen"], pair["rejected"]), "strip": ("yes", "no")}
    with pytest.raises(ConfigError, match="thinking is 'drop'; it must be 'keep' or 'strip'"):
        Preferences(path="unread", thinking="drop")


@pytest.mark.parametrize(
    ("content", "left"),
    [
        ("<think>\na\n</think>\n\nb", "b"),
        (" <think></think>b </think> c", "b </think> c"),
        ("a </think> b", "b"),
        ("say <think> and </think>", "say <think> and </think>"),
        ("plain", "plain"),
    ],
)
def test_a_block_of_thoughts_stands_at_the_start(content: str, left: str) -> None:
    assert without_thinking({"role": "assistant", "content": content, "thinking": "x"}) == {
        "role": "assistant",
        "content": left,
    }
    asked = {"role": "user", "content": content, "thinking": "x"}
    assert without_thinking(asked) == asked


def test_thoughts_without_an_end_are_refused() -> None:
    with pytest.raises(BadRow, match="does not end"):
        without_thinking({"role": "assistant", "content": "<think> so"})
