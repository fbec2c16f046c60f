"""Sources for training: functions (workspace, seed, *, ...) for the `source` slot of an Experiment.

All take: dataset and split; batch_size, the global batch B; prompt_length P and, where there are completions,
completion_length T, in tokens, BOS, EOS and the dataset's frame included. What happens to rows that do not fit is said,
never silent: long_prompts is "refuse", "skip", "truncate_left" (the end is kept) or "truncate_right" (the start is
kept), long_completions "refuse", "skip" or "truncate"; the numbers are logged and stand in `source.counts`.
shuffle=False gives the rows in their order. shard=(index, count) is this process's part of every batch.

buckets: shapes for batches of short rows, (prompt tokens, completion tokens) each (`prompts`: prompt tokens), growing;
the full shape is there without being named. Rows of similar length then share a batch, padded to the smallest shape
that holds them all: as many compiled programs as shapes, every row still once per epoch (`data/sources/source.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from alignjax.config import ConfigError
from alignjax.data.datasets.records import SCHEMAS, completions_of
from alignjax.data.prepared import Dataset
from alignjax.data.sources.batch_layout import batch_spec, completion_fields, pair_fields
from alignjax.data.sources.row_selection import UNEVEN, Plan, Row, one_of
from alignjax.data.sources.source import Buckets, Source
from alignjax.data.text.corruptions import corrupted, two_kinds
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.workspace import Workspace


def prompts(
    workspace: Workspace | None,
    seed: int,
    *,
    dataset: Dataset,
    split: str = "train",
    batch_size: int,
    prompt_length: int,
    long_prompts: str = "refuse",
    answers: bool = False,
    shuffle: bool = True,
    buckets: tuple[int, ...] = (),
    shard: tuple[int, int] = (0, 1),
) -> Source:
    """Prompts only: what an online algorithm starts from. answers=True adds prompts["answer"] [B], the number a
    verifier compares with (datasets that have one)."""
    if answers and not dataset.answers:
        raise ConfigError(f"{dataset.name} has no answers to verify; leave out answers=True")
    shapes = tuple((length, 0) for length in buckets)
    plan = Plan(workspace, seed, dataset, split, prompt_length, 0, long_prompts, "skip", shuffle, shapes)

    def fields(row: Row, tokenizer: Tokenizer, rng: np.random.Generator, other: Callable[[], Row]) -> dict[str, Any]:
        return {"prompts": {"answer": np.float32(row["answer"])}} if answers else {}

    extra = ("answer",) if answers else ()
    return plan.source(batch_spec(batch_size, prompt_length, extra=extra), fields, shard)


def instructions(
    workspace: Workspace | None,
    seed: int,
    *,
    dataset: Dataset,
    split: str = "train",
    batch_size: int,
    prompt_length: int,
    completion_length: int,
    long_prompts: str = "refuse",
    long_completions: str = "refuse",
    shuffle: bool = True,
    buckets: Buckets = (),
    shard: tuple[int, int] = (0, 1),
) -> Source:
    """Instruction and response, N = 1: what supervised fine-tuning learns. Of preference pairs and rankings it takes
    the best completion; of thumbs, each."""
    need(dataset, "instructions", "preferences", "rankings", "thumbs")
    chosen = (long_prompts, long_completions, shuffle, buckets)
    plan = Plan(workspace, seed, dataset, split, prompt_length, completion_length, *chosen)

    def fields(row: Row, tokenizer: Tokenizer, rng: np.random.Generator, other: Callable[[], Row]) -> dict[str, Any]:
        return completion_fields([completions_of(row)[_best(row)]], completion_length, tokenizer, 1)

    return plan.source(batch_spec(batch_size, prompt_length, 1, completion_length), fields, shard)


def preferences(
    workspace: Workspace | None,
    seed: int,
    *,
    dataset: Dataset,
    split: str = "train",
    batch_size: int,
    prompt_length: int,
    completion_length: int,
    long_prompts: str = "refuse",
    long_completions: str = "refuse",
    shuffle: bool = True,
    buckets: Buckets = (),
    shard: tuple[int, int] = (0, 1),
) -> Source:
    """Pairs, N = 2, with preference[b, 0, 1] = P(completion 0 is better), soft labels kept; pair_weight marks
    (0, 1)."""
    need(dataset, "preferences")
    chosen = (long_prompts, long_completions, shuffle, buckets)
    plan = Plan(workspace, seed, dataset, split, prompt_length, completion_length, *chosen)

    def fields(row: Row, tokenizer: Tokenizer, rng: np.random.Generator, other: Callable[[], Row]) -> dict[str, Any]:
        label, marked = np.zeros((2, 2)), np.zeros((2, 2))
        label[0, 1], marked[0, 1] = row["preference"], row["weight"]
        texts = completions_of(row)
        return completion_fields(texts, completion_length, tokenizer, 2) | pair_fields(label, marked)

    spec = batch_spec(batch_size, prompt_length, 2, completion_length, ("pairs",))
    return plan.source(spec, fields, shard)


def rankings(
    workspace: Workspace | None,
    seed: int,
    *,
    dataset: Dataset,
    split: str = "train",
    batch_size: int,
    prompt_length: int,
    completion_length: int,
    completions: int,
    long_prompts: str = "refuse",
    long_completions: str = "refuse",
    uneven: str = "refuse",
    shuffle: bool = True,
    buckets: Buckets = (),
    shard: tuple[int, int] = (0, 1),
) -> Source:
    """Scored lists of N = `completions`: reward [B,N] holds the scores, preference says who has the higher one and
    pair_weight marks i < j with different scores. uneven: "refuse" or "skip" rows with another number of
    completions."""
    need(dataset, "rankings")
    one_of("uneven", uneven, UNEVEN)
    chosen = (long_prompts, long_completions, shuffle, buckets)
    plan = Plan(workspace, seed, dataset, split, prompt_length, completion_length, *chosen)

    def fields(row: Row, tokenizer: Tokenizer, rng: np.random.Generator, other: Callable[[], Row]) -> dict[str, Any]:
        scores = np.asarray(row["scores"], np.float32)
        gap = scores[:, None] - scores[None, :]
        pairs = pair_fields((np.sign(gap) + 1) / 2, np.triu(gap != 0, 1))
        texts = completion_fields(completions_of(row), completion_length, tokenizer, completions)
        return texts | pairs | {"reward": scores}

    spec = batch_spec(batch_size, prompt_length, completions, completion_length, ("pairs", "reward"))
    return plan.source(spec, fields, shard, count=completions, uneven=uneven)


def thumbs(
    workspace: Workspace | None,
    seed: int,
    *,
    dataset: Dataset,
    split: str = "train",
    batch_size: int,
    prompt_length: int,
    completion_length: int,
    long_prompts: str = "refuse",
    long_completions: str = "refuse",
    shuffle: bool = True,
    buckets: Buckets = (),
    shard: tuple[int, int] = (0, 1),
) -> Source:
    """Unpaired judgements, N = 1: reward [B,1] is the score of the completion (1 thumb up, 0 thumb down)."""
    need(dataset, "thumbs")
    chosen = (long_prompts, long_completions, shuffle, buckets)
    plan = Plan(workspace, seed, dataset, split, prompt_length, completion_length, *chosen)

    def fields(row: Row, tokenizer: Tokenizer, rng: np.random.Generator, other: Callable[[], Row]) -> dict[str, Any]:
        texts = completion_fields(completions_of(row), completion_length, tokenizer, 1)
        return texts | {"reward": np.asarray(row["scores"], np.float32)}

    spec = batch_spec(batch_size, prompt_length, 1, completion_length, ("reward",))
    return plan.source(spec, fields, shard)


def candidates(
    workspace: Workspace | None,
    seed: int,
    *,
    dataset: Dataset,
    split: str = "train",
    batch_size: int,
    prompt_length: int,
    completion_length: int,
    long_prompts: str = "refuse",
    long_completions: str = "refuse",
    shuffle: bool = True,
    shard: tuple[int, int] = (0, 1),
) -> Source:
    """For a preference model that has only human texts to learn from. N = 4: the row's own completion, another row's,
    and two spoilt in different ways (cut, shuffled, words dropped or repeated). The first beats the others:
    preference[b, 0, j] = 1; the others are not compared, and pair_weight marks the pairs (0, j) alone.

    Which row and which ways is decided by (seed, position in the stream), anew in every epoch. A spoilt text that is
    too long is cut to fit and ends with EOS.
    """
    need(dataset, "instructions")
    plan = Plan(
        workspace, seed, dataset, split, prompt_length, completion_length, long_prompts, long_completions, shuffle
    )
    label, marked = np.full((4, 4), 0.5), np.zeros((4, 4))
    label[0, 1:], marked[0, 1:] = 1, 1

    def fields(row: Row, tokenizer: Tokenizer, rng: np.random.Generator, other: Callable[[], Row]) -> dict[str, Any]:
        text = row["completions"][0].decode()
        spoilt = [corrupted(text, kind, rng) for kind in two_kinds(rng)]
        spoilt_ids = [tokenizer.encode(one)[: completion_length - 1] for one in spoilt]
        texts = [completions_of(row)[0], completions_of(other())[0], *spoilt_ids]
        return completion_fields(texts, completion_length, tokenizer, 4) | pair_fields(label, marked)

    spec = batch_spec(batch_size, prompt_length, 4, completion_length, ("pairs",))
    return Source(spec, lambda: plan.opened(fields), shard)


def _best(row: Row) -> int:
    if len(row["scores"]) > 1:
        return int(np.argmax(row["scores"]))
    return 1 if len(row["completions"]) == 2 and row["preference"] < 0.5 else 0


def need(dataset: Dataset, *schemas: str) -> None:
    """Raises ConfigError unless the dataset holds rows of one of these schemas."""
    if dataset.schema not in schemas:
        wanted = " or ".join(f"{name} ({SCHEMAS[name]})" for name in schemas)
        raise ConfigError(f"{dataset.name} holds {dataset.schema} ({SCHEMAS[dataset.schema]}); needed: {wanted}")
