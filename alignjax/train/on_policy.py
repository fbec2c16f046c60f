"""Losses that are only right for samples of the present policy, which samples are not that are made a step ahead or
learned from in several steps."""

from __future__ import annotations

from alignjax.config import functions_within
from alignjax.losses import reinforce
from alignjax.types import Algorithm

ON_POLICY = (
    "loss {!r} is reinforce without behaviour, which is only right for samples of the present policy: write "
    'fn(losses.reinforce, behaviour="sampler", ..) there, with `cap` to bound the weights'
)


def on_policy(algorithm: Algorithm) -> list[str]:
    """Names the losses that are only right for samples of the present policy: `reinforce` without importance weights,
    also where another loss wraps it."""
    return [
        name
        for name, loss in algorithm.losses.items()
        if any(each.function is reinforce and each.kwargs["behaviour"] is None for each in functions_within(loss))
    ]
