"""Preferences of several kinds, learned one after another: a round may not undo what earlier ones have learned."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses.decorators.declared import needs
from alignjax.losses.decorators.pairwise import Pairs, score_pairs
from alignjax.losses.margin import dpo
from alignjax.ranges import NonNegative, Positive
from alignjax.types import Array, Batch, Context, Mean, Metrics


@needs("preference")
def sequential_dpo(
    context: Context,
    batch: Batch,
    *,
    beta: Positive = 0.1,
    earlier: tuple[str, ...] = (),
    alphas: tuple[NonNegative, ...] = (),
    role: str = "policy",
    reference: str = "reference",
    pairs: Pairs = ((0, 1),),
) -> tuple[Mean, Metrics]:
    """Sequential preference optimization (SPO), round n: -log S(m_n), m_n = beta h_n - sum_i alpha_i m_i over i < n
    (arXiv:2405.12739).

    h_n is the margin of the policy against that of round n - 1. The paper maximizes the reward of dimension n with the
    KL to the previous policy bounded and the earlier rewards held; we have its constraints from a summary and derived
    the loss: the optimum is pi_(n-1) exp((R_n + sum alpha_i R_i) / beta) up to a constant, so R_n is m_n, and the
    earlier rewards are the same recursion at the stored policies, constants here. alphas of 0 give one DPO after
    another.

    Args:
        context: Scores the policies.
        batch: Pairs [B,N,T] that are labeled by dimension n.
        beta: Inverse temperature of every round.
        earlier: The frozen policies of rounds 0 (SFT) to n - 2, in order; `reference` is that of round n - 1.
        alphas: The weight of each earlier round's reward, from round 1 on, as many as `earlier`.
        role: What is trained.
        reference: The policy of the round before.
        pairs: Which completions are compared.

    Returns:
        The mean over pairs, nats, and the metrics of a pair; `earlier_margin`, what the earlier rewards say of the
        preferred side.

    Raises:
        ConfigError: If there are not as many alphas as earlier policies, or the batch has no preference.
    """
    if len(earlier) != len(alphas):
        raise ConfigError(
            f"sequential_dpo(earlier={earlier}, alphas={alphas}): every earlier round has one frozen policy that it "
            "started from, and one weight"
        )
    now = score_pairs(context, batch, role=role, reference=reference, pairs=pairs)
    held: Array = jnp.zeros_like(now.fields["margin"])  # sum over rounds so far of alpha_i m_i
    for start, end, alpha in zip(earlier, (*earlier, reference)[1:], alphas, strict=True):
        margin = score_pairs(context, batch, role=end, reference=start, pairs=pairs).fields["margin"]
        held = held + alpha * (beta * margin - held)
    held = jax.lax.stop_gradient(held)
    # DPO's margin in nats, less what the earlier rewards ask for.
    values = dpo.per_pair(now.fields["margin"] - held / beta, now.label, beta=beta)
    sign = jnp.sign(2 * now.label - 1)
    return now.mean(values), now.metrics(earlier_margin=Mean.of(held * sign, now.weight * (sign != 0)))
