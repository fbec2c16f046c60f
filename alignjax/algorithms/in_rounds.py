"""Recipes in rounds: each fits a step from the policy that the round began with, on that policy's samples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from alignjax import losses, roles, stages
from alignjax.algorithms.parts import SelfPlay, log_probs, past
from alignjax.config import Fn, fn
from alignjax.pair_layout import all_pairs
from alignjax.ranges import Count, Fraction, Positive
from alignjax.roles import CopyOf
from alignjax.types import Algorithm, Model, Role


def rounds(
    model: Model,
    *,
    losses: Mapping[str, Fn],
    n: Count = 2,
    sync_every: Count = 1,
    labels: Mapping[str, Fn] | None = None,
    others: Mapping[str, Role] | None = None,
    score: tuple[str, ...] = (),
    epochs: Count = 1,
    **parts: Any,
) -> Algorithm:
    """Rounds of self-play: n samples of "previous", the policy as it was when the round of `sync_every` iterations
    began, judged, and losses that fit the policy to a step from there.

    With sync_every = 1 and many epochs a round is one iteration and its data one batch, as the papers write it.

    Args:
        model: The network of the policy.
        losses: Losses by name.
        n: Completions per prompt.
        sync_every: Iterations per round.
        labels: Stages after the judge's.
        others: Further roles.
        score: Those of the roles whose log-probs are stored before the update.
        epochs: Optimizer steps on the same samples.
        **parts: `judge`, `judges`, `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`, see `parts.SelfPlay`.
    """
    # The snapshot "previous" samples and is scored like any other role, so a round needs no loop of its own: its
    # `sync_every` alone says when the next round begins.
    play = SelfPlay(model, **parts)
    experience = {"generate": play.sample(n, "previous"), "prefer": play.label(), **(labels or {})}
    for role in score:
        experience |= log_probs(role)
    state = {**play.policy(), "previous": past(model, sync_every), **(others or {}), **play.judges}
    return play.algorithm(experience, losses, state, epochs=epochs)


def sppo(
    model: Model, *, eta: Positive = 1000.0, n: Count = 4, completions: str = "extremes", **parts: Any
) -> Algorithm:
    """Self-play preference optimization: the log-ratio to the previous policy of the best and the worst sample is
    fitted to eta (win rate - 1/2) (arXiv:2405.00675).

    Args:
        model: The network of the policy.
        eta: Step size of a round.
        n: Completions per prompt.
        completions: "extremes", the best and the worst, or "all".
        **parts: See `rounds`.
    """
    fit = fn(losses.sppo, eta=eta, completions=completions)
    return rounds(model, losses={"sppo": fit}, n=n, labels={"win_rate": fn(stages.win_rate_against)}, **parts)


def dno(model: Model, *, eta: Positive = 1.0, n: Count = 4, **parts: Any) -> Algorithm:
    """Direct Nash optimization, its theoretical form: DPO from the previous policy with labels S(g_i - g_j), g the win
    rates of two samples against the previous policy (arXiv:2404.03715).

    Both are estimated on the same other n - 2 samples. Were the two among each other's raters, g_i - g_j would hold
    (2 P_ij - 1) / (n - 1), their own comparison: at n = 4, in an intransitive game, enough to turn labels round. What
    is left is that S is not linear, a bias below 0.003 at n = 4 in that game.

    Labels lie in [S(-1), S(1)], so margins stay below 1/eta: each round is a step of multiplicative weights, without a
    pull to the first reference. The paper's practice, hard labels on pairs of high margin with a strong model's text
    among them, is `iterated_dpo` on such a source.

    Args:
        model: The network of the policy.
        eta: Inverse temperature of the log-ratio.
        n: Completions per prompt, at least 3.
        **parts: See `rounds`.
    """
    labels = {"soft": fn(stages.prefer_by_rivals)}
    fit = fn(losses.dpo, beta=eta, reference="previous", pairs=all_pairs(n))
    return rounds(model, losses={"pair": fit}, n=n, labels=labels, **parts)


def mnpo(
    model: Model, *, eta: Positive = 0.0075, c: Fraction = 1 / 3, history: Count = 2, sync_every: Count = 1,
    n: Count = 2, **parts: Any,
) -> Algorithm:  # fmt: skip
    """Multiplayer Nash preference optimization: a round's step starts from the mean of the reference and the last
    `history` policies, which are the opponents (arXiv:2509.23102).

    Samples come from the newest opponent. Until enough rounds have passed the oldest opponents are the policy's start,
    where the released code leaves them out.

    Args:
        model: The network of the policy.
        eta: Inverse step size of a round.
        c: The reference's share of the mean that a step starts from.
        history: Number of past policies.
        sync_every: Iterations per round.
        n: Completions per prompt.
        **parts: See `rounds`.
    """
    names = ("previous", *(f"past{k}" for k in range(2, history + 1)))
    others = {new: past(model, sync_every, of=old) for old, new in itertools.pairwise(names)}
    others = {"reference": Role(model, CopyOf("policy")), **others}
    fit = fn(losses.mnpo, eta=eta, c=c, history=names, pairs=all_pairs(n))
    score = ("reference", *names[1:])
    return rounds(model, losses={"pair": fit}, n=n, sync_every=sync_every, others=others, score=score, **parts)


def inpo(
    model: Model, *, eta: Positive = 0.1, c: Fraction = 1 / 3, n: Count = 2, reference: Role | None = None, **parts: Any
) -> Algorithm:
    """Iterative Nash policy optimization: rounds of IPO around the mean of reference and previous policy
    (arXiv:2407.00617).

    A policy that a round leaves alone is the equilibrium regularized by tau = c eta; rounds reach it only if their
    step 1 / eta is small enough for the game.

    Args:
        model: The network of the policy.
        eta: Inverse step size of a round.
        c: The reference's share of the mean that a step starts from.
        n: Completions per prompt.
        reference: A role in the place of the policy's frozen start.
        **parts: See `rounds`.
    """
    others = {"reference": Role(model, CopyOf("policy")) if reference is None else reference}
    fit = fn(losses.inpo, eta=eta, c=c, pairs=all_pairs(n))
    return rounds(model, losses={"pair": fit}, n=n, others=others, score=("reference",), **parts)


def comal(
    model: Model, *, eta: Positive = 0.1, c: Fraction = 1 / 3, sync_every: Count = 1, outer: Count = 10, **parts: Any
) -> Algorithm:
    """COMAL, convergent meta-alignment: INPO whose reference becomes the policy after every `outer` rounds of
    `sync_every` iterations (arXiv:2410.23223).

    Each stretch of `outer` rounds nears the equilibrium regularized towards its reference; moving that reference takes
    the limit to an equilibrium of the game *without* regularization.

    Args:
        model: The network of the policy.
        eta: Inverse step size of a round.
        c: The reference's share of the mean that a step starts from.
        sync_every: Iterations per round.
        outer: Rounds per reference.
        **parts: See `rounds`.
    """
    reference = past(model, outer * sync_every)
    return inpo(model, eta=eta, c=c, sync_every=sync_every, reference=reference, **parts)


def onpo(
    model: Model, *, eta: Positive = 1.0, n: Count = 2, sync_every: Count = 1, optimizer: Fn, **parts: Any
) -> Algorithm:
    """Optimistic Nash policy optimization: two policies take the same step from one auxiliary iterate, the playing one
    from where that has just arrived (arXiv:2502.16852 Algorithm 1).

    With q = "auxiliary", q' its value when the round began and the same labeled samples of the policy for both: q fits
    q' exp(eta P(. beats previous)), the policy q exp(eta P(. beats previous)), each by IPO at tau = 1 / eta. It aims at
    the equilibrium *without* regularization. The paper makes the two fits one after the other; here they run side by
    side, the policy's chasing q, so that a round ends in the same two policies if both fits are finished and not
    otherwise: give a round enough iterations or epochs. The paper's theory asks for eta <= 1/8 where last iterates are
    to converge; its practice takes 1 / eta = 0.01.

    Args:
        model: The network of both policies.
        eta: Step size of a round.
        n: Completions per prompt.
        sync_every: Iterations per round.
        optimizer: That of both policies.
        **parts: See `rounds`.
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
    parts |= {"optimizer": optimizer, "others": others, "score": ("auxiliary_before",)}
    return rounds(model, losses=both, n=n, sync_every=sync_every, **parts)


