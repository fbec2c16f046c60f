"""Pairwise losses that look at single tokens of each completion: their KL to the reference, their place, how likely
they are to be sampled, or a mask that is learned beside the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, as_fn, fn
from alignjax.losses import reads
from alignjax.losses.decorators.pairwise import (
    mask_of,
    pair_fields,
    pair_indices,
    pair_labels,
    pair_metrics,
    pair_values,
    reference_logps,
    sequence_logps,
)
from alignjax.losses.margin import dpo
from alignjax.losses.masks import tail_masks
from alignjax.numerics import masked_sum
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

__all__ = ["ld_dpo", "length_desensitised", "sparse_masks", "sparse_po", "tdpo", "token_masks", "wpo"]

Pairs = tuple[tuple[int, int], ...]


def _kl_to_policy(context: Context, batch: Batch, role: str, reference: str) -> Array:
    """KL(reference to policy) at every token, [B,N,T] nats."""
    return context.score((role, reference), batch, read=reads.forward_kl)["forward_kl"]


def tdpo(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
    variant: Literal["tdpo1", "tdpo2"] = "tdpo2",
    role: str = "policy",
    reference: str = "reference",
    pairs: Pairs = ((0, 1),),
) -> tuple[Mean, Metrics]:
    """Token-level DPO: -log S(beta (h - alpha (K(l) - sg K(w)))), K(y) = sum over tokens of KL(ref to pi) given the
    prefix; variant "tdpo1": -log S(beta (h - (K(l) - K(w)))) (arXiv:2404.11999).

    Nats per pair; K is the forward KL over the whole vocabulary, summed over the tokens that count, of a reference that
    must be a role with a model. beta: inverse temperature; alpha: weight of the KL gap, read by "tdpo2" alone. The
    gradient flows through every K but K(w) in "tdpo2". A soft label p mixes both orders of a pair. Minimised where h
    exceeds the KL gap by logit(p) / beta. As in the authors' code, whose config ships with "tdpo1" on.
    """
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    fields = pair_fields(context, batch, i, j, role=role, reference=reference)
    kl = sequence_logps(_kl_to_policy(context, batch, role, reference), mask_of(batch))
    label = label.astype(kl.dtype)

    def one(margin: Array, winner: Array, loser: Array) -> Array:
        gap = loser - winner if variant == "tdpo1" else alpha * (loser - jax.lax.stop_gradient(winner))
        return -jax.nn.log_sigmoid(beta * (margin - gap))

    forth, back = one(fields["margin"], kl[:, i], kl[:, j]), one(-fields["margin"], kl[:, j], kl[:, i])
    metrics = {"kl": Mean.of((kl[:, i] + kl[:, j]) / 2, weight)}
    return Mean.of(label * forth + (1 - label) * back, weight), pair_metrics(fields, label, weight) | metrics


def length_desensitised(
    context: Context, batch: Batch, *, loss: Any = fn(dpo, beta=0.1), alpha: float = 0.5
) -> tuple[Mean, Metrics]:
    """Any pairwise loss, length-desensitised: log-probs are sum over t <= n + alpha sum over t > n, n = min(len w, len
    l) (arXiv:2409.06411).

    loss: what `@pairwise` made, as fn(ipo, tau=0.1); its own role, reference, pairs and normalize hold. alpha: weight
    of the tokens that the longer side has more, in policy and reference alike; 1 leaves the loss as it is, 0 forgets
    them. normalize="length" divides by the length of the whole completion, as released code does.

    Raises ConfigError if `loss` is not pairwise.
    """
    loss = as_fn(loss)
    per_pair = getattr(loss.function, "per_pair", None)
    if per_pair is None:
        raise ConfigError(f"{loss.name} is not a loss of single pairs; give one as loss=fn(dpo, beta=0.1)")
    hyper = dict(loss.kwargs)
    role, reference, pairs, normalize = (hyper.pop(name) for name in ("role", "reference", "pairs", "normalize"))
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    whole = mask_of(batch)
    lengths = jnp.sum(whole, axis=-1)
    first, second = tail_masks(whole[:, i], whole[:, j], alpha)
    if normalize == "length":
        per_token = 1 / jnp.maximum(lengths, 1)[..., None]
        first, second = first * per_token[:, i], second * per_token[:, j]
    elif normalize != "none":
        raise ConfigError(f"normalize={normalize!r}; it must be 'none' (sums) or 'length' (means per token)")
    fields = pair_fields(context, batch, i, j, role=role, reference=reference, masks=(first, second))
    lengths = lengths.astype(fields["margin"].dtype)
    fields |= {"length_i": lengths[:, i], "length_j": lengths[:, j]}
    label = label.astype(fields["margin"].dtype)
    return Mean.of(pair_values(per_pair, fields, label, **hyper), weight), pair_metrics(fields, label, weight)


def ld_dpo(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
    role: str = "policy",
    reference: str | None = "reference",
    pairs: Pairs = ((0, 1),),
) -> tuple[Mean, Metrics]:
    """Length-desensitised DPO: -log S(beta h), with log-probs sum over t <= n + alpha sum over t > n, n = min(len w,
    len l) (arXiv:2409.06411).

    Nats per pair. beta: inverse temperature; alpha: weight of the tokens beyond the shorter side's length; 1 is DPO. n
    belongs to the pair, and only the longer side has a tail. Minimised at a margin, so weighted, of logit(p) / beta.
    `length_desensitised` does the same to any pairwise loss. As in TRL's `ld_alpha`; the default of alpha is ours.
    """
    inner = fn(dpo, beta=beta, role=role, reference=reference, pairs=pairs)
    return length_desensitised(context, batch, loss=inner, alpha=alpha)


def wpo(context: Context, batch: Batch, *, loss: Any = fn(dpo, beta=0.1), role: str = "policy") -> tuple[Mean, Metrics]:
    """Weighted preference optimisation: sg(min(1, exp(c(w) + c(l)))) loss(w, l), c(y) = mean over tokens of log pi(y_t)
    - log sum_v pi(v)^2 (arXiv:2406.11827).

    Makes off-policy pairs count as much as the policy would have sampled them: c is 0 for a completion as likely as a
    draw from the policy is on average, and the clamp is on the product. loss: any loss with `pairs` whose pairs count
    by `pair_weight`; role: the policy, without a reference. Weighted losses are averaged over pairs, not divided by the
    sum of the weights; metrics of the loss are weighted as it is. Minimised where `loss` is, pair by pair. As in the
    authors' code.

    Raises ConfigError if `loss` has no pairs.
    """
    loss = as_fn(loss)
    if "pairs" not in loss.kwargs:
        raise ConfigError(f"{loss.name} has no pairs to be weighed; give a pairwise loss as loss=fn(dpo, beta=0.1)")
    (logps,) = context.score(role, batch).values()
    agree = context.score(role, batch, read=reads.collision)["collision"]
    confidence = sequence_logps(logps - agree, mask_of(batch), "length")
    weight = jax.lax.stop_gradient(jnp.exp(jnp.minimum(confidence[:, :, None] + confidence[:, None, :], 0)))
    counted = jnp.ones_like(weight) if batch.pair_weight is None else batch.pair_weight
    mean, metrics = loss(context, batch.replace(pair_weight=counted * weight))
    i, j = pair_indices(batch, loss.kwargs["pairs"])
    weights = Mean.of(weight[:, i, j], counted[:, i, j])
    return Mean(mean.total, weights.weight), metrics | {"weight": weights}


def sparse_masks(
    key: Key, *, width: int, layers: int, independent: bool = False, scale: float = 0.02
) -> dict[str, dict[str, Array]]:
    """The mask parameters of `sparse_po`, for a role with an optimizer:
    Role(None, roles.value(fn(sparse_masks, width=512, layers=8)), optimizer=fn(adamw, learning_rate=1e-4)).

    width, layers: D and L of the states that are read; independent: a second set for the KL term, "kl" beside "reward".
    Masks start near 1, where SparsePO is TDPO1; the authors' code draws all weights at random, and a mask may start
    dead.
    """

    def one(key: Key) -> dict[str, Array]:
        return {
            "norm_scale": jnp.ones(width),
            "norm_shift": jnp.zeros(width),
            "weight": scale * jax.random.normal(key, (layers, width)),
            "bias": jnp.ones(layers),
            "mixer": jnp.full(layers, 1 / layers),
        }

    names = ("reward", "kl") if independent else ("reward",)
    return {name: one(k) for name, k in zip(names, jax.random.split(key, len(names)), strict=True)}


def token_masks(params: Mapping[str, Array], states: Array) -> Array:
    """Non-negative masks [B,N,T] of states [B,N,T,L,D]: LayerNorm, then a ReLU unit per layer, then one over layers."""
    states = states.astype(jnp.promote_types(states.dtype, jnp.float32))
    centred = states - jnp.mean(states, axis=-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + 1e-5)
    scaled = scaled * params["norm_scale"] + params["norm_shift"]
    by_layer = jax.nn.relu(jnp.einsum("...ld,ld->...l", scaled, params["weight"]) + params["bias"])
    return jax.nn.relu(by_layer @ params["mixer"])


def _states(context: Context, batch: Batch, reference: str, sites: tuple[str, ...]) -> Array:
    """The reference's states at `sites` as [B,N,T,L,D], their layers one after another."""
    names = tuple(f"{reference}@{site}" for site in sites)
    found = context.score(names, batch, read=reads.raw_states)
    parts = [states if states.ndim == 5 else states[..., None, :] for states in (found[name] for name in names)]
    return jax.lax.stop_gradient(jnp.concatenate(parts, axis=3))


