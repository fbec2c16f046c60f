"""Judges, the wrappers that make them noisy, and the stages that ask one or compare texts.

A judge is (context, batch, key) -> preference [B,N,N], the probability that completion i beats completion j, with
p[i,j] + p[j,i] = 1 exactly; one that has metrics returns (preference, metrics).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError, Fn
from alignjax.numerics import last_valid, row_uniforms
from alignjax.pair_layout import all_pairs, pair_logits, pair_view, preference_matrix
from alignjax.ranges import Count, Fraction, Natural
from alignjax.stages.text_functions import text_function
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics, with_metrics


def probability(logit: Array) -> Array:
    """Returns S(logit), such that the numbers for a logit and for minus it sum to 1 exactly, which the plain function
    misses by a rounding."""
    upper = jax.nn.sigmoid(jnp.abs(logit))
    return jnp.where(logit >= 0, upper, 1 - upper)


def bradley_terry(reward: Array, scale: float = 1.0) -> Array:
    """Returns the preference [B,N,N] S(scale (r_i - r_j)) of rewards [B,N].

    Args:
        reward: [B,N].
        scale: Multiplies differences of rewards.

    Returns:
        The preference [B,N,N].
    """
    n = reward.shape[1]
    i, j = _sides(n)
    return preference_matrix(probability(scale * (reward[:, i] - reward[:, j])), all_pairs(n), n)


def _sides(n: int) -> np.ndarray:
    """The first and the second completion of every pair, [2,K]."""
    return np.array(all_pairs(n), int).reshape(-1, 2).T


def _per_pair(matrix: Array) -> Array:
    i, j = _sides(matrix.shape[1])
    return matrix[:, i, j]


def preference_model(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    role: str = "preference",
    reading: str = "joint",
    separator: Natural | None = None,
) -> Array:
    """A trained pairwise preference model judges, possibly intransitively (arXiv:2312.00886 section 4).

    Args:
        context: Scores the role.
        batch: Completions to compare.
        key: Not used.
        role: The preference model.
        reading: "joint", "apart" or "averaged", see `pair_layout.pair_logits`.
        separator: The token between two completions that are read jointly; None: that of the source's tokenizer.

    Returns:
        The preference [B,N,N].
    """
    n = batch.need("tokens", of="preference_model").shape[1]
    pairs = all_pairs(n)
    logits = pair_logits(context, batch, role=role, pairs=pairs, reading=reading, separator=separator)
    return preference_matrix(probability(logits), pairs, n)


def reward_difference(context: Context, batch: Batch, key: Key, *, role: str = "reward") -> Array:
    """Judges by Bradley-Terry, S(r_i - r_j), r the role's reward head after the last token (arXiv:2203.02155 eq. 1).

    Args:
        context: Scores the reward head.
        batch: Completions [B,N,T].
        key: Not used.
        role: A role with a reward head.

    Returns:
        The preference [B,N,N].
    """
    (values,) = context.score(f"{role}:reward", batch).values()
    return bradley_terry(last_valid(values, batch.need("valid", of="reward_difference")))


def annotator(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    role: str = "annotator",
    verdicts: tuple[Natural, Natural],
    question: tuple[Natural, ...] = (),
    separator: Natural | None = None,
) -> Array:
    """A language model asked for its verdict: S of how much more likely it says `verdicts[0]` than `verdicts[1]` after
    "prompt y separator y' question" (the annotator of arXiv:2402.04792; of the policy itself, a self-judge).

    Both orders are read and their log-odds averaged, so that a preference for a position cancels and p(i beats j) +
    p(j beats i) = 1 exactly.

    Args:
        context: Scores the role.
        batch: Completions to compare.
        key: Not used.
        role: The language model.
        verdicts: The tokens that name the first and the second text.
        question: Tokens that stand before the verdict.
        separator: The token between two completions; None: that of the source's tokenizer.

    Returns:
        The preference [B,N,N].

    Raises:
        ConfigError: If the verdicts are the same token.
    """
    # The verdict's token is appended, so that the last position of the view has the logits that predict it.
    if verdicts[0] == verdicts[1]:
        raise ConfigError(f"annotator(verdicts={verdicts}): the two verdicts are the same token")
    n = batch.need("tokens", of="annotator").shape[1]
    pairs = all_pairs(n)
    view = pair_view(batch, pairs, separator)
    tokens, valid = view.need("tokens", of="annotator"), view.need("valid", of="annotator")
    tail = jnp.array([*question, verdicts[0]], tokens.dtype)
    end = (*tokens.shape[:2], len(tail))
    tokens = jnp.concatenate([tokens, jnp.broadcast_to(tail, end)], axis=2)
    valid = jnp.concatenate([valid, jnp.ones(end, bool)], axis=2)

    def odds(outputs: dict[str, Array], token: Array) -> dict[str, Array]:
        logits = outputs[role].astype(jnp.float32)
        return {"odds": logits[..., verdicts[0]] - logits[..., verdicts[1]]}

    answer = context.score(role, view.replace(tokens=tokens, valid=valid, mask=None), odds)["odds"][..., -1]
    forth, back = answer[:, : len(pairs)], answer[:, len(pairs) :]
    return preference_matrix(probability((forth - back) / 2), pairs, n)


def bernoulli(context: Context, batch: Batch, key: Key, *, judge: Fn) -> tuple[Array, Metrics]:
    """Draws each label: 1 with the judge's probability, else 0. One draw per pair, so p[i,j] + p[j,i] = 1 still.

    Args:
        context: Given to the judge.
        batch: Completions [B,N,T].
        key: Random key of the draws and of the judge.
        judge: Says the probabilities.

    Returns:
        The preference [B,N,N] of zeros and ones, and the judge's metrics.
    """
    return _noisy(context, batch, key, judge, lambda p, uniform: (uniform < p).astype(p.dtype))


def flipped(context: Context, batch: Batch, key: Key, *, judge: Fn, epsilon: Fraction) -> tuple[Array, Metrics]:
    """Judges wrongly with probability epsilon: the label p of a pair becomes 1 - p.

    Args:
        context: Given to the judge.
        batch: Completions [B,N,T].
        key: Random key of the draws and of the judge.
        judge: Says the labels.
        epsilon: The probability of an error.

    Returns:
        The preference [B,N,N], and the judge's metrics.
    """
    return _noisy(context, batch, key, judge, lambda p, uniform: jnp.where(uniform < epsilon, 1 - p, p))


def _noisy(
    context: Context, batch: Batch, key: Key, judge: Fn, drawn: Callable[[Array, Array], Array]
) -> tuple[Array, Metrics]:
    """Asks a judge, and makes of its probabilities [B,K] and of a uniform number per (prompt, pair), a function of the
    example and the pair only, the probabilities that count."""
    ask, draw = jax.random.split(key)
    preference, metrics = with_metrics(judge(context, batch, ask))
    n = preference.shape[1]
    uniform = row_uniforms(draw, batch.ids(), len(all_pairs(n)))
    asked = _per_pair(preference)
    labels = jnp.where(jnp.isnan(asked), asked, drawn(asked, uniform))  # no opinion stays none
    return preference_matrix(labels, all_pairs(n), n), metrics


def prefer(context: Context, batch: Batch, key: Key, *, judge: Fn) -> tuple[Batch, Metrics]:
    """Fills preference [B,N,N] by asking a judge about every pair of completions. Metrics: the judge's, and
    `judge_confidence`, the mean probability of the side that it thinks more likely.

    A pair that a `text_judge` has no opinion about, NaN, becomes 1/2 with pair_weight 0.

    Args:
        context: Given to the judge.
        batch: Completions [B,N,T].
        key: Given to the judge.
        judge: Says the preference [B,N,N], with metrics or without.

    Returns:
        The batch, and the metrics.
    """
    preference, metrics = with_metrics(judge(context, batch, key))
    pairs = _per_pair(preference)
    confident = jnp.abs(pairs - 0.5) + 0.5
    if text_function(judge) is None:  # no other judge is without an opinion, and none gives the batch a pair_weight
        return batch.replace(preference=preference), {**metrics, "judge_confidence": Mean.of(confident)}
    known = ~jnp.isnan(preference)
    weight = known * (1.0 if batch.pair_weight is None else batch.pair_weight)
    judged = batch.replace(preference=jnp.where(known, preference, 0.5), pair_weight=weight)
    return judged, {**metrics, "judge_confidence": Mean.of(confident, ~jnp.isnan(pairs))}


def overlap(context: Context, batch: Batch, key: Key, *, vocab: Count, field: str = "quality") -> Batch:
    """Fills completions[field] [B,N]: F1 of the tokens that a completion shares with the first one, counted with
    repetition (ROUGE-1 on token numbers), in [0, 1].

    Two empty texts score 0. Only valid tokens count, a stop token as any other. One vector of `vocab` counts a
    completion.

    Args:
        context: Not used.
        batch: Completions [B,N,T]; the first is the measure.
        key: Not used.
        vocab: The size of the vocabulary.
        field: Where the number goes.

    Returns:
        The batch.
    """
    tokens, valid = batch.need("tokens", of="overlap"), batch.need("valid", of="overlap")

    def counts(tokens: Array, valid: Array) -> Array:
        return jnp.zeros(vocab).at[tokens].add(valid.astype(jnp.float32))

    bags = jax.vmap(jax.vmap(counts))(tokens, valid)
    common = jnp.sum(jnp.minimum(bags, bags[:, :1]), axis=-1)
    size = jnp.sum(bags, axis=-1) + jnp.sum(bags[:, :1], axis=-1)
    return batch.replace(completions={**batch.completions, field: 2 * common / jnp.maximum(size, 1)})
