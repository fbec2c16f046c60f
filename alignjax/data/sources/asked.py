"""Prompts that people ask a trained policy, written as those of the rows that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.config import ConfigError
from alignjax.data.datasets.conversations import conversation, written
from alignjax.data.datasets.framing import encoded
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.datasets.records import Record
from alignjax.data.prepared import Chat, Dataset, chat_of
from alignjax.data.sources.batch_layout import prompt_ids
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.workspace import Workspace


class Frame(NamedTuple):
    """How prompts are written: conversations by `chat`, a text between `prefix` and `suffix`."""

    chat: Chat
    prefix: str = ""
    suffix: str = ""


def frame_of(dataset: Dataset, workspace: Workspace | None = None) -> Frame:
    """Returns how the prompts of a dataset's rows are written.

    Args:
        dataset: The dataset.
        workspace: The run that asks, whose prepared files say which template that was; None for no run.
    """
    return Frame(chat_of(dataset, workspace), dataset.prefix, dataset.suffix)


def written_tokens(
    prompts: Sequence[Any], tokenizer: Tokenizer, frame: Frame, words: Mapping[str, Any] | None = None
) -> list[list[int]]:
    """Returns the token ids of prompts: messages rendered by the chat template, a text in its frame behind BOS. Nothing
    is cut.

    Where all rows were conversations, a text is a message of the user.

    Args:
        prompts: Text or a list of messages each.
        tokenizer: The tokenizer.
        frame: How prompts are written.
        words: What the template is given beside messages, enable_thinking for example.

    Raises:
        ConfigError: A prompt is neither, or the template refuses it; its number is said.
    """
    chat = frame.chat
    prefix, suffix = tokenizer.encode(frame.prefix), tokenizer.encode(frame.suffix)
    records = []
    for number, each in enumerate(prompts, start=1):
        row = [{"role": "user", "content": each}] if isinstance(each, str) and chat.only else each
        try:
            records.append(Record(**conversation(row, "prompt", (), {"chat_template_kwargs": words or None})))
        except BadRow as error:
            raise ConfigError(f"prompt {number} of {len(prompts)} cannot be read: {error}") from error
    ids: list[list[int]] = []
    for number, (record, error) in enumerate(written(records, chat.template, chat.words), start=1):
        if error is not None:
            raise ConfigError(f"prompt {number} of {len(records)}: {error}")
        if record.framed:
            ((prompt, _),), _ = encoded(record.framed, tokenizer)
            ids.append(list(prompt.ids))
        else:
            body = tokenizer.encode(record.prompt)
            most = len(body) + len(prefix) + len(suffix) + 1
            ids.append(prompt_ids(body, prefix, suffix, tokenizer.opening, most))
    return ids
