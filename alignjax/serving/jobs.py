"""What is asked of the worker that samples, and what it reports: prompts in ids, pieces of completions as they come."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias


@dataclasses.dataclass(frozen=True)
class Wanted:
    """How a prompt's completions are sampled, and what is told of them.

    Attributes:
        max_tokens: The longest completion in tokens; 0 reads the prompt alone.
        n: The number of completions.
        temperature: Divides the logits; 0 is greedy.
        top_k: Keeps the k likeliest tokens; 0: all.
        top_p: Keeps the smallest set of this probability; 1: all.
        min_p: Keeps tokens at least this many times as likely as the likeliest; 0: all.
        seed: With `example` and the number of the completion it decides the samples.
        example: The number of the prompt.
        stop_ids: Tokens that end a completion, and are its last one.
        stop_texts: Texts that end a completion, and are not part of its text.
        top: How many of the likeliest tokens are told with each.
        echo: Whether the tokens of the prompt are scored too.
        continues: Whether the text of a completion is read as the continuation of the prompt's.
    """

    max_tokens: int
    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    example: int = 0
    stop_ids: frozenset[int] = frozenset()
    stop_texts: tuple[str, ...] = ()
    top: int = 0
    echo: bool = False
    continues: bool = False


class Scored(NamedTuple):
    """A token with its log-prob in nats, temperature 1 and untruncated (None for the first of a prompt), and the
    likeliest tokens in its place, best first."""

    token: int
    logp: float | None
    top: tuple[tuple[int, float], ...] = ()


class PromptScores(NamedTuple):
    """The tokens of a prompt, reported before its completions where they were asked for."""

    tokens: tuple[Scored, ...]


class Piece(NamedTuple):
    """The next piece of completion `number`: the text that is certain now, and the token that made it so; the last one
    has the reason of the end, "stop" or "length"."""

    number: int
    text: str
    scored: Scored | None
    finish: str | None = None


class Done(NamedTuple):
    """All completions of a prompt have ended. failure: why they could not be made, None where they were."""

    failure: BaseException | None = None


Report: TypeAlias = PromptScores | Piece | Done


@dataclasses.dataclass(eq=False)
class Job:
    """A prompt to be completed.

    Attributes:
        prompt: Its token ids, at least one.
        wanted: What is wanted of it.
        report: Is called from the worker's thread with each report, Done last; it must not block.
        cancelled: Set to True, nothing more is sampled for it.
    """

    prompt: tuple[int, ...]
    wanted: Wanted
    report: Callable[[Report], None]
    cancelled: bool = False

    @property
    def length(self) -> int:
        """The most tokens that prompt and completion may have together."""
        return len(self.prompt) + self.wanted.max_tokens
