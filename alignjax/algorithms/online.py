"""Recipes in which the policy plays against itself, its own mixture with the reference, or its past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignjax import losses, roles, stages
from alignjax.config import ConfigError, Fn, fn
from alignjax.pair_layout import all_pairs
from alignjax.roles import CopyOf
from alignjax.sampling import mixture, own
from alignjax.types import Algorithm, Model, Role

__all__ = [
    "ipo_md",
    "iterated_dpo",
    "nash_ema",
    "nash_md",
    "oaif",
    "online",
    "online_dpo",
    "online_ipo",
    "online_slic",
    "osp",
    "self_play_pg",
]


def past(model: Model, every: int, of: str = "policy") -> Role:
    """A role that is another one as it was up to `every` iterations ago."""
    return Role(model, CopyOf(of), rule=fn(roles.snapshot, of=of, every=every))


def online(
    model: Model,
    *,
    loss: Fn,
    judge: Fn,
    judges: Mapping[str, Role],
    optimizer: Fn,
    start: Any,
    max_tokens: int,
    n: int = 2,
    behaviour: Fn | None = None,
    sync_every: int = 1,
    epochs: int = 1,
    microbatches: int = 1,
) -> Algorithm:
    """Self-play: sample n completions, ask the judge about every pair, apply a pairwise loss to all of them.

    judge: a judge function; judges: the roles it reads; behaviour: what is sampled (default: the policy). sync_every: a
    dial from fully online (1: the policy samples) towards offline: samples come from a copy of the policy that is
    renewed every so many iterations; a number above the run's length samples from the start for ever. epochs: optimizer
    steps on the same samples. The loss must not name `pairs`; all are used.

    Raises ConfigError for a `behaviour` together with sync_every > 1: let the behaviour name a `snapshot` role instead.
    """
    parts = {"policy": Role(model, start, optimizer), "reference": Role(model, CopyOf("policy")), **judges}
    if sync_every > 1:
        if behaviour is not None:
            raise ConfigError("sync_every samples from a copy of the policy; it takes no behaviour")
        behaviour, parts = fn(own, stream="sampler"), {**parts, "sampler": past(model, sync_every)}
    generate = fn(stages.generate, n=n, max_tokens=max_tokens)
    if behaviour is not None:
        generate = generate.replace(behaviour=behaviour)
    mixed = behaviour is not None and "reference" in behaviour.kwargs.values()
    experience = {"generate": generate, "prefer": fn(stages.prefer, judge=judge)}
    if not mixed:  # a mixture has scored the reference already, token by token, while it sampled
        experience["reference"] = fn(stages.logprobs, role="reference")
    pair = {"pair": loss.replace(pairs=all_pairs(n))}
    return Algorithm(experience, pair, parts, epochs=epochs, microbatches=microbatches)


def online_ipo(model: Model, *, tau: float = 0.1, **parts: Any) -> Algorithm:
    """Online IPO: self-play whose equilibrium is the Nash policy regularised by tau (arXiv:2403.08635)."""
    return online(model, loss=fn(losses.ipo, tau=tau), **parts)


def online_dpo(model: Model, *, beta: float = 0.1, **parts: Any) -> Algorithm:
    """Online DPO: pairs of the policy's own samples, labelled by the judge (arXiv:2402.04792, arXiv:2403.08635)."""
    return online(model, loss=fn(losses.dpo, beta=beta), **parts)


def online_slic(model: Model, *, beta: float = 0.1, **parts: Any) -> Algorithm:
    """Online SLiC, the hinge on the policy's own samples (arXiv:2403.08635)."""
    return online(model, loss=fn(losses.slic, beta=beta), **parts)


def ipo_md(model: Model, *, tau: float = 0.1, beta: float = 0.25, **parts: Any) -> Algorithm:
    """IPO-MD: online IPO on samples of the geometric mixture policy^(1-beta) reference^beta (arXiv:2403.08635 section
    4.2).

    For beta > 0 it stops where the *mixture*, not the policy, is an equilibrium: the one regularised by
    tau / (1 - beta). To aim at the equilibrium of tau with the mixture, train with tau (1 - beta).
    """
    return online(model, loss=fn(losses.ipo, tau=tau), behaviour=fn(mixture, beta=beta), **parts)


