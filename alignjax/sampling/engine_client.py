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
from alignjax.ranges import Count, Natural, NonNegative, Positive, Share
from alignjax.sampling.logit_streams import known_stop
from alignjax.types import Batch, Context, Key

BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that another attempt may better
LONGEST_PAUSE = 30.0  # seconds between two attempts


class EngineError(RuntimeError):
    """An engine did not give the completions that were requested."""


class _Final(Exception):
    """An answer that another attempt would not better; says why."""


class _GivenUp(Exception):
    """Raised in place of an attempt when another request has failed, so that this one's answer is of no use."""


class _Request(NamedTuple):
    """The request for one prompt, and how to send it. example: its number, for messages."""

    example: int
    url: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    timeout: float
    retries: int


def engine_shapes(batch: Batch, *, n: Count, max_tokens: Count, logprobs: bool = True) -> Batch:
    """Returns the batch with what `ask_engine` fills, as zeros: the `like` of its host stage.

    Args:
        batch: Prompts [B,P].
        n: Completions per prompt.
        max_tokens: T, the longest completion.
        logprobs: Adds logps["engine"].

    Returns:
        The batch with zeros [B,n,T].
    """
    shape = (batch.need("prompt", of="ask_engine").shape[0], n, max_tokens)
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
    n: Count,
    max_tokens: Count,
    temperature: NonNegative = 1.0,
    top_p: Share = 1.0,
    stop: tuple[Natural, ...] | None = None,
    logprobs: bool = True,
    concurrency: Count = 16,
    timeout: Positive = 600.0,
    retries: Natural = 4,
    api_key_variable: str = "",
    sync: Fn | None = None,
) -> Batch:
    """Asks an external engine for n completions of every prompt: the body of a host stage, one request per prompt.

    A request's seed is a function of the run's seed, the step and the prompt's example_id. Whether that makes an engine
    repeat itself is the engine's affair; what it answered is replayed from the run folder.

    Args:
        context: Given to `sync`.
        batch: Prompts.
        key: Random key of the requests' seeds.
        url: Where the engine is, "http://host:8000/v1".
        model: The name under which the engine serves the weights.
        n: Completions per prompt.
        max_tokens: Longest completion, in tokens.
        temperature: Divides the logits.
        top_p: Keeps the smallest set of tokens of this probability.
        stop: The tokens at which the engine ends, which a completion keeps, valid; None: those of the data's tokenizer.
        logprobs: Asks for the engine's own log-probs too.
        concurrency: Requests at a time.
        timeout: Seconds without an answer.
        retries: Further attempts after a timeout, a refusal, a lost connection or HTTP 429, 5xx; 0.5, 1, 2 .. s apart.
        api_key_variable: The environment variable with a bearer token.
        sync: sync(context) is called before a step's requests and must return when the engine serves the weights
            `context.params(role)`; None leaves the engine those that it was started with.

    Returns:
        The batch with tokens, valid, mask and, with `logprobs`, logps["engine"] [B,N,T].

    Raises:
        EngineError: If any prompt failed; says how many did and why the first. Nothing is kept then.
        ConfigError: If the batch has completions, nobody says what ends one, or there is no such environment variable.
    """
    if batch.tokens is not None:
        raise ConfigError("ask_engine samples the first completions of a batch; this one has some")
    asked = {"logprobs": 1} if logprobs else {}
    body = {"model": model, "n": n, "max_tokens": max_tokens, "temperature": float(temperature), "top_p": float(top_p)}
    body |= {"stop_token_ids": list(known_stop(stop, of="ask_engine")), "return_token_ids": True, **asked}
    template = _Request(0, f"{url.rstrip('/')}/completions", body, _headers(api_key_variable), float(timeout), retries)
    if sync is not None:
        sync(context)
    answers = _all_answers(_request_per_prompt(template, batch, key), concurrency)
    return _filled(batch, answers, (len(answers), n, max_tokens), logprobs)


def _headers(api_key_variable: str) -> dict[str, str]:
    """Returns the headers of a request, with the bearer token where a variable is named."""
    headers = {"Content-Type": "application/json"}
    if api_key_variable:
        if api_key_variable not in os.environ:
            raise ConfigError(f"ask_engine(api_key_variable={api_key_variable!r}): there is no such variable")
        headers["Authorization"] = f"Bearer {os.environ[api_key_variable]}"
    return headers


