"""Losses that are only right for samples of the present policy, which samples are not that are made a step ahead or
learned from in several steps."""

from __future__ import annotations

from alignjax.config import Fn, functions_within
from alignjax.losses import no_ratio, reinforce, surrogate
from alignjax.types import Algorithm

ONLY_FRESH = "which is only right for samples of the present policy: write"


def on_policy(algorithm: Algorithm) -> list[str]:
    """Says in words which losses are only right for samples of the present policy: `reinforce` without importance
    weights and `surrogate` without ratios to what was sampled, also where another loss wraps them.

    Args:
        algorithm: The algorithm.

    Returns:
        The beginning of a message for each of them, after which an alternative may be named.
    """
    found = [(name, words) for name, loss in algorithm.losses.items() for words in map(_lacks, functions_within(loss))]
    return [f"loss {name!r} {words}" for name, words in found if words]


def _lacks(loss: Fn) -> str:
    """What a loss would need for samples of before, and where; nothing if it has that."""
    if loss.function is reinforce and loss.kwargs["behaviour"] is None:
        return (
            f"is reinforce without behaviour, {ONLY_FRESH} "
            'fn(losses.reinforce, behaviour="sampler", ..) there, with `cap` to bound the weights'
        )
    # An off-policy correction (`importance`) is made with the experience, so it does not know of later steps either.
    if loss.function is not surrogate:
        return ""
    if loss.kwargs["behaviour"] is None:
        return f'is surrogate(behaviour=None), {ONLY_FRESH} behaviour="sampler" there'
    if isinstance(loss.kwargs["ratio"], Fn) and loss.kwargs["ratio"].function is no_ratio:
        return f"is surrogate(ratio=fn(no_ratio)), {ONLY_FRESH} ratio=fn(losses.token_ratio) there"
    return ""
