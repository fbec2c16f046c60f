"""A stage that weighs stale samples by how likely the present policy is to write them, and says how stale they are."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.config import ConfigError, check_known
from alignjax.numerics import as_float32
from alignjax.ranges import Fraction, Limit
from alignjax.types import SAMPLER, Array, Batch, Context, Key, Mean, Metrics

MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
FURTHEST = 40.0  # nats of a log-ratio, whose exponential and its square float32 still holds


def importance(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    mode: str = "sequence_mask",
    cap: Limit = 3.0,
    floor: Fraction = 0.0,
    role: str = "policy",
    behaviour: str = SAMPLER,
) -> tuple[Batch, Metrics]:
    """Fills completions["importance"] [B,N,T]: w = exp(logps[role] - logps[behaviour]), a constant, cut off at `cap` or
    left out beyond it, for tokens or for whole completions (truncated importance sampling, arXiv:1802.01561).

    logps[role] are those of the policy as the update begins, from the stage `logprobs(role="policy")` after the
    samples; the ratio that a loss clips is then to be that of the policy to these, not to the sampler's, which w has
    in it already.

    Weights of a whole completion make the expectation of any number of completions that under the policy; weights of
    tokens leave out how likely the tokens before were. Our own sampler knows the distribution that it drew from, top_k,
    top_p, min_p and temperature applied, and w divides by that, so the weighted mean is exact on all that it could
    draw; what it cuts off weighs nothing (the mean of w is the policy's mass on the rest). A truncated sample of an
    engine is refused: the probability with which it was drawn is not known.

    Args:
        context: Not used.
        batch: Samples with the log-probs of both.
        key: Not used.
        mode: "token_truncate", "token_mask", "sequence_truncate" or "sequence_mask": the four of TRL. "truncate" takes
            min(w, cap); "mask" counts a weight that is not from `floor` to `cap` as 0.
        cap: The largest weight.
        floor: The least weight that "mask" leaves, and "truncate" lifts lower ones to.
        role: The name in batch.logps of who is trained.
        behaviour: The name in batch.logps of the distribution that was drawn from: "sampler", or "engine" for an engine
            with older weights.

    Returns:
        The batch. Metrics, of the weights before they are cut: `effective`, the effective sample size as a share of the
        samples (tokens, or completions), `chi_square` E[w^2] - 1, `kl_from_sampler` and `kl_to_sampler`, KL(policy ||
        sampler) and KL(sampler || policy) in nats by estimates that are never negative; and `cut`, the share of the
        weights that the mode changed.

    Raises:
        ConfigError: If log-probs are missing, the mode is unknown, or an engine sampled with truncation.
    """
    check_known(mode, MODES, f"importance(mode={mode!r}); it is one of {', '.join(MODES)}")
    level, bound = mode.split("_")
    mask = batch.need("valid", of="importance") if batch.mask is None else batch.mask
    ratio, counts = _log_ratio(batch, mask != 0, role, behaviour), mask != 0
    if level == "sequence":
        ratio, counts = jnp.sum(ratio, axis=-1), jnp.any(counts, axis=-1)
    weight = jnp.exp(jnp.clip(ratio, -FURTHEST, FURTHEST))
    inside = (weight >= floor) & (weight <= cap)
    used = jnp.where(inside, weight, 0) if bound == "mask" else jnp.clip(weight, floor, cap)
    metrics = {**_staleness(ratio, weight, counts), "cut": Mean.of((~inside).astype(jnp.float32), counts)}
    filled = jnp.broadcast_to(used[..., None], mask.shape) if level == "sequence" else used
    return batch.replace(completions={**batch.completions, "importance": filled}), metrics


def _log_ratio(batch: Batch, counts: Array, role: str, behaviour: str) -> Array:
    """logps[role] - logps[behaviour] in nats, 0 where nothing counts; refuses what an engine drew with truncation."""
    if "engine" in batch.logps and SAMPLER not in batch.logps:
        raise ConfigError(
            "importance: these samples are an engine's, drawn from a truncated distribution whose log-probs nobody "
            "knows, so no weight is right for them: set top_p=1 in stages.engine(..)"
        )
    now, then = (as_float32(batch.need("logps", name, of="importance")) for name in (role, behaviour))
    return jnp.where(counts, now - then, 0)


def _staleness(ratio: Array, weight: Array, counts: Array) -> Metrics:
    """Measures how far the samples are from the policy's. The means are taken over what was drawn, so KL(policy ||
    sampler) = E[w log w] and KL(sampler || policy) = E[-log w], each with w - 1 added or taken off, of mean 0."""
    total, squares = Mean.of(weight, counts), Mean.of(jnp.square(weight), counts)
    present = total.weight > 0
    share = jnp.square(total.value()) / jnp.where(present, squares.value(), 1)
    return {
        "effective": Mean.of(share, present),
        "chi_square": Mean.of(jnp.square(weight) - 1, counts),
        "kl_from_sampler": Mean.of(weight * ratio - weight + 1, counts),
        "kl_to_sampler": Mean.of(weight - 1 - ratio, counts),
    }