def oaif(
    model: Model, *, judge: Fn | None = None, verdicts: tuple[int, int] = (4, 5), loss: Fn = fn(losses.dpo, beta=0.1),
    **parts: Any,
) -> Algorithm:  # fmt: skip
    """Online AI feedback: a language model annotates pairs of the policy's samples with hard labels (arXiv:2402.04792).

    judge: `fn(stages.annotator, verdicts=...)` in role "annotator" unless given, whose verdict is made a hard label;
    loss: `dpo`, or `ipo` and `slic`, which the paper has too.
    """
    asked = fn(stages.annotator, verdicts=verdicts) if judge is None else judge
    made = online(model, judge=asked, loss=loss, **parts)
    experience = _inserted(made.experience, "prefer", {"verdict": fn(stages.verdict)})
    return Algorithm(experience, made.losses, made.roles, epochs=made.epochs, microbatches=made.microbatches)


def _inserted(experience: Mapping[str, Fn], after: str, new: Mapping[str, Fn]) -> dict[str, Fn]:
    """The stages with `new` ones behind one of them."""
    found: dict[str, Fn] = {}
    for name, stage in experience.items():
        found[name] = stage
        if name == after:
            found |= new
    return found


def iterated_dpo(model: Model, *, beta: float = 0.1, sync_every: int = 100, n: int = 2, **parts: Any) -> Algorithm:
    """Iterated DPO: online DPO in rounds of `sync_every` iterations, each against and on samples of the policy that the
    round began with (as in arXiv:2402.04792, arXiv:2405.19332)."""
    made = online(model, loss=fn(losses.dpo, beta=beta), n=n, behaviour=fn(own, stream="reference"), **parts)
    moving = {**made.roles, "reference": past(model, sync_every)}
    return Algorithm(made.experience, made.losses, moving, epochs=made.epochs, microbatches=made.microbatches)


