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
    others, with a KL towards the reference (arXiv:2402.14740). `grpo` also divides by their standard deviation.

    Args:
        model: The network of the policy.
        reward: A stage that fills `reward`: `fn(stages.text_reward, function=...)`, or `fn(stages.reward)` with the
            reward model in `judges`.
        tau: Strength of the KL, in units of the reward per nat.
        n: Samples per prompt, at least 2.
        **parts: `judges` (the roles that the reward reads), `optimizer`, `start`, `max_tokens`, `microbatches` and
            `stop`, see `parts.SelfPlay`.
    """
    return _rewarded(model, fn(losses.reinforce, tau=tau, leave_one_out=True), reward, n, parts)


def grpo(model: Model, *, reward: Fn, tau: NonNegative = 0.04, n: Count = 8, **parts: Any) -> Algorithm:
    """Group relative policy optimization (arXiv:2402.03300) on fresh samples: a policy gradient on the reward of n
    samples a prompt, less the prompt's mean and divided by its standard deviation, with a KL towards the reference.

    Each sample is learned from once, where the paper's clipped ratio is 1. Two terms are otherwise: log-probs of a
    completion are added up and not divided by its length, which favors long bad answers (arXiv:2503.20783), and the KL
    is the exact one of sequences in the place of an estimate for each token.

    Args:
        model: The network of the policy.
        reward: As of `rloo`.
        tau: Strength of the KL, in units of the standardized reward per nat.
        n: Samples per prompt, at least 2.
        **parts: As of `rloo`.
    """
    return _rewarded(model, fn(losses.reinforce, tau=tau, standardized=True), reward, n, parts)


def _rewarded(model: Model, loss: Fn, reward: Fn, n: int, parts: dict[str, Any]) -> Algorithm:
    play = SelfPlay(model, judge=None, **parts)
    experience = {"generate": play.sample(n), "reward": reward, **log_probs()}
    return play.algorithm(experience, {"reinforce": loss}, {**play.policy_and_reference(), **play.judges})
