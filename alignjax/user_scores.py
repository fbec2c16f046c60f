"""Scores of completions that differ from user to user: nearness to ideal points (PAL), latent users (VPL), and weighted
directions of embedding differences (DRM).

Each starts from an embedding [B,N,D] of completions and what is known of the users, which are small trees of their own:
a new user is fitted while all else stays. prompts["user"] [B] is the number of a row's user, as a source reads it
(`keep=("user",), numbers=("user",)`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import as_float32, last_valid
from alignjax.ranges import Count, Natural, Positive
from alignjax.types import Array, Batch, Context, Key

Similarity = Literal["distance", "angle"]
NO_LENGTH = 1e-12  # added to a squared length, so that its root has a gradient at 0


def _as_it_is(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """The read of a head's numbers, or of a site's states."""
    return dict(outputs)


def embeddings(context: Context, batch: Batch, output: str) -> Array:
    """Returns the embedding of each completion [B,N,D]: a head's numbers, or a site's states, after its last token.

    Args:
        context: Scores the output.
        batch: Completions [B,N,T].
        output: "role:head" (a head `classes` of D numbers) or "role@site"; axes beyond T are flattened.
    """
    valid = batch.need("valid", of="an embedding of completions")
    numbers = context.score(output, batch, read=_as_it_is)[output].reshape(*valid.shape, -1)
    return as_float32(jax.vmap(last_valid, in_axes=(-1, None), out_axes=-1)(numbers, valid))


def prompt_embeddings(context: Context, batch: Batch, output: str) -> Array:
    """Returns the embedding of each prompt [B,D]: `embeddings` of a completion that is the prompt's last token."""
    prompt, valid = (batch.need(name, of="an embedding of prompts") for name in ("prompt", "prompt_valid"))
    before = jnp.roll(prompt, 1, axis=-1), jnp.roll(valid, 1, axis=-1).at[:, 0].set(False)
    last = Batch(prompt=before[0], prompt_valid=before[1], tokens=prompt[:, None, -1:], valid=valid[:, None, -1:])
    return embeddings(context, last, output)[:, 0]


def user_numbers(batch: Batch, users: int, of: str) -> tuple[Array, Array]:
    """Returns the number of every row's user and whether there is one, [B] each: numbers that a table of `users` does
    not have, and NaN, are nobody's."""
    number = batch.need("prompts", "user", of=of)
    known = (number >= 0) & (number < users)
    return jnp.where(known, number, 0).astype(jnp.int32), known


# -------------------------------------------------------------------------------------------------------- ideal points


def ideal_points(key: Key, *, width: Count, prototypes: Count = 2, prompt_width: Natural = 0) -> dict[str, Array]:
    """Draws the prototypes of `losses.pal`, for a role with an optimizer:
    Role(None, roles.value(fn(user_scores.ideal_points, width=16)), optimizer=fn(adamw, learning_rate=5e-3)).

    Args:
        key: Draws them.
        width: D of the completions' embedding.
        prototypes: K.
        prompt_width: D of the prompts' embedding for points that depend on the prompt (PAL-B); 0: they do not (PAL-A).

    Returns:
        {"points": [K,D], or [K,prompt_width,D], "log_scale": []}, the second read by angles alone.
    """
    shape = (prototypes, prompt_width, width) if prompt_width else (prototypes, width)
    points = jax.random.normal(key, shape) * max(prompt_width, 1) ** -0.5
    return {"points": points, "log_scale": jnp.log(jnp.asarray(1 / 0.07))}


def user_weights(key: Key, *, users: Count, prototypes: Count = 2, scale: Positive = 1.0) -> dict[str, Array]:
    """Draws {"weights": [users,K]}, whose softmax mixes the prototypes of each user.

    Args:
        key: Draws them.
        users: How many users there are.
        prototypes: K.
        scale: Standard deviation; near 0 a new user starts as the mean of all prototypes.
    """
    return {"weights": scale * jax.random.normal(key, (users, prototypes))}


