"""Numbers of whole completions that every kind of loss is made of: masks, summed log-probs, log-ratios."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import as_float32, masked_sum
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


def completion_weights(batch: Batch) -> Array:
    """Returns how much each completion counts for a loss of rewards [B,N]: completions["weight"] where a stage filled
    it (0: nothing is known of the completion, see `win_rate_against`), else 1; and 0 for one that is all padding."""
    return counted(batch) * batch.completions.get("weight", 1)


def weighted_rewards(batch: Batch, loss: str, absent: float) -> tuple[Array, Array]:
    """Returns the reward of every completion and how much it counts.

    Args:
        batch: Completions [B,N,T] with a reward [B,N].
        loss: The name of the loss, for messages.
        absent: The reward of what does not count, where the batch may hold anything, NaN included.

    Returns:
        (reward, weight), [B,N] each, the weights being `completion_weights`.

    Raises:
        ConfigError: If the batch has no reward; it names the `loss` that asks.
    """
    weight = completion_weights(batch)
    return jnp.where(weight != 0, batch.need("reward", of=loss), absent), weight


def neutral(fields: Mapping[str, Array], counts: Array) -> dict[str, Array]:
    """Puts numbers at which any math is finite in the place of what does not count: log-probs of -1 nat, lengths of 1,
    and 0 for all else. A weight of 0 alone would not do: 0 times an infinite derivative is NaN.

    Args:
        fields: Numbers by name, any shape.
        counts: True where they count, the same shape.

    Returns:
        The numbers.
    """
    instead = {"logps": -1, "length": 1}
    return {name: jnp.where(counts, x, instead.get(name.partition("_")[0], 0)) for name, x in fields.items()}


def sequence_logps(logps: Array, mask: Array, normalize: str = "none") -> Array:
    """Reduces numbers per token to one per completion.

    Args:
        logps: Numbers [..,T], usually nats.
        mask: How much each token counts [..,T]; where it is 0 the number may be inf or NaN.
        normalize: "none" for sums, "length" for means over the mask's sum, which is taken to be 1 at least.

    Returns:
        Numbers [..], float32 at least: sums of half-precision numbers would lose the gaps that ranks are made of.

    Raises:
        ConfigError: For another `normalize`.
    """
    logps = as_float32(logps)
    total = masked_sum(logps, mask.astype(logps.dtype))
    if is_per_token(normalize):
        return total / jnp.maximum(jnp.sum(mask, axis=-1), 1).astype(logps.dtype)
    return total


def is_per_token(normalize: str) -> bool:
    """Tells "length" (means per token) from "none" (sums), and raises a ConfigError for anything else."""
    if normalize not in ("none", "length"):
        raise ConfigError(f"normalize={normalize!r}; it must be 'none' (sums) or 'length' (means per token)")
    return normalize == "length"


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
