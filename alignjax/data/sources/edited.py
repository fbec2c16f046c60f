"""Sources that say where a completion is at fault: pairs of a text and its revision with the edits marked, and
responses with a judgement in words. Their settings are those of `sources.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from alignjax.config import ConfigError
from alignjax.data.datasets.from_files import Judgements
from alignjax.data.datasets.records import completions_of
from alignjax.data.prepared import Dataset, rows_of, tokenizer_of
from alignjax.data.sources.batch_layout import batch_spec, completion_fields, pad_left, pair_fields, prompt_ids
from alignjax.data.sources.row_selection import Plan, Row, one_of
from alignjax.data.sources.source import Opened, Source
from alignjax.data.sources.text_sources import need
from alignjax.data.text.corruptions import corrupted, two_kinds
from alignjax.data.text.edits import edit_masks, line_edit_masks
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.types import Batch
from alignjax.workspace import Workspace

LEVELS = ("token", "line")
LONG_JUDGEMENTS = ("refuse", "truncate")


@lru_cache(maxsize=8)
def newline_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of the tokens that hold a line break."""
    texts = tokenizer.decode_batch([number] for number in range(tokenizer.vocab_size))
    return frozenset(number for number, text in enumerate(texts) if "\n" in text)


def revisions(
    workspace: Workspace | None,
    seed: int,
    *,
    dataset: Dataset,
    split: str = "train",
    batch_size: int,
    prompt_length: int,
    completion_length: int,
    level: str = "token",
    long_prompts: str = "refuse",
    long_completions: str = "refuse",
    shuffle: bool = True,
    shard: tuple[int, int] = (0, 1),
) -> Source:
    """Pairs of a text and its revision, N = 2: completion 0 is the better, completion 1 the one it was made from (or
    spoilt from it), preference[b, 0, 1] = 1, and completions["edited"] [B,2,T] marks what the edit changed on either
    side, level="token" by token or level="line" by whole lines (code).

    Of preferences the chosen text is taken for the revision; where neither is better, pair_weight is 0. Of instructions
    the row's own completion is, and the other is it, spoilt in a way that (seed, position in the stream) decides.
    """
    need(dataset, "preferences", "instructions")
    one_of("level", level, LEVELS)
    plan = Plan(
        workspace, seed, dataset, split, prompt_length, completion_length, long_prompts, long_completions, shuffle
    )

    def fields(row: Row, tokenizer: Tokenizer, rng: np.random.Generator, other: Callable[[], Row]) -> dict[str, Any]:
        if dataset.schema == "preferences":
            texts, weight = completions_of(row), row["weight"] * (row["preference"] != 0.5)
            texts = texts[::-1] if row["preference"] < 0.5 else texts
        else:
            spoilt = corrupted(row["completions"][0].decode(), two_kinds(rng)[0], rng)
            texts, weight = [completions_of(row)[0], tokenizer.encode(spoilt)[: completion_length - 1]], 1
        found = completion_fields(texts, completion_length, tokenizer, 2)
        ids = [found["tokens"][side][found["valid"][side]] for side in (0, 1)]
        if level == "line":
            original, revised = line_edit_masks(ids[1], ids[0], newline_tokens(tokenizer))
        else:
            original, revised = edit_masks(ids[1], ids[0])
        edited = np.zeros(found["tokens"].shape, np.float32)
        edited[0, : len(revised)], edited[1, : len(original)] = revised, original
        label, marked = np.zeros((2, 2)), np.zeros((2, 2))
        label[0, 1], marked[0, 1] = 1, weight
        return found | pair_fields(label, marked) | {"completions": {"edited": edited}}

    spec = batch_spec(batch_size, prompt_length, 2, completion_length, ("pairs",))
    edited = jax.ShapeDtypeStruct((batch_size, 2, completion_length), np.float32)
    return Source(spec.replace(completions={"edited": edited}), lambda: plan.opened(fields), shard)


