"""`alignjax generate`: a model answers prompts."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import scoring
from alignjax.cli.behavior_flags import NO_SYSTEM, Speakers, behavior_of, opened_streams
from alignjax.cli.flags import Generate
from alignjax.cli.prompt_files import Prompt, Row, read_prompts, with_system
from alignjax.cli.serve import longest
from alignjax.cli.steer_flags import opened_steered
from alignjax.config import ConfigError
from alignjax.data import Tokenizer
from alignjax.data.sources.batch_layout import pad_left
from alignjax.outside import reading, visible, visible_json
from alignjax.sampling import Filters, Sampled, Sampling, generate as sample
from alignjax.serving import OpenedModel, Wanted, Worker, pieces_of
from alignjax.types import Batch, Key, Model, Params

ROWS = 8  # prompts at once: few, so that a short file does not wait, and always so many, so that one program serves
BUCKET = 32  # prompts are padded to a multiple of it, for the same reason


def generate(flags: Generate, words: Sequence[str] = ()) -> int:
    """Samples completions for the prompts of a file, or for what is typed in, and returns the exit status.

    Args:
        flags: The flags of `alignjax generate`.
        words: Further ones, the options of --behavior.

    Raises:
        ConfigError: For what is no model, a role that cannot be sampled, and prompts that are too long for it.
        CheckpointError: If there is nothing trained yet.
    """
    if flags.format == "alpaca_eval" and flags.n != 1:
        raise ConfigError(f"--format alpaca_eval holds one output for an instruction; leave out --n {flags.n}")
    behaviour, where = behavior_of(flags.behavior, words, [field.name for field in dataclasses.fields(flags)])
    file = flags.prompt_file
    rows = [] if file is None else read_prompts(file, flags.system)
    if file is not None and not rows:
        raise ConfigError(f"{'standard input' if str(file) == '-' else file} holds no prompts")
    opened = opened_steered(flags)
    speakers = opened_streams(behaviour, where, opened, dtype=flags.dtype, system=flags.system)
    print(f"{opened.introduction}\n", file=sys.stderr)
    if file is None:
        _answer_typed(flags, opened, speakers)
    else:
        _answer_file(flags, opened, speakers, rows)
    return 0


def _answer_file(flags: Generate, opened: OpenedModel, speakers: Speakers, rows: Sequence[Row]) -> None:
    """Answers few prompts at a time, always as many: an answer comes soon, and one compiled program serves all."""
    fitting_ids(flags, opened, rows)
    answer, show = _answerer(flags, opened, speakers), _SHOWN[flags.format]
    with contextlib.ExitStack() as closing:
        if flags.format == "alpaca_eval":
            print("[", flush=True)
            closing.callback(print, "]", flush=True)
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            for number, (row, completions) in enumerate(
                zip(some, answer([row.prompt for row in some], start), strict=True), start
            ):
                show(opened, row, completions, number)


def fitting_ids(flags: Any, opened: OpenedModel, rows: Sequence[Row]) -> list[list[int]]:
    """Returns the token ids of prompts. Raises ConfigError if one is too long for the model with its completion."""
    ids = opened.prompt_ids([row.prompt for row in rows]) if rows else []
    if any(not each for each in ids):
        raise ConfigError(f"prompt {ids.index([]) + 1} is empty, and {opened.name} has no token that begins a text")
    most = max(map(len, ids), default=0)
    if opened.max_length is not None and most + flags.max_tokens > opened.max_length:
        raise ConfigError(
            f"prompt {list(map(len, ids)).index(most) + 1} has {most} tokens and its completion up to "
            f"{flags.max_tokens}, and {opened.name} is meant for {opened.max_length} together; shorten it, or lower "
            "--max-tokens"
        )
    return ids


def _answer_typed(flags: Generate, opened: OpenedModel, speakers: Speakers) -> None:
    """Answers what is typed in, each prompt before the next: a single text token by token as it comes."""
    streamed = flags.n == 1 and flags.format == "text" and flags.behavior is None
    answer = _answerer(flags, opened, speakers)
    with contextlib.ExitStack() as closing:
        worker = None
        for number, text in enumerate(_typed()):
            prompt: Prompt = text if flags.system is None else with_system(text, flags.system)
            if not streamed:
                _SHOWN[flags.format](opened, Row(prompt, {}), answer([prompt], number)[0], 0)
                continue
            (ids,) = opened.prompt_ids([prompt])
            worker = worker or closing.enter_context(Worker(opened, slots=1, max_length=longest(opened, None)))
            for piece in pieces_of(worker, ids, wanted_of(flags, opened, flags.max_tokens, number)):
                print(visible(piece.text), end="", flush=True)
            print("\n", flush=True)


def wanted_of(flags: Any, opened: OpenedModel, max_tokens: int, example: int) -> Wanted:
    """Returns what a command's flags want of a prompt.

    Args:
        flags: Flags with temperature, top_k, top_p and seed.
        opened: The model.
        max_tokens: The longest completion.
        example: The number of the prompt.
    """
    return Wanted(
        max_tokens,
        temperature=flags.temperature,
        top_k=max(0, flags.top_k or 0),
        top_p=flags.top_p,
        seed=flags.seed,
        example=example,
        stop_ids=frozenset(opened.stops),
    )


def _typed() -> Iterator[str]:
    """Prompts from the terminal, until an empty line or the end of the input. Raises ConfigError if that is closed."""
    if sys.stdin is None:
        raise ConfigError("standard input is closed; name a file of prompts, --prompt-file FILE")
    if sys.stdin.isatty():
        print("Type a prompt; an empty line ends.", file=sys.stderr)
    while (prompt := _asked()).strip():
        yield prompt


def _asked() -> str:
    """A typed line, or "" at the end of the input."""
    with reading("standard input", "give it text in UTF-8"):
        try:
            return input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return ""


def _answerer(
    flags: Generate, opened: OpenedModel, speakers: Speakers
) -> Callable[[Sequence[Prompt], int], list[list[dict[str, Any]]]]:
    """(prompts, number of the first) -> the completions of each."""
    filters = Filters(flags.temperature, flags.top_k, None if flags.top_p == 1 else flags.top_p)
    how = {"behaviour": speakers.behaviour, "streams": speakers.streams, "filters": filters}
    sampling = Sampling(flags.n, flags.max_tokens, stop=opened.stops, **how)

    def answer(prompts: Sequence[Prompt], first: int) -> list[list[dict[str, Any]]]:
        batch = batch_of(opened.prompt_ids(prompts), first, opened.tokenizer)
        if speakers.without_system:
            plain = opened.prompt_ids([prompt[1:] for prompt in prompts])  # --system made messages of all of them
            batch = batch.replace(views={NO_SYSTEM: batch_of(plain, first, opened.tokenizer)})
        key = jax.random.key(flags.seed)
        completions = sampled(speakers.models, speakers.params, batch, key, sampling)
        return [_decoded(opened.tokenizer, completions, row) for row in range(len(prompts))]

    return answer


@functools.partial(jax.jit, static_argnames="models")
def sampled(
    models: tuple[tuple[str, Model], ...], params: Mapping[str, Params], batch: Batch, key: Key, sampling: Sampling
) -> Sampled:
    """Samples completions of a batch of prompts from models by their roles, in one program for all batches of its
    shape."""
    return sample(scoring.context(dict(models), dict(params)), batch, key, sampling)


def batch_of(rows: list[list[int]], first: int, tokenizer: Tokenizer) -> Batch:
    """Returns token ids of prompts with left padding. The numbers of the prompts decide their random numbers, so that
    an answer does not depend on what stands beside it."""
    rows = [*rows, *[rows[0][:1]] * (ROWS - len(rows))]
    length = BUCKET * math.ceil(max(map(len, rows)) / BUCKET)
    padded = (pad_left(row, length, tokenizer.pad) for row in rows)
    tokens, valid = (jnp.asarray(np.stack(part)) for part in zip(*padded, strict=True))
    return Batch(prompt=tokens, prompt_valid=valid, example_id=jnp.arange(first, first + ROWS, dtype=jnp.int32))


def _decoded(tokenizer: Tokenizer, sampled: Sampled, row: int) -> list[dict[str, Any]]:
    tokens, valid = np.asarray(sampled.tokens[row]), np.asarray(sampled.valid[row])
    logps = np.asarray(sampled.logps["policy"][row]).sum(-1)  # at temperature 1, untruncated, however it was sampled
    return [
        {"text": tokenizer.decode(ids[on]), "tokens": int(on.sum()), "logp": round(float(logp), 4)}
        for ids, on, logp in zip(tokens, valid, logps, strict=True)
    ]


def _show_json(opened: OpenedModel, row: Row, completions: list[dict[str, Any]], number: int) -> None:
    line = json.dumps({"prompt": row.prompt, "completions": completions}, ensure_ascii=False)
    print(visible_json(line), flush=True)


def _show_text(opened: OpenedModel, row: Row, completions: list[dict[str, Any]], number: int) -> None:
    print(visible(f"> {_last_words(row.prompt)}"))
    for place, completion in enumerate(completions, start=1):
        text = visible(completion["text"])
        print(text if len(completions) == 1 else f"[{place}] {text}")
    print(flush=True)


def _show_alpaca_eval(opened: OpenedModel, row: Row, completions: list[dict[str, Any]], number: int) -> None:
    """An element of the JSON array that alpaca_eval reads, with what else its row has."""
    element = {"instruction": _last_words(row.prompt), "output": completions[0]["text"], "generator": opened.name}
    line = json.dumps({**row.beside, **element}, ensure_ascii=False)
    print(("," if number else "") + visible_json(line), flush=True)


def _last_words(prompt: Prompt) -> str:
    content = prompt if isinstance(prompt, str) else prompt[-1].get("content")
    if isinstance(content, list):  # parts, of which those of text are read
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content or ""


_SHOWN = {"text": _show_text, "json": _show_json, "alpaca_eval": _show_alpaca_eval}
