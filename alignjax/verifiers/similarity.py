"""Rewards by a reference text: how similar a completion is to it, with terms for length and repetition.

A scorer is a function (texts, references) -> one number a text. `word_overlap` and `common_subsequence` are two; an
embedding, BERTScore or a trained regressor is another, which a person brings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from alignjax.asking import declares
from alignjax.config import ConfigError
from alignjax.ranges import Count, NonNegative, Number, Positive
from alignjax.verifiers.extraction import extracted, text_of
from alignjax.verifiers.text_constraints import words

_LONG = 2000  # words of each text that a common subsequence is looked for in


def _folded(text: str) -> list[str]:
    return [word.casefold() for word in words(text)]


def word_overlap(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """Scores texts by their words alone: the harmonic mean of the shares of each side's words that the other has."""

    def score(text: str, reference: str) -> float:
        said, wanted = Counter(_folded(text)), Counter(_folded(reference))
        return 2 * (said & wanted).total() / ((said + wanted).total() or 1)

    return [score(*both) for both in zip(texts, references, strict=True)]


def common_subsequence(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """Scores texts by ROUGE-L: 2 L / (words of both), where L is the length of their longest common subsequence."""

    def score(text: str, reference: str) -> float:
        said, wanted = _folded(text)[:_LONG], _folded(reference)[:_LONG]
        row = [0] * (len(wanted) + 1)
        for word in said:
            before = 0
            for k, other in enumerate(wanted, 1):
                before, row[k] = row[k], before + 1 if word == other else max(row[k], row[k - 1])
        return 2 * row[-1] / max(len(said) + len(wanted), 1)

    return [score(*both) for both in zip(texts, references, strict=True)]


def length_term(text: str, *, unit: Positive = 100.0, most: Positive = 3.0) -> float:
    """Returns the number of words in units of `unit`, at most `most` (LI of arXiv:2402.03469, which has no bound)."""
    return min(len(words(text)) / unit, most)


def repetition_term(text: str, *, n: Count = 3) -> float:
    """Returns the share of n-grams of words that are distinct, 1 where there is none (RP of arXiv:2402.03469)."""
    said = _folded(text)
    grams = [tuple(said[k : k + n]) for k in range(len(said) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def _check_scorer(scorer: Any, **rest: Any) -> None:
    if not callable(scorer):
        raise ConfigError(f"scorer is {scorer!r}, and must be a function (texts, references) -> numbers")


def _scores(scorer: Any, texts: Sequence[str], references: Sequence[str]) -> list[float]:
    numbers = [float(number) for number in scorer(list(texts), list(references))] if texts else []
    if len(numbers) != len(texts):
        raise ValueError(f"the scorer gave {len(numbers)} numbers for {len(texts)} texts")
    return numbers


@declares(check=_check_scorer, columns=["column"])
def refalign(
    completions: Sequence[Any],
    *,
    column: str = "reference",
    scorer: Any = word_overlap,
    offset: NonNegative = 1.0,
    **columns: Sequence[Any],
) -> list[float | None]:
    """Rewards similarity to a reference, a little more for short answers: (1 + 1 / (C + words of y)) S(y, y*), the
    reward of RefAlign (arXiv:2504.09895), where S is BERTScore. The paper counts tokens, and its C was not seen.

    Args:
        completions: Texts or messages.
        column: The column of the reference y*.
        scorer: S.
        offset: C.
        **columns: The columns.

    Returns:
        A number for each completion, None where the row has no reference.
    """
    texts = [text_of(each) for each in completions]
    known = [k for k, right in enumerate(columns[column]) if isinstance(right, str)]
    numbers = _scores(scorer, [texts[k] for k in known], [columns[column][k] for k in known])
    marks: list[float | None] = [None] * len(texts)
    for k, number in zip(known, numbers, strict=True):
        marks[k] = (1 + 1 / max(offset + len(words(texts[k])), 1.0)) * number
    return marks


@declares(check=_check_scorer, columns=["column"])
def regularized_relevance(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    column: str = "reference",
    scorer: Any = word_overlap,
    unit: Positive = 100.0,
    most: Positive = 3.0,
    shift: Number = 0.0,
    scale: Positive = 1.0,
    n: Count = 3,
    **columns: Sequence[Any],
) -> list[float | None]:
    """Rewards relevance, so that neither length nor repetition alone raises it (R3, arXiv:2402.03469): max(S(y, x), 0)
    LI RP where the row has no reference, (a + b S(y, y*)) RP where it has one.

    The paper tells open questions from others by a classifier, and leaves LI unbounded. Relevance below 0 counts as 0,
    since length would turn its sign to advantage.

    Args:
        prompts: Texts or messages, x.
        completions: Texts or messages, y.
        column: The column of the reference y*, None where a question is open; "" where all are.
        scorer: S.
        unit: Words that are one unit of LI.
        most: The largest LI.
        shift: a.
        scale: b, which brings both kinds of rows to one range.
        n: The n-grams of RP.
        **columns: The columns.

    Returns:
        A number for each completion.
    """
    texts = [text_of(each) for each in completions]
    rights = columns[column] if column else [None] * len(completions)
    against = [right if isinstance(right, str) else text_of(x) for right, x in zip(rights, prompts, strict=True)]
    marks: list[float | None] = []
    for text, right, number in zip(texts, rights, _scores(scorer, texts, against), strict=True):
        long = length_term(text, unit=unit, most=most)
        relevance = shift + scale * number if isinstance(right, str) else max(number, 0.0) * long
        marks.append(relevance * repetition_term(text, n=n))
    return marks


@declares(check=_check_scorer, columns=["column"])
def reference_regressor(
    completions: Sequence[Any], *, column: str = "reference", scorer: Any, **columns: Sequence[Any]
) -> list[float | None]:
    """Rewards what a regressor says of reference and answer, the prompt not seen, as PrefBERT (arXiv:2506.15068): s in
    [0, 1], which stands for a rating of 1 + 4 s.

    Args:
        completions: Texts or messages; what stands in the last <answer></answer> is scored, else all.
        column: The column of the reference.
        scorer: The regressor, (answers, references) -> s; PrefBERT reads "reference [SEP] answer".
        **columns: The columns.

    Returns:
        s for each completion, None where the row has no reference.
    """
    known = [k for k, right in enumerate(columns[column]) if isinstance(right, str)]
    texts = [extracted(text_of(completions[k]), "tag") or text_of(completions[k]) for k in known]
    numbers = _scores(scorer, texts, [columns[column][k] for k in known])
    marks: list[float | None] = [None] * len(completions)
    for k, number in zip(known, numbers, strict=True):
        marks[k] = number
    return marks
