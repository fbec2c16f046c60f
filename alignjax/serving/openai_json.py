"""What the worker reports, in the form of OpenAI's API: whole answers, and the chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignjax.data import Tokenizer
from alignjax.serving.jobs import Piece, PromptScores, Report, Scored
from alignjax.serving.opened_model import OpenedModel
from alignjax.serving.request_schema import Request
from alignjax.serving.text_pieces import TextPieces, token_bytes, token_text

LEAST_LOGP = -9999.0  # JSON has no infinity; OpenAI's API says this number for it


class Answer:
    """The answer to a request, which grows by reports: whole at the end, or told piece by piece.

    Args:
        request: What was asked.
        opened: The model that is asked.
        chat: Whether it is asked for a chat's next message.
    """

    # Choices are numbered over all prompts: completion k of prompt p has the index p n + k.

    def __init__(self, request: Request, opened: OpenedModel, *, chat: bool) -> None:
        self.request, self.tokenizer, self.chat = request, opened.tokenizer, chat
        kind, prefix = ("chat.completion", "chatcmpl-") if chat else ("text_completion", "cmpl-")
        self.head = {"id": prefix + secrets.token_hex(12), "created": int(time.time()), "model": opened.name}
        self.kind = kind
        n = request.wanted.n
        self.choices = [_Choice(self.tokenizer, prompt) for prompt in request.prompts for _ in range(n)]
        if request.echoed:
            for index, choice in enumerate(self.choices):
                choice.text.append(request.echoed[index // n])

    def take(self, prompt: int, report: Report) -> list[tuple[int, Piece]]:
        """Takes a report about a prompt in. Returns the pieces of choices that it brought, by their numbers."""
        n = self.request.wanted.n
        if isinstance(report, PromptScores):
            for choice in self.choices[prompt * n : prompt * n + n]:
                choice.scored += report.tokens
        elif isinstance(report, Piece):
            self.choices[prompt * n + report.number].take(report)
            return [(prompt * n + report.number, report)]
        return []

    def chunks(self, prompt: int, report: Report) -> Iterator[dict[str, Any]]:
        """Takes a report about a prompt in, and yields the chunks of a stream that it makes."""
        told = self.request.logprobs is not None or self.request.token_ids
        for index, piece in self.take(prompt, report):
            choice = self.choices[index]
            if self.chat and not choice.said:
                delta = {"role": "assistant", "content": ""}
                yield self._chunk({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
            if told or piece.finish or not choice.said or any(choice.text):
                yield self._chunk(self._choice(index, choice.news(), piece.finish, chunk=True))

    def whole(self) -> dict[str, Any]:
        """Returns the answer when all is reported."""
        choices = [self._choice(i, choice.news(), choice.finish) for i, choice in enumerate(self.choices)]
        return {**self.head, "object": self.kind, "choices": choices, "usage": self._usage()}

    def last_chunks(self) -> Iterator[dict[str, Any]]:
        """Yields the chunks that end a stream."""
        if self.request.include_usage:
            yield {**self._chunk(None), "choices": [], "usage": self._usage()}

    def _chunk(self, choice: Any) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else self.kind
        return {**self.head, "object": kind, "choices": [choice]}

    def _choice(self, index: int, news: _News, finish: str | None, chunk: bool = False) -> dict[str, Any]:
        text, scored, at = news
        if self.chat:
            message = {"content": text} if chunk else {"role": "assistant", "content": text}
            said: dict[str, Any] = {"index": index, "delta" if chunk else "message": message}
        else:
            said = {"index": index, "text": text}
        if self.request.token_ids:
            said["token_ids"] = [each.token for each, completion in scored if completion]
        said["logprobs"] = None
        if self.request.logprobs is not None:
            told = [each for each, _ in scored]
            said["logprobs"] = (
                _chat_logprobs(self.tokenizer, told) if self.chat else _logprobs(self.tokenizer, told, at)
            )
        return {**said, "finish_reason": finish}

    def _usage(self) -> dict[str, int]:
        prompt = sum(map(len, self.request.prompts))
        completion = sum(choice.completion for choice in self.choices)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


_News = tuple[str, list[tuple[Scored, bool]], list[int]]


class _Choice:
    """A choice as far as it is known. text, scored: what came since it was last told; offsets: where the text of each
    of the tokens begins; completion: the tokens of the completion so far."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self.text: list[str] = []
        self.scored: list[Scored] = []
        self.completion, self.said, self.finish = 0, False, None
        self.prompt, self.pieces, self.place = prompt, TextPieces(tokenizer), 0

    def take(self, piece: Piece) -> None:
        self.text.append(piece.text)
        self.finish = piece.finish
        if piece.scored is not None:
            self.scored.append(piece.scored)
            self.completion += 1

    def news(self) -> _News:
        """What came since this was last asked: its text, its tokens (with whether each is the completion's), and where
        their texts begin."""
        text, scored, offsets = "".join(self.text), self.scored, []
        behind = (
            0 if self.said else len(scored) - self.completion
        )  # the prompt's, told with the first of the completion
        for each in scored:
            offsets.append(self.place)
            self.place += len(self.pieces.push(each.token))
        self.text, self.scored, self.said = [], [], True
        return text, [(each, number >= behind) for number, each in enumerate(scored)], offsets


def _finite(logp: float) -> float:
    return max(logp, LEAST_LOGP)


def _logprobs(tokenizer: Tokenizer, scored: Sequence[Scored], offsets: Sequence[int]) -> dict[str, Any]:
    """Log-probs as /v1/completions has them: of each token, and of the likeliest ones by their texts with it."""
    tops: list[dict[str, float] | None] = []
    for each in scored:
        best: dict[str, float] = {}
        for token, logp in (*each.top, *([] if each.logp is None else [(each.token, each.logp)])):
            best.setdefault(token_text(tokenizer, token), _finite(logp))
        tops.append(None if each.logp is None else best)
    return {
        "tokens": [token_text(tokenizer, each.token) for each in scored],
        "token_logprobs": [None if each.logp is None else _finite(each.logp) for each in scored],
        "top_logprobs": tops,
        "text_offset": list(offsets),
    }


def _chat_logprobs(tokenizer: Tokenizer, scored: Sequence[Scored]) -> dict[str, Any]:
    """Log-probs as /v1/chat/completions has them."""

    def entry(token: int, logp: float) -> dict[str, Any]:
        raw = token_bytes(tokenizer, token)
        return {"token": token_text(tokenizer, token), "logprob": _finite(logp), "bytes": list(raw)}

    content = [
        {**entry(each.token, each.logp or 0.0), "top_logprobs": [entry(*one) for one in each.top]} for each in scored
    ]
    return {"content": content}


def error_json(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> Mapping[str, Any]:
    """Returns OpenAI's error object.

    Args:
        message: What is wrong, in words.
        param: The field at fault.
        code: A word for programs.
        status: The status of HTTP.
    """
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
