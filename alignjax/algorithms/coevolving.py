"""Recipes in which something beside the policy moves too: its reward model, or the prompts it is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax import losses, roles, stages
from alignjax.algorithms.online import online
from alignjax.algorithms.parts import SelfPlay
from alignjax.config import Fn, fn
from alignjax.ranges import Count, NonNegative, Positive
from alignjax.types import Algorithm, Model, Role


def rival(
    model: Model,
    *,
    reward_model: Model,
    tau: Positive = 0.1,
    weight: NonNegative = 1.0,
    vocab: Count,
    n: Count = 2,
    reward_optimizer: Fn,
    reward_start: Any,
    judge: Fn | None = None,
    judges: Mapping[str, Role] | None = None,
    **parts: Any,
) -> Algorithm:
    """RIVAL: a reward model learns to rank the source's strong text above the policy's samples and to predict how much
    they share with it, while the policy learns by policy gradient to close the gap (arXiv:2506.05070).

    The game is min_policy max_reward E[r(strong) - r(sample)]. The source gives one strong completion a prompt; n >= 2
    samples join it. Both sides move at every iteration, at the speeds of their optimizers; the ranking is
    Bradley-Terry, the policy's step `reinforce` with a leave-one-out baseline and a KL of strength tau. These three,
    and BLEU's stand-in, are our choice: the paper's weights and RL variant are not known to us.

    Args:
        model: The network of the policy.
        reward_model: The network of the reward model, with the heads "reward" and "value".
        tau: Strength of the policy's KL towards the reference.
        weight: Of the regression (head "value") beside the ranking (head "reward"), on the share of tokens that
            `stages.overlap` counts.
        vocab: Size of the vocabulary in tokens.
        n: Samples per prompt.
        reward_optimizer: The reward model's optimizer.
        reward_start: The reward model's first value.
        judge: Ignored, as no judge is needed.
        judges: Ignored.
        **parts: `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`, see `parts.SelfPlay`.
    """
    # One batch serves both sides: completion 0 is the strong text and 1..n the samples, so the reward model ranks the
    # whole batch, while the view "own" leaves the strong text out of the policy gradient (the policy never sampled it).
    play = SelfPlay(model, judge=None, judges={}, **parts)
    experience = {
        "generate": play.sample(n),
        "label": fn(stages.prefer_first),
        "overlap": fn(stages.overlap, vocab=vocab),
        "reward": fn(stages.reward),
        "own": fn(stages.into_view, view="own", completions=tuple(range(1, n + 1))),
        "reference": stages.in_view("own", fn(stages.logprobs, role="reference")),
    }
    learn = {
        "rank": fn(losses.bradley_terry, pairs=tuple((0, j) for j in range(1, n + 1))),
        "metric": fn(losses.weighted, loss=fn(losses.score_regression, output="reward:value"), weight=weight),
        "reinforce": losses.on("own", fn(losses.reinforce, tau=tau, leave_one_out=True)),
    }
    state = {**play.policy_and_reference(), "reward": Role(reward_model, reward_start, reward_optimizer)}
    return play.algorithm(experience, learn, state)


def eva(
    model: Model,
    *,
    loss: Fn = fn(losses.dpo, beta=0.1),
    count: Count = 1,
    slots: Count = 1024,
    prompt_tokens: Count,
    score: Fn | None = None,
    rewriter: str | None = None,
    n: Count = 4,
    **parts: Any,
) -> Algorithm:
    """eva, evolving alignment by asymmetric self-play: `count` prompts of every batch come from a memory, in proportion
    to the policy's regret there, max r - min r over its samples (arXiv:2411.00062).

    The paper chooses and evolves a quarter of a fixed prompt set once a round; here a memory streams.

    Args:
        model: The network of the policy.
        loss: Any pairwise loss.
        count: Prompts of a batch that come from the memory.
        slots: How many prompts are remembered, by example_id modulo slots.
        prompt_tokens: The length of the source's prompts in tokens.
        score: A stage that fills `reward` after the judge's (default: mean win rates among the n samples).
        rewriter: A role that writes variants of the drawn prompts (`stages.rewrite`), or None to repeat them as they
            are.
        n: Completions per prompt.
        **parts: See `online`.
    """
    # Prompts are replaced before `online` samples, so all of its stages see the chosen ones; the regret is written
    # after the judge's scores, and the memory's rule stores it once the iteration is over.
    labels = {"score": fn(stages.win_rate_against) if score is None else score, "regret": fn(stages.regret)}
    algorithm = online(model, loss=loss, n=n, labels=labels, **parts)
    rewrite = fn(stages.rewrite, count=count, role=rewriter or "", stop=parts.get("stop"))
    evolve = {} if rewriter is None else {"evolve": rewrite}
    prompt = (prompt_tokens,)
    empty = roles.memory(slots, prompt=(prompt, "int32"), prompt_valid=(prompt, "bool"), priority=((), "float32"))
    return dataclasses.replace(
        algorithm,
        experience={"select": fn(stages.select_prompts, count=count), **evolve, **algorithm.experience},
        roles={**algorithm.roles, "prompts": Role(None, empty, rule=fn(roles.remember))},
    )
