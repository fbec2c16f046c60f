"""Recipes in which the policy plays against itself, its own mixture with the reference, or its past."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax import losses, roles, stages
from alignjax.algorithms.parts import SelfPlay, log_probs, past
from alignjax.config import ConfigError, Fn, fn
from alignjax.pair_layout import all_pairs
from alignjax.ranges import Count, Fraction, Natural, NonNegative, Positive
from alignjax.roles import CopyOf
from alignjax.sampling import mixture, own
from alignjax.sampling.behaviors import stream_names
from alignjax.types import Algorithm, Model, Role


def online(
    model: Model,
    *,
    loss: Fn,
    n: Count = 2,
    behaviour: Fn | None = None,
    labels: Mapping[str, Fn] | None = None,
    sync_every: Count = 1,
    epochs: Count = 1,
    **parts: Any,
) -> Algorithm:
    """Self-play samples n completions, asks the judge about every pair and applies a pairwise loss to all of them.

    Args:
        model: The network of the policy.
        loss: A pairwise loss. It must not name `pairs`; all are used.
        n: Completions per prompt.
        behaviour: What is sampled (default: the policy).
        labels: Stages after the judge's.
        sync_every: A dial from fully online (1: the policy samples) towards offline: samples come from a copy of the
            policy that is renewed every so many iterations; a number above the run's length samples from the start
            for ever.
        epochs: Optimizer steps on the same samples.
        **parts: `judge`, `judges`, `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`, see `parts.SelfPlay`.

    Raises:
        ConfigError: For a `behaviour` together with sync_every > 1: let the behavior name a `snapshot` role instead.
    """
    # Fresh and stale sampling differ in the stream that `generate` follows alone: a snapshot role stands in for the
    # policy, and the judge and the loss stay the same along the whole dial.
    play = SelfPlay(model, **parts)
    state = {**play.policy_and_reference(), **play.judges}
    if sync_every > 1:
        if behaviour is not None:
            raise ConfigError("sync_every samples from a copy of the policy; it takes no behaviour")
        behaviour, state["past"] = fn(own, stream="past"), past(model, sync_every)
    # A mixture has scored the reference already, token by token, while it sampled.
    scored = behaviour is not None and "reference" in stream_names(behaviour.kwargs)
    stored = {} if scored else log_probs()
    experience = {"generate": play.sample(n, behaviour), "prefer": play.label(), **(labels or {}), **stored}
    return play.algorithm(experience, {"pair": loss.replace(pairs=all_pairs(n))}, state, epochs=epochs)


def online_ipo(model: Model, *, tau: Positive = 0.1, **parts: Any) -> Algorithm:
    """Online IPO: self-play whose equilibrium is the Nash policy regularized by tau (arXiv:2403.08635).

    Args:
        model: The network of the policy.
        tau: Strength of the regularization in nats.
        **parts: See `online`.
    """
    return online(model, loss=fn(losses.ipo, tau=tau), **parts)


def online_dpo(model: Model, *, beta: Positive = 0.1, **parts: Any) -> Algorithm:
    """Online DPO: pairs of the policy's own samples, labeled by the judge (arXiv:2402.04792, arXiv:2403.08635).

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        **parts: See `online`.
    """
    return online(model, loss=fn(losses.dpo, beta=beta), **parts)


def online_slic(model: Model, *, beta: Positive = 0.1, **parts: Any) -> Algorithm:
    """Online SLiC, the hinge on the policy's own samples (arXiv:2403.08635).

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        **parts: See `online`.
    """
    return online(model, loss=fn(losses.slic, beta=beta), **parts)


def ipo_md(model: Model, *, tau: Positive = 0.1, beta: Fraction = 0.25, **parts: Any) -> Algorithm:
    """IPO-MD: online IPO on samples of the geometric mixture policy^(1-beta) reference^beta (arXiv:2403.08635 section
    4.2).

    For beta > 0 it stops where the *mixture*, not the policy, is an equilibrium: the one regularized by
    tau / (1 - beta). To aim at the equilibrium of tau with the mixture, train with tau (1 - beta).

    Args:
        model: The network of the policy.
        tau: Strength of the regularization in nats.
        beta: The reference's share of the mixture, in [0, 1].
        **parts: See `online`.
    """
    return online(model, loss=fn(losses.ipo, tau=tau), behaviour=fn(mixture, beta=beta), **parts)


def oaif(
    model: Model, *, judge: Fn | None = None, verdicts: tuple[Natural, Natural] | None = None,
    loss: Fn = fn(losses.dpo, beta=0.1), **parts: Any,
) -> Algorithm:  # fmt: skip
    """Online AI feedback: a language model annotates pairs of the policy's samples with hard labels (arXiv:2402.04792).

    Args:
        model: The network of the policy.
        judge: `fn(stages.annotator, verdicts=...)` in role "annotator" unless given; its verdict is made a hard label.
        verdicts: The two tokens with which the annotator answers "the first" and "the second"; needed without a judge.
        loss: `dpo`, or `ipo` and `slic`, which the paper has too.
        **parts: See `online`.
    """
    annotator = _annotator("annotator", verdicts) if judge is None else judge
    return online(model, judge=annotator, loss=loss, labels={"verdict": fn(stages.verdict)}, **parts)


def _annotator(role: str, verdicts: tuple[Natural, Natural] | None) -> Fn:
    """Make the judge that is a language model's answer."""
    if verdicts is None:
        raise ConfigError(
            f"the annotator in role {role!r} answers with one of two tokens of its tokenizer: name them in verdicts"
        )
    return fn(stages.annotator, role=role, verdicts=verdicts)


