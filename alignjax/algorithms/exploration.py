"""Recipes that choose what to sample, or what to ask, by how much there is to learn from it."""

from __future__ import annotations

import dataclasses
from typing import Any

from alignjax import losses, roles, stages
from alignjax.algorithms.online import online
from alignjax.algorithms.parts import SelfPlay, log_probs, past
from alignjax.config import ConfigError, Fn, fn
from alignjax.pair_layout import all_pairs
from alignjax.roles import CopyOf
from alignjax.types import Algorithm, Model, Role


def _against_reference(model: Model, *, loss: Fn, samples: int, **parts: Any) -> Algorithm:
    """Judge samples of the policy and, behind them, one of the frozen reference."""
    play = SelfPlay(model, **parts)
    experience = {
        "generate": play.sample(samples),
        "explored": play.sample(1, "reference"),
        "prefer": play.label(),
        **log_probs(),
    }
    return play.algorithm(experience, {"pair": loss}, {**play.policy_and_reference(), **play.judges})


def xpo(model: Model, *, loss: Fn = fn(losses.dpo, beta=0.1), alpha: float = 1e-5, **parts: Any) -> Algorithm:
    """Exploratory preference optimization: DPO on a sample of the policy and one of the reference, whose likelihood a
    bonus lowers (arXiv:2405.21046).

    Args:
        model: The network of the policy.
        loss: The pairwise loss that the bonus joins.
        alpha: Weight of the bonus.
        **parts: `judge`, `judges`, `optimizer`, `start`, `max_tokens` and `microbatches`, see `parts.SelfPlay`.
    """
    return _against_reference(model, loss=fn(losses.xpo, loss=loss, alpha=alpha, explored=(1,)), samples=1, **parts)


def vpo(model: Model, *, beta: float = 0.1, alpha: float = 1e-3, **parts: Any) -> Algorithm:
    """Value-incentivized preference optimization, online and optimistic: DPO on two samples of the policy, and a bonus
    that lowers those of the calibration policy, here the reference (arXiv:2405.19320). `vpo_offline` is the pessimistic
    one.

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        alpha: Weight of the bonus.
        **parts: `judge`, `judges`, `optimizer`, `start`, `max_tokens` and `microbatches`, see `parts.SelfPlay`.
    """
    return _against_reference(model, loss=fn(losses.vpo, beta=beta, alpha=alpha, explored=(2,)), samples=2, **parts)


