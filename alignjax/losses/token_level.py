"""Pairwise losses that look at single tokens of each completion: their KL to the reference, their place, how likely
they are to be sampled, or a mask that is learned beside the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, as_fn, fn
from alignjax.losses import reads
from alignjax.losses.decorators.declared import needs, shared
from alignjax.losses.decorators.pairwise import pair_indices, score_pairs, wrapped_pairs
from alignjax.losses.decorators.sequences import is_per_token, mask_of, reference_logps, scored, sequence_logps
from alignjax.losses.margin import dpo
from alignjax.losses.masks import tail_masks
from alignjax.numerics import as_float32, masked_sum
from alignjax.ranges import Count, Fraction, NonNegative, Positive
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics


def _kl_to_policy(context: Context, batch: Batch, role: str, reference: str) -> Array:
    """KL(reference to policy) at every token, [B,N,T] nats."""
    return context.score((role, reference), batch, read=reads.forward_kl)["forward_kl"]


@needs("preference")
@shared("role", "pairs")
def tdpo(
    context: Context,
    batch: Batch,
    *,
    beta: Positive = 0.1,
    alpha: NonNegative = 0.5,
    variant: Literal["tdpo1", "tdpo2"] = "tdpo2",
    reference: str = "reference",
    **where: Any,
) -> tuple[Mean, Metrics]:
    """Token-level DPO: -log S(beta (h - alpha (K(l) - sg K(w)))), K(y) = sum over tokens of KL(ref to pi) given the
    prefix; variant "tdpo1": -log S(beta (h - (K(l) - K(w)))) (arXiv:2404.11999).

    K is the forward KL over the whole vocabulary, summed over the tokens that count. The gradient flows through every K
    but K(w) in "tdpo2". A soft label p mixes both orders of a pair. Minimized where h exceeds the KL gap by logit(p) /
    beta. As in the authors' code, whose config ships with "tdpo1" on.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a preference [B,N,N].
        beta: Inverse temperature of the log-ratio.
        alpha: Weight of the KL gap, read by "tdpo2" alone.
        variant: Which of the two formulas.
        reference: What log-ratios are against; it must be a role with a model.
        **where: role and pairs, see `declared.shared`.

    Returns:
        The mean over pairs in nats, and the metrics of pairs with `kl`: the mean K of both sides in nats.

    Raises:
        ConfigError: If the batch has no preference, or not the completions that `pairs` names.
    """
    # Both orders of each pair are computed and mixed, because the stop-gradient of "tdpo2" makes the loss asymmetric:
    # which KL it holds fixed depends on who won.
    pair = score_pairs(context, batch, reference=reference, **where)
    kl = sequence_logps(_kl_to_policy(context, batch, where["role"], reference), mask_of(batch))
    kl_i, kl_j = kl[:, pair.i], kl[:, pair.j]

    def loss(margin: Array, winner: Array, loser: Array) -> Array:
        gap = loser - winner if variant == "tdpo1" else alpha * (loser - jax.lax.stop_gradient(winner))
        return -jax.nn.log_sigmoid(beta * (margin - gap))

    margin = pair.fields["margin"]
    values = pair.mix(loss(margin, kl_i, kl_j), loss(-margin, kl_j, kl_i))
    return pair.mean(values), pair.metrics(kl=pair.mean((kl_i + kl_j) / 2))


def length_desensitised(
    context: Context, batch: Batch, *, loss: Any = fn(dpo, beta=0.1), alpha: Fraction = 0.5
) -> tuple[Mean, Metrics]:
    """Any pairwise loss, length-desensitized: log-probs are sum over t <= n + alpha sum over t > n, n = min(len w, len
    l) (arXiv:2409.06411).

    Args:
        context: Scores the role and the reference of the loss.
        batch: Completions [B,N,T] with a preference [B,N,N].
        loss: What `@pairwise` made, as fn(ipo, tau=0.1); its own role, reference, pairs and normalize hold.
            normalize="length" divides by the length of the whole completion, as released code does.
        alpha: Weight of the tokens that the longer side has more, in policy and reference alike; 1 leaves the loss as
            it is, 0 forgets them.

    Returns:
        The mean over pairs in the units of the loss, and the metrics of pairs.

    Raises:
        ConfigError: If `loss` is not pairwise.
    """
    # The wrapped loss is not touched: it is fed pairs scored under masks that count the longer side's tail by alpha,
    # and the true lengths, so any pairwise loss works.
    wrapped = wrapped_pairs(loss, "length_desensitised")
    i, j = pair_indices(batch, wrapped.where["pairs"])
    whole = mask_of(batch)
    lengths = jnp.sum(whole, axis=-1)
    masks = tail_masks(whole[:, i], whole[:, j], alpha)
    if is_per_token(wrapped.normalize):
        per_token = 1 / jnp.maximum(lengths, 1)[..., None]
        masks = masks[0] * per_token[:, i], masks[1] * per_token[:, j]
    pair = score_pairs(context, batch, **wrapped.where, masks=masks)
    lengths = lengths.astype(pair.label.dtype)
    fields = {**pair.fields, "length_i": lengths[:, i], "length_j": lengths[:, j]}
    return pair.mean(wrapped.values(fields, pair.label)), pair.metrics()


@needs("preference")
@shared("role", "reference", "pairs")
def ld_dpo(
    context: Context, batch: Batch, *, beta: Positive = 0.1, alpha: Fraction = 0.5, **where: Any
) -> tuple[Mean, Metrics]:
    """Length-desensitized DPO: -log S(beta h), with log-probs sum over t <= n + alpha sum over t > n, n = min(len w,
    len l) (arXiv:2409.06411).

    n belongs to the pair, and only the longer side has a tail. Minimized at a margin, so weighted, of logit(p) / beta.
    `length_desensitised` does the same to any pairwise loss. As in TRL's `ld_alpha`; the default of alpha is ours.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a preference [B,N,N].
        beta: Inverse temperature of the log-ratio.
        alpha: Weight of the tokens beyond the shorter side's length; 1 is DPO.
        **where: role, reference and pairs, see `declared.shared`.

    Returns:
        The mean over pairs in nats, and the metrics of pairs.

    Raises:
        ConfigError: If the batch has no preference, or not the completions that `pairs` names.
    """
    return length_desensitised(context, batch, loss=fn(dpo, beta=beta, **where), alpha=alpha)


def wpo(context: Context, batch: Batch, *, loss: Any = fn(dpo, beta=0.1), role: str = "policy") -> tuple[Mean, Metrics]:
    """Weighted preference optimization: sg(min(1, exp(c(w) + c(l)))) loss(w, l), c(y) = mean over tokens of log pi(y_t)
    - log sum_v pi(v)^2 (arXiv:2406.11827).

    Makes off-policy pairs count as much as the policy would have sampled them: c is 0 for a completion as likely as a
    draw from the policy is on average, and the clamp is on the product, as in the authors' code
    (TRL 1.16 leaves the clamp out). Weighted losses are averaged over pairs, not divided by the sum of the weights;
    metrics of the loss are weighted as it is. Minimized where `loss` is, pair by pair.

    Args:
        context: Scores the role, and what the loss asks for.
        batch: Completions [B,N,T] with a preference [B,N,N].
        loss: Any loss with `pairs` whose pairs count by `pair_weight`.
        role: The policy, whose own likelihood is the weight.

    Returns:
        The mean over pairs in the units of the loss, and its metrics with `weight`.

    Raises:
        ConfigError: If `loss` has no pairs.
    """
    # The weight goes in as `pair_weight`, which every pairwise loss honors, and the sum is divided by the weights
    # before it: dividing by the new ones would cancel much of what they do.
    loss = as_fn(loss)
    if "pairs" not in loss.kwargs:
        raise ConfigError(f"{loss.name} has no pairs to be weighed; give a pairwise loss as loss=fn(dpo, beta=0.1)")
    agree = context.score(role, batch, read=reads.collision)["collision"]
    confidence = sequence_logps(scored(context, batch, role) - agree, mask_of(batch), "length")
    weight = jax.lax.stop_gradient(jnp.exp(jnp.minimum(confidence[:, :, None] + confidence[:, None, :], 0)))
    counts = jnp.ones_like(weight) if batch.pair_weight is None else batch.pair_weight
    mean, metrics = loss(context, batch.replace(pair_weight=counts * weight))
    i, j = pair_indices(batch, loss.kwargs["pairs"])
    weights = Mean.of(weight[:, i, j], counts[:, i, j])
    return Mean(mean.total, weights.weight), metrics | {"weight": weights}


def sparse_masks(
    key: Key, *, width: Count, layers: Count, independent: bool = False, scale: NonNegative = 0.02
) -> dict[str, dict[str, Array]]:
    """Starts the mask parameters of `sparse_po`, for a role with an optimizer:
    Role(None, roles.value(fn(sparse_masks, width=512, layers=8)), optimizer=fn(adamw, learning_rate=1e-4)).

    Masks start near 1, where SparsePO is TDPO1; the authors' code draws all weights at random, and a mask may start
    dead.

    Args:
        key: Draws the weights.
        width: D of the states that are read.
        layers: L of those states.
        independent: Adds a second set for the KL term, "kl" beside "reward".
        scale: Standard deviation of the weights.

    Returns:
        Parameters by name, of each mask.
    """
    # Biases of 1 and a uniform mixer put every ReLU unit in its active half, where it has a gradient; only the small
    # random weights tell the layers apart.

    def mask_parameters(key: Key) -> dict[str, Array]:
        return {
            "norm_scale": jnp.ones(width),
            "norm_shift": jnp.zeros(width),
            "weight": scale * jax.random.normal(key, (layers, width)),
            "bias": jnp.ones(layers),
            "mixer": jnp.full(layers, 1 / layers),
        }

    names = ("reward", "kl") if independent else ("reward",)
    return {name: mask_parameters(k) for name, k in zip(names, jax.random.split(key, len(names)), strict=True)}


def token_masks(params: Mapping[str, Array], states: Array) -> Array:
    """Returns non-negative masks [B,N,T] of states [B,N,T,L,D]: LayerNorm, then a ReLU unit per layer, then one over
    layers.

    Args:
        params: Of one mask, see `sparse_masks`.
        states: [B,N,T,L,D].

    Returns:
        The mask [B,N,T], in float32 at least.
    """
    states = as_float32(states)
    centered = states - jnp.mean(states, axis=-1, keepdims=True)
    scaled = centered * jax.lax.rsqrt(jnp.mean(jnp.square(centered), axis=-1, keepdims=True) + 1e-5)
    scale, shift = (jnp.broadcast_to(params[name], scaled.shape) for name in ("norm_scale", "norm_shift"))
    by_layer = jnp.einsum("...ld,ld->...l", scaled * scale + shift, params["weight"])
    by_layer = jax.nn.relu(by_layer + jnp.broadcast_to(params["bias"], by_layer.shape))
    return jax.nn.relu(by_layer @ params["mixer"])


class _SparseMasks(NamedTuple):
    """The masks of the log-ratios and of the KLs, [B,N,T] each."""

    ratio: Array
    kl: Array


def _learned_masks(context: Context, batch: Batch, masks: str, reference: str, sites: tuple[str, ...]) -> _SparseMasks:
    """The masks that the role `masks` makes of the reference's states at `sites`; no gradient flows into the states."""
    if masks not in context.state:
        raise ConfigError(
            f"sparse_po needs a role {masks!r} for the mask parameters: Role(None, roles.value(fn(losses.sparse_masks, "
            "width=D, layers=L)), optimizer=fn(adamw, ...))"
        )
    at_sites = context.score(tuple(f"{reference}@{site}" for site in sites), batch, read=reads.raw_states)
    parts = [states if states.ndim == 5 else states[..., None, :] for states in at_sites.values()]
    states = jax.lax.stop_gradient(jnp.concatenate(parts, axis=3))  # [B,N,T,L,D], the layers one after another
    params = context.params(masks)
    if params["reward"]["weight"].shape != states.shape[-2:]:
        layers, width = states.shape[-2:]
        raise ConfigError(f"the states at {', '.join(sites)} need masks of fn(sparse_masks, {width=}, {layers=})")
    ratio = token_masks(params["reward"], states)
    return _SparseMasks(ratio, token_masks(params["kl"], states) if "kl" in params else ratio)