def judgements(
    workspace: Workspace | None,
    seed: int,
    *,
    dataset: Dataset,
    split: str = "train",
    batch_size: int,
    prompt_length: int,
    completion_length: int,
    judgement_length: int,
    long_prompts: str = "refuse",
    long_completions: str = "refuse",
    long_judgements: str = "refuse",
    shuffle: bool = True,
    shard: tuple[int, int] = (0, 1),
) -> Source:
    """Responses, N = 1, and what is wrong with them: prompts["judged"] [B] is 1 where a judgement finds fault, and
    views["judged"] holds the same responses under the prompt with its judgement (the plain prompt where there is none),
    [B, prompt_length + judgement_length].

    judgement_length: tokens of a judgement, the dataset's judgement_prefix included; long_judgements: "refuse" or
    "truncate" (the start is kept) those that are longer.
    """
    need(dataset, "judgements")
    assert isinstance(dataset, Judgements)
    one_of("long_judgements", long_judgements, LONG_JUDGEMENTS)
    plan = Plan(
        workspace, seed, dataset, split, prompt_length, completion_length, long_prompts, long_completions, shuffle
    )
    keep = "end" if long_prompts == "truncate_left" else "start"
    length = prompt_length + judgement_length

    def fields(row: Row, tokenizer: Tokenizer, rng: np.random.Generator, other: Callable[[], Row]) -> dict[str, Any]:
        said = _judgement(row)
        words = tokenizer.encode(dataset.judgement_prefix + said)[:judgement_length] if said else []
        prefix, suffix = (tokenizer.encode(text) for text in (dataset.prefix, dataset.suffix))
        ids = prompt_ids(row["prompt_tokens"], prefix, suffix, tokenizer.bos, prompt_length, keep)
        before = len(ids) - len(suffix)
        prompt, prompt_valid = pad_left([*ids[:before], *words, *ids[before:]], length, tokenizer.pad)
        found = completion_fields([completions_of(row)[0]], completion_length, tokenizer, 1)
        example = np.asarray(row["example_id"], np.int32)
        view = Batch(prompt=prompt, prompt_valid=prompt_valid, example_id=example, **found)  # type: ignore[arg-type]
        return found | {"prompts": {"judged": np.float32(bool(said))}, "views": {"judged": view}}

    def opened() -> Opened:
        cut = _long_judgements(plan, dataset, judgement_length, long_judgements)
        found = plan.opened(fields)
        return Opened(found.rows, found.size, {**found.counts, **cut}, found.streams)

    told = jax.ShapeDtypeStruct((batch_size,), np.float32)
    view = batch_spec(batch_size, length, 1, completion_length)
    spec = batch_spec(batch_size, prompt_length, 1, completion_length).replace(prompts={"judged": told})
    return Source(spec.replace(views={"judged": view}), opened, shard)


def _judgement(row: Row) -> str:
    return json.loads(row["meta"])["judgement"]


def _long_judgements(plan: Plan, dataset: Judgements, most: int, policy: str) -> dict[str, int]:
    """{"cut_long_judgements": how many} of all rows of the split. ConfigError if they are to be refused."""
    rows, _ = rows_of(dataset, plan.split, plan.workspace)
    tokenizer = tokenizer_of(dataset, plan.workspace)
    said = [_judgement(rows[number]) for number in range(len(rows))]
    tokens = tokenizer.encode_batch([dataset.judgement_prefix + text if text else "" for text in said])
    long = [number for number, ids in enumerate(tokens) if len(ids) > most]
    if long and policy == "refuse":
        lines = ", ".join(str(json.loads(rows[number]["meta"])["line"]) for number in long[:3])
        raise ConfigError(
            f"{dataset.name}/{plan.split} has {len(long):,} judgements of more than {most} tokens (of {len(rows):,}; "
            f"lines {lines}{', ...' if len(long) > 3 else ''}); set long_judgements='truncate', or raise "
            "judgement_length"
        )
    return {"cut_long_judgements": len(long)} if policy == "truncate" else {}
