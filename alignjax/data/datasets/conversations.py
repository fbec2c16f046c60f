"""Rows of messages become text: what is asked of the process that renders templates, and what it answers."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from alignjax.data.datasets.framing import Framed, framed
from alignjax.data.datasets.parsing import BadRow, checked_text
from alignjax.data.datasets.records import Record
from alignjax.data.text.chat import completion_text, messages_of
from alignjax.data.text.template_process import rendered

# Columns that templates read beside the messages.
BESIDE = ("tools", "documents", "chat_template_kwargs")


def conversation(
    prompt: Any, asked: str, answers: Sequence[tuple[Any, str]], row: Mapping[str, Any], turns: str = "last"
) -> dict[str, Any]:
    """Returns prompt, completions and chats of a Record: of a prompt in messages, a conversation to be rendered, with
    each answer as the message of the assistant that follows; of a prompt in text, texts.

    Args:
        prompt: Text or messages; None for completions of nothing.
        asked: The name of its field, for messages.
        answers: (text or one message of the assistant, the name of its field) each.
        row: The row, of which tools, documents and chat_template_kwargs are handed to the template.
        turns: "all" where each turn of the assistant is to be learned, not only the last.

    Raises:
        BadRow: A field is neither, or blank, or what is handed to the template is not JSON.
    """
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
        chat = as_json(chat)
    return {"prompt": "", "completions": texts, "chats": (chat,)}


def as_json(value: Any) -> Any:
    """Returns a value as JSON has it, all that templates are given. Raises BadRow for another one."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow("messages, tools or documents are not JSON", str(error)) from None


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
            yield _with_frames(pending.popleft(), answers)
            answers = []
    yield from ((record, None) for record in pending)  # those behind the last conversation


def _with_frames(record: Record, answers: Sequence[Mapping[str, Any]]) -> tuple[Record, BadRow | None]:
    try:
        items: list[Framed] = []
        for chat, answer in zip(record.chats, answers, strict=True):
            if "bad" in answer:
                raise BadRow(answer["bad"])
            items.append(framed(chat, answer))
            checked_text(items[-1].prompt, "prompt as the chat template writes it")
    except ValueError as error:  # a BadRow is one
        return record, error if isinstance(error, BadRow) else BadRow(str(error))
    texts = (*record.completions, *(item.prompt for item in items[1:]))
    return dataclasses.replace(record, prompt=items[0].prompt, completions=texts, chats=(), framed=tuple(items)), None
