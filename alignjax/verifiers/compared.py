"""A judge of two completions by a function that says how good each is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignjax.asking import accepted, check_inner, declares


def _check(reward: Any) -> None:
    check_inner(reward, "verifiers.higher(reward=..)")


@declares(check=_check)
def higher(
    prompts: Sequence[Any], completions: Sequence[Any], *, reward: Any, **columns: Sequence[Any]
) -> list[float | None]:
    """Judges by a reward: 1 where the first of two completions has the higher one, 0 where the second has, else 1/2.

    Args:
        prompts: Texts or messages.
        completions: Pairs of them.
        reward: A function of texts for `text_reward`, a verifier for instance, that is no coroutine.
        **columns: The columns.

    Returns:
        A number of each pair, None where the reward has no opinion of one.
    """
    sides = []
    for side in zip(*completions, strict=True):
        given = {"prompts": prompts, "completions": list(side), **columns}
        sides.append(reward(**{name: given[name] for name in accepted(reward, given)}))
    return [
        None if one is None or other is None else 0.5 + 0.5 * ((one > other) - (one < other))
        for one, other in zip(*sides, strict=True)
    ]
