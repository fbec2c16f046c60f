"""Numbers of whole completions that every kind of loss is made of: masks, summed log-probs, log-ratios."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import masked_sum
from alignjax.types import Array, Batch, Context


def scored(context: Context, batch: Batch, output: str) -> Array:
    """Returns what a role, or one head of it ("reward:value"), says about every token [B,N,T]: of a policy the
    log-probs in nats.

    Args:
        context: Scores the output.
        batch: Completions [B,N,T].
        output: "role", or "role:head".

    Returns:
        Numbers [B,N,T].
    """
    (values,) = context.score(output, batch).values()
    return values


def reference_logps(context: Context, batch: Batch, name: str) -> Array:
    """Returns the log-probs [B,N,T] of a frozen model in nats, a constant for the gradient even where another loss
    trains the role.

    Args:
        context: Scores the completions if nobody has: a second backbone in this update.
        batch: Its logps[name] are taken where a source, a sampler or the stage `logprobs` filled them.
        name: A role, or a name in batch.logps.

    Returns:
        The log-probs; under a mask of 0 they may be anything, NaN included.
    """
    return batch.logps[name] if name in batch.logps else jax.lax.stop_gradient(scored(context, batch, name))


def mask_of(batch: Batch) -> Array:
    """Returns how much every completion token counts [B,N,T]: the mask, or without one `valid`."""
    return batch.need("valid", of="a loss") if batch.mask is None else batch.mask


def counted(batch: Batch) -> Array:
    """Returns 1.0 for a completion of which a token counts, 0.0 for one that is all padding, [B,N]."""
    return jnp.any(mask_of(batch) != 0, axis=-1).astype(jnp.float32)


def sequence_logps(logps: Array, mask: Array, normalize: str = "none") -> Array:
    """Reduces numbers per token to one per completion.

    Args:
        logps: Numbers [..,T], usually nats.
        mask: How much each token counts [..,T]; where it is 0 the number may be inf or NaN.
        normalize: "none" for sums, "length" for means over the mask's sum, which is taken to be 1 at least.

    Returns:
        Numbers [..].

    Raises:
        ConfigError: For another `normalize`.
    """
    total = masked_sum(logps, mask.astype(logps.dtype))
    if normalize == "length":
        return total / jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(logps.dtype)
    if normalize != "none":
        raise ConfigError(f"normalize={normalize!r}; it must be 'none' (sums) or 'length' (means per token)")
    return total


def sequence_scores(
    context: Context, batch: Batch, *, role: str, reference: str | None, normalize: str = "none"
) -> tuple[Array, Array]:
    """Scores every completion as a whole.

    Args:
        context: Scores the role, and the reference unless the batch has its log-probs.
        batch: The completions.
        role: What is trained.
        reference: What log-ratios are against; None: against nothing.
        normalize: "none" for sums over tokens, "length" for means.

    Returns:
        (log-probs, log-ratios) [B,N] in nats; without a reference the log-ratios are the log-probs.
    """
    mask = mask_of(batch)
    logps = sequence_logps(scored(context, batch, role), mask, normalize)
    if reference is None:
        return logps, logps
    return logps, logps - sequence_logps(reference_logps(context, batch, reference), mask, normalize)
