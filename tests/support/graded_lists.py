"""Losses on graded lists, and the lists that their tests are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alignjax import losses
from alignjax.config import fn
from alignjax.types import Batch
from tests.support.tiny import evaluate

# Each with what keeps its terms alive on lists of a few nats; weight=0 leaves the comparisons alone.
LOSSES: dict[str, Any] = {
    "plackett_luce": fn(losses.plackett_luce, beta=0.7),
    "lipo": fn(losses.lipo, beta=0.7),
    "lipo_pairwise": fn(losses.lipo, objective=fn(losses.pairwise_logistic)),
    "lipo_softmax": fn(losses.lipo, objective=fn(losses.softmax_listwise)),
    "pro_unit": fn(losses.pro, temperatures=False),
    "clha": fn(losses.clha, gamma=0.5, gap=0.1),
    "stable_alignment_hardest": fn(losses.stable_alignment, hardest=True),
    **{name: fn(getattr(losses, name)) for name in ("pro", "rrhf", "knowpat", "stable_alignment", "act")},
}
every = pytest.mark.parametrize("name", LOSSES)
# Lists of two of which the first is the better one.
SCORES, FIRST = 2 * np.random.default_rng(0).normal(size=(6, 2)), np.tile([1.0, 0.0], (6, 1))


def draws(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def list_batch(scores: Any, reward: Any) -> tuple[np.ndarray, Batch]:
    """Policy log-probs [B,N,1] that are `scores`, and a batch of one-token completions with a reference of 0."""
    scores = np.asarray(scores, float)
    on = np.ones((*scores.shape, 1), bool)
    batch = Batch(
        tokens=np.zeros(on.shape, np.int32), valid=on, mask=on.astype(float), reward=np.asarray(reward, float),
        logps={"reference": np.zeros(on.shape)},
    )  # fmt: skip
    return scores[..., None], batch


def evaluated(loss: Any, scores: Any, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient by log-probs."""
    return evaluate(loss, batch, policy=scores)


def on_lists(loss: Any, scores: Any, reward: Any) -> tuple[np.ndarray, np.ndarray]:
    logps, batch = list_batch(scores, reward)
    value, slope = evaluated(loss, logps, batch)
    return value, slope[..., 0]


def pairs_of(scores: Any) -> tuple[np.ndarray, Batch]:
    """The same as pairs in which the first is preferred."""
    logps, batch = list_batch(scores, np.zeros(np.shape(scores)))
    return logps, batch.replace(preference=np.tile([[0.5, 1], [0, 0.5]], (len(logps), 1, 1)))


def assert_same(one: Any, other: Any) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
