"""Recipes that learn from the distributions of another model."""

from __future__ import annotations

from typing import Any, Literal

from alignjax.algorithms.parts import SelfPlay
from alignjax.config import Fn
from alignjax.ranges import Count
from alignjax.types import Algorithm, Model, Role


def distillation(
    model: Model,
    *,
    teacher: Role,
    loss: Fn,
    samples: Literal["policy", "teacher"] = "policy",
    n: Count = 4,
    **parts: Any,
) -> Algorithm:
    """On-policy distillation: n samples of the student, at whose tokens it learns the teacher's distributions (GKD,
    arXiv:2306.13649; with `losses.minillm` MiniLLM, arXiv:2306.08543).

    On samples of the teacher, `losses.gkd(divergence="forward")` and `losses.sft` have one expected gradient, that of
    the forward KL of sequences; the second knows of the teacher what was sampled alone.

    Args:
        model: The network of the student.
        teacher: The role that teaches; it has the student's vocabulary, and no optimizer.
        loss: `losses.gkd`, `losses.minillm`, or on samples of the teacher also `losses.sft`, which is the control.
        samples: Whose samples are learned from.
        n: Samples per prompt.
        **parts: `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`, see `parts.SelfPlay`.
    """
    play = SelfPlay(model, judge=None, **parts)
    roles = {**play.policy(), "teacher": teacher}
    return play.algorithm({"generate": play.sample(n, samples)}, {loss.name: loss}, roles)
