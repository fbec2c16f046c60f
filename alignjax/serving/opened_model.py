"""A model with all that it takes to speak to it: weights, tokenizer, chat template, what ends an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax.config import ConfigError
from alignjax.data import Tokenizer, load_tokenizer
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.prepared import Chat
from alignjax.data.sources.asked import Frame, written_tokens
from alignjax.data.text.chat import DEFAULT_TEMPLATE, load_template, template_words, turn_end
from alignjax.types import Model, Params


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedModel:
    """A language model that can be asked.

    Attributes:
        name: Its short name, under which it is served.
        line: A sentence that says what was opened.
        model: The network.
        params: Its weights.
        tokenizer: Writes prompts, reads completions; its `ends` are the tokens that end an answer.
        frame: How prompts are written: the chat template (`frame.chat.trained` is False where the model has none), and
            what stands around a text.
        max_length: The most tokens of a prompt with its completion; None where nothing says so.
    """

    name: str
    line: str
    model: Model
    params: Params = dataclasses.field(repr=False)
    tokenizer: Tokenizer
    frame: Frame
    max_length: int | None

    @property
    def stops(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return self.tokenizer.ends

    @property
    def has_template(self) -> bool:
        """Says whether the model comes with a chat template of its own."""
        return self.frame.chat.trained

    @property
    def introduction(self) -> str:
        """The line, and what else a person is to know before asking."""
        plain = "no chat template, so messages are written plainly ('User: ...')"
        return self.line if self.has_template else f"{self.line}; {plain}"

    def prompt_ids(self, prompts: Sequence[Any], words: Mapping[str, Any] | None = None) -> list[list[int]]:
        """Returns the token ids of prompts, each a text or a list of messages, as the model was trained on them.

        A text is a message of the user where the model knows nothing but conversations. Messages for a model without a
        chat template are written plainly, "User: ...".

        Args:
            prompts: The prompts.
            words: What the chat template is given beside messages, enable_thinking for example.

        Raises:
            ConfigError: A prompt is neither, or the template refuses it; its number is said.
        """
        return written_tokens(prompts, self.tokenizer, self.frame, words)

    def text_ids(self, text: str) -> list[int]:
        """Returns the token ids of a text as it is, behind BOS where the tokenizer's files ask for one."""
        ids, opening = self.tokenizer.encode(text), self.tokenizer.opening
        return ids if opening is None or ids[:1] == [opening] else [opening, *ids]


def tokenizer_and_frame(folder: Path) -> tuple[Tokenizer, Frame]:
    """Reads the tokenizer of a folder and how its chat template writes conversations.

    Args:
        folder: A folder with tokenizer.json or tokenizer.model.

    Returns:
        The tokenizer, whose ends are also what ends the assistant's turn, and the frame of prompts.

    Raises:
        ConfigError: There is no tokenizer, or its files or its chat template cannot be used.
    """
    # A text is a message of the user where a template is there, as for any model that was trained on conversations.
    tokenizer, path = load_tokenizer(folder), str(folder)
    template, words = load_template("", path), template_words(tokenizer, path)
    if template == DEFAULT_TEMPLATE:
        return tokenizer, Frame(Chat(template, {**words, **_opening(tokenizer)}, only=False, trained=False))
    try:
        tokenizer = dataclasses.replace(tokenizer, closing=turn_end(tokenizer, template))
    except BadRow as error:
        raise ConfigError(f"the chat template of {folder} writes no assistant's turn: {error}") from error
    return tokenizer, Frame(Chat(template, words, only=True, trained=True))


def _opening(tokenizer: Tokenizer) -> Mapping[str, str]:
    """What the plain template begins with: BOS where any text of the tokenizer does; ours puts it there by its id."""
    opening = None if tokenizer.backend.encode_special_tokens else tokenizer.opening
    return {"bos_token": "" if opening is None else str(tokenizer.backend.id_to_token(opening))}
