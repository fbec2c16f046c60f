"""Diagnostics: the distance that a policy has moved, and what its judge may be rewarding by mistake."""

from __future__ import annotations

from typing import Any

import numpy as np

from alignjax.evaluate.intervals import DataError, Interval, as_column, interval
from alignjax.ranges import Count


def sequence_kl(policy: Any, reference: Any, mask: Any, *, draws: Count = 2000) -> dict[str, Interval]:
    """KL(policy || reference) of whole completions, in nats, estimated from the policy's own samples.

    The sum over tokens of log policy - log reference is an unbiased estimate (k1,
    http://joschu.net/blog/kl-approx.html), which a single completion may well turn negative.

    Args:
        policy: Log-probs [B,N,T] in nats of the sampled tokens, at temperature 1 and untruncated. The completions must
            have been drawn from that same untruncated policy.
        reference: Those of the same tokens under the reference.
        mask: [B,N,T], 1 on tokens that the policy chose (its end token too), 0 elsewhere.
        draws: Resamples of the bootstrap.

    Returns:
        {"kl": per completion, the mean over N and then over prompts, "kl_per_token": all nats over all tokens}, each
        with its bootstrap interval over the B prompts.

    Raises:
        DataError: For unequal shapes, NaN where the mask counts, or no tokens at all.
    """
    # Nats are summed over tokens before the mean over a prompt's completions, and only prompts are resampled:
    # completions of one prompt are not independent, so they would make the interval too narrow.
    policy, reference, mask = (np.asarray(array, np.float64) for array in (policy, reference, mask))
    if policy.ndim != 3 or not policy.shape == reference.shape == mask.shape:
        raise DataError(
            f"log-probs of shapes {list(policy.shape)} and {list(reference.shape)} with a mask of {list(mask.shape)}; "
            "all three must be [prompts, completions, tokens]"
        )
    if not mask.any():
        raise DataError("the mask counts no token, so there is no KL to estimate")
    with np.errstate(invalid="ignore"):  # -inf - -inf on padding is nobody's business
        nats = np.where(mask > 0, (policy - reference) * mask, 0).sum(-1).mean(-1)
    tokens = mask.sum(-1).mean(-1)
    as_column(nats, "the log-ratio")
    return {
        "kl": interval(nats, draws=draws),
        "kl_per_token": interval(np.stack([nats, tokens], 1), _ratio, draws=draws),
    }


def _ratio(means: np.ndarray) -> np.ndarray:
    """Divide the first mean by the second; a resample without a single token gives 0."""
    return np.where(means[..., 1] > 0, means[..., 0] / np.maximum(means[..., 1], 1e-12), 0)


def length_bias(margin: Any, extra_length: Any, *, draws: Count = 2000) -> Interval:
    """Correlation of a judge's margin with the difference in length, over judged pairs: near 0 for a judge that does
    not care, near 1 for one that counts words.

    Args:
        margin: [n], the judge's log-odds (or probability - 1/2) that the first text is better.
        extra_length: [n], length of the first text minus that of the second.
        draws: Resamples of the bootstrap.

    Returns:
        Pearson's r in [-1, 1] with its bootstrap interval; 0 where either does not vary.

    Raises:
        DataError: For columns of unequal length, or values that are not finite.
    """
    margin, extra_length = as_column(margin, "the margin"), as_column(extra_length, "the length difference")
    if len(margin) != len(extra_length):
        raise DataError(f"{len(margin)} margins but {len(extra_length)} length differences; give one of each per pair")
    # Standardized first, so that the moments below do not cancel; a correlation does not notice.
    x, y = ((column - column.mean()) / (column.std() or 1) for column in (margin, extra_length))
    return interval(np.stack([x, y, x * x, y * y, x * y], 1), _correlation, draws=draws)


def _correlation(means: np.ndarray) -> np.ndarray:
    """Compute Pearson's r from the means of x, y, x², y², xy."""
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    variance = np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0)
    return np.clip(np.where(variance > 1e-18, (xy - x * y) / np.sqrt(np.maximum(variance, 1e-18)), 0), -1, 1)


def agreement(first: Any, second: Any) -> Interval:
    """Share of pairs [n] on which two judges prefer the same side, from their probabilities that the first text is
    better; an undecided judge (1/2) agrees by half.

    Args:
        first: [n], one judge's probabilities.
        second: [n], the other's.

    Raises:
        DataError: For columns of unequal length, or values that are not finite.
    """
    first, second = as_column(first, "the first judge"), as_column(second, "the second judge")
    if len(first) != len(second):
        raise DataError(f"{len(first)} judgments against {len(second)}; give both judges the same pairs")
    return interval(agreement_of(first, second))


def agreement_of(first: Any, second: Any) -> Any:
    """Gives 1, 1/2 or 0 [n] where two judges prefer the same side, one is undecided, or they differ.

    Args:
        first: [n], one judge's probabilities.
        second: [n], the other's.
    """
    return (1 + np.sign(np.asarray(first) - 0.5) * np.sign(np.asarray(second) - 0.5)) / 2


def accuracy(probability: Any, label: Any) -> Interval:
    """Share of pairs [n] on which a judge prefers the side that the label does: `agreement` of the judge with labels
    (probabilities or 0/1) that the first text is better.

    Args:
        probability: [n], the judge's probabilities.
        label: [n], the labels.
    """
    return agreement(probability, label)
