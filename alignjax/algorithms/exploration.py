"""Recipes that choose what to sample, or what to ask, by how much there is to learn from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignjax import losses, roles, stages
from alignjax.algorithms.online import online, past
from alignjax.config import ConfigError, Fn, fn
from alignjax.pair_layout import all_pairs
from alignjax.roles import CopyOf
from alignjax.sampling import own
from alignjax.types import Algorithm, Model, Role

__all__ = ["active_dpo", "optune", "selm", "vpo", "xpo"]


def _against_reference(
    model: Model,
    *,
    loss: Fn,
    own_samples: int,
    judge: Fn,
    judges: Mapping[str, Role],
    optimizer: Fn,
    start: Any,
    max_tokens: int,
    microbatches: int = 1,
) -> Algorithm:
    """Samples of the policy and one of the frozen reference behind them, judged."""
    experience = {
        "generate": fn(stages.generate, n=own_samples, max_tokens=max_tokens),
        "explored": fn(stages.generate, n=1, max_tokens=max_tokens, behaviour=fn(own, stream="reference")),
        "prefer": fn(stages.prefer, judge=judge),
        "reference": fn(stages.logprobs, role="reference"),
    }
    parts = {"policy": Role(model, start, optimizer), "reference": Role(model, CopyOf("policy")), **judges}
    return Algorithm(experience, {"pair": loss}, parts, microbatches=microbatches)


def xpo(model: Model, *, loss: Fn = fn(losses.dpo, beta=0.1), alpha: float = 1e-5, **parts: Any) -> Algorithm:
    """Exploratory preference optimisation: DPO on a sample of the policy and one of the reference, whose likelihood a
    bonus lowers (arXiv:2405.21046)."""
    return _against_reference(model, loss=fn(losses.xpo, loss=loss, alpha=alpha, explored=(1,)), own_samples=1, **parts)


def vpo(model: Model, *, beta: float = 0.1, alpha: float = 1e-3, **parts: Any) -> Algorithm:
    """Value-incentivised preference optimisation, online and optimistic: DPO on two samples of the policy, and a bonus
    that lowers those of the calibration policy, here the reference (arXiv:2405.19320). `vpo_offline` is the pessimistic
    one."""
    return _against_reference(model, loss=fn(losses.vpo, beta=beta, alpha=alpha, explored=(2,)), own_samples=2, **parts)


def selm(
    model: Model,
    *,
    beta: float = 0.01,
    alpha: float = 1e-3,
    n: int = 3,
    sync_every: int = 100,
    judge: Fn,
    judges: Mapping[str, Role],
    optimizer: Fn,
    start: Any,
    max_tokens: int,
    microbatches: int = 1,
) -> Algorithm:
    """SELM: iterated DPO on the best and the worst of n completions, with a bonus that moves probability away from what
    the previous policy says (arXiv:2405.19332).

    The previous policy is the reference and the sampler, renewed every `sync_every` iterations; the last of its samples
    is the one to move away from. Where the source has completions the samples join them: the paper has an old pair and
    n = 1.
    """
    experience = {
        "generate": fn(stages.generate, n=n, max_tokens=max_tokens, behaviour=fn(own, stream="reference")),
        "prefer": fn(stages.prefer, judge=judge),
        "win_rate": fn(stages.win_rate_against),
        "extremes": fn(stages.best_and_worst, keep=(-1,)),
        "reference": fn(stages.logprobs, role="reference"),
    }
    parts = {"policy": Role(model, start, optimizer), "reference": past(model, sync_every), **judges}
    fit = fn(losses.selm, beta=beta, alpha=alpha, explored=(2,))
    return Algorithm(experience, {"pair": fit}, parts, microbatches=microbatches)


def active_dpo(
    model: Model,
    *,
    beta: float = 0.1,
    count: int = 1,
    members: int = 3,
    width: float = 1.0,
    scores: str = "dpo",
    n: int = 4,
    optimizer: Fn,
    **parts: Any,
) -> Algorithm:
    """Active exploration as a contextual duelling bandit (AE-DPO): of every batch only the `count` prompts with the
    least certain best answer are labelled, one optimistic pair each (arXiv:2312.00267).

    The uncertainty is that of `members` policies ("member0", ...), each trained by DPO on its own random weights of the
    same labels; they start equal, so the first choices are random. An ensemble is our choice, and costs that many more
    models; `stages.active_pairs` says what is recalled. width: standard deviations between the mean and a bound.
    scores: what members estimate, "dpo" rewards of the labelled pairs or the "borda" score of the optimistic answer,
    its chance against a random one (AE-Borda's); the policy learns by DPO either way. Raises ConfigError for others.
    """
    if scores not in ("dpo", "borda"):
        raise ConfigError(f"scores={scores!r}; it must be 'dpo' or 'borda'")
    made = online(model, loss=fn(losses.dpo, beta=beta), n=n, optimizer=optimizer, **parts)
    names = tuple(f"member{k}" for k in range(members))
    experience = {
        "generate": made.experience["generate"],
        "reference": made.experience["reference"],
        "bootstrap": fn(stages.bootstrap, members=members),
        "active": fn(stages.active_pairs, count=count, members=names, beta=beta, width=width),
        "prefer": made.experience["prefer"],
    }
    learn = dict(made.losses)
    for k, name in enumerate(names):
        pairs = fn(losses.dpo, beta=beta, role=name, pairs=all_pairs(n))
        loss = pairs if scores == "dpo" else fn(losses.borda, beta=beta, role=name)
        learn[name] = fn(losses.bootstrapped, loss=loss, member=k)
    ensemble = {name: Role(model, CopyOf("policy"), optimizer) for name in names}
    return Algorithm(experience, learn, {**made.roles, **ensemble}, epochs=made.epochs, microbatches=made.microbatches)


def optune(
    model: Model,
    *,
    beta: float = 0.1,
    count: int = 2,
    slots: int = 1024,
    score: Fn | None = None,
    n: int = 2,
    judge: Fn,
    judges: Mapping[str, Role],
    optimizer: Fn,
    start: Any,
    max_tokens: int,
    microbatches: int = 1,
) -> Algorithm:
    """OPTune: online DPO that samples anew for the `count` prompts of a batch whose remembered responses score lowest,
    reuses those of the others, and weighs pairs by their reward gap (arXiv:2406.07657).

    score: a stage that fills `reward`, by default the reward head of role "reward" (give it in `judges`); slots: how
    many prompts are remembered, by example_id modulo slots. The weight, |r_i - r_j|, is our choice.
    """
    experience = {
        "generate": fn(stages.regenerate, count=count, n=n, max_tokens=max_tokens),
        "reward": fn(stages.reward) if score is None else score,
        "weights": fn(stages.gap_weights),
        "prefer": fn(stages.prefer, judge=judge),
        "reference": fn(stages.logprobs, role="reference"),
    }
    shape = (n, max_tokens)
    start_empty = roles.memory(slots, tokens=(shape, "int32"), valid=(shape, "bool"), reward=((n,), "float32"))
    parts = {
        "policy": Role(model, start, optimizer),
        "reference": Role(model, CopyOf("policy")),
        "responses": Role(None, start_empty, rule=fn(roles.remember)),
        **judges,
    }
    pair = fn(losses.dpo, beta=beta, pairs=all_pairs(n))
    return Algorithm(experience, {"pair": pair}, parts, microbatches=microbatches)