def spin(
    model: Model,
    *,
    loss: Fn = fn(losses.dpo, beta=0.1),
    n: Count = 1,
    sync_every: Count = 100,
    epochs: Count = 1,
    judge: Fn | None = None,
    judges: Mapping[str, Role] | None = None,
    **parts: Any,
) -> Algorithm:
    """SPIN, self-play fine-tuning: the source's text is to beat samples of the previous policy, which is the reference
    too and is renewed every `sync_every` iterations (arXiv:2401.01335).

    The source gives one completion a prompt; n samples join it. What makes it SPIN is the data and the renewal.

    Args:
        model: The network of the policy.
        loss: `dpo`, or `slic` for the paper's hinge.
        n: Samples per prompt.
        sync_every: Iterations per round.
        epochs: Optimizer steps on the same samples.
        judge: Ignored, as no judge is needed.
        judges: Ignored.
        **parts: `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`, see `parts.SelfPlay`.
    """
    # The source's text is completion 0 and preferred by construction, so no judge is asked; one snapshot is both
    # sampler and reference, because SPIN's opponent is the policy of the round before in both parts.
    play = SelfPlay(model, judge=None, judges={}, **parts)
    experience = {"generate": play.sample(n, "previous"), "label": fn(stages.prefer_first), **log_probs("previous")}
    pair = loss.replace(reference="previous", pairs=tuple((0, j) for j in range(1, n + 1)))
    state = {**play.policy(), "previous": past(model, sync_every)}
    return play.algorithm(experience, {"pair": pair}, state, epochs=epochs)


