"""What a kind of loss learns from: its data, stages and roles; and the pipeline that trains any loss on them.

Pipelines are those of an exact task (`exact_study.Sizes`, the default) or of docstrings (`summarization.Sizes`): every
function asks the sizes that it is given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from alignjax import losses, stages
from alignjax.config import ConfigError, Experiment, Fn, Pipeline, fn, hyperparameters
from alignjax.evaluate.tournament import Player
from alignjax.losses.decorators.declared import is_loss, kind_of
from alignjax.pipelines import exact_study, summarization
from alignjax.roles import copy_of, restored
from alignjax.types import Algorithm, Role

Sizes: TypeAlias = exact_study.Sizes | summarization.Sizes


def parts_of(sizes: Sizes) -> Any:
    """Returns the module whose parts are for these sizes."""
    return summarization if isinstance(sizes, summarization.Sizes) else exact_study


def judged_samples(sizes: Sizes) -> Mapping[str, Experiment]:
    """Returns the step "pairs": SFT samples with the trained judge's labels."""
    return parts_of(sizes).judged_samples(sizes)


def recorded_samples(sizes: Sizes) -> Fn:
    """Returns the source of what the step "pairs" has written."""
    return parts_of(sizes).recorded_samples(sizes)


def revised_texts(sizes: Sizes) -> Fn:
    """Returns the source of pairs of a text and a worse one, with the edits marked."""
    return parts_of(sizes).revised_texts(sizes)


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
SOFT = Family(judged_samples, recorded_samples, _REFERENCE)  # pairs with the judge's probabilities
PAIRS = SOFT.but(stages={"verdict": fn(stages.verdict)})  # chosen and rejected, as most papers have them
LISTS = SOFT.but(stages={"score": fn(stages.win_rate_against)})  # a win rate per completion
THUMBS = LISTS.but(stages={"thumbs": fn(stages.thumbs)})  # binary feedback per completion
EDITS = Family(nothing, revised_texts, _REFERENCE, completions=lambda sizes: 2)  # texts with marked edits


_OF_KIND = {"pairwise": PAIRS, "listwise": LISTS, "unpaired": THUMBS}
# Modules whose losses other configs train: of SFT and judges, of self-play, of rewards, of experts; and of sums.
_ELSEWHERE = (
    "supervised", "combine", "self_play", "exploration_bonus", "policy_gradient", "surrogate", "token_filters",
    "distillation", "reward_models", "router_balance", "user_preferences", "value_function",
)  # fmt: skip


def offline_losses() -> dict[str, Any]:
    """Returns by name every public loss that learns from data which do not change while it learns."""
    public = {name: loss for name, loss in vars(losses).items() if hasattr(loss, "__module__") and is_loss(loss)}
    return {name: loss for name, loss in public.items() if loss.__module__.rpartition(".")[2] not in _ELSEWHERE}


def with_defaults(table: Mapping[str, tuple[Fn, Family]]) -> dict[str, tuple[Fn, Family]]:
    """Adds to a table of losses all offline losses that it does not name.

    Args:
        table: Mode -> (the loss with its hyper-parameters, what it learns from).

    Returns:
        The table, followed by the other losses with their defaults and the family of their kind.

    Raises:
        ConfigError: If one of them has no kind, or a hyper-parameter without a default: it needs a line in the table.
    """
    beside = [part for _, family in table.values() for part in family.beside.values()]
    named = {loss.function for loss in (*(loss for loss, _ in table.values()), *beside)}
    others = {name: loss for name, loss in offline_losses().items() if loss not in named}
    for name, loss in others.items():
        needed = [key for key, p in hyperparameters(loss).items() if p.default is p.empty]
        if needed or kind_of(loss) is None:
            why = f"no default of {', '.join(needed)}" if needed else "no kind (pairwise, listwise or unpaired)"
            raise ConfigError(
                f"the loss {name} has {why}, so its line has to be written in LOSSES of configs/losses.py: "
                f'"{name}": (fn(losses.{name}, ...), PAIRS, LISTS, THUMBS or EDITS)'
            )
    return {**table, **{name: (fn(loss), _OF_KIND[kind_of(loss) or ""]) for name, loss in others.items()}}


def sizes_of(mode: str) -> Sizes:
    """Returns the sizes of a mode; a tiny one has three completions of a post, so that losses of lists see lists."""
    sizes = exact_study.sizes_of(mode)
    return dataclasses.replace(sizes, samples=3) if mode.endswith("tiny") else sizes


def algorithm(sizes: Sizes, loss: Fn, family: Family) -> Algorithm:
    """Returns the algorithm that trains "policy" from the SFT policy, which stays as "reference"; the rest is the
    family's. A loss with `pairs` compares all pairs of completions.

    Args:
        sizes: The sizes of the pipeline.
        loss: The loss.
        family: The family that the loss belongs to.
    """
    parts = parts_of(sizes)
    model = parts.policy_model(sizes)
    roles = {
        "policy": Role(model, restored("sft", "policy"), parts.policy_optimizer(sizes)),
        "reference": Role(model, copy_of("policy")),
    }
    loss = summarization.of_all_pairs(loss, family.completions(sizes))
    return Algorithm(family.stages, {loss.name: loss, **family.beside}, {**roles, **family.roles(sizes)})


def trained(sizes: Sizes, loss: Fn, family: Family) -> Experiment:
    """Returns the step that trains a policy with the loss.

    Args:
        sizes: The sizes of the pipeline.
        loss: The loss.
        family: The family that the loss belongs to.
    """
    return Experiment(algorithm(sizes, loss, family), family.source(sizes), sizes.policy_steps)


def pipeline(sizes: Sizes, name: str, loss: Fn, family: Family) -> Pipeline:
    """Returns everything from nothing to the win rate of a policy trained with `loss` against the SFT policy, which on
    an exact task is gold's.

    Args:
      sizes: of networks, texts and runs, see `sizes_of`.
      name: of the step and of the player.
      loss: what is trained with.
      family: what it learns from: PAIRS, SOFT, LISTS, THUMBS or EDITS, or `PAIRS.but(roles=..., stages=...)`.

    Returns:
      The pipeline.
    """
    steps = {**family.data(sizes), name: trained(sizes, loss, family)}
    task = "on docstring summaries" if isinstance(sizes, summarization.Sizes) else f"learns to {sizes.task.title}"
    return parts_of(sizes).compared(sizes, steps, Player(name, name), title=f"{name} {task}")
