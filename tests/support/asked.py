"""Rows, a tokenizer and a batch that stand in for prepared ones, and functions in plain Python to ask about them."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alignjax.types import Batch

Ask = Callable[..., np.ndarray]
WORDS = ["<pad>", "<end>", "<s>", "red", "blue", "say", "it", "now", "green"]
SPECIAL = 3  # the first words are no text


class Tokenizer:
    """Words, of which a text is made with spaces."""

    opening = 2

    def encode(self, text: str) -> list[int]:
        return [WORDS.index(word) for word in text.split()]

    def decode(self, ids: Any) -> str:
        return " ".join(WORDS[i] for i in ids if i >= SPECIAL)

    def decode_batch(self, rows: Any) -> list[str]:
        return [self.decode(row) for row in rows]


TOKENIZER = Tokenizer()
PROMPTS = ["say it", "say it now", "it now"]
COLORS = ["red", "blue", "green"]


def row(number: int, chat: bool = False) -> dict[str, Any]:
    """A row of a prepared data set, as `read_records` gives it."""
    tokens = TOKENIZER.encode(PROMPTS[number])
    tokens = [TOKENIZER.opening, *tokens] if chat else tokens
    meta: dict[str, Any] = {"line": number + 1, "columns": {"color": COLORS[number], "hints": [number, number]}}
    meta |= {"messages": [{"role": "user", "content": PROMPTS[number]}]} if chat else {}
    parts = [0] + [1] * (len(tokens) - 1) if chat else []
    return {
        "prompt": PROMPTS[number].encode(),
        "prompt_tokens": np.array(tokens, np.int32),
        "prompt_parts": np.array(parts, np.int32),
        "answer": np.float32(number) if number else np.float32(math.nan),
        "example_id": 7 + number,
        "meta": json.dumps(meta).encode(),
    }


ANSWERS = [["red red", "blue"], ["", "blue green now"], ["green it", "now"]]


def batch(**changes: Any) -> Batch:
    """Three prompts with two completions each, in another order than the rows."""
    order = [2, 0, 1]
    prompt = [[TOKENIZER.opening, *TOKENIZER.encode(PROMPTS[k])] for k in order]
    tokens = [[[*TOKENIZER.encode(text), 1] for text in ANSWERS[k]] for k in order]
    fields = {
        "prompt": np.array([[0] * (4 - len(ids)) + ids for ids in prompt], np.int32),
        "prompt_valid": np.array([[False] * (4 - len(ids)) + [True] * len(ids) for ids in prompt]),
        "tokens": np.array([[ids + [0] * (4 - len(ids)) for ids in each] for each in tokens], np.int32),
        "valid": np.array([[[True] * len(ids) + [False] * (4 - len(ids)) for ids in each] for each in tokens]),
        "example_id": np.array([7 + k for k in order], np.int32),
    }
    return Batch(**{**fields, **changes})


HITS = [[1, 0], [2, 0], [0, 1]]  # of the rows of `batch`


def hits(prompts: Any, completions: Any, color: Any, **rest: Any) -> list[float]:
    return [float(text.split().count(right)) for text, right in zip(completions, color, strict=True)]


async def hits_later(prompts: Any, completions: Any, color: Any, **rest: Any) -> list[float]:
    await asyncio.sleep(random.random() / 50)
    return hits(prompts, completions, color)


def hits_sometime(prompts: Any, completions: Any, color: Any) -> list[float]:
    time.sleep(random.random() / 50)
    return hits(prompts, completions, color)


def no_color(completions: Any) -> list[float | None]:
    return [None if "red" in text or not text else len(text) / 4 for text in completions]


def longer(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
    """A judge that likes the first place."""
    return [
        None if not first else min(1.0, 0.2 + len(first) / (len(first) + len(second))) for first, second in completions
    ]


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


class Returning:
    __name__ = "given"

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, completions: Any) -> Any:
        return self.value