def egpo(
    model: Model, *, tau: Positive = 0.1, n: Count = 2, opponents: Count = 1, restore_moments: bool = True,
    pairs_from_look_ahead: bool = False, **parts: Any,
) -> Algorithm:  # fmt: skip
    """Extragradient preference optimization: of every two iterations the first only looks ahead, and the second steps
    from the same policy against the one that was seen there (arXiv:2503.08942).

    Even iterations: opponents are the policy's own samples, and its step makes "opponent"; the policy goes back to
    where it was ("centre"). Odd iterations: opponents come from that look-ahead, and the step stays. Parameters are
    restored exactly, and so are the moments of the optimizer, as in the released code for language models
    (zhourunlong/EGPO); schedules count both iterations, there as here.

    The regression is onto win rates against fresh samples of the opponent, on pairs of the policy's samples. Any
    sampler of full support has the same minimum: the paper's tables draw pairs uniformly; its code for language models
    samples them at temperature 2 from the 10 likeliest tokens, which is not quite of full support, and restores the
    policy only after sampling, so that those of odd iterations come from the look-ahead as the opponent does. Write
    temperature and top_k into the stage "generate" for the former, and ask for `pairs_from_look_ahead` for the latter.

    Args:
        model: The network of the policy.
        tau: Strength of the regularization in nats.
        n: The policy's samples per prompt.
        opponents: The opponent's samples per prompt.
        restore_moments: False lets the optimizer's moments see the gradients of look-aheads too.
        pairs_from_look_ahead: Whether odd iterations draw their pairs from the look-ahead, as their opponent.
        **parts: `judge`, `judges`, `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`, see `parts.SelfPlay`.
    """
    # Two snapshots of different periods make the extragradient step without a second update: "centre" (every 2) is the
    # point to return to, "opponent" (every 1) the look-ahead, which in even iterations is the policy itself.
    play = SelfPlay(model, **parts)
    experience = {
        "generate": play.sample(n, "opponent" if pairs_from_look_ahead else None),
        "opponent": play.sample(opponents, "opponent"),
        "prefer": play.label(),
        "win_rate": fn(stages.win_rate_against, own=n),
        **log_probs(),
    }
    moments = fn(roles.return_moments, of="policy", every=2) if restore_moments else None
    back = fn(roles.return_to, of="centre", every=2)
    state = {
        "policy": Role(model, play.start, play.optimizer, rule=back, optimizer_rule=moments),
        "centre": past(model, 2),
        "opponent": past(model, 1),
        "reference": Role(model, CopyOf("policy")),
        **play.judges,
    }
    return play.algorithm(experience, {"pair": fn(losses.egpo, tau=tau, pairs=all_pairs(n))}, state)
