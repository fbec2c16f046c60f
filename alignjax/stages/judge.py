"""Judges, the wrappers that make them noisy or scarce, and the stage that asks one.

A judge is (context, batch, key) -> preference [B,N,N], the probability that completion i beats completion j, with
p[i,j] + p[j,i] = 1 exactly.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import Fn
from alignjax.numerics import last_valid, row_keys
from alignjax.pair_layout import all_pairs, pair_logits, preference_matrix
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics, with_metrics

__all__ = ["bernoulli", "flipped", "prefer", "preference_model", "query_budget", "reward_difference"]


def _completions(batch: Batch) -> int:
    assert batch.tokens is not None
    return batch.tokens.shape[1]


def probability(logit: Array) -> Array:
    """S(logit), such that the numbers for a logit and for minus it sum to 1 exactly, which the plain function misses by
    a rounding."""
    upper = jax.nn.sigmoid(jnp.abs(logit))
    return jnp.where(logit >= 0, upper, 1 - upper)


def preference_model(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    role: str = "preference",
    reading: str = "joint",
    separator: int = 3,
) -> Array:
    """A trained pairwise preference model, possibly intransitive (arXiv:2312.00886 section 4); reading: see
    `pairs.pair_logits`."""
    n = _completions(batch)
    pairs = all_pairs(n)
    logits = pair_logits(context, batch, role=role, pairs=pairs, reading=reading, separator=separator)
    return preference_matrix(probability(logits), pairs, n)


def reward_difference(context: Context, batch: Batch, key: Key, *, role: str = "reward") -> Array:
    """The Bradley-Terry judge S(r_i - r_j), r the role's reward head after the last token (arXiv:2203.02155 eq. 1)."""
    (values,) = context.score(f"{role}:reward", batch).values()
    assert batch.valid is not None
    reward = last_valid(values, batch.valid)
    n = _completions(batch)
    pairs = all_pairs(n)
    i, j = jnp.array([i for i, _ in pairs]), jnp.array([j for _, j in pairs])
    return preference_matrix(probability(reward[:, i] - reward[:, j]), pairs, n)


def _pair_uniforms(batch: Batch, key: Key, n: int) -> Array:
    """One uniform per (prompt, pair) [B,K], a function of the example and the pair only."""
    assert batch.prompt is not None
    example_id = jnp.arange(batch.prompt.shape[0]) if batch.example_id is None else batch.example_id
    return jax.vmap(jax.vmap(jax.random.uniform))(row_keys(key, example_id, len(all_pairs(n))))


def _per_pair(matrix: Array, n: int) -> Array:
    i, j = jnp.array([i for i, _ in all_pairs(n)]), jnp.array([j for _, j in all_pairs(n)])
    return matrix[:, i, j]


def bernoulli(context: Context, batch: Batch, key: Key, *, judge: Fn) -> tuple[Array, Metrics]:
    """Draws each label: 1 with the judge's probability, else 0. One draw per pair, so p[i,j] + p[j,i] = 1 still."""
    n = _completions(batch)
    ask, draw = jax.random.split(key)
    preference, metrics = with_metrics(judge(context, batch, ask))
    p = _per_pair(preference, n)
    return preference_matrix((_pair_uniforms(batch, draw, n) < p).astype(p.dtype), all_pairs(n), n), metrics


def flipped(context: Context, batch: Batch, key: Key, *, judge: Fn, epsilon: float) -> tuple[Array, Metrics]:
    """A judge that is wrong with probability epsilon: the label p of a pair becomes 1 - p."""
    n = _completions(batch)
    ask, draw = jax.random.split(key)
    preference, metrics = with_metrics(judge(context, batch, ask))
    p = _per_pair(preference, n)
    return preference_matrix(jnp.where(_pair_uniforms(batch, draw, n) < epsilon, 1 - p, p), all_pairs(n), n), metrics


def prefer(context: Context, batch: Batch, key: Key, *, judge: Fn) -> tuple[Batch, Metrics]:
    """Fills preference [B,N,N] by asking a judge about every pair of completions."""
    preference, metrics = with_metrics(judge(context, batch, key))
    confidence = jnp.abs(_per_pair(preference, _completions(batch)) - 0.5) + 0.5
    return batch.replace(preference=preference), {**metrics, "judge_confidence": Mean.of(confidence)}


def query_budget(context: Context, batch: Batch, key: Key, *, per_iteration: int, total: int | None = None) -> Batch:
    """Keeps the labels of `per_iteration` pairs of the batch drawn at random, and none once `total` labels were spent;
    the others get pair_weight 0."""
    assert batch.preference is not None
    n = _completions(batch)
    u = _pair_uniforms(batch, key, n)
    left = per_iteration if total is None else jnp.clip(total - context.step * per_iteration, 0, per_iteration)
    rank = jnp.argsort(jnp.argsort(u.reshape(-1))).reshape(u.shape)
    chosen = (rank < left).astype(jnp.float32)
    weight = jnp.zeros_like(batch.preference)
    i, j = jnp.array([i for i, _ in all_pairs(n)]), jnp.array([j for _, j in all_pairs(n)])
    weight = weight.at[:, i, j].set(chosen).at[:, j, i].set(chosen)
    old = jnp.ones_like(weight) if batch.pair_weight is None else batch.pair_weight
    return batch.replace(pair_weight=weight * old)
