"""`alignjax generate`: a trained role answers prompts."""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import scoring
from alignjax.cli.flags import Generate
from alignjax.cli.open_model import open_model
from alignjax.config import ConfigError
from alignjax.data import Tokenizer
from alignjax.data.datasets.parsing import is_text
from alignjax.data.sources.batch_layout import pad_left
from alignjax.outside import Unreadable, decoded, parse_json, read_text, reading, visible, visible_json
from alignjax.sampling import Filters, Sampled, Sampling, generate as sample
from alignjax.serving import OpenedModel
from alignjax.types import Batch, Key, Model, Params

Prompt = str | list[dict[str, Any]]  # text, or messages

ROWS = 8  # prompts at once: few, so that a short file does not wait, and always so many, so that one program serves
BUCKET = 32  # prompts are padded to a multiple of it, for the same reason


def generate(flags: Generate) -> int:
    """Samples completions for the prompts of a file, or for what is typed in, and returns the exit status.

    Args:
        flags: The flags of `alignjax generate`.

    Raises:
        ConfigError: For a folder that is no run, a role that cannot be sampled and numbers that cannot be meant.
        CheckpointError: If there is nothing trained yet.
    """
    # Few prompts at a time, always as many: an answer comes soon, and one compiled program serves all files.
    for name, good in (
        ("temperature", 0 <= flags.temperature < math.inf),
        ("top_k", flags.top_k >= 0),
        ("top_p", 0 < flags.top_p <= 1),
        ("max_tokens", flags.max_tokens >= 1),
        ("n", flags.n >= 1),
    ):
        if not good:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(flags, name)}; see alignjax generate --help")
    filters = Filters(flags.temperature, flags.top_k or None, None if flags.top_p == 1 else flags.top_p)
    file = flags.prompt_file
    prompts = [] if file is None else list(_prompts(file))
    opened = open_model(flags.run_dir, flags.role)
    print(f"{opened.line}\n", file=sys.stderr)
    answer = _answerer(flags, opened, Sampling(flags.n, flags.max_tokens, filters=filters, stop=opened.stops))
    in_file = (prompts[start : start + ROWS] for start in range(0, len(prompts), ROWS))
    number = 0
    for some in in_file if file is not None else ([prompt] for prompt in _typed()):
        for prompt, completions in zip(some, answer(some, number), strict=True):
            _show(prompt, completions, flags.format, echo=file is not None)
        number += len(some)
    return 0


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


def _prompts(file: Path) -> Iterator[Prompt]:
    """Prompts of a text file, one a line, or of a JSONL file, which may be messages. Raises ReadError naming the line
    that is not one."""
    if str(file) == "-":
        with reading("standard input", "give it text in UTF-8"):
            text = decoded(sys.stdin.buffer.read()) if hasattr(sys.stdin, "buffer") else sys.stdin.read()
    else:
        if not file.exists():
            raise ConfigError(f"no such prompt file: {file}")
        text = read_text(file, "save it as UTF-8, one prompt a line")
    in_json = ".jsonl" in file.suffixes
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        prompt: Any = line
        if in_json:
            with reading(f"{file}:{number}", 'write a JSON object with a "prompt", text or a list of messages'):
                row = parse_json(line)
                prompt = row.get("prompt") if isinstance(row, dict) else None
                if not isinstance(prompt, list) and not is_text(prompt):
                    raise Unreadable('not a JSON object with a text "prompt", or one of messages')
        yield prompt


def _answerer(
    flags: Generate, opened: OpenedModel, sampling: Sampling
) -> Callable[[Sequence[Prompt], int], list[list[dict[str, Any]]]]:
    """(prompts, number of the first) -> the completions of each."""

    def answer(prompts: Sequence[Prompt], first: int) -> list[list[dict[str, Any]]]:
        batch = _batch(opened.prompt_ids(prompts), first, opened.tokenizer)
        completions = _sampled(opened.model, opened.params, batch, jax.random.key(flags.seed), sampling)
        return [_decoded(opened.tokenizer, completions, row) for row in range(len(prompts))]

    return answer


@functools.partial(jax.jit, static_argnames="model")
def _sampled(model: Model, params: Params, batch: Batch, key: Key, sampling: Sampling) -> Sampled:
    return sample(scoring.context({"policy": model}, {"policy": params}), batch, key, sampling)


def _batch(rows: list[list[int]], first: int, tokenizer: Tokenizer) -> Batch:
    """Token ids of prompts with left padding. The numbers of the prompts decide their random numbers, so that an answer
    does not depend on what stands beside it."""
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


def _show(prompt: Prompt, completions: list[dict[str, Any]], form: str, *, echo: bool) -> None:
    if form == "json":
        row = json.dumps({"prompt": prompt, "completions": completions}, ensure_ascii=False)
        print(visible_json(row), flush=True)
        return
    if echo:
        print(visible(f"> {prompt if isinstance(prompt, str) else prompt[-1]['content']}"))
    for number, completion in enumerate(completions, start=1):
        text = visible(completion["text"])
        print(text if len(completions) == 1 else f"[{number}] {text}")
    print(flush=True)