@needs("preference")
@shared("role", "pairs")
def sparse_po(
    context: Context,
    batch: Batch,
    *,
    beta: Positive = 0.1,
    l1_reward: NonNegative = 0.0,
    l1_kl: NonNegative = 0.0,
    masks: str = "masks",
    sites: tuple[str, ...] = ("block",),
    reference: str = "reference",
    **where: Any,
) -> tuple[Mean, Metrics]:
    """Sparse token masks, learned: -log S(beta (u - d)) + l1_reward sum m_u + l1_kl sum m_d, u = sum_t m_u rho_t of w
    minus l, d = sum_t m_d KL_t of l minus w, KL_t = KL(ref to pi) (arXiv:2410.05102).

    m_u, m_d [B,N,T] >= 0 are masks that a small network gives each token from the reference's states (no gradient into
    those), trained with the policy. A soft label mixes both orders. With masks of 1 it is TDPO1. Differs from the
    authors' code: no dropout on the masks; a token's mask sees the state after it, the token included; with one mask
    for both terms the code halves both L1 weights, we do not.

    Args:
        context: Scores the role and the reference, and has the role `masks`.
        batch: Completions [B,N,T] with a preference [B,N,N].
        beta: Inverse temperature, which the masks rescale token by token, since nothing bounds them.
        l1_reward: Weight of the sum of m_u over the tokens of both sides.
        l1_kl: Weight of the sum of m_d.
        masks: The role of the masks, which starts from `sparse_masks`; one mask for both terms unless that role has one
            for each.
        sites: Which states are read, [B,N,T,D] or [B,N,T,L,D] each.
        reference: What log-ratios are against, a role with a model.
        **where: role and pairs, see `declared.shared`.

    Returns:
        The mean over pairs in nats, and the metrics of pairs with `reward_mask`, `kl_mask` (means over tokens) and
        `zero_share` of m_u.

    Raises:
        ConfigError: If there is no role of mask parameters, they do not fit the states, or the batch has no preference.
    """
    # Masks act per token and u - d is linear, so each completion is reduced to one number first and DPO's math is
    # applied to differences of those.
    pair = score_pairs(context, batch, reference=reference, **where)
    mask = _learned_masks(context, batch, masks, reference, sites)
    logps = scored(context, batch, where["role"])
    counts = mask_of(batch).astype(logps.dtype)
    # Stored log-probs of the reference may be anything, NaN included, on tokens that do not count.
    ratio = jnp.where(counts != 0, logps - reference_logps(context, batch, reference), 0)
    kl = _kl_to_policy(context, batch, where["role"], reference)
    # u - d is a difference of one number per completion: its masked log-ratio plus its masked KL.
    score = masked_sum(mask.ratio * ratio + mask.kl * kl, counts)
    l1 = masked_sum(l1_reward * mask.ratio + l1_kl * mask.kl, counts)
    values = dpo.per_pair(score[:, pair.i] - score[:, pair.j], pair.label.astype(score.dtype), beta=beta)
    return pair.mean(values + l1[:, pair.i] + l1[:, pair.j]), pair.metrics(
        reward_mask=Mean.of(mask.ratio, counts),
        kl_mask=Mean.of(mask.kl, counts),
        zero_share=Mean.of(mask.ratio == 0, counts),
    )
