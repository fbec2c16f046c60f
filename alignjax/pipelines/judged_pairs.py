"""A trained judge for self-play, and the pairs that it has labeled for offline methods: what all studies share."""

from __future__ import annotations

from typing import Any

from alignjax import stages
from alignjax.config import Experiment, Fn, fn
from alignjax.data.sources.recorded import recorded
from alignjax.ranges import Count
from alignjax.roles import restored
from alignjax.train.resolve import experience_shapes
from alignjax.types import Model, Role


def self_play(
    judge_model: Model,
    *,
    max_tokens: Count,
    n: Count,
    judge: str = "preference",
    start: str = "sft",
    reading: str = "apart",
) -> dict[str, Any]:
    """Returns what a recipe of self-play takes beside a policy: the trained judge, and the weights where everything
    starts.

    Args:
        judge_model: The network of the judge.
        max_tokens: The length of a completion in tokens at most.
        n: Completions per prompt.
        judge: The step whose role "preference" is the judge.
        start: The step whose role "policy" everything starts from.
        reading: "apart" or "averaged", as the judge was trained; see `pair_layout.pair_logits`.
    """
    return {
        "judge": fn(stages.preference_model, reading=reading),
        "judges": {"preference": Role(judge_model, restored(judge, "preference"))},
        "start": restored(start, "policy"),
        "max_tokens": max_tokens,
        "n": n,
    }


def recorded_batches(stage: str, experiment: Experiment, batch_size: int) -> Fn:
    """Returns the source of the batches that a step without losses has written.

    Args:
        stage: The name of the step.
        experiment: The step, whose batches say the shapes.
        batch_size: In prompts.
    """
    return fn(recorded, stage=stage, batch_size=batch_size, like=lambda: experience_shapes(experiment))
