"""One loss of advantages per token for all policy-gradient methods, made of four choices that go with each other in any
way: ratio, bound, reduction and KL.

    fn(losses.surrogate, ratio=fn(losses.token_ratio), bound=fn(losses.ppo_clip, epsilon_high=0.28),
       reduction=fn(losses.token_mean), kl=None)

Each choice is a small function of numbers per token, ratio: tokens -> log-ratio [B,N,T], bound: (tokens, log_ratio) ->
`Bounded`, reduction: (values, mask, weight) -> Mean, kl: (log p - log q, log_ratio) -> a term, and each filter (tokens,
context, batch) -> factors: `policy_ratios.py`, `ratio_bounds.py`, `reductions.py`, `kl_terms.py`, `token_filters.py`. A
stage fills the advantages (`stages.group_advantage`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, fn
from alignjax.losses.decorators.declared import needs
from alignjax.losses.decorators.sequences import (
    completion_weights,
    mask_of,
    reference_logps,
    scored,
    sequence_logps,
)
from alignjax.losses.policy_ratios import Tokens, token_ratio
from alignjax.losses.ratio_bounds import Bounded, ppo_clip, vespo_kernel
from alignjax.losses.reductions import token_mean
from alignjax.numerics import bounded_exp
from alignjax.types import SAMPLER, Array, Batch, Context, Mean, Metrics


@needs("advantage")
def surrogate(
    context: Context,
    batch: Batch,
    *,
    ratio: Any = fn(token_ratio),
    bound: Any = fn(ppo_clip),
    reduction: Any = fn(token_mean),
    kl: Any = None,
    filters: tuple[Any, ...] = (),
    behaviour: str | None = SAMPLER,
    importance: str | None = None,
    role: str = "policy",
    reference: str = "reference",
) -> tuple[Mean, Metrics]:
    """Policy gradient per token: the mean of -bound(r A) + KL, r the ratio to what was sampled from (arXiv:1707.06347
    eq. 7, arXiv:2402.03300 eq. 3); ratio, bound, mean and KL are chosen.

    Tokens of mask 0 (not written by the policy) enter nothing, no ratio of a sequence and no length either. Completions
    count by completions["weight"] where a stage filled it.

    Args:
        context: Scores the role, and with a KL the reference.
        batch: Samples with an advantage of every token [B,N,T], a constant.
        ratio: `no_ratio`, `token_ratio`, `sequence_ratio` or `sequence_ratio_of_tokens`.
        bound: `no_bound`, `ppo_clip`, `cispo_clip`, `sapo_gate`, `dppo_mask` or `vespo_kernel`.
        reduction: `token_mean`, `sequence_mean`, `constant_length`, `sequence_sum` or `prompt_mean`.
        kl: `k1`, `k2` or `k3`, a term per token that is added; None: no KL here.
        filters: `top_entropy`, `off_policy_mask`: factors of the policy's term, not of the KL or of what divides.
        behaviour: The log-probs in the batch of what was sampled; None: those of `role` now (for fresh samples only).
        importance: The entry of batch.completions [B,N,T] of constants that multiply the policy's term; None: none.
        role: What is trained.
        reference: What the KL is to.

    Returns:
        The loss; means over tokens `ratio`, `held` (by the bound) and, with a KL, `kl` (log p - log q), and `logps` of
        completions.

    Raises:
        ConfigError: For no advantage, log-probs or constants of a name; for `importance` beside `vespo_kernel`.
    """
    tokens = tokens_of(context, batch, role, behaviour)
    weight, log_ratio = completion_weights(batch), ratio(tokens)
    bounded = bound(tokens, log_ratio)
    policy = bounded.objective * _constants(batch, importance, bound, tokens.mask != 0)
    for each in filters:
        policy = policy * jax.lax.stop_gradient(each(tokens, context, batch))
    metrics = _metrics(tokens, weight, log_ratio, bounded)
    if kl is None:
        return reduction(-policy, tokens.mask, weight), metrics
    difference = tokens.logps - jnp.where(tokens.mask != 0, reference_logps(context, batch, reference), 0)
    metrics["kl"] = Mean.of(difference, tokens.mask * weight[..., None])
    return reduction(kl(difference, log_ratio) - policy, tokens.mask, weight), metrics


def _metrics(tokens: Tokens, weight: Array, log_ratio: Array, bounded: Bounded) -> Metrics:
    of_token = tokens.mask * weight[..., None]
    return {
        "ratio": Mean.of(bounded_exp(jax.lax.stop_gradient(log_ratio)), of_token),
        "held": Mean.of(bounded.held.astype(tokens.logps.dtype), of_token),
        "logps": Mean.of(sequence_logps(tokens.logps, tokens.mask), weight),
    }


def tokens_of(context: Context, batch: Batch, role: str, behaviour: str | None) -> Tokens:
    """Returns what the parts of a surrogate read, with 0 in the place of whatever stands where the mask is 0.

    Args:
        context: Scores the role.
        batch: Samples [B,N,T] with an advantage [B,N,T].
        role: What is trained.
        behaviour: The log-probs in the batch of what was sampled; None: those of `role` now.

    Returns:
        The tokens.

    Raises:
        ConfigError: If the batch has no advantage, or no log-probs of this name.
    """
    mask = mask_of(batch)
    counts = mask != 0
    advantage = jnp.where(counts, batch.need("advantage", of="surrogate"), 0)
    drawn = None if behaviour is None else batch.need("logps", behaviour, of=f"surrogate(behaviour={behaviour!r})")
    logps = jnp.where(counts, scored(context, batch, role), 0)
    sampled = jax.lax.stop_gradient(logps if drawn is None else jnp.where(counts, drawn, 0))
    return Tokens(logps, sampled, advantage, mask.astype(logps.dtype))


def _constants(batch: Batch, importance: str | None, bound: Any, counts: Array) -> Array | float:
    """The importance weights of the tokens [B,N,T], or 1."""
    if importance is None:
        return 1.0
    if (bound.function if isinstance(bound, Fn) else bound) is vespo_kernel:
        raise ConfigError(
            f"surrogate(importance={importance!r}, bound=fn(vespo_kernel)): the kernel weighs by the whole ratio to "
            "what was sampled; leave importance out and let `behaviour` name the log-probs that were sampled from"
        )
    constants = batch.need("completions", importance, of=f"surrogate(importance={importance!r})")
    return jax.lax.stop_gradient(jnp.where(counts, constants, 0))
