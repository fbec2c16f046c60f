"""A source of preferences between two (instruction, response) pairs whose instructions may differ."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from alignjax.config import ConfigError
from alignjax.data.datasets.records import completions_of
from alignjax.data.sources.batch_layout import batch_spec, pad_right, two_completions
from alignjax.data.sources.row_selection import Row, Rule, TextRows, Texts, length_rules, one_of, text_source
from alignjax.data.sources.source import Source


@text_source(buckets=())
def joint_preferences(texts: Texts, *, instructions: str = "joint") -> Source:
    """Gives pairs whose sides have instructions of their own, N = 2: with any pairwise loss, joint preference
    optimization (DOVE, arXiv:2404.00530).

    The instruction stands in front of each completion, and the prompt is BOS alone: batches have P = 1 and T =
    prompt_length - 1 + completion_length. Where the instructions match, margins are those of the same pairs from
    `preferences` either way, and DPO is DPO. Takes JointPreferences, and datasets of preferences. To know which rows
    fit it reads them all once.

    Args:
        texts: The settings that all sources share.
        instructions: "joint": their tokens count (mask 1), so losses compare log-probs of instruction and response
            together; "conditional": they do not (mask 0), and losses compare responses given their instructions.

    Raises:
        ConfigError: The dataset holds no pairs, or completion_length leaves no room for a response.
    """
    texts.need("joint_preferences", "preferences")
    one_of("instructions", instructions, ("joint", "conditional"))
    if texts.completion_length < 2:
        raise ConfigError(f"completion_length={texts.completion_length} leaves no room for a response; raise it")
    length = texts.prompt_length - 1 + texts.completion_length
    layout = functools.partial(_joint_pair, length=length, joint=instructions == "joint")
    return texts.source(batch_spec(texts.batch_size, 1, 2, length, ("pairs",)), layout, _rules)


def _sides(row: Row) -> list[tuple[np.ndarray, np.ndarray]]:
    """(instruction, response) tokens of both sides of a row of JointPreferences, or of a pair that shares a prompt."""
    first, second, *other = completions_of(row)
    prompt = np.asarray(row["prompt_tokens"], np.int32)
    return [(prompt, first), (other[0] if other else prompt, second)]


def _rules(rows: TextRows) -> list[Rule]:
    """The rules of the longer instruction and the longer response of every row."""
    longest = [np.max([[len(a), len(b)] for a, b in _sides(row)], axis=0) for row in rows.rows]
    return length_rules(dataclasses.replace(rows, lengths=np.array(longest)))


def _joint_pair(row: Row, rows: TextRows, rng: np.random.Generator, *, length: int, joint: bool) -> dict[str, Any]:
    """tokens, valid, mask [2, length] of both sides. Of an instruction only its own tokens are cut, never the frame."""
    tokenizer, most, sides = rows.tokenizer, rows.texts.completion_length, []
    for instruction, response in _sides(row):
        before = [*rows.prefix, *rows.cut(instruction), *rows.suffix]
        after = [*response, tokenizer.eos][:most]  # a response that was cut has not ended, and has no EOS
        tokens, valid = pad_right([*before, *after], length, tokenizer.pad)
        counts = valid & (joint | (np.arange(length) >= len(before)))
        sides.append({"tokens": tokens, "valid": valid, "mask": counts.astype(np.float32)})
    fields = {name: np.stack([side[name] for side in sides]) for name in sides[0]}
    prompt = {"prompt": np.array([tokenizer.bos], np.int32), "prompt_valid": np.array([True])}
    return fields | prompt | two_completions(row["preference"], row["weight"])
