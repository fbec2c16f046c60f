"""The tokenizer of a served model, for programs that have none of their own: as vLLM's server tells it."""

from __future__ import annotations

from typing import Any, TypedDict

from alignjax.config import ConfigError
from alignjax.json_shapes import misfit
from alignjax.ranges import Natural
from alignjax.serving.opened_model import OpenedModel
from alignjax.serving.request_schema import RequestError, field_of


class _Tokenize(TypedDict, total=False):
    model: str | None
    prompt: str
    messages: list[dict[str, Any]]
    add_special_tokens: bool | None
    return_token_strs: bool | None


class _Detokenize(TypedDict, total=False):
    model: str | None
    tokens: list[Natural]


def tokenizer_info(opened: OpenedModel, max_length: int) -> dict[str, Any]:
    """Returns the special tokens of a model, its chat template and its sizes.

    Args:
        opened: The model.
        max_length: The most tokens of a prompt with its completion.
    """
    tokenizer = opened.tokenizer
    marks = {mark: getattr(tokenizer, mark) for mark in ("bos", "eos", "pad")}
    spelled = {f"{mark}_token": None if i is None else tokenizer.backend.id_to_token(i) for mark, i in marks.items()}
    return {
        "tokenizer_class": type(tokenizer.backend.model).__name__,
        **spelled,
        "add_bos_token": tokenizer.adds_bos,
        "vocab_size": tokenizer.vocab_size,
        "model_max_length": max_length,
        "chat_template": opened.frame.chat.template if opened.has_template else None,
    }


def tokenized(body: Any, opened: OpenedModel, max_length: int) -> dict[str, Any]:
    """Answers /tokenize: the ids of a prompt, or of messages.

    A prompt that is the spelling of a special token and nothing else is that token, also where its spelling within a
    text is text: this is how clients ask for its id.

    Args:
        body: {"prompt": text, "add_special_tokens": true} or {"messages": [...]}.
        opened: The model.
        max_length: The most tokens of a prompt with its completion.

    Raises:
        RequestError: It is neither.
    """
    fields = _checked(body, _Tokenize)
    if ("prompt" in fields) == ("messages" in fields):
        raise RequestError("give prompt or messages", "prompt")
    if "messages" in fields:
        if not fields["messages"]:
            raise RequestError("messages is an empty list; give a message at least", "messages")
        try:
            (ids,) = opened.prompt_ids([fields["messages"]])
        except ConfigError as error:
            raise RequestError(str(error), "messages") from None
    else:
        prompt = fields["prompt"]
        special = {opened.tokenizer.backend.id_to_token(token): token for token in opened.tokenizer.hidden}
        whole = fields.get("add_special_tokens") is not False
        if prompt in special:
            ids = [special[prompt]]
        else:
            ids = opened.text_ids(prompt) if whole else opened.tokenizer.encode(prompt)
    strings = [opened.tokenizer.backend.id_to_token(token) for token in ids]
    told = {"token_strs": strings} if fields.get("return_token_strs") else {}
    return {"count": len(ids), "max_model_len": max_length, "tokens": ids, **told}


def detokenized(body: Any, opened: OpenedModel) -> dict[str, Any]:
    """Answers /detokenize: the text of ids, special tokens spelled.

    Args:
        body: {"tokens": ids}.
        opened: The model.

    Raises:
        RequestError: It is something else.
    """
    fields = _checked(body, _Detokenize)
    if "tokens" not in fields:
        raise RequestError("'tokens' is missing", "tokens")
    if wrong := [token for token in fields["tokens"] if token >= opened.tokenizer.vocab_size]:
        raise RequestError(f"tokens has {wrong[0]}, and the tokenizer has {opened.tokenizer.vocab_size}", "tokens")
    return {"prompt": opened.tokenizer.backend.decode(fields["tokens"], skip_special_tokens=False)}


def _checked(body: Any, kind: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    if unknown := [name for name in body if name not in kind.__annotations__]:
        raise RequestError(f"there is no field {unknown[0]!r}", unknown[0])
    if words := misfit(body, kind):
        raise RequestError(words, field_of(words))
    return body
