"""What losses on single completions have in common: which completions count, their labels, log-ratios and metrics."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses.decorators.pairwise import mask_of, reference_logps, sequence_logps
from alignjax.types import Array, Batch, Context, Mean, Metrics

__all__ = ["Completions", "completion_fields", "counted", "labels", "mixed", "ratio_metrics", "rewards", "weights"]


class Completions(NamedTuple):
    """Numbers of every completion, [B,N] each."""

    ratio: Array  # log policy - log reference, over the tokens that count; without a reference, log policy
    logps: Array  # log policy
    label: Array  # probability that the completion is good
    weight: Array  # 1, and 0 for a completion that is not there


def counted(batch: Batch) -> Array:
    """1.0 for a completion that has a token that counts, 0.0 for one that is all padding, [B,N]."""
    return jnp.any(mask_of(batch) != 0, axis=-1).astype(jnp.float32)


def weights(batch: Batch) -> Array:
    """How much each completion counts [B,N]: completions["weight"] where a stage filled it, 0 for one that is not
    there."""
    there = counted(batch)
    return there * batch.completions["weight"] if "weight" in batch.completions else there


def rewards(batch: Batch, loss: str) -> Array:
    """batch.reward [B,N], or a ConfigError that says where it comes from."""
    if batch.reward is None:
        raise ConfigError(
            f"{loss} needs batch.reward, a number per completion: a source with scores, or a stage `reward`"
        )
    return batch.reward


def labels(batch: Batch, loss: str) -> tuple[Array, Array]:
    """(label, weight) [B,N]: the probability that a completion is good, and whether it counts."""
    if batch.reward is None:
        raise ConfigError(
            f"{loss} needs batch.reward, the probability in [0, 1] that a completion is good: the source `thumbs`, or "
            "stages that write it"
        )
    weight = counted(batch)
    # What stands at a completion that is not there may be anything, NaN included, which times 0 is a NaN gradient.
    return jnp.where(weight != 0, batch.reward, 0.5), weight


def completion_fields(
    context: Context, batch: Batch, *, loss: str, role: str, reference: str | None, normalize: str
) -> Completions:
    """All fields of the completions. `loss` names who asks, for the error where labels are missing."""
    label, weight = labels(batch, loss)
    mask = mask_of(batch)
    (scored,) = context.score(role, batch).values()
    own = sequence_logps(scored, mask, normalize)
    ratio = own
    if reference is not None:
        ratio = own - sequence_logps(reference_logps(context, batch, reference), mask, normalize)
    return Completions(ratio, own, label.astype(own.dtype), weight)


def mixed(given: Completions, good: Array, bad: Array) -> Array:
    """label * good + (1 - label) * bad: the loss of every completion from its loss under either verdict."""
    return given.label * good + (1 - given.label) * bad


def ratio_metrics(given: Completions) -> Metrics:
    """Mean log-ratios of good and of bad completions, and how often the sign of a log-ratio agrees with a label."""
    sign = jnp.sign(2 * given.label - 1)
    right = (given.ratio * sign > 0) + 0.5 * (given.ratio == 0)
    return {
        "ratio_good": Mean.of(given.ratio, given.weight * given.label),
        "ratio_bad": Mean.of(given.ratio, given.weight * (1 - given.label)),
        "accuracy": Mean.of(right, given.weight * (sign != 0)),
        "log_ratio": Mean.of(given.ratio, given.weight),
    }
