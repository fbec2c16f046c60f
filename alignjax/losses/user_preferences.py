"""Losses of reward models that differ from user to user: ideal points, and latent users. prompts["user"] [B] is the
number of a row's user."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from alignjax.config import as_fn, fn
from alignjax.losses.decorators.declared import needs
from alignjax.losses.decorators.pairwise import Pairs, pair_indices, pair_labels
from alignjax.losses.supervised import cross_entropy
from alignjax.ranges import NonNegative
from alignjax.types import Array, Batch, Context, Mean, Metrics
from alignjax.user_scores import embeddings, latent_scores, pal_scores, user_posteriors


@needs("preference", "prompts")
def pal(
    context: Context,
    batch: Batch,
    *,
    scores: Any = fn(pal_scores),
    pairs: Pairs = ((0, 1),),
    link: Literal["hinge", "logistic"] = "hinge",
) -> tuple[Mean, Metrics]:
    """Pluralistic alignment by ideal points: max(0, 1 - d), or -log S(d), d = s_u(w) - s_u(l), s_u(y) how near y is to
    user u's mixture of prototypes (PAL, arXiv:2406.08469).

    PAL-A as its code has it is distance and hinge, PAL-B `scores=fn(pal_scores, similarity="angle")`, logistic, and
    prototypes that depend on the prompt (`ideal_points(prompt_width=..)`). A new user is fitted by the same loss with a
    fresh role "users" and all other roles frozen. Differs from the code: scores are read after the last token alone,
    and maps from prompts to points are linear.

    Args:
        context: Scores the embedding and holds the roles that `scores` names.
        batch: Completions [B,N,T] with a preference [B,N,N] and prompts["user"] [B]; a user that the table does not
            have counts 0.
        scores: (context, batch) -> (scores [B,N], known [B]), see `user_scores.pal_scores`.
        pairs: Which completions are compared.
        link: "hinge" or "logistic".

    Returns:
        The mean over pairs, weighted by `pair_weight`; `accuracy`, `margin`, and `known`, the share of rows whose user
        is known.

    Raises:
        ConfigError: If the batch has no preference or users, or not the completions that `pairs` names.
    """
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    score, known = as_fn(scores)(context, batch)
    weight = weight * known[:, None]
    gap = jnp.where(weight != 0, score[:, i] - score[:, j], 0)
    loss, metrics = cross_entropy(gap, label, weight)
    if link == "hinge":
        forth, back = (jnp.maximum(1 - sign * gap, 0) for sign in (1, -1))
        loss = Mean.of(label * forth + (1 - label) * back, weight)
    return loss, metrics | {"known": Mean.of(known.astype(gap.dtype))}


@needs("preference", "prompts")
def vpl(
    context: Context,
    batch: Batch,
    *,
    output: str = "reward:classes",
    latent: str = "latent",
    pairs: Pairs = ((0, 1),),
    kappa: NonNegative = 0.01,
) -> tuple[Mean, Metrics]:
    """Variational preference learning: -log S(r(w, z) - r(l, z)) + kappa KL(q || N(0, 1)), z ~ q(user's pairs)
    (arXiv:2408.10075).

    q is inferred from all pairs that the user has in the batch, so batches should hold several of each. kappa of one
    over the pairs of a user is the evidence bound; the default is the code's, whose clamps, cycles of kappa and
    rescaling of z we leave out. Where kappa is too large q collapses to the prior: `kl` and `active` go to 0.

    Args:
        context: Scores the embedding and holds the role of `user_scores.latent_network`.
        batch: Completions [B,N,T] with a preference [B,N,N] and prompts["user"] [B]; prompts["noise"] [B,L] is what z
            is sampled with (`stages.latent_noise`), and without it z is the mean of q.
        output: The embedding, see `user_scores.embeddings`.
        latent: The role of the encoder and the reward.
        pairs: Which completions are compared.
        kappa: Weight of the mean KL of users against the mean over pairs.

    Returns:
        The mean over pairs in nats plus kappa times that over users; `accuracy`, `margin`, `kl` (nats a user) and
        `active`, in how many dimensions the means of users vary by more than 0.01 (arXiv:1509.00519).

    Raises:
        ConfigError: If the batch has no preference or users, or not the completions that `pairs` names.
    """
    # Users are numbered by their place among those of the batch; one that is NaN counts 0.
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    user = batch.need("prompts", "user", of="vpl")
    weight = weight * ~jnp.isnan(user)[:, None]
    rows = len(user)
    _, first, place = jnp.unique(jnp.nan_to_num(user), size=rows, return_index=True, return_inverse=True)
    features = embeddings(context, batch, output)
    one, other = (features[:, side].reshape(-1, features.shape[-1]) for side in (i, j))
    params = context.params(latent)
    whose = jnp.repeat(place.reshape(-1), len(pairs))
    label_of, counts = label.reshape(-1), weight.reshape(-1)
    posterior = user_posteriors(params["encoder"], one, other, label_of, counts, whose, rows)
    users = (jax.ops.segment_sum(counts, whose, rows) > 0).astype(label.dtype)
    sampled = posterior.mean
    if "noise" in batch.prompts:  # one draw a user: that of its first row
        sampled += jnp.exp(posterior.log_variance / 2) * batch.prompts["noise"][first]
    score = latent_scores(params["reward"], features, sampled[place.reshape(-1)])
    loss, metrics = cross_entropy(jnp.where(weight != 0, score[:, i] - score[:, j], 0), label, weight)
    kl = Mean.of(jnp.sum(posterior.kl(), axis=-1), users)
    total = Mean(loss.total + kappa * kl.value() * loss.weight, loss.weight)
    return total, metrics | {"kl": kl, "active": Mean.of(_active(posterior.mean, users))}


def _active(mean: Array, users: Array) -> Array:
    """How many dimensions of the means [S,L] vary over users."""
    share = users / jnp.maximum(jnp.sum(users), 1)
    center = share @ mean
    return jnp.sum(share @ jnp.square(mean - center[None]) > 0.01).astype(mean.dtype)
