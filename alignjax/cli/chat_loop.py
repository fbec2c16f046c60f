"""`alignjax chat`: a conversation with a model, in a terminal or through pipes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from alignjax.cli.flags import Chat
from alignjax.cli.generate import wanted_of
from alignjax.cli.open_model import open_model
from alignjax.cli.serve import longest
from alignjax.config import ConfigError
from alignjax.outside import reading, visible
from alignjax.serving import OpenedModel, Wanted, Worker, pieces_of

HELP = """/reset         forget the conversation, but for the system message
/system TEXT   begin anew with this system message; without TEXT, with none
/quit          end, as the end of the input does
//...          a message that begins with a slash
Ctrl-C ends an answer, and the chat where none is given."""
NEXT_TURN = "\nUser:"  # where a model without a chat template goes on for the other side


@dataclasses.dataclass(frozen=True)
class Conversation:
    """What was said: the system message, and messages of user and assistant in turn."""

    system: str | None
    turns: tuple[tuple[str, str], ...] = ()

    def messages(self) -> list[dict[str, str]]:
        """Returns all messages, as templates read them."""
        first = [] if self.system is None else [("system", self.system)]
        return [{"role": role, "content": content} for role, content in (*first, *self.turns)]

    def said(self, role: str, content: str) -> Conversation:
        """Returns the conversation with another message."""
        return dataclasses.replace(self, turns=(*self.turns, (role, content)))


def chat(flags: Chat) -> int:
    """Talks until the end of the input, /quit or Ctrl-C, and returns the exit status.

    Args:
        flags: The flags of `alignjax chat`.

    Raises:
        ConfigError: WHERE cannot be opened, or a flag cannot be meant.
        CheckpointError: If there is nothing trained yet.
    """
    if sys.stdin is None:
        raise ConfigError("standard input is closed; a chat reads what is said from it")
    opened = open_model(flags.where, flags.role, flags.dtype)
    _tell(opened.introduction)
    _tell("A line is a message; /help lists commands." if sys.stdin.isatty() else "")
    conversation = Conversation(flags.system)
    with Worker(opened, slots=1, max_length=longest(opened, flags.max_length)) as worker:
        opened = dataclasses.replace(opened, params={})  # the worker has them, unstacked
        while (line := _asked()) is not None:
            if not line.strip():
                continue
            if line.startswith("/") and not line.startswith("//"):
                after = _commanded(line, conversation)
                if after is None:
                    break
                conversation = after
            else:
                conversation = _answered(flags, opened, worker, conversation, line.removeprefix("/"))
    return 0


def _tell(sentence: str) -> None:
    """Says something that is no part of the conversation."""
    if sentence:
        print(visible(sentence), file=sys.stderr, flush=True)


def _asked() -> str | None:
    """The next line, or None at the end of the input and at Ctrl-C."""
    with reading("standard input", "give it text in UTF-8"):
        try:
            return input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            if sys.stdin.isatty():
                print()
            return None


def _commanded(line: str, conversation: Conversation) -> Conversation | None:
    """The conversation after a command; None where it is to end."""
    name, _, rest = line.partition(" ")
    match name:
        case "/quit" | "/exit" | "/bye":
            return None
        case "/reset":
            _tell("the conversation begins anew")
            return Conversation(conversation.system)
        case "/system":
            _tell("the conversation begins anew, " + ("without a system message" if not rest.strip() else "with it"))
            return Conversation(rest.strip() or None)
        case "/help":
            _tell(HELP)
        case _:
            _tell(f"there is no command {name}\n{HELP}")
    return conversation


def _answered(flags: Chat, opened: OpenedModel, worker: Worker, before: Conversation, line: str) -> Conversation:
    """The conversation with a message and its answer, which is printed as it comes; as it was where there is none."""
    # What does not fit is refused whole: an answer to a conversation of which a part was dropped would not be to it.
    asked = before.said("user", line)
    try:
        (prompt,) = opened.prompt_ids([asked.messages()])
    except ConfigError as error:
        _tell(f"that cannot be said: {error}")
        return before
    room = worker.max_length - len(prompt)
    if room < 1:
        _tell(
            f"the conversation would have {len(prompt)} tokens and leave no room for an answer within "
            f"{worker.max_length}; it stays as it was: /reset begins a new one"
        )
        return before
    wanted = wanted_of(flags, opened, min(flags.max_tokens, room), len(before.turns) // 2)
    if not opened.has_template:
        wanted = dataclasses.replace(wanted, stop_texts=(NEXT_TURN,))
    answer, finish = _printed(worker, prompt, wanted)
    if finish == "interrupted":
        _tell("[interrupted]")
    if finish == "length":
        full = "the conversation is full" if wanted.max_tokens == room else f"--max-tokens is {flags.max_tokens}"
        _tell(f"[cut after {wanted.max_tokens} tokens: {full}]")
    if not answer.strip():
        _tell("[no words; the conversation stays as it was]")
        return before
    return asked.said("assistant", answer)


def _printed(worker: Worker, prompt: Sequence[int], wanted: Wanted) -> tuple[str, str]:
    """(the answer, why it ended), printed piece by piece; "interrupted" by Ctrl-C."""
    said, finish = [], "interrupted"
    pieces = pieces_of(worker, prompt, wanted)
    try:
        for piece in pieces:
            said.append(piece.text)
            print(visible(piece.text), end="", flush=True)
            finish = piece.finish or finish
    except KeyboardInterrupt:
        pieces.close()
    print(flush=True)
    return "".join(said), finish
