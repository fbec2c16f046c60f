"""Recipes that choose what to sample, or what to ask, by how much there is to learn from it."""

from __future__ import annotations

import dataclasses
from typing import Any

from alignjax import losses, roles, stages
from alignjax.algorithms.online import online
from alignjax.algorithms.parts import SelfPlay, log_probs, past
from alignjax.config import ConfigError, Fn, fn
from alignjax.pair_layout import all_pairs
from alignjax.ranges import Count, NonNegative, Positive
from alignjax.roles import CopyOf
from alignjax.sampling import own
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


def xpo(model: Model, *, loss: Fn = fn(losses.dpo, beta=0.1), alpha: NonNegative = 1e-5, **parts: Any) -> Algorithm:
    """Exploratory preference optimization: DPO on a sample of the policy and one of the reference, whose likelihood a
    bonus lowers (arXiv:2405.21046).

    The paper sums loss and bonus over all pairs so far; this takes one step on the pairs of one batch, as TRL's XPO.
    Put `with_replay` around it for a growing data set.

    Args:
        model: The network of the policy.
        loss: The pairwise loss that the bonus joins.
        alpha: Weight of the bonus.
        **parts: `judge`, `judges`, `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`, see `parts.SelfPlay`.
    """
    return _against_reference(model, loss=fn(losses.xpo, loss=loss, alpha=alpha, explored=(1,)), samples=1, **parts)


def vpo(model: Model, *, beta: Positive = 0.1, alpha: NonNegative = 1e-3, **parts: Any) -> Algorithm:
    """Value-incentivized preference optimization, online and optimistic: DPO on two samples of the policy, and a bonus
    that lowers those of the calibration policy, here the reference (arXiv:2405.19320). `vpo_offline` is the pessimistic
    one.

    The paper fits all pairs so far; this takes one step on the pairs of one batch.

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        alpha: Weight of the bonus.
        **parts: `judge`, `judges`, `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`, see `parts.SelfPlay`.
    """
    return _against_reference(model, loss=fn(losses.vpo, beta=beta, alpha=alpha, explored=(2,)), samples=2, **parts)


def selm(
    model: Model,
    *,
    beta: Positive = 0.01,
    alpha: NonNegative = 1e-3,
    n: Count = 3,
    sync_every: Count = 100,
    **parts: Any,
) -> Algorithm:
    """SELM: iterated DPO on the best and the worst of n completions, with a bonus that moves probability away from what
    the previous policy says (arXiv:2405.19332).

    The previous policy is the reference and the sampler; the last of its samples is the one to move away from. It is
    a sample like the others, so that at n = 3 it is also the best or the worst in two cases of three, as happens in the
    authors' data; their response is greedy (temperature 0). Where the source has completions the samples join them: the
    paper has an old pair and n = 1.

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        alpha: Weight of the bonus.
        n: Samples per prompt.
        sync_every: Iterations after which the previous policy is renewed.
        **parts: `judge`, `judges`, `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`, see `parts.SelfPlay`.
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
    beta: Positive = 0.1,
    count: Count = 1,
    members: Count = 3,
    width: NonNegative = 2.0,
    scores: str = "dpo",
    n: Count = 4,
    optimizer: Fn,
    **parts: Any,
) -> Algorithm:
    """Active exploration as a contextual dueling bandit (AE-DPO, AE-Borda-DPO): of every batch only the `count` prompts
    with the least certain best answer are labeled, one optimistic pair each (arXiv:2312.00267; `active_pairs` has the
    bounds, checked in the authors' data_selection.py of belakaria/active-llm-alignment).

    AE-DPO is the authors' method for pairs that are given; scores="dpo" takes its bounds to samples of the policy, of
    which another is the rival. scores="borda" is their online method: n samples of the policy meet n of the reference,
    and the rival is one of those.

    The uncertainty is that of `members` policies ("member0", ...), each trained by DPO on its own random weights of the
    same labels; they start equal, so the first choices are random. An ensemble is our choice, and costs that many more
    models; the authors take five passes of the policy with dropout, 5 samples, and a batch from 3 times as many.

    Args:
        model: The network of the policy and of the members.
        beta: Scale of the margin, per nat.
        count: Prompts of a batch that are labeled.
        members: Size of the ensemble.
        width: Standard deviations between the mean and a bound.
        scores: What is bounded: "dpo", the rewards of answers, or "borda", their chances against the reference's.
        n: Completions per prompt; of "borda" the policy's, and as many of the reference.
        optimizer: That of the policy and of every member.
        **parts: See `online`.

    Raises:
        ConfigError: For other `scores`.
    """
    # The choice comes before the judge, whose calls it is to save. The members start as copies of the policy and differ
    # by the bootstrap weights of their losses alone, so one loss per member is all that makes the ensemble.
    if scores not in ("dpo", "borda"):
        raise ConfigError(f"scores={scores!r}; it must be 'dpo' or 'borda'")
    borda, names = scores == "borda", tuple(f"member{k}" for k in range(members))
    algorithm = online(model, loss=fn(losses.dpo, beta=beta), n=n, optimizer=optimizer, **parts)
    sample = algorithm.experience["generate"]
    choice = {"count": count, "members": names, "beta": beta, "width": width, "rivals": n if borda else None}
    experience = {
        "generate": sample,
        **({"rivals": sample.replace(behaviour=fn(own, stream="reference"))} if borda else {}),
        "reference": algorithm.experience["reference"],
        "bootstrap": fn(stages.bootstrap, members=members),
        "active": fn(stages.active_pairs, **choice),
        "prefer": algorithm.experience["prefer"],
    }
    pairs = tuple((i, n + j) for i in range(n) for j in range(n)) if borda else all_pairs(n)
    pair = fn(losses.dpo, beta=beta, pairs=pairs)
    learn = {name: fn(losses.bootstrapped, loss=pair.replace(role=name), member=k) for k, name in enumerate(names)}
    ensemble = {name: Role(model, CopyOf("policy"), optimizer) for name in names}
    learn, state = {"pair": pair, **learn}, {**algorithm.roles, **ensemble}
    return dataclasses.replace(algorithm, experience=experience, losses=learn, roles=state)


def optune(
    model: Model,
    *,
    beta: Positive = 0.1,
    count: Count = 2,
    slots: Count = 1024,
    score: Fn | None = None,
    n: Count = 2,
    **parts: Any,
) -> Algorithm:
    """OPTune: online DPO that samples anew for the `count` prompts of a batch whose remembered responses score lowest,
    reuses those of the others, and weighs pairs by their reward gap (arXiv:2406.07657).

    The weight, |r_i - r_j|, is our choice. Only a source whose prompts come again, several times in a run, leaves
    anything to reuse: the metric `reused` says how much, and a run in which no prompt does is told so at its start.

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        count: Prompts of a batch that are sampled anew.
        slots: How many prompts are remembered, by example_id modulo slots.
        score: A stage that fills `reward`, by default the reward head of role "reward" (give it in `judges`).
        n: Completions per prompt.
        **parts: `judge`, `judges`, `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`, see `parts.SelfPlay`.
    """
    # Rewards of remembered responses come from the memory's last visit, so choosing what to sample anew costs no
    # scoring; the memory's rule stores tokens and rewards together, that they never belong to different responses.
    play = SelfPlay(model, **parts)
    experience = {
        "generate": fn(stages.regenerate, count=count, n=n, max_tokens=play.max_tokens, stop=play.stop),
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
