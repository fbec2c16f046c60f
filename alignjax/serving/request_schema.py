"""Requests in the form of OpenAI's API: every field is known and read, or the request is refused in a sentence."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from alignjax.config import ConfigError, nearest
from alignjax.json_shapes import misfit, shown
from alignjax.ranges import Count, Fraction, Natural, NonNegative, Range, Share
from alignjax.serving.jobs import Wanted
from alignjax.serving.opened_model import OpenedModel
from alignjax.serving.slots import LARGEST_TOP

MOST_SEQUENCES = 1024  # prompts times completions of one request
USUAL_TOKENS = 16  # of a completion whose length nobody says, as in OpenAI's API; a chat has all that is left
Top = Annotated[int, Range(0, LARGEST_TOP)]
AnySeed = Annotated[int, Range(-(2**63), 2**63 - 1)]


class RequestError(ConfigError):
    """Says why a request cannot be answered. status: of HTTP; param: the field at fault; code: a word for programs."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


class _StreamOptions(TypedDict, total=False):
    include_usage: bool | None


class _Either(TypedDict, total=False):
    """Fields of both kinds of requests."""

    model: str | None
    n: Count | None
    temperature: NonNegative | None
    top_p: Share | None
    top_k: Annotated[int, Range(-1, 2**31 - 1)] | None
    min_p: Fraction | None
    seed: AnySeed | None
    stop: str | list[str] | None
    stop_token_ids: list[Natural] | None
    stream: bool | None
    stream_options: _StreamOptions | None
    return_token_ids: bool | None
    user: str | None


class Completions(_Either, total=False):
    """The body of a request for /v1/completions."""

    prompt: str | list[str] | list[Natural] | list[list[Natural]]
    max_tokens: Natural | None
    logprobs: Top | None
    echo: bool | None