def iterated_dpo(
    model: Model, *, beta: Positive = 0.1, sync_every: Count = 100, n: Count = 2, **parts: Any
) -> Algorithm:
    """Iterated DPO: online DPO in rounds of `sync_every` iterations, each against and on samples of the policy that the
    round began with (as arXiv:2401.10020, and the baseline of SELM, arXiv:2405.19332).

    Its reference moves, so it keeps no pull to the first policy; that of OAIF (arXiv:2402.04792) stays the SFT policy
    throughout, which is `online_dpo` with `sync_every`.

    Args:
        model: The network of the policy.
        beta: Scale of the margin, per nat.
        sync_every: Iterations per round.
        n: Completions per prompt.
        **parts: See `online`.
    """
    algorithm = online(model, loss=fn(losses.dpo, beta=beta), n=n, behaviour=fn(own, stream="reference"), **parts)
    return dataclasses.replace(algorithm, roles={**algorithm.roles, "reference": past(model, sync_every)})


def osp(
    model: Model, *, judge: Fn | None = None, verdicts: tuple[Natural, Natural] | None = None, beta: Positive = 0.1,
    n: Count = 4, judges: Mapping[str, Role] | None = None, **parts: Any,
) -> Algorithm:  # fmt: skip
    """Online self-preferring policy: it judges its own samples and learns from pairs of ranks with the strengths it
    gave (arXiv:2405.14103).

    Samples are ranked by mean win rate, best first, and rank k is paired with rank n-1-k; the label is the judged
    probability, so DPO's loss is the soft-preference cross entropy. The pairing and the estimate of the strength are
    our choice, the paper's not being known to us.

    Args:
        model: The network of the policy.
        judge: The policy itself by `stages.annotator` unless given.
        verdicts: The two tokens with which the policy answers "the first" and "the second"; needed without a judge.
        beta: Scale of the margin, per nat.
        n: Completions per prompt.
        judges: The roles that a given judge reads.
        **parts: See `online`.
    """
    annotator = _annotator("policy", verdicts) if judge is None else judge
    ranks = {"win_rate": fn(stages.win_rate_against), "ranked": fn(stages.ranked)}
    loss = fn(losses.dpo, beta=beta)
    algorithm = online(model, judge=annotator, judges=judges or {}, loss=loss, n=n, labels=ranks, **parts)
    pairs = tuple((k, n - 1 - k) for k in range(n // 2))
    return dataclasses.replace(algorithm, losses={"pair": loss.replace(pairs=pairs)})


def policy_gradient(
    model: Model,
    *,
    opponent: Fn | str | None = None,
    opponents: Count = 1,
    others: Mapping[str, Role] | None = None,
    tau: NonNegative,
    kl: str = "sequence",
    n: Count = 1,
    **parts: Any,
) -> Algorithm:
    """Self-play by policy gradient: the reward of a sample is its mean win rate, with a KL towards the reference.

    Args:
        model: The network of the policy.
        opponent: The behavior, or the role, whose samples the policy's meet; None: they meet each other.
        opponents: Samples of the opponent per prompt.
        others: Further roles.
        tau: Strength of the KL.
        kl: "sequence" (exact) or "token" (TRL's).
        n: The policy's samples per prompt.
        **parts: See `parts.SelfPlay`.
    """
    # Opponents are appended behind the n samples, and `own` counts win rates of the policy's samples alone against
    # them; the baseline 0.5 is the value of a symmetric game, so a policy that plays itself needs no learned one.
    play = SelfPlay(model, **parts)
    against = {} if opponent is None else {"opponent": play.sample(opponents, opponent)}
    experience = {
        "generate": play.sample(n),
        **against,
        "prefer": play.label(),
        "win_rate": fn(stages.win_rate_against, own=n if against else None),
        **log_probs(),
    }
    learn = {"reinforce": fn(losses.reinforce, tau=tau, baseline=0.5, kl=kl)}
    return play.algorithm(experience, learn, {**play.policy_and_reference(), **(others or {}), **play.judges})


def nash_md(model: Model, *, tau: NonNegative = 0.1, beta: Fraction = 0.125, **parts: Any) -> Algorithm:
    """Nash-MD-PG: a policy gradient on the win rate against the geometric mixture policy^(1-beta) reference^beta
    (arXiv:2312.00886 section 7).

    For beta > 0 it stops where IPO-MD does, with the *mixture* an equilibrium, the one regularized by tau / (1 - beta):
    evaluate the mixture, or train with tau (1 - beta). beta = 0 is self-play, 1 a best response to the reference. The
    mixture is sampled token by token, which is the theory's for completions of one token.

    Args:
        model: The network of the policy.
        tau: Strength of the KL.
        beta: The reference's share of the mixture, in [0, 1].
        **parts: `n` (1), the policy's samples, `opponents` (1), the mixture's, and `kl`; see `online.policy_gradient`.
    """
    return policy_gradient(model, opponent=fn(mixture, beta=beta), tau=tau, **parts)


def nash_ema(model: Model, *, tau: NonNegative = 0.1, decay: Fraction = 0.999, **parts: Any) -> Algorithm:
    """Nash-EMA-PG: a policy gradient on the win rate against a policy whose *parameters* are an exponential moving
    average of the policy's (arXiv:2312.00886).

    An average of parameters is no mixture of probabilities; no guarantee of an equilibrium is claimed for the way
    there. Where the policy stands still the average has caught up with it, and it is the equilibrium regularized by
    tau.

    Args:
        model: The network of the policy.
        tau: Strength of the KL.
        decay: Of the average, per iteration; 0 lags one iteration behind self-play.
        **parts: `n` (1), the policy's samples, `opponents` (1), the average's, and `kl`; see `online.policy_gradient`.
    """
    average = Role(model, CopyOf("policy"), rule=fn(roles.ema, of="policy", decay=decay))
    return policy_gradient(model, opponent="opponent", others={"opponent": average}, tau=tau, **parts)


def self_play_pg(
    model: Model, *, tau: NonNegative = 0.1, pool: Natural = 0, sync_every: Count = 1, n: Count = 2, **parts: Any
) -> Algorithm:
    """Self-play policy gradient: the reward of a sample is its mean win rate over the prompt's other samples, or over
    those of past policies (after SPO, arXiv:2401.04056).

    SPO keeps a queue of *trajectories*, and rates a sample by its mean win rate against them. Here `pool` keeps past
    *policies*, of which each iteration plays against fresh samples of one, drawn at random: a best response to the
    average of the past (fictitious play), rated by fewer rivals at a time. With pool=1 and sync_every longer than the
    run the opponent never changes, so the policy learns a best response to the reference. Without a pool the expected
    gradient is tau/4 times that of online IPO.

    Args:
        model: The network of the policy.
        tau: Strength of the KL.
        pool: 0 for self-play among n samples (n >= 2); k > 0 keeps the last k policies.
        sync_every: Iterations between two policies that are pushed onto the queue.
        n: The policy's samples per prompt.
        **parts: `opponents` (1), samples of the past policy, and `kl`; see `online.policy_gradient`.
    """
    if pool == 0:
        return policy_gradient(model, tau=tau, n=n, **parts)
    rule = fn(roles.pool, of="policy", every=sync_every)
    queue = Role(model, roles.pool_of("policy", pool), rule=rule, build=fn(roles.chosen))
    return policy_gradient(model, opponent="pool", others={"pool": queue}, tau=tau, n=n, **parts)
