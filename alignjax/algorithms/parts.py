"""The parts that recipes share: a policy with its reference, a past policy, and what self-play needs around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax import roles, stages
from alignjax.config import Fn, check_ranges, fn
from alignjax.ranges import Count, Natural
from alignjax.roles import CopyOf
from alignjax.sampling import own
from alignjax.types import Algorithm, Model, Role


def policy_and_reference(model: Model, *, start: Any, optimizer: Fn) -> dict[str, Role]:
    """Make the roles "policy", trained from `start`, and "reference", its frozen copy.

    Args:
        model: The network of both.
        start: The first value of both.
        optimizer: That of the policy.

    Returns:
        Roles by name.
    """
    return {"policy": Role(model, start, optimizer), "reference": Role(model, CopyOf("policy"))}


def past(model: Model, every: int, of: str = "policy") -> Role:
    """Make a role that is another one as it was up to `every` iterations ago.

    Args:
        model: The network of both roles.
        every: Iterations between two renewals.
        of: The role that is copied.

    Returns:
        The role, without an optimizer.
    """
    return Role(model, CopyOf(of), rule=fn(roles.snapshot, of=of, every=every))


@dataclasses.dataclass(frozen=True)
class SelfPlay:
    """The parts that every recipe of self-play takes as keywords, and passes on as `**parts`.

    `games.parts(game)` gives those that a game determines.

    Args:
        model: The network of the policy and of all its copies.
        judge: A judge function that compares completions; None for recipes that ask none.
        judges: The roles that the judge reads; none for a judge in Python (`stages.text_judge`).
        optimizer: The policy's optimizer.
        start: The policy's first value, such as `roles.fresh()` or `roles.restored("sft", "policy")`.
        max_tokens: The length of a completion in tokens at most.
        microbatches: The number of pieces that a scoring pass is cut into to save memory.
        stop: The tokens that end a completion; None: those that the tokenizer of the source's data names.
    """

    model: Model
    _: dataclasses.KW_ONLY
    judge: Fn | None
    judges: Mapping[str, Role] = dataclasses.field(default_factory=dict)
    optimizer: Fn
    start: Any
    max_tokens: Count
    microbatches: Count = 1
    stop: tuple[Natural, ...] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def sample(self, n: int, behaviour: Fn | str | None = None) -> Fn:
        """Make the stage that samples n completions of a behavior, of the role of a name, or (None) of the policy."""
        if behaviour is None:
            return fn(stages.generate, n=n, max_tokens=self.max_tokens, stop=self.stop)
        behaviour = fn(own, stream=behaviour) if isinstance(behaviour, str) else behaviour
        return fn(stages.generate, n=n, max_tokens=self.max_tokens, behaviour=behaviour, stop=self.stop)

    def label(self) -> Fn:
        """Make the stage that asks the judge about every pair."""
        return fn(stages.prefer, judge=self.judge)

    def policy(self) -> dict[str, Role]:
        """Make the role "policy" alone."""
        return {"policy": Role(self.model, self.start, self.optimizer)}

    def policy_and_reference(self) -> dict[str, Role]:
        """Make the roles "policy" and "reference"."""
        return policy_and_reference(self.model, start=self.start, optimizer=self.optimizer)

    def algorithm(
        self,
        experience: Mapping[str, Fn],
        losses: Mapping[str, Fn],
        roles: Mapping[str, Role],
        *,
        epochs: Count = 1,
        minibatches: Count = 1,
    ) -> Algorithm:
        """Put stages, losses and roles together, with these microbatches."""
        return Algorithm(experience, losses, roles, epochs, minibatches, self.microbatches)


def log_probs(role: str = "reference") -> dict[str, Fn]:
    """Make the stage, named after a role, that stores the role's log-probabilities of the completions."""
    return {role: fn(stages.logprobs, role=role)}
