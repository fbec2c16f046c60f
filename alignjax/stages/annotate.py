"""A language model as the judge, and how much two texts have in common."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.pair_layout import all_pairs, pair_view, preference_matrix
from alignjax.stages.judge import probability
from alignjax.types import Array, Batch, Context, Key

__all__ = ["annotator", "overlap"]


def annotator(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    role: str = "annotator",
    verdicts: tuple[int, int],
    question: tuple[int, ...] = (),
    separator: int = 3,
) -> Array:
    """A language model asked for its verdict: S of how much more likely it says `verdicts[0]` than `verdicts[1]` after
    "prompt y separator y' question" (the annotator of arXiv:2402.04792; of the policy itself, a self-judge).

    Both orders are read and their log-odds averaged, so that a preference for a position cancels and p(i beats j) +
    p(j beats i) = 1 exactly. verdicts: the tokens that name the first and the second text; question: tokens that stand
    before the verdict. Raises ConfigError if the verdicts are the same token.
    """
    if verdicts[0] == verdicts[1]:
        raise ConfigError(f"annotator(verdicts={verdicts}): the two verdicts are the same token")
    assert batch.tokens is not None
    n = batch.tokens.shape[1]
    pairs = all_pairs(n)
    view = pair_view(batch, pairs, separator)
    assert view.tokens is not None
    assert view.valid is not None
    tail = jnp.array([*question, verdicts[0]], view.tokens.dtype)
    end = (*view.tokens.shape[:2], len(tail))
    tokens = jnp.concatenate([view.tokens, jnp.broadcast_to(tail, end)], axis=2)
    asked = view.replace(tokens=tokens, valid=jnp.concatenate([view.valid, jnp.ones(end, bool)], axis=2), mask=None)

    def odds(outputs: dict[str, Array], token: Array) -> dict[str, Array]:
        logits = outputs[role].astype(jnp.float32)
        return {"odds": logits[..., verdicts[0]] - logits[..., verdicts[1]]}

    answer = context.score(role, asked, odds)["odds"][..., -1]
    forth, back = answer[:, : len(pairs)], answer[:, len(pairs) :]
    return preference_matrix(probability((forth - back) / 2), pairs, n)


def overlap(context: Context, batch: Batch, key: Key, *, vocab: int, field: str = "quality") -> Batch:
    """Fills completions[field] [B,N]: F1 of the tokens that a completion shares with the first one, counted with
    repetition (ROUGE-1 on token numbers), in [0, 1]. Two empty texts score 0.

    Padding and stop tokens: only valid tokens count, a stop token as any other. One vector of `vocab` counts a
    completion.
    """
    assert batch.tokens is not None
    assert batch.valid is not None

    def counts(tokens: Array, valid: Array) -> Array:
        return jnp.zeros(vocab).at[tokens].add(valid.astype(jnp.float32))

    bags = jax.vmap(jax.vmap(counts))(batch.tokens, batch.valid)
    common = jnp.sum(jnp.minimum(bags, bags[:, :1]), axis=-1)
    size = jnp.sum(bags, axis=-1) + jnp.sum(bags[:, :1], axis=-1)
    return batch.replace(completions={**batch.completions, field: 2 * common / jnp.maximum(size, 1)})