class Chat(_Either, total=False):
    """The body of a request for /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_tokens: Count | None
    max_completion_tokens: Count | None
    logprobs: bool | None
    top_logprobs: Top | None
    chat_template_kwargs: dict[str, Any] | None


# Fields that would change an answer and are not built: the values with which they change none.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,), "suffix": ("",), "logit_bias": ({},), "frequency_penalty": (0,), "presence_penalty": (0,),
    "tools": ([],), "tool_choice": ("none",), "functions": ([],), "function_call": ("none",), "modalities": (["text"],),
    "response_format": ({"type": "text"},), "parallel_tool_calls": (True, False), "store": (False,), "metadata": ({},),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Request:
    """A request that was read.

    Attributes:
        prompts: The token ids of each prompt.
        echoed: The text of each prompt that a completion begins with; empty where none does.
        wanted: What is wanted of each prompt; `example` is its number.
        logprobs: How many of the likeliest tokens are told; None where no log-probs are.
        stream: Whether the answer comes in pieces.
        include_usage: Whether a stream ends with the counts of tokens.
        token_ids: Whether token ids are told too.
        long: The field that makes a prompt too long together with its completion: the one that says how long that may
            be, where one does.
    """

    prompts: tuple[tuple[int, ...], ...]
    echoed: tuple[str, ...]
    wanted: Wanted
    logprobs: int | None
    stream: bool
    include_usage: bool
    token_ids: bool
    long: str | None


def read_completions(body: Any, opened: OpenedModel) -> Request:
    """Reads the body of a request for completions.

    Args:
        body: What JSON was sent.
        opened: The model that is asked.

    Raises:
        RequestError: It cannot be answered.
    """
    fields = _checked(body, Completions, ("prompt",), opened)
    texts, prompts = _prompts(fields["prompt"], opened)
    logprobs, echo = fields.get("logprobs"), bool(fields.get("echo"))
    most = fields.get("max_tokens")
    wanted = _wanted(fields, opened, USUAL_TOKENS if most is None else most, logprobs or 0)
    wanted = dataclasses.replace(wanted, echo=echo and logprobs is not None, continues=True)
    return _request(fields, prompts, texts if echo else (), wanted, logprobs)


def read_chat(body: Any, opened: OpenedModel, max_length: int) -> Request:
    """Reads the body of a request for a chat's next message.

    Args:
        body: What JSON was sent.
        opened: The model that is asked.
        max_length: The most tokens of prompt and completion.

    Raises:
        RequestError: It cannot be answered.
    """
    fields = _checked(body, Chat, ("messages",), opened)
    if not fields["messages"]:
        raise RequestError("messages is an empty list; give a message at least", "messages")
    messages = [_message(number, message) for number, message in enumerate(fields["messages"])]
    try:
        (prompt,) = opened.prompt_ids([messages], fields.get("chat_template_kwargs"))
    except ConfigError as error:
        raise RequestError(f"messages: {error}", "messages") from None
    if fields.get("top_logprobs") and not fields.get("logprobs"):
        raise RequestError("top_logprobs goes with logprobs=true", "top_logprobs")
    logprobs = (fields.get("top_logprobs") or 0) if fields.get("logprobs") else None
    most = fields.get("max_completion_tokens") or fields.get("max_tokens") or max(1, max_length - len(prompt))
    return _request(fields, (tuple(prompt),), (), _wanted(fields, opened, most, logprobs or 0), logprobs)


def _request(
    fields: Mapping[str, Any],
    prompts: tuple[tuple[int, ...], ...],
    echoed: tuple[str, ...],
    wanted: Wanted,
    logprobs: int | None,
) -> Request:
    if len(prompts) * wanted.n > MOST_SEQUENCES:
        raise RequestError(
            f"{len(prompts)} prompts with n={wanted.n} are more than {MOST_SEQUENCES} completions; ask in parts", "n"
        )
    stream, options = bool(fields.get("stream")), fields.get("stream_options")
    if options and not stream:
        raise RequestError("stream_options goes with stream=true", "stream_options")
    usage = bool((options or {}).get("include_usage"))
    long = next((name for name in ("max_completion_tokens", "max_tokens") if fields.get(name)), None)
    return Request(prompts, echoed, wanted, logprobs, stream, usage, bool(fields.get("return_token_ids")), long)


def _checked(body: Any, kind: Any, required: tuple[str, ...], opened: OpenedModel) -> Mapping[str, Any]:
    """The fields of a body, all of them known."""
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    known = kind.__annotations__.keys() | _Either.__annotations__.keys()
    for name, value in body.items():
        if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
            if name == "best_of" and value == body.get("n"):
                continue
            raise RequestError(f"{name} is {shown(value)}, which is not built here; leave it out", name)
        if name not in NEUTRAL and name not in known:
            raise RequestError(f"there is no field {name!r}.{nearest(name, known)}", name)
    for name in required:
        if body.get(name) is None:
            raise RequestError(f"{name!r} is missing", name)
    if words := misfit(body, kind):
        raise RequestError(words, field_of(words))
    if body.get("model") not in (None, opened.name):
        message = f"there is no model {body['model']!r}; this server has {opened.name!r}"
        raise RequestError(message, "model", status=404, code="model_not_found")
    return body


def field_of(words: str) -> str:
    """Returns the field that what `misfit` says of a body is about."""
    return words.partition(" ")[0].partition("[")[0]


def _prompts(prompt: Any, opened: OpenedModel) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """(texts, token ids) of the prompts in any of the four forms."""
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    if not prompt:
        raise RequestError("prompt is an empty list; give a prompt at least", "prompt")
    try:
        ids = tuple(tuple(opened.text_ids(one)) if isinstance(one, str) else tuple(one) for one in prompt)
    except ConfigError as error:  # of a text that the tokenizer has no tokens for
        raise RequestError(f"prompt: {error}", "prompt") from None
    texts = (one if isinstance(one, str) else opened.tokenizer.decode(one) for one in prompt)
    return tuple(texts), ids


def _wanted(fields: Mapping[str, Any], opened: OpenedModel, max_tokens: int, top: int) -> Wanted:
    stop = fields.get("stop")
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in texts:
        raise RequestError("stop holds an empty text, which would end every completion at once", "stop")
    seed = fields.get("seed")

    def number(name: str, usual: float) -> float:
        return usual if fields.get(name) is None else fields[name]

    return Wanted(
        max_tokens=max_tokens,
        n=int(number("n", 1)),
        temperature=number("temperature", 1.0),
        top_k=max(0, int(number("top_k", 0))),  # vLLM's -1 is all, too
        top_p=number("top_p", 1.0),
        min_p=number("min_p", 0.0),
        seed=secrets.randbits(32) if seed is None else seed,
        stop_ids=frozenset((*opened.stops, *(fields.get("stop_token_ids") or ()))),
        stop_texts=texts,
        top=top,
    )


def _message(number: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose content is text: parts of text are joined, other parts refused."""
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    if not all(isinstance(part, str) for part in parts):
        raise RequestError(f"messages[{number}]: this model reads text, and the content has other parts", "messages")
    return {**message, "content": "".join(map(str, parts))}
