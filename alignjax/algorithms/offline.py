"""Recipes that learn from what a source gives: supervised, preference and reward models, offline preference losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax import losses, stages
from alignjax.config import Fn, fn
from alignjax.pair_layout import all_pairs
from alignjax.roles import CopyOf, Fresh
from alignjax.types import Algorithm, Model, Role

__all__ = [
    "dpo",
    "ipo",
    "labelled_samples",
    "offline",
    "preference_model",
    "reward_model",
    "sft",
    "slic",
    "vpo_offline",
    "with_losses",
]


def sft(model: Model, *, optimizer: Fn, start: Any = Fresh(), microbatches: int = 1) -> Algorithm:
    """Supervised fine-tuning of "policy" on completions from the source."""
    roles = {"policy": Role(model, start, optimizer)}
    return Algorithm(losses={"sft": fn(losses.sft)}, roles=roles, microbatches=microbatches)


def preference_model(
    model: Model,
    *,
    optimizer: Fn,
    n: int = 2,
    reading: str = "joint",
    sampler: Role | None = None,
    max_tokens: int = 0,
    start: Any = Fresh(),
    microbatches: int = 1,
) -> Algorithm:
    """A pairwise preference model p(y > y' | x) in role "preference", on the pairs of n completions that are labelled.

    reading: "joint" or "apart", see `pairs.pair_logits`; sampler: a role that adds a completion of its own (of at most
    `max_tokens`) to the n of the source; the first is then taken to be the human one and to beat all others.
    """
    roles, experience = {"preference": Role(model, start, optimizer)}, {}
    pairs = all_pairs(n)
    if sampler is not None:
        roles["policy"] = sampler
        pairs = tuple((0, j) for j in range(1, n + 1))
        experience = {"generate": fn(stages.generate, n=1, max_tokens=max_tokens), "label": fn(stages.prefer_first)}
    pair = fn(losses.preference_cross_entropy, pairs=pairs, reading=reading)
    return Algorithm(experience, {"pair": pair}, roles, microbatches=microbatches)


def reward_model(
    model: Model,
    *,
    optimizer: Fn,
    n: int = 2,
    start: Any = Fresh(),
    microbatches: int = 1,
) -> Algorithm:
    """A Bradley-Terry reward model in role "reward" (arXiv:2203.02155 eq. 1)."""
    roles = {"reward": Role(model, start, optimizer)}
    return Algorithm(
        losses={"pair": fn(losses.bradley_terry, pairs=all_pairs(n))}, roles=roles, microbatches=microbatches
    )


def offline(model: Model, *, loss: Fn, optimizer: Fn, start: Any, n: int = 2, microbatches: int = 1) -> Algorithm:
    """A loss on all pairs of n completions, and preferences, from the source; "policy" and the frozen "reference" start
    from the same weights."""
    return Algorithm(
        experience={"reference": fn(stages.logprobs, role="reference")},
        losses={"pair": loss.replace(pairs=all_pairs(n))},
        roles={"policy": Role(model, start, optimizer), "reference": Role(model, CopyOf("policy"))},
        microbatches=microbatches,
    )


def dpo(model: Model, *, beta: float = 0.1, **parts: Any) -> Algorithm:
    """Direct preference optimisation on given pairs (arXiv:2305.18290)."""
    return offline(model, loss=fn(losses.dpo, beta=beta), **parts)


def ipo(model: Model, *, tau: float = 0.1, **parts: Any) -> Algorithm:
    """Identity preference optimisation on given pairs (arXiv:2310.12036)."""
    return offline(model, loss=fn(losses.ipo, tau=tau), **parts)


def slic(model: Model, *, beta: float = 0.1, **parts: Any) -> Algorithm:
    """The SLiC hinge on given pairs (arXiv:2305.10425)."""
    return offline(model, loss=fn(losses.slic, beta=beta), **parts)


def vpo_offline(model: Model, *, beta: float = 0.1, alpha: float = 1e-3, **parts: Any) -> Algorithm:
    """Value-incentivised preference optimisation on given pairs, pessimistic: it holds preferred completions up
    (arXiv:2405.19320)."""
    return offline(model, loss=fn(losses.vpo, beta=beta, alpha=alpha, optimistic=False), **parts)


def labelled_samples(
    model: Model, *, judge: Fn, judges: Mapping[str, Role], start: Any, max_tokens: int, n: int = 2
) -> Algorithm:
    """No losses: completions sampled by a frozen "policy" and labelled by a judge, written as a data set of pairs."""
    experience = {"generate": fn(stages.generate, n=n, max_tokens=max_tokens), "prefer": fn(stages.prefer, judge=judge)}
    return Algorithm(experience, {}, {"policy": Role(model, start), **judges})


def with_losses(algorithm: Algorithm, **new: Fn) -> Algorithm:
    """The algorithm with further losses: `with_losses(ipo(...), anchor=fn(weighted, loss=fn(sft), weight=0.1))`."""
    return dataclasses.replace(algorithm, losses={**algorithm.losses, **new})
