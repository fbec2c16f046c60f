"""How streams of logits combine into the distribution that is sampled at each step.

A behavior is ({stream: logits [..,V]}, history) -> logits [..,V]. Its hyper-parameters that are strings, or tuples of
strings, name the streams it reads; by default each is the role of that name. `history` is a `History` of the tokens and
log-probs so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax

from alignjax.ranges import Fraction
from alignjax.types import Array


class History(NamedTuple):
    """A behavior's view of the past.

    Attributes:
        tokens: The tokens so far [B,N,T], 0 ahead.
        logps: Each stream's log-probs of them [B,N,T], and "sampler".
        step: The present step: one number, or [B,N,1], which broadcasts against logits, where completions are at steps
            of their own (slots that are refilled, as prompts of one completion each).
    """

    tokens: Array
    logps: Mapping[str, Array]
    step: Array


def own(logits: Mapping[str, Array], history: History, *, stream: str = "policy") -> Array:
    """Samples from one stream, by default the policy itself.

    Args:
        logits: Logits [..,V] by stream.
        history: Not used.
        stream: Which stream is sampled.

    Returns:
        Its logits [..,V].
    """
    return logits[stream]


def mixture(
    logits: Mapping[str, Array],
    history: History,
    *,
    beta: Fraction,
    policy: str = "policy",
    reference: str = "reference",
) -> Array:
    """The geometric mixture of policy and reference, token by token: policy^(1-beta) * reference^beta, normalized at
    every step.

    The sampler of IPO-MD (arXiv:2403.08635 section 4.2) and Nash-MD (arXiv:2312.00886 section 7); beta = 0 is the
    policy, 1 the reference. The papers' theory normalizes the mixture of whole responses; the token-level mixture that
    they, and we, sample from equals it for one-token responses, and at beta 0 and 1. In between they differ by little:
    on 20 random games of strings of up to 3 tokens (`games.sequence_game`, policy the Nash policy) by a total variation
    of 0.007, 0.011, 0.015, 0.011 on average (0.031 at most) at beta 1/8, 1/4, 1/2, 3/4 and tau = 0.1, by 0.023, 0.040,
    0.056, 0.044 (0.14 at most) at tau = 0.02, where the policy is further from the reference.

    Args:
        logits: Logits [..,V] by stream.
        history: Not used.
        beta: The weight of the reference, from 0 to 1.
        policy: The policy's stream.
        reference: The reference's stream.

    Returns:
        Normalized log-probs [..,V].
    """
    # Each stream is normalized first: in floating point the mixture of large raw logits would lose digits that their
    # normalizers cancel.
    return (1 - beta) * jax.nn.log_softmax(logits[policy]) + beta * jax.nn.log_softmax(logits[reference])


def stream_names(hyperparameters: Mapping[str, object]) -> tuple[str, ...]:
    """Returns the streams that a behavior with these hyper-parameters reads, each once."""
    values = [value if isinstance(value, tuple) else (value,) for value in hyperparameters.values()]
    return tuple(dict.fromkeys(name for value in values for name in value if isinstance(name, str)))
