"""Behaviors that look back: what is sampled next depends on how likely each stream found the tokens so far."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from alignjax.ranges import Count, Fraction, NonNegative
from alignjax.sampling.behaviors import History
from alignjax.sampling.combined_logits import shares
from alignjax.sampling.filters import temper
from alignjax.types import Array


def pluralistic(
    logits: Mapping[str, Array],
    history: History,
    *,
    streams: tuple[str, ...],
    weights: tuple[NonNegative, ...] | None = None,
    per_token: bool = False,
) -> Array:
    """A population's distribution over whole completions: sum_k w_k pi_k(y) (the distributional mode of Modular
    Pluralism, arXiv:2406.15951).

    The next token is sum_k v_k pi_k(.), v_k proportional to w_k times what stream k gave the tokens so far: one member
    speaks per completion. The paper averages distributions over answers of one token, where nothing is to be weighed;
    its weights are not known to us, and equal ones are the default.

    Args:
        logits: Logits [..,V] by stream.
        history: The streams' log-probs of the tokens so far.
        streams: The members: several models, or one model's streams on views that hold the members' comments.
        weights: Their shares of the population; None: all the same.
        per_token: v_k = w_k at every token, so that members take turns within a completion.

    Returns:
        Log-probs [..,V].
    """
    logps = jnp.stack([jax.nn.log_softmax(logits[name]) for name in streams])
    share = jnp.log(jnp.array(shares(weights, streams, of="pluralistic"), logps.dtype))
    share = share.reshape(-1, *[1] * (logps.ndim - 1))
    if not per_token:
        said = jnp.stack([jnp.sum(history.logps[name], axis=-1, keepdims=True) for name in streams])  # 0 ahead
        share = jax.nn.log_softmax(share + said, axis=0)
    return jax.nn.logsumexp(share + logps, axis=0)


def weak_to_strong(
    logits: Mapping[str, Array],
    history: History,
    *,
    threshold: Fraction = 0.8,
    window: Count = 6,
    longest: Count = 512,
    draft_temperature: NonNegative = 0.0,
    policy: str = "policy",
    draft: str = "draft",
) -> Array:
    """Weak-to-strong decoding: the draft model begins, and the policy goes on behind the first token at which the
    geometric mean of its own probabilities of the last `window` tokens reaches the threshold (arXiv:2506.07434).

    In lockstep both models read every token, so the draft stops where the policy takes over, where released code drafts
    to the end and cuts; the completion is the same. A draft that ends before that is the answer.

    Args:
        logits: Logits [..,V] by stream.
        history: The policy's log-probs of the tokens so far.
        threshold: A probability; 0 hands over as soon as the window is full.
        window: Tokens over which is averaged.
        longest: Where the policy takes over in any case, in tokens.
        draft_temperature: Divides the draft's logits, before the temperature of the sampling; 0 is greedy.
        policy: The stream of the strong model.
        draft: The stream of the small aligned one.

    Returns:
        Logits [..,V].
    """
    running = jnp.cumsum(history.logps[policy], axis=-1)
    length = running.shape[-1]
    before = jnp.pad(running, [(0, 0)] * (running.ndim - 1) + [(window, 0)])[..., :length]
    place = jax.lax.broadcasted_iota(jnp.int32, running.shape, running.ndim - 1)
    # A window must be full, and lie behind: ahead of the present step there are zeros, which are no log-probs.
    sure = (running - before >= window * jnp.log(threshold)) & (place >= window - 1) & (place < history.step)
    handed = jnp.any(sure, axis=-1, keepdims=True) | (history.step >= longest)
    return jnp.where(handed, logits[policy], temper(logits[draft], draft_temperature))
