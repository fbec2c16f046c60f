"""Recipes in rounds: each fits a step from the policy that the round began with, on that policy's samples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from alignjax import losses, roles, stages
from alignjax.algorithms.online import past
from alignjax.config import Fn, fn
from alignjax.pair_layout import all_pairs
from alignjax.roles import CopyOf
from alignjax.sampling import own
from alignjax.types import Algorithm, Model, Role

__all__ = ["comal", "dno", "egpo", "inpo", "mnpo", "onpo", "rounds", "spin", "sppo"]


def rounds(
    model: Model,
    *,
    losses: Mapping[str, Fn],
    judge: Fn,
    judges: Mapping[str, Role],
    optimizer: Fn,
    start: Any,
    max_tokens: int,
    n: int = 2,
    sync_every: int = 1,
    labels: Mapping[str, Fn] | None = None,
    others: Mapping[str, Role] | None = None,
    score: tuple[str, ...] = (),
    epochs: int = 1,
    microbatches: int = 1,
) -> Algorithm:
    """Rounds of self-play: n samples of "previous", the policy as it was when the round of `sync_every` iterations
    began, judged, and losses that fit the policy to a step from there.

    labels: stages after the judge's; others: further roles; score: those of which log-probs are filed before the
    update. epochs: optimizer steps on the same samples; with sync_every = 1 and many epochs a round is one iteration
    and its data one batch, as the papers write it.
    """
    experience = {
        "generate": fn(stages.generate, n=n, max_tokens=max_tokens, behaviour=fn(own, stream="previous")),
        "prefer": fn(stages.prefer, judge=judge),
        **(labels or {}),
        **{name: fn(stages.logprobs, role=name) for name in score},
    }
    parts = {"policy": Role(model, start, optimizer), "previous": past(model, sync_every), **(others or {}), **judges}
    return Algorithm(experience, losses, parts, epochs=epochs, microbatches=microbatches)


def sppo(model: Model, *, eta: float = 1000.0, n: int = 4, completions: str = "extremes", **parts: Any) -> Algorithm:
    """Self-play preference optimisation: the log-ratio to the previous policy of the best and the worst sample is
    fitted to eta (win rate - 1/2) (arXiv:2405.00675). See `rounds` for its parts."""
    fit = fn(losses.sppo, eta=eta, completions=completions)
    return rounds(model, losses={"sppo": fit}, n=n, labels={"win_rate": fn(stages.win_rate_against)}, **parts)


def dno(model: Model, *, eta: float = 1.0, n: int = 4, **parts: Any) -> Algorithm:
    """Direct Nash optimisation, its theoretical form: DPO from the previous policy with labels S(g_i - g_j), g the mean
    win rates of two samples (arXiv:2404.03715).

    eta: inverse temperature of the log-ratio. Win rates are estimated on the n samples, so labels, which are not linear
    in them, are right only for large n. Labels lie in [S(-1), S(1)], so margins stay below 1/eta: each round is a
    step of multiplicative weights, without a pull to the first reference. The paper's practice, hard labels on pairs of
    high margin with a strong model's text among them, is `iterated_dpo` on such a source.
    """
    labels = {"win_rate": fn(stages.win_rate_against), "soft": fn(stages.prefer_by_reward)}
    fit = fn(losses.dpo, beta=eta, reference="previous", pairs=all_pairs(n))
    return rounds(model, losses={"pair": fit}, n=n, labels=labels, **parts)


def mnpo(
    model: Model, *, eta: float = 0.0075, c: float = 1 / 3, history: int = 2, sync_every: int = 1, n: int = 2,
    **parts: Any,
) -> Algorithm:  # fmt: skip
    """Multiplayer Nash preference optimisation: a round's step starts from the mean of the reference and the last
    `history` policies, which are the opponents (arXiv:2509.23102).

    Samples come from the newest opponent. Until enough rounds have passed the oldest opponents are the policy's start,
    where the released code leaves them out.
    """
    names = ("previous", *(f"past{k}" for k in range(2, history + 1)))
    others = {new: past(model, sync_every, of=old) for old, new in itertools.pairwise(names)}
    others = {"reference": Role(model, CopyOf("policy")), **others}
    fit = fn(losses.mnpo, eta=eta, c=c, history=names, pairs=all_pairs(n))
    score = ("reference", *names[1:])
    return rounds(model, losses={"pair": fit}, n=n, sync_every=sync_every, others=others, score=score, **parts)


def inpo(
    model: Model, *, eta: float = 0.1, c: float = 1 / 3, n: int = 2, reference: Role | None = None, **parts: Any
) -> Algorithm:
    """Iterative Nash policy optimisation: rounds of IPO around the mean of reference and previous policy
    (arXiv:2407.00617).

    A policy that a round leaves alone is the equilibrium regularised by tau = c eta; rounds reach it only if their
    step 1 / eta is small enough for the game. reference: a role instead of the frozen start.
    """
    others = {"reference": Role(model, CopyOf("policy")) if reference is None else reference}
    fit = fn(losses.inpo, eta=eta, c=c, pairs=all_pairs(n))
    return rounds(model, losses={"pair": fit}, n=n, others=others, score=("reference",), **parts)


def comal(
    model: Model, *, eta: float = 0.1, c: float = 1 / 3, sync_every: int = 1, outer: int = 10, **parts: Any
) -> Algorithm:
    """COMAL, convergent meta-alignment: INPO whose reference becomes the policy after every `outer` rounds of
    `sync_every` iterations (arXiv:2410.23223).

    Each stretch of `outer` rounds nears the equilibrium regularised towards its reference; moving that reference takes
    the limit to an equilibrium of the game *without* regularisation.
    """
    moving = past(model, outer * sync_every)
    return inpo(model, eta=eta, c=c, sync_every=sync_every, reference=moving, **parts)


def onpo(model: Model, *, eta: float = 1.0, n: int = 2, sync_every: int = 1, optimizer: Fn, **parts: Any) -> Algorithm:
    """Optimistic Nash policy optimisation: two policies take the same step from one auxiliary iterate, the playing one
    from where that has just arrived (arXiv:2502.16852 Algorithm 1).

    With q = "auxiliary", q' its value when the round began and the same labelled samples of the policy for both: q fits
    q' exp(eta P(. beats previous)), the policy q exp(eta P(. beats previous)), each by IPO at tau = 1 / eta. Aims at
    the equilibrium *without* regularisation. The paper makes the two fits one after the other; here they run side by
    side, the policy's chasing q, so that a round ends in the same two policies if both fits are finished and not
    otherwise: give a round enough iterations or epochs. The paper's theory asks for eta <= 1/8 where last iterates are
    to converge; its practice takes 1 / eta = 0.01.
    """
    fit = fn(losses.ipo, tau=1 / eta, pairs=all_pairs(n))
    both = {
        "auxiliary": fit.replace(role="auxiliary", reference="auxiliary_before"),
        "policy": fit.replace(role="policy", reference="auxiliary"),
    }
    others = {
        "auxiliary": Role(model, CopyOf("policy"), optimizer),
        "auxiliary_before": past(model, sync_every, of="auxiliary"),
    }
    score = ("auxiliary_before",)
    return rounds(
        model, losses=both, n=n, sync_every=sync_every, others=others, score=score, optimizer=optimizer, **parts
    )


def spin(
    model: Model,
    *,
    loss: Fn = fn(losses.dpo, beta=0.1),
    optimizer: Fn,
    start: Any,
    max_tokens: int,
    n: int = 1,
    sync_every: int = 100,
    epochs: int = 1,
    microbatches: int = 1,
    judge: Fn | None = None,
    judges: Mapping[str, Role] | None = None,
) -> Algorithm:
    """SPIN, self-play fine-tuning: the source's text is to beat samples of the previous policy, which is the reference
    too and is renewed every `sync_every` iterations (arXiv:2401.01335).

    The source gives one completion a prompt; n samples join it. loss: `dpo`, or `slic` for the paper's hinge. What
    makes it SPIN is the data and the renewal, so it needs no judge, and ignores one.
    """
    experience = {
        "generate": fn(stages.generate, n=n, max_tokens=max_tokens, behaviour=fn(own, stream="previous")),
        "label": fn(stages.prefer_first),
        "previous": fn(stages.logprobs, role="previous"),
    }
    pair = loss.replace(reference="previous", pairs=tuple((0, j) for j in range(1, n + 1)))
    parts = {"policy": Role(model, start, optimizer), "previous": past(model, sync_every)}
    return Algorithm(experience, {"pair": pair}, parts, epochs=epochs, microbatches=microbatches)


def egpo(
    model: Model,
    *,
    tau: float = 0.1,
    n: int = 2,
    opponents: int = 1,
    judge: Fn,
    judges: Mapping[str, Role],
    optimizer: Fn,
    start: Any,
    max_tokens: int,
    microbatches: int = 1,
) -> Algorithm:
    """Extragradient preference optimisation: of every two iterations the first only looks ahead, and the second steps
    from the same policy against the one that was seen there (arXiv:2503.08942).

    Even iterations: opponents are the policy's own samples, and its step makes "opponent"; the policy goes back to
    where it was ("centre"). Odd iterations: opponents come from that look-ahead, and the step stays. Parameters are
    restored exactly; moments of an optimizer see both gradients. The regression is onto win rates against fresh samples
    of the opponent, on pairs of the policy's samples; the paper's experiments with tables draw the pairs uniformly, and
    those with language models from a sampler that we could not check.
    """
    experience = {
        "generate": fn(stages.generate, n=n, max_tokens=max_tokens),
        "opponent": fn(stages.generate, n=opponents, max_tokens=max_tokens, behaviour=fn(own, stream="opponent")),
        "prefer": fn(stages.prefer, judge=judge),
        "win_rate": fn(stages.win_rate_against, own=n),
        "reference": fn(stages.logprobs, role="reference"),
    }
    parts = {
        "policy": Role(model, start, optimizer, rule=fn(roles.return_to, of="centre", every=2)),
        "centre": past(model, 2),
        "opponent": past(model, 1),
        "reference": Role(model, CopyOf("policy")),
        **judges,
    }
    fit = fn(losses.egpo, tau=tau, pairs=all_pairs(n))
    return Algorithm(experience, {"pair": fit}, parts, microbatches=microbatches)
