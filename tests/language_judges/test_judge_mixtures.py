"""Mixtures of judges: the regret of their weights, and what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alignjax import language_judges, verifiers
from alignjax.asking import check_named
from alignjax.config import ConfigError, fn
from alignjax.language_judges import hedge


def sequences() -> dict[str, tuple[Any, Any]]:
    draw = np.random.default_rng(5)
    outcomes = (draw.random(400) < 0.5) * 1.0
    reliable = np.array([0.55, 0.7, 0.9, 0.5])
    right = draw.random((400, 4)) < reliable
    drifting = draw.random((400, 3)) < np.where(np.arange(400)[:, None] < 200, [0.9, 0.5, 0.6], [0.5, 0.9, 0.6])
    turns = np.stack([np.arange(300) % 2, 1 - np.arange(300) % 2], axis=1)
    return {
        "reliable": (np.where(right, outcomes[:, None], 1 - outcomes[:, None]), outcomes),
        "drifting": (np.where(drifting, outcomes[:, None], 1 - outcomes[:, None]), outcomes),
        "by turns": (turns, np.zeros(300)),
        "soft": (draw.random((200, 7)), draw.random(200)),
        "alone": (draw.random((9, 1)), draw.random(9)),
    }


@pytest.mark.parametrize("name", sequences())
def test_the_regret_is_within_its_bound(name: str) -> None:
    """And that of a leader who is followed is not, by turns."""
    verdicts, outcomes = sequences()[name]
    found = hedge(verdicts, outcomes)
    np.testing.assert_allclose(found.weights.sum(1), 1)
    np.testing.assert_allclose(found.weights[0], 1 / verdicts.shape[1])
    assert found.regret <= found.bound + 1e-9
    losses = np.abs(verdicts - outcomes[:, None])
    if name == "by turns":
        before = np.concatenate([np.zeros((1, 2)), np.cumsum(losses, 0)])[:-1]
        leader = np.where(before[:, 0] < before[:, 1], 0, 1)
        assert losses[np.arange(len(losses)), leader].sum() - losses.sum(0).min() > found.bound
    if name == "reliable":
        assert found.weights[-1].argmax() == 2
        assert found.weights[-1, 2] > 0.99


def test_verdicts_that_cannot_be() -> None:
    for verdicts, outcomes in (([[0.5, 2]], [1]), ([[0.5]], [1, 0]), ([], []), ([[np.nan]], [1])):
        with pytest.raises(ValueError, match="must be"):
            hedge(verdicts, outcomes)


def first(completions: Any) -> list[float | None]:
    return [None if one == "?" else 1.0 for one, _ in completions]


def longer(completions: Any, prompts: Any, **columns: Any) -> list[float | None]:
    return [None if "?" in pair else float(len(pair[0]) > len(pair[1])) for pair in completions]


def test_a_mixture_asks_each_what_it_takes() -> None:
    pairs = [("a", "bb"), ("aa", "b"), ("?", "b"), ("a", "?")]
    logged: dict[str, Any] = {}
    judge = fn(language_judges.mixture, judges=(first, longer), weights=(1.0, 3.0))
    said = judge(prompts=["p"] * 4, completions=pairs, color=["red"] * 4, log_extra=logged.__setitem__)
    assert said == [0.25, 1, None, 1]
    assert logged == {"mixture/0": [1, 1, None, 1], "mixture/1": [0, 1, None, None]}
    assert judge.replace(weights=(0.0, 1.0))(prompts=["p"] * 4, completions=pairs) == [0, 1, None, None]
    rewards = fn(language_judges.mixture, judges=(fn(verifiers.numeric), fn(verifiers.pattern, pattern="4")))
    assert rewards(prompts=["p"] * 3, completions=["4", "14", "5"], answer=[4, 4, None]) == [1, 0.5, 0]


async def later(completions: Any) -> list[float]:
    return [1.0 for _ in completions]


def test_mixtures_that_cannot_be_meant() -> None:
    for settings, words in (
        ({"judges": ()}, "needs judges"),
        ({"judges": (first,), "weights": (1.0, 2.0)}, "for 1 judges"),
        ({"judges": (first,), "weights": (0.0,)}, "one must count"),
        ({"judges": (later,)}, "mixture: a judge is a coroutine"),
        ({"judges": (fn(verifiers.pattern, pattern="("),)}, "no regular expression"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_named(fn(language_judges.mixture, **settings), "here")