def ideal_point_scores(
    prototypes: Mapping[str, Array],
    weights: Array,
    features: Array,
    prompt: Array | None = None,
    similarity: Similarity = "distance",
) -> Array:
    """Scores completions by how near they are to a user's ideal point u = sum_k softmax(weights)_k p_k: -|f - u|, or
    the cosine times exp(log_scale), at most 100 (PAL, arXiv:2406.08469).

    Args:
        prototypes: See `ideal_points`; where points are [K,P,D], p_k is linear in the prompt's embedding.
        weights: [B,K] of the user of each row.
        features: f, the embedding of completions [B,N,D].
        prompt: The embedding of prompts [B,P], for points that depend on it.
        similarity: "distance" or "angle".

    Returns:
        Scores [B,N], in units of the embedding or, of angles, nats.
    """
    mixture, points = jax.nn.softmax(weights, axis=-1), prototypes["points"]
    ideal = mixture @ points if prompt is None else jnp.einsum("bk,bp,kpd->bd", mixture, prompt, points)
    if similarity == "distance":
        return -_length(features - ideal[:, None])
    cosine = jnp.einsum("bnd,bd->bn", features, ideal) / (_length(features) * _length(ideal)[:, None])
    return jnp.minimum(jnp.exp(prototypes["log_scale"]), 100) * cosine


def _length(vectors: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(vectors), axis=-1) + NO_LENGTH)


def pal_scores(
    context: Context,
    batch: Batch,
    *,
    output: str = "reward:classes",
    prototypes: str = "prototypes",
    users: str = "users",
    similarity: Similarity = "distance",
) -> tuple[Array, Array]:
    """Scores completions for the user of each row by `ideal_point_scores`, what `losses.pal` trains.

    Args:
        context: Scores the output and holds the roles.
        batch: Completions [B,N,T] with prompts["user"] [B].
        output: The embedding, of completions and, where points depend on them, of prompts; see `embeddings`.
        prototypes: The role of `ideal_points`.
        users: The role of `user_weights`.
        similarity: "distance" or "angle".

    Returns:
        (scores [B,N], whether the user is known [B]).

    Raises:
        ConfigError: If the batch has no users, or points do not fit the embedding.
    """
    points, weights = context.params(prototypes), context.params(users)["weights"]
    number, known = user_numbers(batch, weights.shape[0], "pal_scores")
    features = embeddings(context, batch, output)
    if points["points"].shape[-1] != features.shape[-1]:
        raise ConfigError(
            f"{output} has {features.shape[-1]} numbers; give role {prototypes!r} "
            f"fn(ideal_points, width={features.shape[-1]}, ...)"
        )
    prompt = prompt_embeddings(context, batch, output) if points["points"].ndim == 3 else None
    return ideal_point_scores(points, weights[number], features, prompt, similarity), known


# -------------------------------------------------------------------------------------------------------- latent users


def latent_network(key: Key, *, width: Count, latent: Count = 2, hidden: Count = 64) -> dict[str, Any]:
    """Draws the weights of `losses.vpl`: an encoder of pairs, and a reward of an embedding and a latent user, each with
    one hidden layer. Draws are scaled so that a unit's input has a variance near 1.

    Args:
        key: Draws them.
        width: D of the embedding.
        latent: L, the dimensions of a user.
        hidden: H.
    """
    keys = jax.random.split(key, 6)
    drawn = lambda key, *shape: jax.random.normal(key, shape) * shape[0] ** -0.5  # noqa: E731
    encoder = {
        "pair": drawn(keys[0], 2 * width, hidden),
        "bias": jnp.zeros(hidden),
        "mean": drawn(keys[1], hidden, latent),
        "log_variance": 0.1 * drawn(keys[2], hidden, latent),
    }
    reward = {
        "features": drawn(keys[3], width, hidden),
        "latent": drawn(keys[4], latent, hidden),
        "bias": jnp.zeros(hidden),
        "out": drawn(keys[5], hidden),
    }
    return {"encoder": encoder, "reward": reward}


class Posterior(NamedTuple):
    """q(z) of users, diagonal normals: mean and log-variance [S,L]."""

    mean: Array
    log_variance: Array

    def kl(self) -> Array:
        """Returns KL(q || N(0, 1)) of each user and dimension [S,L] in nats."""
        return 0.5 * (jnp.exp(self.log_variance) + jnp.square(self.mean) - 1 - self.log_variance)


