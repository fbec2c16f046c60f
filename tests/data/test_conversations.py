"""Rows of messages are the tokens that `transformers` makes of the whole conversation, prompt and completion together,
up to and with the end of the assistant's turn."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import transformers

from alignjax.data import Instructions, Preferences, Tokenizer, load_tokenizer
from alignjax.data.datasets.conversations import written
from alignjax.data.datasets.framing import CONTENT, FRAME, SYSTEM, Tokens, encoded
from alignjax.data.text.chat import turn_end
from tests.support.chat_families import FAMILIES, Family, write_tokenizer

SYSTEM_MESSAGE = {"role": "system", "content": "Be brief."}
ASK, ANSWER = {"role": "user", "content": " What is two and two?\n"}, {"role": "assistant", "content": "It is four. "}
AGAIN = {"role": "user", "content": "Why is the sky blue — say?"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nBecause of the air."}
PLAIN = {"role": "assistant", "content": "Because of the air é."}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"b": 1, "a": [2]}}}]
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]}

TALKS = {
    "single": [ASK, ANSWER],
    "system": [SYSTEM_MESSAGE, ASK, PLAIN],
    "several": [SYSTEM_MESSAGE, ASK, ANSWER, AGAIN, PLAIN],
    "thoughts": [ASK, {**ANSWER, "content": "<think>\nwell\n</think>\n\nFour."}, AGAIN, THOUGHT],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("families")

    @functools.cache
    def of(name: str, metaspace: bool = False) -> Path:
        return write_tokenizer(root / f"{name}{metaspace}", FAMILIES[name], metaspace)

    return of


def rows_of(folder: Path, row: dict[str, Any], **settings: Any) -> tuple[Tokens, list[Tokens], Tokenizer]:
    """Prompt and completions of a row as a dataset with this tokenizer makes them."""
    kind = Preferences if "chosen" in row else Instructions
    dataset = kind(path="unread", tokenizer=str(folder), **settings)
    ((record, error),) = written([dataset.parse(row)], dataset.template, dataset.template_words)
    if error is not None:
        raise error
    tokenizer = load_tokenizer(folder)
    ((prompt, completions),), _ = encoded(record.framed, tokenizer)
    return prompt, completions, tokenizer


def whole(folder: Path, family: Family, talk: list[dict[str, Any]], **words: Any) -> list[int]:
    """What transformers makes of the conversation, up to the last end of a turn in it."""
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ids = theirs.apply_chat_template(talk, tokenize=True, return_dict=False, **words)
    end = theirs.convert_tokens_to_ids(family.end)
    return ids[: len(ids) - ids[::-1].index(end)]


@pytest.mark.parametrize("metaspace", [False, True])
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_and_completion_are_the_whole_conversation(folder, name: str, talk: str, metaspace: bool) -> None:
    family, messages = FAMILIES[name], TALKS[talk]
    if not family.system:
        messages = [message for message in messages if message["role"] != "system"]
    at = folder(name, metaspace)
    prompt, (completion,), tokenizer = rows_of(at, {"messages": messages})
    assert [*prompt.ids, *completion.ids] == whole(at, family, messages)
    opened = transformers.AutoTokenizer.from_pretrained(at).apply_chat_template(
        messages[:-1], tokenize=True, return_dict=False, add_generation_prompt=True
    )
    assert list(prompt.ids) == opened
    assert tokenizer.backend.id_to_token(completion.ids[-1]) == family.end
    assert completion.ids[-1] == turn_end(tokenizer, family.template)[-1]
    # What is frame and what is content: the latter, put together, is what was said.
    assert completion.parts[-1] == FRAME
    said = tokenizer.decode(i for i, part in zip(completion.ids, completion.parts, strict=True) if part == CONTENT)
    assert messages[-1]["content"].strip() in said
    kinds = [CONTENT, *([SYSTEM] if messages[0]["role"] == "system" else [])]
    texts = {
        kind: tokenizer.decode(i for i, part in zip(prompt.ids, prompt.parts, strict=True) if part == kind)
        for kind in kinds
    }
    assert "two and two?" in texts[CONTENT]
    assert texts.get(SYSTEM, "brief").strip() in ("Be brief.", "brief")
    frame = tokenizer.decode(i for i, part in zip(prompt.ids, prompt.parts, strict=True) if part == FRAME)
    assert "two and two" not in frame
