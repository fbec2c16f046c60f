"""Recipes that learn from what a source gives: supervised, preference and reward models, offline preference losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax import losses, stages
from alignjax.algorithms.parts import log_probs, policy_and_reference
from alignjax.config import Fn, fn
from alignjax.pair_layout import all_pairs
from alignjax.ranges import Count, Natural, NonNegative, Positive
from alignjax.roles import Fresh
from alignjax.types import Algorithm, Model, Role


def sft(model: Model, *, optimizer: Fn, start: Any = Fresh(), microbatches: Count = 1) -> Algorithm:
    """Supervised fine-tuning of "policy" on completions from the source.

    Args:
        model: The network of the policy.
        optimizer: The policy's optimizer.
        start: The policy's first value.
        microbatches: The number of pieces that a scoring pass is cut into.
    """
    state = {"policy": Role(model, start, optimizer)}
    return Algorithm(losses={"sft": fn(losses.sft)}, roles=state, microbatches=microbatches)


def preference_model(
    model: Model,
    *,
    optimizer: Fn,
    n: Count = 2,
    reading: str = "joint",
    sampler: Role | None = None,
    max_tokens: Natural = 0,
    stop: tuple[Natural, ...] | None = None,
    start: Any = Fresh(),
    microbatches: Count = 1,
) -> Algorithm:
    """A pairwise preference model p(y > y' | x) in role "preference", on the pairs of n completions that are labeled.

    Args:
        model: The network of the preference model.
        optimizer: Its optimizer.
        n: Completions per prompt that the source gives.
        reading: "joint", "apart" or "averaged", see `pair_layout.pair_logits`.
        sampler: A role that adds a completion of its own to the n of the source; the first is then taken to be the
            human one and to beat all others.
        max_tokens: The length of such a completion in tokens at most.
        stop: The tokens that end it; None: those that the tokenizer of the source's data names.
        start: The first value of the preference model.
        microbatches: The number of pieces that a scoring pass is cut into.
    """
    # With a sampler, the human completion is compared with every other one, but the others not among themselves:
    # nothing is known about their order, and a label made up for it would teach noise.
    state, experience, pairs = {"preference": Role(model, start, optimizer)}, {}, all_pairs(n)
    if sampler is not None:
        state["policy"] = sampler
        pairs = tuple((0, j) for j in range(1, n + 1))
        experience = {
            "generate": fn(stages.generate, n=1, max_tokens=max_tokens, stop=stop),
            "label": fn(stages.prefer_first),
        }
    pair = fn(losses.preference_cross_entropy, pairs=pairs, reading=reading)
    return Algorithm(experience, {"pair": pair}, state, microbatches=microbatches)


def reward_model(
    model: Model, *, optimizer: Fn, n: Count = 2, start: Any = Fresh(), microbatches: Count = 1
) -> Algorithm:  # fmt: skip
    """A Bradley-Terry reward model in role "reward" (arXiv:2203.02155 eq. 1).

    Args:
        model: The network of the reward model.
        optimizer: Its optimizer.
        n: Completions per prompt.
        start: The first value of the reward model.
        microbatches: The number of pieces that a scoring pass is cut into.
    """
    pair = {"pair": fn(losses.bradley_terry, pairs=all_pairs(n))}
    return Algorithm(losses=pair, roles={"reward": Role(model, start, optimizer)}, microbatches=microbatches)


def offline(model: Model, *, loss: Fn, optimizer: Fn, start: Any, n: Count = 2, microbatches: Count = 1) -> Algorithm:
    """A loss on all pairs of n completions, and preferences, from the source; "policy" and the frozen "reference" start
    from the same weights.

    Args:
        model: The network of the policy.
        loss: A pairwise loss. It must not name `pairs`; all are used.
        optimizer: The policy's optimizer.
        start: The first value of both roles.
        n: Completions per prompt.
        microbatches: The number of pieces that a scoring pass is cut into.
    """
    state = policy_and_reference(model, start=start, optimizer=optimizer)
    return Algorithm(log_probs(), {"pair": loss.replace(pairs=all_pairs(n))}, state, microbatches=microbatches)


def dpo(model: Model, *, beta: Positive = 0.1, **parts: Any) -> Algorithm:
    """Direct preference optimization on given pairs (arXiv:2305.18290).

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        **parts: See `offline`.
    """
    return offline(model, loss=fn(losses.dpo, beta=beta), **parts)


def ipo(model: Model, *, tau: Positive = 0.1, **parts: Any) -> Algorithm:
    """Identity preference optimization on given pairs (arXiv:2310.12036).

    Args:
        model: The network of the policy.
        tau: Strength of the regularization in nats.
        **parts: See `offline`.
    """
    return offline(model, loss=fn(losses.ipo, tau=tau), **parts)


def slic(model: Model, *, beta: Positive = 0.1, **parts: Any) -> Algorithm:
    """The SLiC hinge on given pairs (arXiv:2305.10425).

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        **parts: See `offline`.
    """
    return offline(model, loss=fn(losses.slic, beta=beta), **parts)


def vpo_offline(model: Model, *, beta: Positive = 0.1, alpha: NonNegative = 1e-3, **parts: Any) -> Algorithm:
    """Value-incentivized preference optimization on given pairs, pessimistic: it holds preferred completions up
    (arXiv:2405.19320).

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        alpha: Weight of the bonus.
        **parts: See `offline`.
    """
    return offline(model, loss=fn(losses.vpo, beta=beta, alpha=alpha, optimistic=False), **parts)


def labelled_samples(
    model: Model,
    *,
    judge: Fn,
    judges: Mapping[str, Role],
    start: Any,
    max_tokens: Count,
    n: Count = 2,
    stop: tuple[Natural, ...] | None = None,
) -> Algorithm:
    """No losses: completions sampled by a frozen "policy" and labeled by a judge, written as a data set of pairs.

    Args:
        model: The network of the policy.
        judge: A judge function that compares completions.
        judges: The roles that the judge reads.
        start: The policy's value.
        max_tokens: The length of a completion in tokens at most.
        n: Completions per prompt.
        stop: The tokens that end a completion; None: those that the tokenizer of the source's data names.
    """
    experience = {
        "generate": fn(stages.generate, n=n, max_tokens=max_tokens, stop=stop),
        "prefer": fn(stages.prefer, judge=judge),
    }
    return Algorithm(experience, {}, {"policy": Role(model, start), **judges})


def with_losses(algorithm: Algorithm, **new: Fn) -> Algorithm:
    """The algorithm with further losses: `with_losses(ipo(...), anchor=fn(weighted, loss=fn(sft), weight=0.1))`."""
    return dataclasses.replace(algorithm, losses={**algorithm.losses, **new})
