"""What reward models and pairwise judges say of rows whose answer is known: accuracy by subset, ties, calibration,
length bias, agreement of two, transitivity; each with its interval over prompts.

A judge is log-odds [K,K] for each row of K completions: logits[i, j] for P(i beats j), minus logits[j, i].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.evaluate.diagnostics import agreement_of
from alignjax.evaluate.intervals import Interval, interval

BINS = 10  # of confidence, from 1/2 to 1
TIE = 1e-6  # how near to 1/2 a probability is a tie


class KnownRow(NamedTuple):
    """A prompt with K completions whose order is known.

    Attributes:
        prompt: What tells prompts apart: rows of one prompt are drawn together.
        subset: The part of the file that it belongs to.
        grades: [K], higher is better.
        lengths: [K], in tokens.
    """

    prompt: str
    subset: str
    grades: np.ndarray
    lengths: np.ndarray


class _Pairs(NamedTuple):
    """The pairs of a row whose grades differ, the better one first, [M] each; together they weigh 1."""

    logit: np.ndarray
    longer: np.ndarray  # how many tokens more the better one has
    weight: float


def _decided(row: KnownRow, logits: np.ndarray) -> _Pairs:
    better, worse = np.nonzero(row.grades[:, None] > row.grades[None])
    longer = (row.lengths[better] - row.lengths[worse]).astype(np.float64)
    return _Pairs(logits[better, worse].astype(np.float64), longer, 1 / max(len(better), 1))


def _right(logit: np.ndarray) -> np.ndarray:
    return np.where(_tied(logit), 0.5, logit > 0)


def _tied(logit: np.ndarray) -> np.ndarray:
    return np.abs(np.tanh(logit / 2)) / 2 <= TIE


def _probability(logit: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(logit / 2)) / 2


def over_prompts(
    rows: Sequence[KnownRow],
    measured: Sequence[Any],
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Interval | None:
    """Computes a statistic of sums over rows, whose prompts are resampled whole.

    Args:
        rows: The rows.
        measured: [C] of each row: what is summed up; all 0 in the second column where a row has nothing to say.
        statistic: Function of the C means [..,C] -> [..]; by default the first over the second.

    Returns:
        The interval over those prompts that have something to say; None if there are none.
    """
    sums: dict[str, np.ndarray] = {}
    for row, numbers in zip(rows, measured, strict=True):
        if np.any(np.asarray(numbers)[1:]):
            sums[row.prompt] = sums.get(row.prompt, 0) + np.asarray(numbers, np.float64)
    return interval(np.stack([*sums.values()]), statistic or _ratio) if sums else None


def _ratio(means: np.ndarray) -> np.ndarray:
    return means[..., 0] / np.maximum(means[..., 1], 1e-12)


def calibration_error(means: np.ndarray) -> np.ndarray:
    """Expected calibration error from sums by bin of confidence: sum |right - confidence| / count.

    Args:
        means: [..,3 BINS]: confidence, right and count of every bin.

    Returns:
        The error [..] in [0, 1].
    """
    confidence, right, count = np.split(means, 3, axis=-1)
    return np.sum(np.abs(right - confidence), axis=-1) / np.maximum(np.sum(count, axis=-1), 1e-12)


def _bins(pairs: _Pairs) -> np.ndarray:
    confidence = _probability(np.abs(pairs.logit))
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    sums = [np.bincount(place, values, BINS) for values in (confidence, _right(pairs.logit), np.ones_like(confidence))]
    return np.concatenate(sums) * pairs.weight


def _correlation(means: np.ndarray) -> np.ndarray:
    xx, yy, xy = (means[..., k] for k in range(3))
    return np.where(xx * yy > 1e-18, xy / np.sqrt(np.maximum(xx * yy, 1e-18)), 0)


def cyclic_triples(logits: np.ndarray) -> tuple[int, int]:
    """Counts the triples of a row that go round, i over j over k over i, and all triples.

    Args:
        logits: [K,K].

    Returns:
        (cyclic ones, all).
    """
    wins = (logits > 0) & ~_tied(logits)
    triples = list(itertools.combinations(range(len(logits)), 3))
    cyclic = sum(
        bool(wins[i, j] and wins[j, k] and wins[k, i]) or bool(wins[j, i] and wins[k, j] and wins[i, k])
        for i, j, k in triples
    )
    return cyclic, len(triples)


def _best(row: KnownRow, logits: np.ndarray) -> tuple[float, float]:
    """How much of the judge's first place goes to completions of the best grade, in a list with worse ones too."""
    if len(row.grades) < 3 or np.all(row.grades == row.grades[0]):
        return 0.0, 0.0
    score = np.mean(_probability(logits), axis=1)
    first = score >= score.max() - TIE
    return float(np.mean(row.grades[first] == row.grades.max())), 1.0


