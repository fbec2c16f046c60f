"""Sources, one for each kind of row: prompts, instructions, pairs, rankings and single judged completions.

They are functions (workspace, seed, *, ...) for the `source` slot of an Experiment. The settings that they share are
the fields of `Texts` (`data/sources/row_selection.py`). What happens to rows that do not fit is said, never silent: the
numbers are logged and stand in `source.counts`.

With buckets, rows of similar length share a batch, padded to the smallest shape that holds them all: as many compiled
programs as shapes, every row still once per epoch (`data/sources/source.py`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from alignjax.config import ConfigError
from alignjax.data.datasets.records import completions_of
from alignjax.data.sources.batch_layout import pair_fields, two_completions
from alignjax.data.sources.row_selection import POLICIES, Row, Rule, TextRows, Texts, length_rules, one_of, text_source
from alignjax.data.sources.source import Source
from alignjax.data.text.corruptions import corrupted, two_kinds


@text_source(completion_length=0, long_completions="skip")
def prompts(texts: Texts, *, answers: bool = False, buckets: tuple[int, ...] = ()) -> Source:
    """Gives prompts only: what an online algorithm starts from.

    Args:
        texts: The settings that all sources share.
        answers: Adds prompts["answer"] [B], the number that a verifier compares with (of datasets that have one).
        buckets: Lengths in tokens for batches of short prompts, growing.

    Raises:
        ConfigError: The dataset has no answers.
    """
    if answers and not texts.dataset.answers:
        raise ConfigError(f"{texts.dataset.name} has no answers to verify; leave out answers=True")

    def layout(row: Row, rows: TextRows, rng: np.random.Generator) -> dict[str, Any]:
        return {"prompts": {"answer": np.float32(row["answer"])}} if answers else {}

    texts = dataclasses.replace(texts, buckets=tuple((length, 0) for length in buckets))
    return texts.source(texts.spec(0, *(("answer",) if answers else ())), layout)


@text_source()
def instructions(texts: Texts) -> Source:
    """Gives instruction and response, N = 1: what supervised fine-tuning learns.

    Of preference pairs and rankings it takes the best completion; of binary feedback, each.
    """
    texts.need("instructions", "preferences", "rankings", "thumbs")
    return texts.source(texts.spec(1), _best)


@text_source()
def preferences(texts: Texts) -> Source:
    """Gives pairs, N = 2: preference[b, 0, 1] = P(completion 0 is better), soft labels as they are.

    pair_weight marks (0, 1) with the weight of the row.
    """
    texts.need("preferences")
    return texts.source(texts.spec(2, "pairs"), _pair)


@text_source()
def rankings(texts: Texts, *, completions: int, uneven: str = "refuse") -> Source:
    """Gives scored lists: reward [B,N] holds the scores, preference says who has the higher one, and pair_weight marks
    i < j with different scores.

    Args:
        texts: The settings that all sources share.
        completions: N, the number of completions of every row.
        uneven: Says what happens to rows with another number of completions: "refuse" or "skip".
    """
    texts.need("rankings")
    one_of("uneven", uneven, POLICIES["uneven"])

    def rules(rows: TextRows) -> list[Rule]:
        which = rows.lengths[:, 2] != completions
        return [*length_rules(rows), Rule("uneven", uneven, which, f"rows without exactly {completions} completions")]

    return texts.source(texts.spec(completions, "pairs", "reward"), _ranking, rules)


@text_source()
def thumbs(texts: Texts) -> Source:
    """Gives single completions with binary feedback, N = 1: reward [B,1] is the score of the completion (1 good,
    0 bad)."""
    texts.need("thumbs")
    return texts.source(texts.spec(1, "reward"), _scored)


@text_source(buckets=())
def candidates(texts: Texts) -> Source:
    """Gives candidates for a preference model that has only human texts to learn from, N = 4: the row's own
    completion, another row's, and two corrupted in different ways (cut, shuffled, words dropped or repeated).

    The first beats the others: preference[b, 0, j] = 1; the others are not compared, and pair_weight marks the pairs
    (0, j) alone. Which row and which corruptions is decided by (seed, position in the stream), anew in every epoch. A
    corrupted text that is too long is cut to fit and ends with EOS.
    """
    texts.need("instructions")
    return texts.source(texts.spec(4, "pairs"), _candidates)


def _best(row: Row, rows: TextRows, rng: np.random.Generator) -> dict[str, Any]:
    best = 1 if len(row["completions"]) == 2 and row["preference"] < 0.5 else 0
    if len(row["scores"]) > 1:
        best = int(np.argmax(row["scores"]))
    return rows.completions([completions_of(row)[best]])


def _pair(row: Row, rows: TextRows, rng: np.random.Generator) -> dict[str, Any]:
    return rows.completions(row) | two_completions(row["preference"], row["weight"])


def _ranking(row: Row, rows: TextRows, rng: np.random.Generator) -> dict[str, Any]:
    scores = np.asarray(row["scores"], np.float32)
    gap = scores[:, None] - scores[None, :]
    return rows.completions(row) | pair_fields((np.sign(gap) + 1) / 2, np.triu(gap != 0, 1)) | {"reward": scores}


def _scored(row: Row, rows: TextRows, rng: np.random.Generator) -> dict[str, Any]:
    return rows.completions(row) | {"reward": np.asarray(row["scores"], np.float32)}


def _candidates(row: Row, rows: TextRows, rng: np.random.Generator) -> dict[str, Any]:
    text, most = row["completions"][0].decode(), rows.texts.completion_length - 1
    negatives = [rows.tokenizer.encode(corrupted(text, kind, rng))[:most] for kind in two_kinds(rng)]
    other = completions_of(rows.another(row, rng))[0]
    label, marked = np.full((4, 4), 0.5), np.zeros((4, 4))
    label[0, 1:], marked[0, 1:] = 1, 1
    return rows.completions([completions_of(row)[0], other, *negatives]) | pair_fields(label, marked)
