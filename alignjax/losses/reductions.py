"""How numbers per token become one loss: the third of the four choices that a surrogate is made of.

A reduction is a function (values [B,N,T], mask [B,N,T], weight [B,N]) -> Mean, weight saying how much a completion
counts.
"""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.losses.masks import normalized
from alignjax.numerics import masked_sum
from alignjax.ranges import Count
from alignjax.types import Array, Mean


def token_mean(values: Array, mask: Array, weight: Array) -> Mean:
    """Returns the mean over all tokens of the batch (DAPO, arXiv:2503.14476 eq. 8, there over a prompt's group; TRL's
    "bnpo" and "dapo"). A long completion counts by its length, and the number of tokens that divides is random, which
    biases the gradient of a small batch.

    Args:
        values: Numbers per token [B,N,T].
        mask: How much a token counts [B,N,T].
        weight: How much a completion counts [B,N].
    """
    return Mean.of(values, mask * weight[..., None])


def sequence_mean(values: Array, mask: Array, weight: Array) -> Mean:
    """Returns the mean over completions of their token means (GRPO, arXiv:2402.03300 eq. 3): a token of a long
    completion counts less, so that long bad answers cost little (arXiv:2503.20783 section 3.1).

    Args:
        values: Numbers per token [B,N,T].
        mask: How much a token counts [B,N,T].
        weight: How much a completion counts [B,N].
    """
    return Mean.of(masked_sum(values, normalized(mask)), weight)


def constant_length(values: Array, mask: Array, weight: Array, *, length: Count) -> Mean:
    """Returns the mean over completions of their token sums, divided by one length for all (Dr.GRPO, arXiv:2503.20783
    section 3.2): the policy gradient without a bias by length, in units of `length` tokens.

    Args:
        values: Numbers per token [B,N,T].
        mask: How much a token counts [B,N,T].
        weight: How much a completion counts [B,N].
        length: The number of tokens, usually the longest completion that may be sampled.
    """
    return Mean.of(masked_sum(values, mask) / length, weight)


def sequence_sum(values: Array, mask: Array, weight: Array) -> Mean:
    """Returns the mean over completions of their token sums: the log-prob of a whole completion's gradient, and the
    length that LUSPO gives back to GSPO (arXiv:2602.05261).

    Args:
        values: Numbers per token [B,N,T].
        mask: How much a token counts [B,N,T].
        weight: How much a completion counts [B,N].
    """
    return Mean.of(masked_sum(values, mask), weight)


def prompt_mean(values: Array, mask: Array, weight: Array) -> Mean:
    """Returns the mean over prompts of the token mean of their completions (DAPO's sum over a group, arXiv:2503.14476
    eq. 8, prompt by prompt): every prompt counts once, however long its answers are.

    Args:
        values: Numbers per token [B,N,T].
        mask: How much a token counts [B,N,T].
        weight: How much a completion counts [B,N].
    """
    rows = len(values)
    share = normalized((mask * weight[..., None]).reshape(rows, -1))
    return Mean.of(masked_sum(values.reshape(rows, -1), share), jnp.any(share != 0, axis=-1))
