"""Sources that say where a completion is at fault: pairs of a text and its revision with the edits marked, and
responses with a judgment in words."""

from __future__ import annotations

import functools
import json
from typing import Any, Literal

import jax
import numpy as np

from alignjax.data.datasets.chat_files import Judgements
from alignjax.data.datasets.framing import FRAME
from alignjax.data.datasets.records import completions_of, prompt_of
from alignjax.data.sources.batch_layout import batch_spec, pad_left, two_completions
from alignjax.data.sources.row_selection import Row, Rule, TextRows, Texts, length_rules, text_source
from alignjax.data.sources.source import Source
from alignjax.data.text.corruptions import corrupted, two_kinds
from alignjax.data.text.edits import edit_masks, line_edit_masks
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.ranges import Count
from alignjax.types import Batch


@text_source(buckets=())
def revisions(texts: Texts, *, level: Literal["token", "line"] = "token") -> Source:
    """Gives pairs of a text and its revision, N = 2: completion 0 is the better, completion 1 the one it was made from
    (or corrupted from it), preference[b, 0, 1] = 1, and completions["edited"] [B,2,T] marks what the edit changed on
    either side.

    Of preferences the chosen text is taken for the revision; where neither is better, pair_weight is 0. Of instructions
    the row's own completion is, and the other is it, corrupted in a way that (seed, position in the stream) decides.

    Args:
        texts: The settings that all sources share.
        level: What edits are marked by: "token", or "line" for whole lines (code).
    """
    texts.need("preferences", "instructions")
    edited = jax.ShapeDtypeStruct((texts.batch_size, 2, texts.completion_length), np.float32)
    spec = texts.spec(2, "pairs").replace(completions={"edited": edited})
    return texts.source(spec, functools.partial(_revision, by_line=level == "line"))


@text_source(buckets=())
def judgements(
    texts: Texts, *, judgement_length: Count, long_judgements: Literal["refuse", "truncate"] = "refuse"
) -> Source:
    """Gives responses, N = 1, and what is wrong with them.

    prompts["judged"] [B] is 1 where a judgment finds fault, and views["judged"] holds the same responses under the
    prompt with its judgment (the plain prompt where there is none), [B, prompt_length + judgement_length].

    Args:
        texts: The settings that all sources share.
        judgement_length: Tokens of a judgment, the dataset's judgement_prefix included.
        long_judgements: Says what happens to longer ones: "refuse" or "truncate" (the start is kept).
    """
    texts.need("judgements")

    def rules(rows: TextRows) -> list[Rule]:
        words = rows.tokenizer.encode_batch([_judgement(row, rows) for row in rows.rows])
        long = np.array([len(ids) > judgement_length for ids in words])
        what = f"judgments of more than {judgement_length} tokens"
        return [*length_rules(rows), Rule("long_judgements", long_judgements, long, what, ("truncate",))]

    size, length = texts.batch_size, texts.prompt_length + judgement_length
    view = batch_spec(size, length, 1, texts.completion_length)
    judged = jax.ShapeDtypeStruct((size,), np.float32)
    spec = texts.spec(1).replace(prompts={"judged": judged}, views={"judged": view})
    return texts.source(spec, functools.partial(_judged, most=judgement_length), rules)


def _revision(row: Row, rows: TextRows, rng: np.random.Generator, *, by_line: bool) -> dict[str, Any]:
    if rows.texts.dataset.schema == "preferences":
        texts, weight = completions_of(row), row["weight"] * (row["preference"] != 0.5)
        texts = texts[::-1] if row["preference"] < 0.5 else texts
    else:
        original = corrupted(row["completions"][0].decode(), two_kinds(rng)[0], rng)
        texts, weight = [completions_of(row)[0], rows.rewritten(row, original)], 1
    fields = rows.completions(texts)
    revised, original = (ids[valid] for ids, valid in zip(fields["tokens"], fields["valid"], strict=True))
    if by_line:
        marks = line_edit_masks(original, revised, _newline_tokens(rows.tokenizer))
    else:
        marks = edit_masks(original, revised)
    edited = np.zeros(fields["tokens"].shape, np.float32)
    edited[0, : len(revised)], edited[1, : len(original)] = marks[1], marks[0]
    return fields | two_completions(1, weight) | {"completions": {"edited": edited}}


@functools.lru_cache(maxsize=8)
def _newline_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    texts = tokenizer.decode_batch([number] for number in range(tokenizer.vocab_size))
    return frozenset(number for number, text in enumerate(texts) if "\n" in text)


def _judged(row: Row, rows: TextRows, rng: np.random.Generator, *, most: int) -> dict[str, Any]:
    # The judgment stands between the prompt and the frame's suffix, so that the response follows the same tokens.
    prompt = prompt_of(row)
    judgement, ids = _judgement(row, rows), rows.prompt_ids(prompt)
    words = rows.tokenizer.encode(judgement)[:most] if judgement else []
    # behind what was said, before what opens the answer: the suffix, or what a template writes after the last content
    behind = np.flatnonzero(np.asarray(prompt.parts) != FRAME)
    before = len(ids) - (len(prompt.ids) - 1 - int(behind[-1]) if len(behind) else len(rows.suffix))
    ids = [*ids[:before], *words, *ids[before:]]
    prompt, prompt_valid = pad_left(ids, rows.texts.prompt_length + most, rows.tokenizer.pad)
    fields, example = rows.completions(row), np.asarray(row["example_id"], np.int32)
    view = Batch(prompt=prompt, prompt_valid=prompt_valid, example_id=example, **fields)  # type: ignore[arg-type]
    return fields | {"prompts": {"judged": np.float32(bool(judgement))}, "views": {"judged": view}}


def _judgement(row: Row, rows: TextRows) -> str:
    """What is wrong with the response of a row, behind the dataset's prefix; "" where nothing is."""
    assert isinstance(rows.texts.dataset, Judgements)
    words = json.loads(row["meta"])["judgement"]
    return rows.texts.dataset.judgement_prefix + words if words else ""
