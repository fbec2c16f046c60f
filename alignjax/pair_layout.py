"""Pairs of completions of a prompt: which there are, what they weigh, how a preference model reads the two."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import last_valid
from alignjax.ranges import Natural
from alignjax.types import Array, Batch, Context

Pairs = Sequence[tuple[Natural, Natural]]
HEADS = {"joint": "preference", "apart": "embedding", "averaged": "mean_embedding"}  # by how pairs are read


def all_pairs(n: int) -> tuple[tuple[int, int], ...]:
    """Returns every unordered pair of n completions, (0,1), (0,2), ..., as losses and judges take them."""
    return tuple(combinations(range(n), 2))


def check_pairs(pairs: Pairs, n: int) -> None:
    """Checks that there are pairs, each of two different of n completions. Raises ConfigError naming both."""
    if not pairs:
        raise ConfigError("pairs=() are none: a loss of pairs needs two completions to compare, n=2 at least")
    if any(not (0 <= i < n and 0 <= j < n and i != j) for i, j in pairs):
        raise ConfigError(f"pairs={tuple(pairs)} do not fit a batch with {n} completions a prompt")


def weigh_pairs(batch: Batch, weight: Array) -> Batch:
    """Returns the batch with the weight of every pair times another [B,N,N]."""
    return batch.replace(pair_weight=weight if batch.pair_weight is None else batch.pair_weight * weight)


def pair_view(batch: Batch, pairs: Pairs, separator: int | None) -> Batch:
    """Makes the batch of completions "y separator y'" for every pair, in both orders, which share their prompt.

    The padding that stays between y and the separator is harmless, since positions count valid tokens.

    Args:
        batch: Completions [B,N,T].
        pairs: K pairs of completions.
        separator: The token between the two.

    Returns:
        A batch of completions [B,2K,2T+1]: all (i, j), then all (j, i).

    Raises:
        ConfigError: Nobody says what separates completions, or a pair is not of two of them.
    """
    if separator is None:
        raise ConfigError(
            "separator=None: no data set says which token stands between completions that are read together; name it"
        )
    tokens, valid = batch.need("tokens", of="pair_view"), batch.need("valid", of="pair_view")
    check_pairs(pairs, tokens.shape[1])
    first = jnp.array([i for i, _ in pairs] + [j for _, j in pairs])
    second = jnp.array([j for _, j in pairs] + [i for i, _ in pairs])

    def joined(leaf: Array, middle: int | bool) -> Array:
        between = jnp.full((leaf.shape[0], len(first), 1), middle, leaf.dtype)
        return jnp.concatenate([leaf[:, first], between, leaf[:, second]], axis=2)

    valid = joined(valid, True)
    return Batch(
        prompt=batch.prompt,
        prompt_valid=batch.prompt_valid,
        tokens=joined(tokens, separator),
        valid=valid,
        mask=valid.astype(jnp.float32),
        example_id=batch.example_id,
    )


def pair_logits(
    context: Context, batch: Batch, *, role: str, pairs: Pairs, reading: str = "joint", separator: Natural | None = None
) -> Array:
    """Returns the logit of P(i beats j | prompt) for every pair, antisymmetric by construction and free to be
    intransitive.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T].
        role: The role of the preference model.
        pairs: K pairs of completions.
        reading: "joint" gives f(i, j) - f(j, i), f the role's "preference" head after the last token of
            "y separator y'". "apart" reads each completion once, by the "embedding" head after its last token, and they
            meet in s_i - s_j + u_i . v_j - u_j . v_i (a general antisymmetric form of bounded rank, as in
            arXiv:2410.02197). It costs N sequences instead of N(N-1) of twice the length. "averaged" does the same with
            the mean of the "mean_embedding" head over a completion's tokens, which learns from fewer labels what
            single words say.
        separator: The token between the two completions of a joint reading, which needs one.

    Returns:
        Logits [B,K].

    Raises:
        ConfigError: There is no such reading, or nobody says what separates completions.
    """
    # Antisymmetry is made by taking a difference of the two orders, not learned: p(i, j) + p(j, i) = 1 exactly.
    if reading not in HEADS:
        raise ConfigError(f"reading={reading!r}; it must be 'joint', 'apart' or 'averaged'")
    if reading != "joint":
        return _apart(context, batch, role, pairs, reading)
    view = pair_view(batch, pairs, separator)
    (values,) = context.score(f"{role}:preference", view).values()
    f = last_valid(values, view.need("valid", of="pair_logits"))
    return f[:, : len(pairs)] - f[:, len(pairs) :]


def _apart(context: Context, batch: Batch, role: str, pairs: Pairs, reading: str) -> Array:
    """The logits of completions that are read apart, [B,K]."""
    (values,) = context.score(f"{role}:{HEADS[reading]}", batch).values()
    valid = batch.need("valid", of="pair_logits")
    if reading == "apart":
        final = last_valid(jnp.moveaxis(values, -1, 2), valid[:, :, None])  # [B,N,1+2m]
    else:
        kept = valid[..., None]
        final = jnp.sum(jnp.where(kept, values, 0), axis=2) / jnp.maximum(jnp.sum(kept, axis=2), 1)
    check_pairs(pairs, batch.need("tokens", of="pair_logits").shape[1])
    i, j = jnp.array([i for i, _ in pairs]), jnp.array([j for _, j in pairs])
    score, first, second = final[..., 0], *jnp.split(final[..., 1:], 2, axis=-1)
    forth, back = (jnp.sum(first[:, a] * second[:, b], axis=-1) for a, b in ((i, j), (j, i)))
    return score[:, i] - score[:, j] + (forth - back)


def preference_matrix(probability: Array, pairs: Pairs, n: int) -> Array:
    """Lays out P(i beats j) of each pair [B,K] as a matrix [B,N,N] with p[i,j] + p[j,i] = 1 and 1/2 on the diagonal.

    Args:
        probability: [B,K].
        pairs: K pairs of completion numbers.
        n: N.

    Returns:
        The matrix [B,N,N]; 1/2 where no pair is listed.
    """
    matrix = jnp.full((probability.shape[0], n, n), 0.5, probability.dtype)
    i, j = jnp.array([p[0] for p in pairs]), jnp.array([p[1] for p in pairs])
    return matrix.at[:, i, j].set(probability).at[:, j, i].set(1 - probability)