def _equals(row: KnownRow, logits: np.ndarray) -> tuple[float, float]:
    """The mean distance of completions of one grade, in nats, and how many such pairs there are."""
    first, second = np.nonzero(np.triu(row.grades[:, None] == row.grades[None], 1))
    return float(np.sum(np.abs(logits[first, second]))), float(len(first))


def statistics(rows: Sequence[KnownRow], logits: Sequence[np.ndarray], *, pairwise: bool) -> dict[str, Any]:
    """Computes what one judge is worth.

    Args:
        rows: The rows.
        logits: Its log-odds [K,K] of each.
        pairwise: Whether it compares pairs, so that it may be intransitive.

    Returns:
        JSON-able: intervals `accuracy` (over pairs of different grades, those of a row weighing 1 together, ties 1/2),
        `best` (lists of three or more: the first place), `ties` (share of those pairs), `calibration_error` (10 bins),
        `gap` and `gap_of_equals` (nats between completions of different grades and of one), `length` (`correlation` of
        log-odds and tokens; how often it takes the longer one, how often that is right, and its accuracy where the
        better one is longer and where it is shorter), `intransitive` (share of triples), and accuracies by `subsets`
        with `mean_of_subsets`. What no row speaks of is None.
    """
    pairs = [_decided(row, matrix) for row, matrix in zip(rows, logits, strict=True)]

    def mean(values: Callable[[_Pairs], np.ndarray], counts: Callable[[_Pairs], np.ndarray] | None = None) -> Any:
        counted = [(each, np.ones_like(each.logit) if counts is None else counts(each)) for each in pairs]
        sums = [(np.sum(values(each) * on) * each.weight, np.sum(on) * each.weight) for each, on in counted]
        return over_prompts(rows, sums)

    by_row = [(np.sum(_right(each.logit)) * each.weight, float(len(each.logit) > 0)) for each in pairs]
    products = [each.weight * np.array([np.sum(x * y) for x, y in _moments(each.logit, each.longer)]) for each in pairs]
    lists = list(zip(rows, logits, strict=True))
    made: dict[str, Any] = {
        "accuracy": over_prompts(rows, by_row),
        "best": over_prompts(rows, [_best(*each) for each in lists]),
        "ties": mean(lambda each: _tied(each.logit).astype(float)),
        "calibration_error": over_prompts(rows, [_bins(each) for each in pairs], calibration_error),
        "gap": mean(lambda each: np.abs(each.logit)),
        "gap_of_equals": over_prompts(rows, [_equals(*each) for each in lists]),
        "length": {
            "correlation": over_prompts(rows, products, _correlation),
            "takes_longer": mean(lambda each: _right(each.logit * np.sign(each.longer)), lambda each: each.longer != 0),
            "longer_is_better": mean(lambda each: (each.longer > 0) * 1.0, lambda each: each.longer != 0),
            "accuracy_if_longer": mean(lambda each: _right(each.logit), lambda each: each.longer > 0),
            "accuracy_if_shorter": mean(lambda each: _right(each.logit), lambda each: each.longer < 0),
        },
        "intransitive": over_prompts(rows, [cyclic_triples(matrix) for matrix in logits]) if pairwise else None,
    }
    return made | _by_subset(rows, by_row)


def _moments(x: np.ndarray, y: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    return (x, x), (y, y), (x, y)


def _by_subset(rows: Sequence[KnownRow], by_row: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Accuracies of the parts of a file, and their mean, in whose resamples every prompt is drawn once for all."""
    names = sorted({row.subset for row in rows})
    numbers = [
        np.concatenate([np.array(each) * (row.subset == name) for name in names])
        for row, each in zip(rows, by_row, strict=True)
    ]
    subsets = {name: over_prompts(rows, [n[2 * k : 2 * k + 2] for n in numbers]) for k, name in enumerate(names)}
    counted = [2 * k for k, name in enumerate(names) if subsets[name] is not None]

    def mean(means: np.ndarray) -> np.ndarray:
        return np.mean([_ratio(means[..., place : place + 2]) for place in counted], axis=0)

    whole = over_prompts(rows, [np.concatenate([[0], each]) for each in numbers], lambda means: mean(means[..., 1:]))
    return {"subsets": subsets, "mean_of_subsets": whole if len(counted) > 1 else None}


def agreements(rows: Sequence[KnownRow], judges: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Interval | None]:
    """Computes how often each two judges prefer the same side, over all pairs of completions, those of a row weighing 1
    together; an undecided one agrees by half.

    Args:
        rows: The rows.
        judges: The log-odds [K,K] of each row, by judge.

    Returns:
        The share by "first & second".
    """

    def of(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
        places = np.triu_indices(len(first), 1)
        one, other = (np.where(_tied(each[places]), 0.5, each[places] > 0) for each in (first, second))
        return float(np.mean(agreement_of(one, other))), 1.0

    return {
        f"{one} & {other}": over_prompts(rows, [of(*each) for each in zip(judges[one], judges[other], strict=True)])
        for one, other in itertools.combinations(judges, 2)
    }
