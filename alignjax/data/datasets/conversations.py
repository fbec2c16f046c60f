"""Rows of messages become text: what is asked of the process that renders templates, and what it answers."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from alignjax.data.datasets.framing import Framed, framed
from alignjax.data.datasets.parsing import BadRow, as_json, checked_text
from alignjax.data.datasets.records import Record
from alignjax.data.text.chat import completion_text, messages_of, without_thinking
from alignjax.data.text.template_process import rendered

# Columns that templates read beside the messages.
BESIDE = ("tools", "documents", "chat_template_kwargs")


def conversation(
    prompt: Any,
    asked: str,
    answers: Sequence[tuple[Any, str]],
    row: Mapping[str, Any],
    turns: str = "last",
    thinking: str = "keep",
) -> dict[str, Any]:
    """Returns prompt, completions and chats of a Record: of a prompt in messages, a conversation to be rendered, with
    each answer as the message of the assistant that follows; of a prompt in text, texts.

    Args:
        prompt: Text or messages; None for completions of nothing.
        asked: The name of its field, for messages.
        answers: (text or one message of the assistant, the name of its field) each.
        row: The row, of which tools, documents and chat_template_kwargs are handed to the template.
        turns: "all" where each turn of the assistant is to be learned, not only the last.
        thinking: "strip" where what the assistant thinks before it answers is taken out of all its messages.

    Raises:
        BadRow: A field is neither, or blank, or what is handed to the template is not JSON.
    """
    if thinking == "strip":
        prompt = [without_thinking(turn) for turn in messages_of(prompt, asked)] if isinstance(prompt, list) else prompt
        answers = [(_without_thinking(answer, name), name) for answer, name in answers]
    texts = tuple(completion_text(answer, name) for answer, name in answers)
    if prompt is None:
        return {"prompt": "", "completions": texts, "chats": ()}
    if isinstance(prompt, str):
        return {"prompt": checked_text(prompt, asked), "completions": texts, "chats": ()}
    ends = [
        {"role": "assistant", "content": answer} if isinstance(answer, str) else dict(answer[0])
        for answer, _ in answers
    ]
    words = {name: row[name] for name in BESIDE if row.get(name) is not None}
    more = words.pop("chat_template_kwargs", {})
    if not isinstance(more, Mapping):
        raise BadRow("field 'chat_template_kwargs' is not an object")
    chat = {"turns": messages_of(prompt, asked), "ends": ends, "words": {**words, **more}}
    chat |= {"each_turn": True} if turns == "all" else {}
    if chat["words"] or any(len(message) > 2 for message in (*chat["turns"], *ends)):
        chat = as_json(chat, "messages, tools or documents")
    return {"prompt": "", "completions": texts, "chats": (chat,)}


def _without_thinking(answer: Any, name: str) -> Any:
    if isinstance(answer, str):
        return without_thinking({"role": "assistant", "content": answer})["content"]
    return [without_thinking(turn) for turn in messages_of(answer, name)]


def written(
    records: Iterable[Record], template: str, words: Mapping[str, Any]
) -> Iterator[tuple[Record, BadRow | None]]:
    """Renders the conversations of records, in their order, and gives with each the reason why that failed, or None.

    Args:
        records: Records with or without chats; they are read while those before are rendered.
        template: The text of the chat template.
        words: What it reads beside the messages.

    Raises:
        ConfigError: The template does not compile, or takes more time or memory than a template may.
    """
    pending: collections.deque[Record] = collections.deque()

    def chats() -> Iterator[Mapping[str, Any]]:
        for record in records:
            pending.append(record)
            yield from record.chats

    answers: list[Mapping[str, Any]] = []
    for answer in rendered(template, words, chats()):
        answers.append(answer)
        while not pending[0].chats:
            yield pending.popleft(), None
        if len(answers) == len(pending[0].chats):
            yield from _with_frames(pending.popleft(), answers)
            answers = []
    yield from ((record, None) for record in pending)  # those behind the last conversation


def _with_frames(record: Record, answers: Sequence[Mapping[str, Any]]) -> list[tuple[Record, BadRow | None]]:
    """The record as it was rendered, or a record for each turn of the assistant that is learned by itself."""
    try:
        if bad := next((answer["bad"] for answer in answers if "bad" in answer), None):
            raise BadRow(bad)
        if "apart" in answers[0]:
            return [(each, None) for each in _apart(record, answers[0]["apart"])]
        items = [_checked(framed(chat, answer)) for chat, answer in zip(record.chats, answers, strict=True)]
    except ValueError as error:  # a BadRow is one
        return [(record, error if isinstance(error, BadRow) else BadRow(str(error)))]
    texts = (*record.completions, *(item.prompt for item in items[1:]))
    changes = {"prompt": items[0].prompt, "completions": texts, "chats": (), "framed": tuple(items)}
    return [(dataclasses.replace(record, **changes), None)]


def _checked(item: Framed) -> Framed:
    checked_text(item.prompt, "prompt as the chat template writes it")
    return item


def _apart(record: Record, parts: Sequence[tuple[int, Mapping[str, Any]]]) -> Iterator[Record]:
    """A record for each turn of the assistant. All are on one side of a split: a later prompt has an earlier answer."""
    (chat,) = record.chats
    messages = [*chat["turns"], *chat["ends"]]
    for number, answer in parts:
        item = _checked(framed(chat, answer))
        texts = (completion_text(messages[number : number + 1], "messages"),)
        meta = {**record.meta, "turn": number}
        changes = {"prompt": item.prompt, "completions": texts, "framed": (item,), "meta": meta}
        yield dataclasses.replace(record, chats=(), grouped_by=parts[0][1]["prompt"], **changes)
