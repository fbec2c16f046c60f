"""Losses that fit given targets: language modelling, preference models and reward models."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses.decorators.pairwise import pair_indices, pair_labels
from alignjax.numerics import last_valid
from alignjax.pair_layout import pair_logits
from alignjax.types import Array, Batch, Context, Mean, Metrics

__all__ = ["bradley_terry", "preference_cross_entropy", "score_regression", "sft"]


def sft(context: Context, batch: Batch, *, role: str = "policy") -> tuple[Mean, Metrics]:
    """Supervised fine-tuning: the mean negative log-likelihood of the tokens that count, in nats per token.

    One mean over all tokens of the batch, not a mean of per-sequence means. Metric `perplexity_nats`: the same number,
    unweighted by real-valued masks.
    """
    (logps,) = context.score(role, batch).values()
    mask = batch.mask if batch.mask is not None else batch.valid
    counted = mask != 0
    return Mean.of(-logps, mask), {"nats_per_token": Mean.of(-logps, counted)}


def _cross_entropy(logit: Array, label: Array, weight: Array) -> tuple[Mean, Metrics]:
    loss = -(label * jax.nn.log_sigmoid(logit) + (1 - label) * jax.nn.log_sigmoid(-logit))
    right = jnp.where(logit == 0, 0.5, (logit > 0) == (label > 0.5))
    decided = weight * (label != 0.5)
    return Mean.of(loss, weight), {"accuracy": Mean.of(right, decided), "margin": Mean.of(jnp.abs(logit), weight)}


def preference_cross_entropy(
    context: Context,
    batch: Batch,
    *,
    role: str = "preference",
    pairs: tuple[tuple[int, int], ...] = ((0, 1),),
    reading: str = "joint",
    separator: int = 3,
) -> tuple[Mean, Metrics]:
    """Cross-entropy of a pairwise preference model: -p log P - (1-p) log(1-P), P = S(f(i, j) - f(j, i)) the probability
    that i beats j (arXiv:2312.00886 section 4).

    f reads both completions ("y separator y'"), so the model may be intransitive; it is antisymmetric by construction.
    Labels are probabilities. Nats per pair, weighted by `pair_weight`.
    """
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    return _cross_entropy(
        pair_logits(context, batch, role=role, pairs=pairs, reading=reading, separator=separator), label, weight
    )


def bradley_terry(
    context: Context, batch: Batch, *, role: str = "reward", pairs: tuple[tuple[int, int], ...] = ((0, 1),)
) -> tuple[Mean, Metrics]:
    """Cross-entropy of a Bradley-Terry reward model: -p log P - (1-p) log(1-P), P = S(r_i - r_j) the probability that i
    beats j (InstructGPT, arXiv:2203.02155 eq. 1).

    r is the role's "reward" head after the last token of a completion. Labels are probabilities. Nats per pair,
    weighted by `pair_weight`.
    """
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    (values,) = context.score(f"{role}:reward", batch).values()
    assert batch.valid is not None
    reward = last_valid(values, batch.valid)
    loss, metrics = _cross_entropy(reward[:, i] - reward[:, j], label, weight)
    return loss, metrics | {"reward": Mean.of(reward)}


def score_regression(
    context: Context, batch: Batch, *, output: str = "reward:reward", field: str = "quality"
) -> tuple[Mean, Metrics]:
    """Regression of a score: mean (f - s)^2, s a given number per completion (the metric that a reward model learns
    beside the ranking in arXiv:2506.05070).

    output: the head f, read after the last token; field: batch.completions[field] [B,N] holds s; completions without a
    token do not count. Raises ConfigError if there is no such field.
    """
    if field not in batch.completions:
        raise ConfigError(f"score_regression finds no batch.completions[{field!r}]; a stage `overlap` may fill it")
    (values,) = context.score(output, batch).values()
    assert batch.valid is not None
    there = jnp.any(batch.valid, axis=-1)
    return Mean.of(jnp.square(last_valid(values, batch.valid) - batch.completions[field]), there), {}