def selm(
    model: Model, *, beta: float = 0.01, alpha: float = 1e-3, n: int = 3, sync_every: int = 100, **parts: Any
) -> Algorithm:
    """SELM: iterated DPO on the best and the worst of n completions, with a bonus that moves probability away from what
    the previous policy says (arXiv:2405.19332).

    The previous policy is the reference and the sampler; the last of its samples is the one to move away from. Where
    the source has completions the samples join them: the paper has an old pair and n = 1.

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        alpha: Weight of the bonus.
        n: Samples per prompt.
        sync_every: Iterations after which the previous policy is renewed.
        **parts: `judge`, `judges`, `optimizer`, `start`, `max_tokens` and `microbatches`, see `parts.SelfPlay`.
    """
    play = SelfPlay(model, **parts)
    experience = {
        "generate": play.sample(n, "reference"),
        "prefer": play.label(),
        "win_rate": fn(stages.win_rate_against),
        "extremes": fn(stages.best_and_worst, keep=(-1,)),
        **log_probs(),
    }
    fit = fn(losses.selm, beta=beta, alpha=alpha, explored=(2,))
    state = {**play.policy(), "reference": past(model, sync_every), **play.judges}
    return play.algorithm(experience, {"pair": fit}, state)


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
    """Active exploration as a contextual dueling bandit (AE-DPO): of every batch only the `count` prompts with the
    least certain best answer are labeled, one optimistic pair each (arXiv:2312.00267).

    The uncertainty is that of `members` policies ("member0", ...), each trained by DPO on its own random weights of the
    same labels; they start equal, so the first choices are random. An ensemble is our choice, and costs that many more
    models; `stages.active_pairs` says what is recalled.

    Args:
        model: The network of the policy and of the members.
        beta: Scale of the margin, per nat.
        count: Prompts of a batch that are labeled.
        members: Size of the ensemble.
        width: Standard deviations between the mean and a bound.
        scores: What members estimate, "dpo" rewards of the labeled pairs or the "borda" score of the optimistic
            answer, its chance against a random one (AE-Borda's); the policy learns by DPO either way.
        n: Completions per prompt.
        optimizer: That of the policy and of every member.
        **parts: See `online`.

    Raises:
        ConfigError: For other `scores`.
    """
    # The choice comes before the judge, whose calls it is to save. The members start as copies of the policy and differ
    # by the bootstrap weights of their losses alone, so one loss per member is all that makes the ensemble.
    if scores not in ("dpo", "borda"):
        raise ConfigError(f"scores={scores!r}; it must be 'dpo' or 'borda'")
    algorithm = online(model, loss=fn(losses.dpo, beta=beta), n=n, optimizer=optimizer, **parts)
    names = tuple(f"member{k}" for k in range(members))
    experience = {
        "generate": algorithm.experience["generate"],
        "reference": algorithm.experience["reference"],
        "bootstrap": fn(stages.bootstrap, members=members),
        "active": fn(stages.active_pairs, count=count, members=names, beta=beta, width=width),
        "prefer": algorithm.experience["prefer"],
    }
    learn = dict(algorithm.losses)
    for k, name in enumerate(names):
        pairs = fn(losses.dpo, beta=beta, role=name, pairs=all_pairs(n))
        loss = pairs if scores == "dpo" else fn(losses.borda, beta=beta, role=name)
        learn[name] = fn(losses.bootstrapped, loss=loss, member=k)
    ensemble = {name: Role(model, CopyOf("policy"), optimizer) for name in names}
    return dataclasses.replace(algorithm, experience=experience, losses=learn, roles={**algorithm.roles, **ensemble})


def optune(
    model: Model,
    *,
    beta: float = 0.1,
    count: int = 2,
    slots: int = 1024,
    score: Fn | None = None,
    n: int = 2,
    **parts: Any,
) -> Algorithm:
    """OPTune: online DPO that samples anew for the `count` prompts of a batch whose remembered responses score lowest,
    reuses those of the others, and weighs pairs by their reward gap (arXiv:2406.07657).

    The weight, |r_i - r_j|, is our choice.

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        count: Prompts of a batch that are sampled anew.
        slots: How many prompts are remembered, by example_id modulo slots.
        score: A stage that fills `reward`, by default the reward head of role "reward" (give it in `judges`).
        n: Completions per prompt.
        **parts: `judge`, `judges`, `optimizer`, `start`, `max_tokens` and `microbatches`, see `parts.SelfPlay`.
    """
    # Rewards of remembered responses come from the memory's last visit, so choosing what to sample anew costs no
    # scoring; the memory's rule stores tokens and rewards together, that they never belong to different responses.
    play = SelfPlay(model, **parts)
    experience = {
        "generate": fn(stages.regenerate, count=count, n=n, max_tokens=play.max_tokens),
        "reward": fn(stages.reward) if score is None else score,
        "weights": fn(stages.gap_weights),
        "prefer": play.label(),
        **log_probs(),
    }
    shape = (n, play.max_tokens)
    empty = roles.memory(slots, tokens=(shape, "int32"), valid=(shape, "bool"), reward=((n,), "float32"))
    memory = {"responses": Role(None, empty, rule=fn(roles.remember))}
    pair = fn(losses.dpo, beta=beta, pairs=all_pairs(n))
    return play.algorithm(experience, {"pair": pair}, {**play.policy_and_reference(), **memory, **play.judges})
