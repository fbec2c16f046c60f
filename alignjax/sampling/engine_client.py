"""Completions from another program: an engine with an OpenAI-compatible completions endpoint (vLLM, SGLang), token ids
in, token ids out.

Text is never passed, since tokens that were written out and tokenized again need not be those that were sampled.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError, Fn
from alignjax.types import Batch, Context, Key

__all__ = ["EngineError", "ask_engine", "engine_shapes"]

BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that another attempt may better
LONGEST_PAUSE = 30.0  # seconds between two attempts


class EngineError(RuntimeError):
    """An engine did not give what was asked for."""


class _Final(Exception):
    """Why asking again is of no use."""


class _GivenUp(Exception):
    """Another request has failed, so that the answer to this one is of no use."""


class _Request(NamedTuple):
    """One prompt's question, and how to ask it. example: its number, for messages."""

    example: int
    url: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    timeout: float
    retries: int


def engine_shapes(batch: Batch, *, n: int, max_tokens: int, logprobs: bool = True) -> Batch:
    """What `ask_engine` fills, in shapes: the `like` of its host stage."""
    assert batch.prompt is not None
    shape = (batch.prompt.shape[0], n, max_tokens)
    logps = {"engine": jnp.zeros(shape, jnp.float32)} if logprobs else {}
    zeros = {"tokens": jnp.zeros(shape, jnp.int32), "valid": jnp.zeros(shape, bool), "mask": jnp.zeros(shape)}
    return batch.replace(**zeros, logps={**batch.logps, **logps})


def ask_engine(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    url: str,
    model: str,
    n: int,
    max_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: tuple[int, ...] = (2,),
    logprobs: bool = True,
    concurrency: int = 16,
    timeout: float = 600.0,
    retries: int = 4,
    api_key_variable: str = "",
    sync: Fn | None = None,
) -> Batch:
    """n completions of every prompt from the engine at `url` ("http://host:8000/v1"): the body of a host stage, one
    request per prompt, `concurrency` at a time.

    Fills tokens, valid, mask and, with `logprobs`, logps["engine"], the engine's own. stop must hold the tokens at
    which the engine ends, its end token among them; they are kept, valid, as the last of a completion. A request has a
    seed of its own, a function of the run's seed, the step and the prompt's example_id; whether that makes an engine
    repeat itself is the engine's affair, and what it answered is replayed from the run folder. timeout: seconds without
    an answer; retries: further attempts after one that timed out, was refused, cut off, or put off (HTTP 429, 5xx),
    0.5, 1, 2 .. seconds apart. api_key_variable: the environment variable with a bearer token.

    sync(context) is called before the first request of a step, and must return when the engine serves the weights
    `context.params(role)`. Without it the engine samples from whatever weights it was started with.

    Raises EngineError, saying how many prompts failed and why the first did, if any did; nothing is kept then. Raises
    ConfigError if the batch has completions already or the token is not there.
    """
    if batch.tokens is not None:
        raise ConfigError("ask_engine samples the first completions of a batch; this one has some")
    headers = {"Content-Type": "application/json"}
    if api_key_variable:
        if api_key_variable not in os.environ:
            raise ConfigError(f"ask_engine(api_key_variable={api_key_variable!r}): there is no such variable")
        headers["Authorization"] = f"Bearer {os.environ[api_key_variable]}"
    if sync is not None:
        sync(context)
    body = {"model": model, "n": n, "max_tokens": max_tokens, "temperature": float(temperature), "top_p": float(top_p)}
    body |= {"stop_token_ids": list(stop), "return_token_ids": True} | ({"logprobs": 1} if logprobs else {})
    ask = _Request(0, f"{url.rstrip('/')}/completions", body, headers, float(timeout), retries)
    like = engine_shapes(batch, n=n, max_tokens=max_tokens, logprobs=logprobs)
    answers = _all_answers(_of_each_prompt(ask, batch, key), concurrency)
    return _filled(batch, like, answers, stop)


def _of_each_prompt(ask: _Request, batch: Batch, key: Key) -> list[_Request]:
    """The request with each prompt's tokens, and a seed in [0, 2^31) of its example."""
    assert batch.prompt is not None
    assert batch.prompt_valid is not None
    examples = np.arange(len(batch.prompt)) if batch.example_id is None else np.asarray(batch.example_id)
    bits = jax.vmap(lambda example: jax.random.bits(jax.random.fold_in(key, example)))(jnp.asarray(examples))
    seeds = (np.asarray(bits) & 0x7FFFFFFF).tolist()
    prompts = [
        prompt[there].tolist()
        for prompt, there in zip(np.asarray(batch.prompt), np.asarray(batch.prompt_valid), strict=True)
    ]
    return [
        ask._replace(example=example, body={**ask.body, "prompt": prompt, "seed": seed})
        for example, prompt, seed in zip(examples.tolist(), prompts, seeds, strict=True)
    ]


