"""Reads that losses share: numbers per token that need the whole vocabulary, or a model's states.

They run inside a scoring pass on chunks of logits [..,V], so that no array of B N T V elements is ever made. A read is
known by its identity: losses that use the same function share one pass.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from alignjax.numerics import MASKED, as_float32
from alignjax.types import Array


def log_softmax(logits: Array) -> Array:
    """Returns log-probs of logits [..,V] in nats, float32 at least."""
    return jax.nn.log_softmax(as_float32(logits), axis=-1)


def forward_kl(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """Reads {"forward_kl": sum_v r_v (log r_v - log p_v)} in nats, of the roles asked for as (p, r): the divergence to
    the first from the second.

    Args:
        outputs: Logits [..,V] of two roles, p first.
        token: Not used.

    Returns:
        The divergence [..].
    """
    policy, reference = (log_softmax(logits) for logits in outputs.values())
    probability = jnp.exp(reference)
    # The inner where: a token that the reference rules out may have a log-prob of -inf under both.
    gap = jnp.where(probability > 0, reference - jnp.where(probability > 0, policy, 0), 0)
    return {"forward_kl": jnp.sum(probability * gap, axis=-1)}


def entropy(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """Reads {"entropy": -sum_v p_v log p_v} in nats: 0 of a certain token, log V if p is uniform.

    Args:
        outputs: The logits [..,V] of one role.
        token: Not used.

    Returns:
        The entropy [..].
    """
    (logits,) = outputs.values()
    logps = log_softmax(logits)
    probability = jnp.exp(logps)
    # The inner where: a token that is ruled out may have a log-prob of -inf.
    return {"entropy": -jnp.sum(probability * jnp.where(probability > 0, logps, 0), axis=-1)}


def collision(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """Reads {"collision": log sum_v p_v^2} in nats: the log-prob that two draws agree, -log V if p is uniform.

    Args:
        outputs: The logits [..,V] of one role.
        token: Not used.

    Returns:
        The log-prob [..].
    """
    (logits,) = outputs.values()
    return {"collision": jax.nn.logsumexp(2 * log_softmax(logits), axis=-1)}


def complement(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """Reads {"complement": log(1 - p_token)} in nats, from the logits of all other tokens: exact, with a bounded
    gradient, however close p_token is to 1.

    Args:
        outputs: The logits [..,V] of one role.
        token: [..].

    Returns:
        The log-prob [..] of any other token.
    """
    (logits,) = outputs.values()
    logits = as_float32(logits)
    others = jnp.where(jax.nn.one_hot(token, logits.shape[-1], dtype=bool), MASKED, logits)
    return {"complement": jax.nn.logsumexp(others, axis=-1) - jax.nn.logsumexp(logits, axis=-1)}


def raw_states(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """Reads what was asked for, as it is: for "role@site", the states [B,N,T,..] of that site.

    Args:
        outputs: What the scorer computed.
        token: Not used.

    Returns:
        A dict of the same.
    """
    return dict(outputs)
