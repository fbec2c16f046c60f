"""Functions from a row to a prompt and several completions with scores, and from those to pairs and to the best one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alignjax.data.datasets.layout_fields import Fields, Row, columns
from alignjax.data.datasets.parsing import BadRow, field, number_field, text_field
from alignjax.data.datasets.row_shapes import marked_messages, messages_in, unmarked
from alignjax.data.text.words import same_text


def nectar(row: Row) -> Fields:
    """Returns answers with minus their rank as scores. Raises BadRow."""
    prompt, answers = row["prompt"], _objects(row, "answers")
    if isinstance(prompt, str) and prompt.lstrip().startswith("Human:"):
        prompt = messages_in(prompt, "prompt")
        prompt = prompt[:-1] if prompt[-1] == {"role": "assistant", "content": ""} else prompt  # the turn to be filled
    scores = [-number_field(each, "rank", low=0.0) for each in answers]
    return {"prompt": prompt, "completions": [text_field(each, "answer") for each in answers], "scores": scores}


def stack_exchange(row: Row) -> Fields:
    """Returns the answers to a question, with their votes as scores. Raises BadRow."""
    answers = _objects(row, "answers")
    scores = [number_field(each, "pm_score") for each in answers]
    return {"prompt": row["question"], "completions": [text_field(each, "text") for each in answers], "scores": scores}


def ultra_feedback(row: Row, named: str) -> Fields:
    """Returns responses with a score that is named: of the response, or the rating of an aspect in its annotations.

    Args:
        row: The row.
        named: overall_score, fine-grained_score, or an aspect such as helpfulness.
    """
    answers = _objects(row, "completions")
    scores = [_rating(each, named) for each in answers]
    texts = [text_field(each, "response") for each in answers]
    return {"prompt": row["instruction"], "completions": texts, "scores": scores}


def _rating(answer: Row, named: str) -> float:
    if named in answer:
        return number_field(answer, named)
    aspects = answer.get("annotations")
    aspect = aspects.get(named) if isinstance(aspects, Mapping) else None
    if not isinstance(aspect, Mapping):
        raise BadRow(f"a completion has no {named!r}, neither beside its response nor in its annotations")
    rating = aspect.get("Rating")
    try:
        number = float(rating) if isinstance(rating, str) else rating
    except ValueError:
        raise BadRow(f"the rating of {named!r} is no number", str(rating)[:40]) from None
    return number_field({named: number}, named)


def help_steer_2(rows: Sequence[Row], named: str) -> Fields:
    """Returns the responses to one prompt, which stand in rows beside each other, with an attribute as their score.

    Args:
        rows: The rows.
        named: helpfulness, correctness, coherence, complexity or verbosity.

    Raises:
        BadRow: There is one alone.
    """
    if len(rows) < 2:
        raise BadRow(
            "a prompt with one response: rows that share a prompt must stand one after another, sort them by it"
        )
    scores = [number_field(row, named) for row in rows]
    prompt = marked_messages(rows[0]["prompt"], "prompt")
    return {
        "prompt": prompt,
        "completions": [unmarked(text_field(row, "response"), "response") for row in rows],
        "scores": scores,
    }


def help_steer_2_prompt(rows: Sequence[Row], named: str = "") -> Fields:
    """Returns the prompt that rows share; no score is read."""
    return {"prompt": marked_messages(rows[0]["prompt"], "prompt")}


def ranked(row: Row) -> Fields:
    """Returns the fields of a list whose columns are called so."""
    return columns(prompt="prompt", completions="completions", scores="scores")(row)


def help_steer_3(row: Row) -> Fields:
    """Returns the two responses as a list whose scores are minus and plus half of overall_preference, in [-3, 3]."""
    strength = number_field(row, "overall_preference", -3.0, 3.0)
    texts = [field(row, "response1"), field(row, "response2")]
    return {"prompt": row["context"], "completions": texts, "scores": [-strength / 2, strength / 2]}


def help_steer_2_pair(row: Row) -> Fields:
    """Returns what `help_steer_3` does, of the preference set of HelpSteer2."""
    strength = number_field(row, "preference_strength", -3.0, 3.0)
    texts = [unmarked(text_field(row, name), name) for name in ("response_1", "response_2")]
    prompt = marked_messages(row["prompt"], "prompt")
    return {"prompt": prompt, "completions": texts, "scores": [-strength / 2, strength / 2]}


def shp(row: Row) -> Fields:
    """Returns two comments with their votes as scores. Raises BadRow where labels says the contrary of them."""
    scores = [number_field(row, f"score_{side}") for side in "AB"]
    better = number_field(row, "labels", 0.0, 1.0)
    if (better > 0.5) != (scores[0] > scores[1]) and scores[0] != scores[1]:
        raise BadRow("field 'labels' is not what score_A and score_B say", f"{better:g}, {scores[0]:g}, {scores[1]:g}")
    return {"prompt": row["history"], "completions": [row["human_ref_A"], row["human_ref_B"]], "scores": scores}


def web_gpt(row: Row) -> Fields:
    """Returns two answers with their scores in [-1, 1]."""
    asked = row["question"]
    prompt = text_field(asked, "full_text") if isinstance(asked, Mapping) else asked
    scores = [number_field(row, f"score_{k}", -1.0, 1.0) for k in (0, 1)]
    return {"prompt": prompt, "completions": [field(row, "answer_0"), field(row, "answer_1")], "scores": scores}


def safe_rlhf(row: Row, named: str) -> Fields:
    """Returns two responses, one of which a column calls the better or the safer.

    Args:
        row: The row.
        named: The column, which holds 0 or 1.
    """
    best = number_field(row, named, 0.0, 1.0)
    if best not in (0.0, 1.0):
        raise BadRow(f"field {named!r} is neither 0 nor 1", f"{best:g}")
    texts = [field(row, "response_0"), field(row, "response_1")]
    return {"prompt": row["prompt"], "completions": texts, "scores": [1.0 - best, best]}


def reward_bench_2(row: Row) -> list[Fields]:
    """Returns a pair of every right and every wrong completion; together they weigh as one row."""
    right, wrong = _right_and_wrong(row)
    weight = 1.0 / (len(right) * len(wrong))
    pairs = itertools.product(right, wrong)
    return [{"prompt": row["prompt"], "chosen": a, "rejected": b, "weight": weight} for a, b in pairs]


def reward_bench_2_list(row: Row) -> Fields:
    """Returns all completions, the right ones with score 1 and the wrong ones with 0: within either they tie."""
    right, wrong = _right_and_wrong(row)
    scores = [1.0] * len(right) + [0.0] * len(wrong)
    return {"prompt": row["prompt"], "completions": [*right, *wrong], "scores": scores}


def _right_and_wrong(row: Row) -> tuple[list[Any], list[Any]]:
    right, wrong = row["chosen"], row["rejected"]
    if not right or not wrong:
        raise BadRow(f"empty field {'rejected' if right else 'chosen'!r}")
    return right, wrong


def in_pairs(read: Callable[..., Any]) -> Callable[..., list[Fields]]:
    """Returns the function that makes pairs of what a function reads as lists with scores.

    Every two completions are a pair, a tie where their scores are the same; those of one list weigh 1 together, so
    that a long list is no more than a short one (arXiv:2203.02155, section 3.5). Two that are the same text are none.

    Args:
        read: The function, which returns completions and scores.
    """

    def paired(*given: Any) -> list[Fields]:
        lists = read(*given)
        return [each for one in (lists if isinstance(lists, list) else [lists]) for each in _pairs(one)]

    return paired


def _pairs(fields: Fields) -> list[Fields]:
    texts, scores = checked_list(fields)
    unlike = [(a, b) for a, b in itertools.combinations(range(len(texts)), 2) if not _same(texts[a], texts[b])]
    if not unlike:
        raise BadRow("both completions are the same" if len(texts) == 2 else "all completions are the same")
    pairs = [(a, b) if scores[a] >= scores[b] else (b, a) for a, b in unlike]
    rest = {name: value for name, value in fields.items() if name not in ("completions", "scores")}
    return [
        {
            **rest,
            "chosen": texts[better],
            "rejected": texts[worse],
            "label": 0.5 if scores[better] == scores[worse] else 1.0,
            "weight": 1.0 / len(pairs),
        }
        for better, worse in pairs
    ]


def checked_list(fields: Row) -> tuple[list[Any], list[float]]:
    """Returns completions and scores, two lists of one length, the scores as numbers. Raises BadRow."""
    texts, scores = field(fields, "completions"), field(fields, "scores")
    if not isinstance(texts, list) or not isinstance(scores, list) or len(texts) != len(scores) or len(texts) < 2:
        raise BadRow("fields 'completions' and 'scores' are not two lists of one length, 2 or more")
    return texts, [number_field({"scores": score}, "scores") for score in scores]


def _same(first: Any, second: Any) -> bool:
    return same_text(first, second) if isinstance(first, str) and isinstance(second, str) else first == second


def _objects(row: Row, column: str) -> list[Row]:
    values = row[column]
    if not isinstance(values, list) or not all(isinstance(each, Mapping) for each in values):
        raise BadRow(f"field {column!r} is not a list of objects")
    return values