def _request_per_prompt(template: _Request, batch: Batch, key: Key) -> list[_Request]:
    """The request with each prompt's tokens, and a seed in [0, 2^31) of its example."""
    examples = batch.ids()
    bits = jax.vmap(lambda example: jax.random.bits(jax.random.fold_in(key, example)))(jnp.asarray(examples))
    seeds = (np.asarray(bits) & 0x7FFFFFFF).tolist()
    prompts, valid = (np.asarray(batch.need(name, of="ask_engine")) for name in ("prompt", "prompt_valid"))
    return [
        template._replace(example=example, body={**template.body, "prompt": tokens[present].tolist(), "seed": seed})
        for example, tokens, present, seed in zip(np.asarray(examples).tolist(), prompts, valid, seeds, strict=True)
    ]


def _filled(batch: Batch, answers: list[list[Mapping[str, Any]]], shape: tuple[int, int, int], logprobs: bool) -> Batch:
    """The batch with the answers' tokens and, with `logprobs`, the engine's log-probs of them."""
    tokens, valid, engine = np.zeros(shape, np.int32), np.zeros(shape, bool), np.zeros(shape, np.float32)
    for row, choices in enumerate(answers):
        for number, choice in enumerate(choices):
            length = len(choice["token_ids"])
            tokens[row, number, :length], valid[row, number, :length] = choice["token_ids"], True
            if logprobs:
                engine[row, number, :length] = choice["logprobs"]["token_logprobs"]
    logps = {**batch.logps, "engine": engine} if logprobs else batch.logps
    return batch.replace(tokens=tokens, valid=valid, mask=valid.astype(np.float32), logps=logps)


# ----------------------------------------------------------------------------------------------------------- asking


def _all_answers(requests: list[_Request], concurrency: int) -> list[list[Mapping[str, Any]]]:
    """The choices of every request, in order. After a first failure no further request is begun, nor attempt made."""
    failure = threading.Event()

    def choices(request: _Request) -> list[Mapping[str, Any]]:
        try:
            return _choices(request, failure)
        except BaseException:
            failure.set()  # here, before this worker takes the next request
            raise

    with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, concurrency)) as pool:
        futures = [pool.submit(choices, request) for request in requests]
        try:
            concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
        finally:
            failure.set()  # all is answered, or one failed, or somebody interrupts: the pool waits for what is running
    raised = [(request.example, future.exception()) for request, future in zip(requests, futures, strict=True)]
    failed = [(example, reason) for example, reason in raised if not isinstance(reason, _GivenUp | None)]
    if failed:
        example, reason = failed[0]
        unasked = sum(isinstance(reason, _GivenUp) for _, reason in raised)
        raise EngineError(
            f"{requests[0].url}: {len(failed)} of {len(requests)} prompts failed"
            + (f", {unasked} were not asked any more" if unasked else "")
            + f"; the first, example {example}: {reason}. Nothing of this step is kept; mend the engine and --resume."
        )
    return [future.result() for future in futures]


def _choices(request: _Request, failure: threading.Event) -> list[Mapping[str, Any]]:
    """The n choices of one request, checked, after as many attempts as it takes or is allowed. failure: set when
    another request has failed; raises _GivenUp instead of the next attempt."""
    data, reason = json.dumps(request.body).encode(), ""
    call = urllib.request.Request(request.url, data=data, headers=dict(request.headers), method="POST")
    for attempt in range(request.retries + 1):
        if failure.wait(min(0.5 * 2 ** (attempt - 1), LONGEST_PAUSE) if attempt else 0):
            raise _GivenUp
        try:
            with urllib.request.urlopen(call, timeout=request.timeout) as answer:
                return _checked(request.body, json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                reason = f"HTTP {error.code}: {error.read(300).decode(errors='replace').strip()}"
            if error.code not in BUSY:
                raise _Final(reason) from None
        except (OSError, http.client.HTTPException) as error:
            late = isinstance(getattr(error, "reason", error), TimeoutError)
            reason = f"no answer for {request.timeout:g} s" if late else f"{type(error).__name__}: {error}"
        except ValueError as error:  # cut off in the middle, or no JSON at all
            reason = f"the answer is not JSON ({error})"
    raise _Final(f"{reason}, in {request.retries + 1} attempts")


def _checked(body: Mapping[str, Any], answer: Any) -> list[Mapping[str, Any]]:
    """The choices in order. Raises _Final for an answer that another attempt would not mend."""
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or len(choices) != body["n"]:
        count = f"{len(choices)} choices" if isinstance(choices, list) else "no list of choices"
        raise _Final(f"{count} where n={body['n']} were asked for")
    for choice in choices:
        _check_choice(body, choice)
    return sorted(choices, key=lambda choice: choice.get("index", 0))


def _check_choice(body: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
    """Raises _Final unless the tokens of a choice are complete and end as ours do."""
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
