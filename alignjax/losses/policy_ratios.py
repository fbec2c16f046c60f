"""How much likelier a token is under the policy that learns than when it was sampled: the first of the four choices
that a surrogate is made of (`losses.surrogate`).

A ratio is a function tokens -> log-ratio [B,N,T] in nats, differentiable; a bound then says how far it is followed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from alignjax.losses.masks import normalized
from alignjax.numerics import masked_sum
from alignjax.types import Array


class Tokens(NamedTuple):
    """What the parts of a surrogate read of every completion token, [B,N,T] each; 0 where the mask is 0.

    Attributes:
        logps: Log-probs under the policy that learns, in nats, the only thing that is differentiated.
        sampled: Log-probs when it was sampled, in nats.
        advantage: The advantage.
        mask: How much the token counts, 0 on what the policy did not write.
    """

    logps: Array
    sampled: Array
    advantage: Array
    mask: Array

    @property
    def moved(self) -> Array:
        """The log-ratio of every token [B,N,T] in nats, differentiable."""
        return self.logps - self.sampled


def no_ratio(tokens: Tokens) -> Array:
    """Returns log(p / sg[p]): 0, with the gradient of the log-prob. Every token counts as freshly sampled (REINFORCE),
    which is biased for older samples unless a stage weighs them (`importance` of the surrogate).

    Args:
        tokens: The tokens.

    Returns:
        Log-ratios [B,N,T].
    """
    return tokens.logps - jax.lax.stop_gradient(tokens.logps)


def token_ratio(tokens: Tokens) -> Array:
    """Returns log(p / p_old) of each token by itself: the ratio of PPO (arXiv:1707.06347 eq. 6) and GRPO
    (arXiv:2402.03300 eq. 3).

    It corrects the choice of a token, not how often what stands before it would be written now: of first order in how
    far the policy has moved its gradient is right, and exact for completions of one token.

    Args:
        tokens: The tokens.

    Returns:
        Log-ratios [B,N,T].
    """
    return tokens.moved


def sequence_ratio(tokens: Tokens, *, per_token: bool = True) -> Array:
    """Returns the log-ratio of the whole completion on each of its tokens: divided by its length, as GSPO does
    (arXiv:2507.18071 eq. 7), or (per_token=False) as it is, the exact importance weight, as in TRL's RLOO.

    With the length the weight is the geometric mean of those of its tokens: bounded in variance, and no importance
    weight (biased wherever samples are old).

    Args:
        tokens: The tokens.
        per_token: Divides by the sum of the mask.

    Returns:
        Log-ratios [B,N,T], one number per completion.
    """
    share = normalized(tokens.mask) if per_token else tokens.mask
    return jnp.broadcast_to(masked_sum(tokens.moved, share)[..., None], tokens.moved.shape)


def sequence_ratio_of_tokens(tokens: Tokens) -> Array:
    """Returns log(sg[s] p / sg[p]): the value of GSPO's ratio s on every token, the gradient of that token alone, so
    that advantages may differ within a completion (GSPO-token, arXiv:2507.18071 eq. 14).

    Args:
        tokens: The tokens.

    Returns:
        Log-ratios [B,N,T].
    """
    return jax.lax.stop_gradient(sequence_ratio(tokens)) + no_ratio(tokens)
