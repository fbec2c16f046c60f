"""Sources, one for each kind of row: prompts, instructions, pairs, rankings and single judged completions.

They are functions (workspace, seed, *, ...) for the `source` slot of an Experiment. The settings that they share are
the fields of `Texts` (`data/sources/row_selection.py`). What happens to rows that do not fit is said, never silent: the
numbers are logged and stand in `source.counts`.

With buckets, rows of similar length share a batch, padded to the smallest shape that holds them all: as many compiled
programs as shapes, every row still once per epoch (`data/sources/source.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

import numpy as np

from alignjax.config import ConfigError
from alignjax.data.datasets.framing import Tokens
from alignjax.data.datasets.records import ALIKE, Lengths, completions_of, ended, frame_size, prompt_of
from alignjax.data.sources.batch_layout import batch_spec, completion_ids, pad_right, pair_fields, two_completions
from alignjax.data.sources.row_selection import Row, Rule, TextRows, Texts, length_rules, text_source
from alignjax.data.sources.source import Source
from alignjax.data.text.corruptions import corrupted, two_kinds
from alignjax.ranges import Count


@text_source(completion_length=0, long_completions="skip")
def prompts(texts: Texts, *, answers: bool = False, buckets: tuple[Count, ...] = ()) -> Source:
    """Gives prompts only: what an online algorithm starts from.

    Args:
        texts: The settings that all sources share.
        answers: Adds prompts["answer"] [B], the number that a verifier compares with (of datasets that have one).
        buckets: Lengths in tokens for batches of short prompts, growing.

    Raises:
        ConfigError: The dataset has no answers, or some of its rows have none that is a number.
    """
    if answers and not texts.dataset.answers:
        raise ConfigError(f"{texts.dataset.name} has no answers to verify; leave out answers=True")

    def rules(rows: TextRows) -> list[Rule]:
        if answers:
            which = np.array([math.isnan(row["answer"]) for row in rows.rows])
            if which.any():
                raise ConfigError(
                    f"{texts.name} has {which.sum():,} prompts without a number as their answer (of {len(which):,}; "
                    f"{rows.origin(which)}): leave those rows out, or leave out answers=True"
                )
        return length_rules(rows)

    def layout(row: Row, rows: TextRows, rng: np.random.Generator) -> dict[str, Any]:
        return {"prompts": {"answer": np.float32(row["answer"])}} if answers else {}

    texts = dataclasses.replace(texts, buckets=tuple((length, 0) for length in buckets))
    return texts.source(texts.spec(0, *(("answer",) if answers else ())), layout, rules)


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


@text_source(buckets=())
def joint_preferences(texts: Texts, *, instructions: Literal["joint", "conditional"] = "joint") -> Source:
    """Gives pairs whose sides have instructions of their own, N = 2: with any pairwise loss, joint preference
    optimization (DOVE, arXiv:2404.00530).

    The instruction stands in front of each completion, and the prompt is BOS alone, or the token that both sides begin
    with: batches have P = 1 and T = prompt_length - 1 + completion_length. Where the instructions match, margins are
    those of the same pairs from `preferences` either way, and DPO is DPO. Takes JointPreferences, and datasets of
    preferences. To know which rows fit it reads them all once.

    Args:
        texts: The settings that all sources share.
        instructions: "joint": their tokens count (mask 1), so losses compare log-probs of instruction and response
            together; "conditional": they do not (mask 0), and losses compare responses given their instructions.

    Raises:
        ConfigError: The dataset holds no pairs, or completion_length leaves no room for a response.
    """
    texts.need("joint_preferences", "preferences")
    if texts.completion_length < 2:
        raise ConfigError(f"completion_length={texts.completion_length} leaves no room for a response; raise it")
    length = texts.prompt_length - 1 + texts.completion_length
    layout = functools.partial(_joint_pair, length=length, joint=instructions == "joint")
    return texts.source(batch_spec(texts.batch_size, 1, 2, length, ("pairs",)), layout, _rules)


@text_source()
def rankings(texts: Texts, *, completions: Count, uneven: Literal["refuse", "skip"] = "refuse") -> Source:
    """Gives scored lists: reward [B,N] holds the scores, preference says who has the higher one, and pair_weight marks
    i < j with different scores.

    Args:
        texts: The settings that all sources share.
        completions: N, the number of completions of every row.
        uneven: Says what happens to rows with another number of completions: "refuse" or "skip".
    """
    texts.need("rankings")

    def rules(rows: TextRows) -> list[Rule]:
        which = Lengths(*rows.lengths.T).completions != completions
        what = f"rows without exactly {completions} completions"
        return [*length_rules(rows), Rule("uneven", uneven, which, what, ("skip",))]

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


def _sides(row: Row) -> list[tuple[Tokens, Tokens]]:
    """(instruction, response) tokens of both sides of a row of JointPreferences, or of a pair that shares a prompt."""
    first, second, *other = completions_of(row)
    prompt = prompt_of(row)
    return [(prompt, first), (other[0] if other else prompt, second)]


def _rules(rows: TextRows) -> list[Rule]:
    """The rules of the longer instruction and the longer response of every row, and of sides that are the same. Raises
    ConfigError where both sides do not begin with one token."""
    starts, lengths = [], []
    for row, room in zip(rows.rows, rows.rooms, strict=True):
        sides = _sides(row)
        longest = max(len(prompt.ids) for prompt, _ in sides)
        frame = max(frame_size(prompt) for prompt, _ in sides)
        starts.append([list(prompt.ids[:1] if frame >= 0 else rows.prompt_ids(prompt)[:1]) for prompt, _ in sides])
        sizes = [len(ended(response, rows.tokenizer)) - 1 for _, response in sides]
        same = longest <= room or rows.texts.long_prompts.startswith("truncate")
        if same and frame < rows.texts.prompt_length:
            first, second = (
                (rows.prompt_ids(prompt), completion_ids(response, rows.texts.completion_length, rows.tokenizer))
                for prompt, response in sides
            )
            same = first == second
        lengths.append([longest, max(sizes), 2, frame, ALIKE if same else -1, min(sizes)])
    which = np.array([not first or first != second for first, second in starts])
    if which.any():
        raise ConfigError(
            f"{rows.texts.name}: sides of {which.sum():,} rows begin with different tokens ({rows.origin(which)}), "
            "and joint_preferences needs one token before both, which the tokenizer's files do not ask for; name "
            "it with bos_token of the dataset"
        )
    return length_rules(dataclasses.replace(rows, lengths=np.array(lengths)))


def _joint_pair(row: Row, rows: TextRows, rng: np.random.Generator, *, length: int, joint: bool) -> dict[str, Any]:
    """tokens, valid, mask [2, length] of both sides. Of an instruction only its own tokens are cut, never the frame."""
    tokenizer, most, sides = rows.tokenizer, rows.texts.completion_length, []
    for instruction, response in _sides(row):
        first, *before = rows.prompt_ids(instruction)  # BOS is the prompt
        after, _ = completion_ids(response, most, tokenizer)  # a response that was cut has not ended, and has no end
        tokens, valid = pad_right([*before, *after], length, tokenizer.pad)
        counts = valid & (joint | (np.arange(length) >= len(before)))
        start = {"prompt": np.array([first], np.int32), "prompt_valid": np.array([True])}
        sides.append({"tokens": tokens, "valid": valid, "mask": counts.astype(np.float32)})
    fields = {name: np.stack([side[name] for side in sides]) for name in sides[0]}
    return fields | start | two_completions(row["preference"], row["weight"])


def _ranking(row: Row, rows: TextRows, rng: np.random.Generator) -> dict[str, Any]:
    scores, fields = np.asarray(row["scores"], np.float32), rows.completions(row)
    gap, tokens = scores[:, None] - scores[None, :], np.where(fields["valid"], fields["tokens"], -1)
    unlike = np.any(tokens[:, None] != tokens[None, :], axis=-1)  # what is the same once it is cut says nothing
    return fields | pair_fields((np.sign(gap) + 1) / 2, np.triu((gap != 0) & unlike, 1)) | {"reward": scores}


def _scored(row: Row, rows: TextRows, rng: np.random.Generator) -> dict[str, Any]:
    return rows.completions(row) | {"reward": np.asarray(row["scores"], np.float32)}


def _candidates(row: Row, rows: TextRows, rng: np.random.Generator) -> dict[str, Any]:
    text = row["completions"][0].decode()
    negatives = [rows.rewritten(row, corrupted(text, kind, rng)) for kind in two_kinds(rng)]
    other = completions_of(rows.another(row, rng))[0]
    label, marked = np.full((4, 4), 0.5), np.zeros((4, 4))
    label[0, 1:], marked[0, 1:] = 1, 1
    return rows.completions([completions_of(row)[0], other, *negatives]) | pair_fields(label, marked)
