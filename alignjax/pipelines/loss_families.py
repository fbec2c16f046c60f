"""What a kind of loss learns from: its data, stages and roles; and the pipeline that trains any loss on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from alignjax import stages
from alignjax.config import Experiment, Fn, Pipeline, fn
from alignjax.evaluate.tournament import Player
from alignjax.pipelines import summarization as parts
from alignjax.pipelines.summarization import Sizes
from alignjax.roles import copy_of, restored
from alignjax.types import Algorithm, Role


def nothing(sizes: Sizes) -> Mapping[str, Any]:
    """Returns no steps, or no roles."""
    return {}


@dataclasses.dataclass(frozen=True)
class Family:
    """What a kind of loss learns from.

    data: steps that make its data; source: its batches; stages: what is done to them before the loss; roles: what lives
    beside "policy" and "reference"; beside: further losses; completions: how many there are of a prompt
    """

    data: Callable[[Sizes], Mapping[str, Experiment]]
    source: Callable[[Sizes], Fn]
    stages: Mapping[str, Fn]
    roles: Callable[[Sizes], Mapping[str, Role]] = nothing
    beside: Mapping[str, Fn] = dataclasses.field(default_factory=dict)
    completions: Callable[[Sizes], int] = lambda sizes: sizes.samples

    def but(self, **changes: Any) -> Family:
        """Returns the family with other fields; `stages` are added to its own."""
        changes["stages"] = {**self.stages, **changes.get("stages", {})}
        return dataclasses.replace(self, **changes)


_REFERENCE = {"reference": fn(stages.logprobs, role="reference")}
SOFT = Family(parts.judged_samples, parts.recorded_samples, _REFERENCE)  # pairs with the judge's probabilities
PAIRS = SOFT.but(stages={"verdict": fn(stages.verdict)})  # chosen and rejected, as most papers have them
LISTS = SOFT.but(stages={"score": fn(stages.win_rate_against)})  # a win rate per completion
THUMBS = LISTS.but(stages={"thumbs": fn(stages.thumbs)})  # binary feedback per completion
EDITS = Family(nothing, parts.revised_summaries, _REFERENCE, completions=lambda sizes: 2)  # texts with marked edits


def sizes_of(mode: str) -> Sizes:
    """Returns the sizes of a mode; a tiny one has three completions of a post, so that losses of lists see lists."""
    sizes = parts.sizes_of(mode)
    return dataclasses.replace(sizes, samples=3) if mode.endswith("tiny") else sizes


def algorithm(sizes: Sizes, loss: Fn, family: Family) -> Algorithm:
    """Returns the algorithm that trains "policy" from the SFT policy, which stays as "reference"; the rest is the
    family's. A loss with `pairs` compares all pairs of completions."""
    model = parts.policy_model(sizes)
    roles = {
        "policy": Role(model, restored("sft", "policy"), parts.policy_optimizer(sizes)),
        "reference": Role(model, copy_of("policy")),
    }
    loss = parts.of_all_pairs(loss, family.completions(sizes))
    return Algorithm(family.stages, {loss.name: loss, **family.beside}, {**roles, **family.roles(sizes)})


def trained(sizes: Sizes, loss: Fn, family: Family) -> Experiment:
    """Returns the step that trains a policy with the loss."""
    return Experiment(algorithm(sizes, loss, family), family.source(sizes), sizes.policy_steps)


def pipeline(sizes: Sizes, name: str, loss: Fn, family: Family) -> Pipeline:
    """Returns everything from nothing to the win rate of a policy trained with `loss` against the SFT policy.

    Args:
      sizes: of networks, texts and runs, see `sizes_of`.
      name: of the step and of the player.
      loss: what is trained with.
      family: what it learns from: PAIRS, SOFT, LISTS, THUMBS or EDITS, or `PAIRS.but(roles=..., stages=...)`.

    Returns:
      The pipeline.
    """
    steps = {**family.data(sizes), name: trained(sizes, loss, family)}
    return parts.compared(sizes, steps, Player(name, name), title=f"{name} on docstring summaries")