def user_posteriors(
    encoder: Mapping[str, Array],
    first: Array,
    second: Array,
    label: Array,
    weight: Array,
    user: Array,
    users: int,
) -> Posterior:
    """Infers latent users from comparisons: the mean of what the encoder says of a user's pairs, winner before loser.

    The paper's encoder attends over pairs before the mean; ours does not, so that a user's pairs can come in any order,
    in any batches. A user without pairs is the one of bias alone.

    Args:
        encoder: See `latent_network`.
        first: Embeddings of the first completions [M,D].
        second: Of the second ones.
        label: Probability that the first is better [M]; both orders of a pair are mixed with it.
        weight: How much each pair counts [M].
        user: Whose it is, from 0 to users - 1 [M].
        users: S.

    Returns:
        The posterior of each user.
    """

    def said(winner: Array, loser: Array) -> Array:
        return jax.nn.gelu(jnp.concatenate([winner, loser], axis=-1) @ encoder["pair"] + encoder["bias"][None])

    pairs = label[:, None] * said(first, second) + (1 - label[:, None]) * said(second, first)
    total = jax.ops.segment_sum(weight[:, None] * pairs, user, users)
    count = jax.ops.segment_sum(weight, user, users)
    mean = total / jnp.where(count > 0, count, 1)[:, None]
    return Posterior(mean @ encoder["mean"], mean @ encoder["log_variance"])


def latent_scores(reward: Mapping[str, Array], features: Array, latent: Array) -> Array:
    """Scores completions for latent users, r(y, z): [B,N] of embeddings [B,N,D] and users [B,L], in nats (VPL,
    arXiv:2408.10075)."""
    unit = features @ reward["features"] + (latent @ reward["latent"] + reward["bias"][None])[:, None]
    return jax.nn.gelu(unit) @ reward["out"]


# ---------------------------------------------------------------------------------------- directions of differences


def principal_directions(differences: Array, directions: Count, centered: bool = True) -> Array:
    """Finds the directions in which preferred completions differ from the others: the first principal components of
    their embeddings' differences (DRM, arXiv:2502.13131).

    Args:
        differences: Embedding of the preferred completion minus that of the other [M,D].
        directions: How many.
        centered: Takes the mean difference off first, as the authors' code does: what all users agree on is then in
            no direction but by chance.

    Returns:
        Unit vectors [directions,D], largest spread first; their signs say nothing.
    """
    spread = differences - jnp.mean(differences, axis=0, keepdims=True) if centered else differences
    return jnp.linalg.svd(spread, full_matrices=False)[2][:directions]


def head_scores(directions: Array, features: Array) -> Array:
    """Scores completions along directions and against them: [..,2K] of embeddings [..,D] and directions [K,D]."""
    along = features @ directions.T
    return jnp.concatenate([along, -along], axis=-1)


def fit_heads(
    first: Array, second: Array, label: Array, weight: Array, temperature: Positive = 1.0
) -> dict[str, Array]:
    """Weighs heads by how well each alone explains a user's comparisons: softmax_h(-loss_h / temperature), loss_h the
    sum over pairs of -log S of the winner's standardized score less the loser's (DRM, arXiv:2502.13131, as in its
    code).

    Args:
        first: `head_scores` of the first completions [n,H].
        second: Of the second ones.
        label: Probability that the first is better [n].
        weight: How much each pair counts [n], so that users with fewer pairs fit into one array.
        temperature: In nats; a sum over pairs makes weights sharper with more of them.

    Returns:
        {"weights", "mean", "deviation"}, [H] each, for `weighted_heads`; a deviation of 0 counts as 1.
    """
    both, counts = jnp.concatenate([first, second]), jnp.concatenate([weight, weight])[:, None]
    total = jnp.where(jnp.any(counts > 0), jnp.sum(counts), 1)
    mean = jnp.sum(counts * both, axis=0) / total
    deviation = jnp.sqrt(jnp.sum(counts * jnp.square(both - mean[None]), axis=0) / total)
    deviation = jnp.where(deviation > 0, deviation, 1)
    gap, label = (first - second) / deviation[None], label[:, None]
    loss = -(label * jax.nn.log_sigmoid(gap) + (1 - label) * jax.nn.log_sigmoid(-gap))
    weights = jax.nn.softmax(-jnp.sum(weight[:, None] * loss, axis=0) / temperature)
    return {"weights": weights, "mean": mean, "deviation": deviation}


def weighted_heads(fit: Mapping[str, Array], scores: Array) -> Array:
    """Returns a user's score [..] of `head_scores` [..,H] by what `fit_heads` found."""
    slope = fit["weights"] / fit["deviation"]
    return scores @ slope - jnp.sum(slope * fit["mean"])
