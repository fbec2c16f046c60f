"""Recipes that learn from a reward of the policy's own samples."""

from __future__ import annotations

from typing import Any

from alignjax import losses
from alignjax.algorithms.parts import SelfPlay, log_probs
from alignjax.config import Fn, fn
from alignjax.ranges import Count, NonNegative
from alignjax.types import Algorithm, Model


def rloo(model: Model, *, reward: Fn, tau: NonNegative = 0.05, n: Count = 8, **parts: Any) -> Algorithm:
    """REINFORCE leave-one-out: a policy gradient on the reward of n samples a prompt, each against the mean of the
    others, with a KL towards the reference (arXiv:2402.14740). GRPO (arXiv:2402.03300) on fresh samples is this but for
    its division by the standard deviation of a prompt's rewards.

    Args:
        model: The network of the policy.
        reward: A stage that fills `reward`: `fn(stages.text_reward, function=...)`, or `fn(stages.reward)` with the
            reward model in `judges`.
        tau: Strength of the KL, in units of the reward per nat.
        n: Samples per prompt, at least 2.
        **parts: `judges` (the roles that the reward reads), `optimizer`, `start`, `max_tokens`, `microbatches` and
            `stop`, see `parts.SelfPlay`.
    """
    play = SelfPlay(model, judge=None, **parts)
    experience = {"generate": play.sample(n), "reward": reward, **log_probs()}
    learn = {"reinforce": fn(losses.reinforce, tau=tau, leave_one_out=True)}
    return play.algorithm(experience, learn, {**play.policy_and_reference(), **play.judges})
