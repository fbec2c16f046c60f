"""A language model behind an OpenAI-compatible endpoint, asked many questions at a time: retried, cached by content."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import email.utils
import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignjax import outside
from alignjax.config import ConfigError, check_ranges
from alignjax.ranges import Count, Natural, NonNegative, Positive
from alignjax.workspace import whole_file

BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # answers that another attempt may better
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds between two attempts
LARGEST = 2**24  # bytes of an answer that are read
Messages = Sequence[Mapping[str, str]]


class EndpointError(RuntimeError):
    """An endpoint did not answer; says which, and why."""


class Reply(NamedTuple):
    """What came of one question.

    Attributes:
        verdict: What was read from the answer; None where it could not be read.
        text: The answer.
        prompt_tokens: Tokens that were read, as the endpoint counts them; 0 from the cache.
        completion_tokens: Tokens that were written.
    """

    verdict: Any
    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible endpoint of chat completions.

    Attributes:
        url: Where it is, "http://host:8000/v1".
        model: The name of the model there.
        api_key_variable: The environment variable with the key; "" for none. The key itself is written nowhere.
        temperature: Of sampling.
        max_tokens: The longest answer.
        concurrency: Questions at a time.
        timeout: Seconds without an answer.
        retries: Further attempts after a timeout, a lost connection, HTTP 429 or 5xx; 0.5, 1, 2 .. s apart, or as the
            endpoint says.
        corrections: How often a model is told that its answer cannot be read.
        cache: A folder of answers by the content of their questions, shared by runs; "" for none.
    """

    url: str
    model: str
    api_key_variable: str = ""
    temperature: NonNegative = 0.0
    max_tokens: Count = 1024
    concurrency: Count = 8
    timeout: Positive = 120.0
    retries: Natural = 5
    corrections: Natural = 1
    cache: str = ""

    def __post_init__(self) -> None:
        check_ranges(self)

    def check(self) -> None:
        """Raises ConfigError for a url that is none, or an environment variable that is not set."""
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"Endpoint.url is {self.url!r}; it must begin with http:// or https://")
        if self.api_key_variable and not os.environ.get(self.api_key_variable):
            raise ConfigError(f"Endpoint.api_key_variable: there is no environment variable {self.api_key_variable!r}")

    def replies(self, questions: Sequence[Messages], read: Callable[[str], Any], wanted: str) -> list[Reply]:
        """Asks questions, of those that are alike one.

        Args:
            questions: Messages of each.
            read: Reads the verdict of an answer; None where there is none.
            wanted: What a model is told that the answer must have, where it could not be read.

        Returns:
            A reply to each question.

        Raises:
            EndpointError: A question was not answered in as many attempts as it has; none is begun any more.
        """
        self.check()
        keys = [self._key(question) for question in questions]
        first = dict(zip(keys, questions, strict=True))
        failed = threading.Event()

        def asked(question: Messages) -> Reply:
            try:
                return self._asked(question, read, wanted, failed)
            except BaseException:
                failed.set()
                raise

        with concurrent.futures.ThreadPoolExecutor(self.concurrency) as pool:
            futures = {key: pool.submit(asked, question) for key, question in first.items()}
            try:
                concurrent.futures.wait(futures.values(), return_when=concurrent.futures.FIRST_EXCEPTION)
            finally:
                failed.set()
        errors = [error for each in futures.values() if (error := each.exception()) is not None]
        if errors:
            raise next((error for error in errors if not isinstance(error, _GivenUp)), errors[0])
        replies = {key: future.result() for key, future in futures.items()}
        paid: set[str] = set()
        return [self._once(replies[key], key, paid) for key in keys]

    def _once(self, reply: Reply, key: str, paid: set[str]) -> Reply:
        """A reply, whose tokens count for the first of those who asked the question."""
        free = key in paid
        paid.add(key)
        return reply._replace(prompt_tokens=0, completion_tokens=0) if free else reply

    def _asked(self, question: Messages, read: Callable[[str], Any], wanted: str, failed: threading.Event) -> Reply:
        messages, tokens = list(question), [0, 0]
        for left in range(self.corrections, -1, -1):
            text, usage = self._answer(messages, failed)
            tokens = [before + now for before, now in zip(tokens, usage, strict=True)]
            if (verdict := read(text)) is not None or not left:
                return Reply(verdict, text, *tokens)
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": wanted}]
        raise AssertionError

    def _body(self, messages: Messages) -> dict[str, Any]:
        limits = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {"model": self.model, "messages": [dict(each) for each in messages], **limits}

    def _key(self, messages: Messages) -> str:
        held = json.dumps([self.url, self._body(messages)], sort_keys=True)
        return hashlib.sha256(held.encode("utf-8", "surrogatepass")).hexdigest()

    def _answer(self, messages: Messages, failed: threading.Event) -> tuple[str, tuple[int, int]]:
        """The text of an answer and its tokens, from the cache or the endpoint."""
        file = Path(self.cache) / f"{self._key(messages)}.json" if self.cache else None
        if file is not None and file.is_file():
            advice = "remove it, and the question is asked again"
            text = outside.read_text(file, advice)
            with outside.reading(file, advice):
                held = outside.parse_json(text)
                if not isinstance(held, dict) or not isinstance(held.get("answer"), str):
                    raise outside.Unreadable("it holds no answer")
                return held["answer"], (0, 0)
        answer, usage = self._attempts(json.dumps(self._body(messages)).encode(), failed)
        if file is not None:
            with whole_file(file) as target:
                target.write(json.dumps({"answer": answer, "tokens": usage}).encode())
        return answer, usage

    def _attempts(self, body: bytes, failed: threading.Event) -> tuple[str, tuple[int, int]]:
        """What the endpoint says to a body, in as many attempts as there are."""
        # A key may come back in the words of an error, so it is taken out of them.
        key, reason, pause = os.environ.get(self.api_key_variable, "") if self.api_key_variable else "", "", 0.0
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        call = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers, method="POST")
        for attempt in range(self.retries + 1):
            if failed.wait(pause) if attempt else failed.is_set():
                raise _GivenUp(f"{self.url}: another question failed")
            pause = min(FIRST_PAUSE * 2.0**attempt, LONGEST_PAUSE)
            try:
                with urllib.request.urlopen(call, timeout=self.timeout) as answer:
                    return _content(json.loads(answer.read(LARGEST)))
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read(300).decode(errors="replace").strip()
                    reason = f"HTTP {error.code}: {said.replace(key, '***') if key else said}"
                    pause = _retry_after(error.headers.get("Retry-After"), pause)
                if error.code not in BUSY:
                    raise EndpointError(f"{self.url}: {reason}") from None
            except (OSError, http.client.HTTPException) as error:
                late = isinstance(getattr(error, "reason", error), TimeoutError)
                reason = f"no answer for {self.timeout:g} s" if late else f"{type(error).__name__}: {error}"
            except ValueError as error:  # cut off in the middle, or no answer of this form
                reason = f"the answer is no chat completion ({error})"
        raise EndpointError(f"{self.url}: {reason}, in {self.retries + 1} attempts")


class _GivenUp(EndpointError):
    """A question was not asked any more, since another failed."""


def _retry_after(value: str | None, otherwise: float) -> float:
    """Seconds that an endpoint asks to wait, as a number or a date."""
    if value is None:
        return otherwise
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return otherwise
    return min(max(seconds, 0.0), LONGEST_PAUSE) if seconds == seconds else otherwise


def _content(answer: Any) -> tuple[str, tuple[int, int]]:
    """The text of a chat completion, and its tokens. Raises ValueError for what is none."""
    try:
        text = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise ValueError("no choices[0].message.content") from None
    if text is not None and not isinstance(text, str):
        raise ValueError("its content is no text")
    usage = answer.get("usage") or {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else [0, 0]
    read, written = (count if isinstance(count, int) else 0 for count in counts)
    return text or "", (read, written)