def sparse_po(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    l1_reward: float = 0.0,
    l1_kl: float = 0.0,
    masks: str = "masks",
    sites: tuple[str, ...] = ("block",),
    role: str = "policy",
    reference: str = "reference",
    pairs: Pairs = ((0, 1),),
) -> tuple[Mean, Metrics]:
    """Sparse token masks, learned: -log S(beta (u - d)) + l1_reward sum m_u + l1_kl sum m_d, u = sum_t m_u rho_t of w
    minus l, d = sum_t m_d KL_t of l minus w, KL_t = KL(ref to pi) (arXiv:2410.05102).

    Nats per pair. m_u, m_d [B,N,T] >= 0: masks that a small network gives each token from the reference's states (no
    gradient into those), trained with the policy: the role `masks`, which starts from `sparse_masks`; one mask for both
    terms unless that role has one for each. sites: which states are read, [B,N,T,D] or [B,N,T,L,D] each. beta: inverse
    temperature, which the masks rescale token by token, since nothing bounds them. l1_reward, l1_kl: weights of the
    masks' sums over the tokens of both sides. A soft label mixes both orders. With masks of 1 it is TDPO1.

    Differs from the authors' code: no dropout on the masks; a token's mask sees the state after it, the token included;
    with one mask for both terms the code halves both L1 weights, we do not.

    Raises ConfigError if there is no role of mask parameters, or they do not fit the states.
    """
    if masks not in context.state:
        raise ConfigError(
            f"sparse_po needs a role {masks!r} for the mask parameters: Role(None, roles.value(fn(losses.sparse_masks, "
            "width=D, layers=L)), optimizer=fn(adamw, ...))"
        )
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    fields = pair_fields(context, batch, i, j, role=role, reference=reference)
    states = _states(context, batch, reference, sites)
    params = context.params(masks)
    if params["reward"]["weight"].shape != states.shape[-2:]:
        layers, width = states.shape[-2:]
        raise ConfigError(f"the states at {', '.join(sites)} need masks of fn(sparse_masks, {width=}, {layers=})")
    reward = token_masks(params["reward"], states)
    divergence = token_masks(params["kl"], states) if "kl" in params else reward
    (logps,) = context.score(role, batch).values()
    counted = mask_of(batch).astype(logps.dtype)
    # A filed reference may hold anything, NaN included, on tokens that do not count.
    gained = reward * jnp.where(counted != 0, logps - reference_logps(context, batch, reference), 0)
    kept = divergence * _kl_to_policy(context, batch, role, reference)
    # u - d is a difference of one number per completion: its masked log-ratio plus its masked KL.
    score = masked_sum(gained + kept, counted)
    sparsity = masked_sum(l1_reward * reward + l1_kl * divergence, counted)
    label = label.astype(score.dtype)
    values = pair_values(dpo.per_pair, {"margin": score[:, i] - score[:, j]}, label, beta=beta)
    metrics = {
        "reward_mask": Mean.of(reward, counted),
        "kl_mask": Mean.of(divergence, counted),
        "zero_share": Mean.of(reward == 0, counted),
    }
    return Mean.of(values + sparsity[:, i] + sparsity[:, j], weight), pair_metrics(fields, label, weight) | metrics