def osp(model: Model, *, judge: Fn | None = None, verdicts: tuple[int, int] = (4, 5), beta: float = 0.1, n: int = 4,
        judges: Mapping[str, Role] | None = None, **parts: Any) -> Algorithm:  # fmt: skip
    """Online self-preferring policy: it judges its own samples and learns from pairs of ranks with the strengths it
    gave (arXiv:2405.14103).

    judge: the policy itself by `stages.annotator` unless given. Samples are ranked by mean win rate, best first, and
    rank k is paired with rank n-1-k; the label is the judged probability, so DPO's loss is the soft-preference cross
    entropy. The pairing and the estimate of the strength are our choice, the paper's not being known to us.
    """
    asked = fn(stages.annotator, role="policy", verdicts=verdicts) if judge is None else judge
    made = online(model, judge=asked, judges=judges or {}, loss=fn(losses.dpo, beta=beta), n=n, **parts)
    experience = _inserted(
        made.experience, "prefer", {"win_rate": fn(stages.win_rate_against), "ranked": fn(stages.ranked)}
    )
    pair = made.losses["pair"].replace(pairs=tuple((k, n - 1 - k) for k in range(n // 2)))
    return Algorithm(experience, {"pair": pair}, made.roles, epochs=made.epochs, microbatches=made.microbatches)


def policy_gradient(
    model: Model,
    *,
    opponent: Fn | None,
    opponents: int,
    others: Mapping[str, Role],
    tau: float,
    kl: str,
    judge: Fn,
    judges: Mapping[str, Role],
    optimizer: Fn,
    start: Any,
    max_tokens: int,
    n: int = 1,
    microbatches: int = 1,
) -> Algorithm:
    """n samples of the policy, rewarded with their mean win rate against `opponents` samples of a behaviour (None: each
    other), and a policy gradient with a KL towards the reference."""
    experience = {"generate": fn(stages.generate, n=n, max_tokens=max_tokens)}
    if opponent is not None:
        experience["opponent"] = fn(stages.generate, n=opponents, max_tokens=max_tokens, behaviour=opponent)
    experience |= {
        "prefer": fn(stages.prefer, judge=judge),
        "win_rate": fn(stages.win_rate_against, own=None if opponent is None else n),
        "reference": fn(stages.logprobs, role="reference"),
    }
    trained = {"policy": Role(model, start, optimizer), "reference": Role(model, CopyOf("policy"))}
    learn = fn(losses.reinforce, tau=tau, baseline=0.5, kl=kl)
    return Algorithm(experience, {"reinforce": learn}, {**trained, **others, **judges}, microbatches=microbatches)


def nash_md(
    model: Model, *, tau: float = 0.1, beta: float = 0.125, kl: str = "sequence", opponents: int = 1, **parts: Any
) -> Algorithm:
    """Nash-MD-PG: a policy gradient on the win rate against the geometric mixture policy^(1-beta) reference^beta
    (arXiv:2312.00886 section 7).

    n: the policy's samples, `opponents`: the mixture's; kl: "sequence" (exact) or "token" (TRL's). For beta > 0 it
    stops where IPO-MD does, with the *mixture* an equilibrium, the one regularised by tau / (1 - beta): evaluate the
    mixture, or train with tau (1 - beta). beta = 0 is self-play, 1 a best response to the reference. The mixture is
    sampled token by token, which is the theory's for completions of one token.
    """
    opponent = fn(mixture, beta=beta)
    return policy_gradient(model, opponent=opponent, opponents=opponents, others={}, tau=tau, kl=kl, **parts)


def nash_ema(
    model: Model, *, tau: float = 0.1, decay: float = 0.999, kl: str = "sequence", opponents: int = 1, **parts: Any
) -> Algorithm:
    """Nash-EMA-PG: a policy gradient on the win rate against a policy whose *parameters* are an exponential moving
    average of the policy's (arXiv:2312.00886).

    An average of parameters is no mixture of probabilities; no guarantee of an equilibrium is claimed for the way
    there. Where the policy stands still the average has caught up with it, and it is the equilibrium regularised by
    tau. decay = 0 lags one iteration behind self-play.
    """
    average = Role(model, CopyOf("policy"), rule=fn(roles.ema, of="policy", decay=decay))
    opponent, others = fn(own, stream="opponent"), {"opponent": average}
    return policy_gradient(model, opponent=opponent, opponents=opponents, others=others, tau=tau, kl=kl, **parts)


def self_play_pg(
    model: Model,
    *,
    tau: float = 0.1,
    pool: int = 0,
    sync_every: int = 1,
    kl: str = "sequence",
    n: int = 2,
    opponents: int = 1,
    **parts: Any,
) -> Algorithm:
    """Self-play policy gradient: the reward of a sample is its mean win rate over the prompt's other samples, or over
    those of a queue of past policies (SPO, arXiv:2401.04056).

    pool: 0 for self-play among n samples (n >= 2); k > 0 keeps the last k policies, one pushed every `sync_every`
    iterations, and plays each iteration against one of them drawn at random: a best response to the average of the past
    (fictitious play). Of a single past policy that never moves (`sync_every` beyond the run) it is the best response to
    the reference. Without a pool the expected gradient is tau/4 times that of online IPO.
    """
    if pool == 0:
        return policy_gradient(model, opponent=None, opponents=0, others={}, tau=tau, kl=kl, n=n, **parts)
    rule = fn(roles.pool, of="policy", every=sync_every)
    queue = Role(model, roles.pool_of("policy", pool), rule=rule, build=fn(roles.chosen))
    return policy_gradient(
        model,
        opponent=fn(own, stream="pool"),
        opponents=opponents,
        others={"pool": queue},
        tau=tau,
        kl=kl,
        n=n,
        **parts,
    )