def _filled(batch: Batch, like: Batch, answers: list[list[Mapping[str, Any]]], stop: tuple[int, ...]) -> Batch:
    assert like.tokens is not None
    tokens, valid = np.zeros(like.tokens.shape, np.int32), np.zeros(like.tokens.shape, bool)
    engine = np.zeros(like.tokens.shape, np.float32)
    for row, choices in enumerate(answers):
        for number, choice in enumerate(choices):
            length = len(choice["token_ids"])
            tokens[row, number, :length], valid[row, number, :length] = choice["token_ids"], True
            if "engine" in like.logps:
                engine[row, number, :length] = choice["logprobs"]["token_logprobs"]
    logps = {"engine": engine} if "engine" in like.logps else {}
    return batch.replace(tokens=tokens, valid=valid, mask=valid.astype(np.float32), logps={**batch.logps, **logps})


# ----------------------------------------------------------------------------------------------------------- asking


def _all_answers(requests: list[_Request], concurrency: int) -> list[list[Mapping[str, Any]]]:
    """The choices of every request, in order. After a first failure no further request is begun, nor attempt made."""
    failure = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, concurrency)) as pool:
        asked = [pool.submit(_choices, request, failure) for request in requests]
        try:
            concurrent.futures.wait(asked, return_when=concurrent.futures.FIRST_EXCEPTION)
        finally:
            failure.set()  # all is answered, or one failed, or somebody interrupts: the pool waits for what is running
    raised = [(request.example, future.exception()) for request, future in zip(requests, asked, strict=True)]
    failed = [(example, reason) for example, reason in raised if not isinstance(reason, _GivenUp | None)]
    if failed:
        example, reason = failed[0]
        unasked = sum(isinstance(reason, _GivenUp) for _, reason in raised)
        raise EngineError(
            f"{requests[0].url}: {len(failed)} of {len(requests)} prompts failed"
            + (f", {unasked} were not asked any more" if unasked else "")
            + f"; the first, example {example}: {reason}. Nothing of this step is kept; mend the engine and --resume."
        )
    return [future.result() for future in asked]


def _choices(request: _Request, failure: threading.Event) -> list[Mapping[str, Any]]:
    """The n choices of one request, checked, after as many attempts as it takes or is allowed. failure: set when
    another request has failed; raises _GivenUp instead of the next attempt."""
    reason = ""
    for attempt in range(request.retries + 1):
        if failure.wait(min(0.5 * 2 ** (attempt - 1), LONGEST_PAUSE) if attempt else 0):
            raise _GivenUp
        try:
            return _checked(request, _asked_once(request))
        except urllib.error.HTTPError as error:
            with error:
                reason = f"HTTP {error.code}: {error.read(300).decode(errors='replace').strip()}"
            if error.code not in BUSY:
                raise _Final(reason) from None
        except TimeoutError:
            reason = f"no answer for {request.timeout:g} s"
        except (OSError, http.client.HTTPException) as error:
            late = isinstance(getattr(error, "reason", None), TimeoutError)
            reason = f"no answer for {request.timeout:g} s" if late else f"{type(error).__name__}: {error}"
        except ValueError as error:  # cut off in the middle, or no JSON at all
            reason = f"the answer is not JSON ({error})"
    raise _Final(f"{reason}, in {request.retries + 1} attempts")


def _asked_once(request: _Request) -> Any:
    data = json.dumps(request.body).encode()
    call = urllib.request.Request(request.url, data=data, headers=dict(request.headers), method="POST")
    with urllib.request.urlopen(call, timeout=request.timeout) as answer:
        return json.loads(answer.read())


def _checked(request: _Request, answer: Any) -> list[Mapping[str, Any]]:
    """The choices in order. Raises _Final for an answer that another attempt would not mend."""
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or len(choices) != request.body["n"]:
        given = f"{len(choices)} choices" if isinstance(choices, list) else "no list of choices"
        raise _Final(f"{given} where n={request.body['n']} were asked for")
    choices = sorted(choices, key=lambda choice: choice.get("index", 0))
    return [_whole(request.body, choice) for choice in choices]


def _whole(body: Mapping[str, Any], choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """A choice, if its tokens are all there and end as ours do."""
    tokens, why = choice.get("token_ids"), choice.get("finish_reason")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise _Final("no token_ids; the engine must know return_token_ids (vLLM and SGLang have it in recent releases)")
    if not 1 <= len(tokens) <= body["max_tokens"]:
        raise _Final(f"{len(tokens)} tokens where 1 to max_tokens={body['max_tokens']} were asked for")
    early = next((token for token in tokens[:-1] if token in body["stop_token_ids"]), None)
    if early is not None:
        raise _Final(f"it went on after token {early}, which is in stop={body['stop_token_ids']}: take it out there")
    ended = tokens[-1] in body["stop_token_ids"]
    if why == "stop" and not ended:
        raise _Final(f"it stopped at token {tokens[-1]}, which is not in stop={body['stop_token_ids']}: add it there")
    if why == "length" and len(tokens) < body["max_tokens"]:
        raise _Final(f"{len(tokens)} tokens, cut short of max_tokens={body['max_tokens']}: raise its context length")
    if why not in ("stop", "length"):
        raise _Final(f"finish_reason is {why!r}; it must be 'stop' or 'length'")
    if "logprobs" in body:
        logps = (choice.get("logprobs") or {}).get("token_logprobs")
        if not isinstance(logps, list) or len(logps) != len(tokens) or None in logps:
            raise _Final("no log-prob for every token; set logprobs=False to do without the engine's")
    return choice
