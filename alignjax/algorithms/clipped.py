"""Recipes of the GRPO family: advantages within a group of samples, and a bound on how far a ratio is followed.

Each is one line over `losses.surrogate` and `stages.group_advantage`, and takes `reward=` or `judge=` as
`policy_gradient` does. Loss types of TRL 1.16 have the names that they have there, and
tests/losses/test_peer_surrogates.py holds each to its values.

Ratios are 1 at the first step on fresh samples, where all bounds give the same gradient: biased where a deviation
divides rewards (all but `dr_grpo`) and where means are over tokens that differ in number (all but `dr_grpo`, `luspo`
and `vespo`). At later steps, of epochs or minibatches or on samples of before, each bound adds a bias of its own, and
so do ratios of tokens and of GSPO (by enumeration in tests/losses/test_surrogate.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignjax import losses, stages
from alignjax.algorithms.rewarded import filed, policy_gradient, rated
from alignjax.config import ConfigError, Fn, fn
from alignjax.ranges import Count, Decay, Limit, NonNegative, Number, Positive
from alignjax.stages.advantage import Scale
from alignjax.types import Algorithm, Model

GROUPS = fn(stages.group_advantage)


def _on_groups(model: Model, tau: float, advantage: Fn = GROUPS, *, kl: Any = losses.k3, **more: Any) -> Algorithm:
    """The recipe of a surrogate's choices, with a KL in the loss if tau is not 0."""
    names = ("ratio", "bound", "reduction", "filters")
    choices = {name: more.pop(name) for name in names if name in more}
    loss = fn(losses.surrogate, **choices, kl=fn(kl, beta=tau) if tau else None)
    return policy_gradient(model, loss=loss, advantage={"advantage": advantage}, **more)


def grpo(
    model: Model,
    *,
    tau: NonNegative = 0.04,
    epsilon: Decay = 0.2,
    epsilon_high: NonNegative | None = None,
    delta: Positive | None = None,
    scale: Scale = "group",
    **options: Any,
) -> Algorithm:
    """Group relative policy optimization (arXiv:2402.03300 eq. 3): PPO's clipped ratio per token, the mean over samples
    of their token means, rewards less the prompt's mean and divided by its standard deviation, and k3 in the loss.

    Biased in three ways (arXiv:2503.20783): the deviation weighs prompts, token means favor long bad answers, and the
    gradient of k3 is that of the KL in the other direction.

    Args:
        model: The network of the policy.
        tau: Strength of the KL, in units of the advantage per nat; 0: no reference at all.
        epsilon: How far below 1 a ratio is followed.
        epsilon_high: How far above 1; None: `epsilon`.
        delta: The largest ratio of a bad token that counts, see `losses.ppo_clip`.
        scale: What divides the advantage: "group", "batch", "mean" or "none".
        **options: `reward` or `judge`, `n`, `epochs`, `minibatches` and more, see `policy_gradient`.
    """
    bound = fn(losses.ppo_clip, epsilon=epsilon, epsilon_high=epsilon_high, delta=delta)
    advantage = fn(stages.group_advantage, scale=scale)
    return _on_groups(model, tau, advantage, bound=bound, reduction=fn(losses.sequence_mean), **options)


def dr_grpo(model: Model, *, tau: NonNegative = 0.0, epsilon: Decay = 0.2, **options: Any) -> Algorithm:
    """Dr.GRPO (arXiv:2503.20783 section 3.2): GRPO whose rewards are not divided by a deviation and whose token sums
    are divided by one length, max_tokens. On fresh samples it is 1 - 1/n times the exact gradient.

    Args:
        model: The network of the policy.
        tau: Strength of the KL in the loss, k3; 0: none, as in the paper.
        epsilon: How far from 1 a ratio is followed.
        **options: See `policy_gradient`.
    """
    reduction = fn(losses.constant_length, length=options["max_tokens"])
    advantage = fn(stages.group_advantage, scale="none")
    return _on_groups(model, tau, advantage, bound=fn(losses.ppo_clip, epsilon=epsilon), reduction=reduction, **options)


def bnpo(model: Model, *, tau: NonNegative = 0.0, epsilon: Decay = 0.2, **options: Any) -> Algorithm:
    """GRPO with a mean over all tokens of the batch, TRL's loss type "bnpo" (arXiv:2506.02864): long samples count by
    their length. The paper also divides rewards by a Beta distribution's density, which is in neither.

    Args:
        model: The network of the policy.
        tau: Strength of the KL in the loss, k3; 0: none.
        epsilon: How far from 1 a ratio is followed.
        **options: See `policy_gradient`.
    """
    return _on_groups(
        model, tau, bound=fn(losses.ppo_clip, epsilon=epsilon), reduction=fn(losses.token_mean), **options
    )


def dapo(
    model: Model,
    *,
    epsilon: Decay = 0.2,
    epsilon_high: NonNegative = 0.28,
    reduction: Fn = fn(losses.prompt_mean),
    drop_ties: bool = True,
    buffer: Count | None = None,
    **options: Any,
) -> Algorithm:
    """DAPO (arXiv:2503.14476 eq. 8): a ratio may rise further than it may fall, every token of a prompt's samples
    counts alike, prompts whose rewards are all one are left out, and long samples pay. No KL.

    Dynamic sampling in the paper fills the batch up with other prompts; here shapes are fixed and it is smaller. TRL's
    "dapo" is reduction=fn(token_mean), over all prompts, with drop_ties=False.

    Args:
        model: The network of the policy.
        epsilon: How far below 1 a ratio is followed.
        epsilon_high: How far above 1.
        reduction: `prompt_mean` as in the paper, or `token_mean`.
        drop_ties: Leaves out prompts whose rewards are all one.
        buffer: The tokens before max_tokens over which a penalty grows to 1 (eq. 13); None: no penalty.
        **options: See `policy_gradient`; drop_unfinished=True is the overlong filter.
    """
    bound = fn(losses.ppo_clip, epsilon=epsilon, epsilon_high=epsilon_high)
    if buffer is not None:
        penalty = fn(stages.overlong_penalty, longest=options["max_tokens"], buffer=buffer)
        scored = rated(options.pop("reward", None), options.pop("judge", None))
        options["reward"] = {**scored, "overlong": penalty}
    return _on_groups(model, 0.0, bound=bound, reduction=reduction, drop_ties=drop_ties, **options)


def cispo(
    model: Model,
    *,
    low: NonNegative = 0.0,
    high: Limit = 5.0,
    reduction: Fn = fn(losses.prompt_mean),
    **options: Any,
) -> Algorithm:
    """CISPO of MiniMax-M1 (arXiv:2506.13585 eq. 4): ratios are constants and bounded, so that no token loses its
    gradient; a mean over the tokens of a prompt's samples, no KL.

    A weight that is cut off is a bias towards the old policy's choices. TRL's "cispo" is reduction=fn(token_mean).

    Args:
        model: The network of the policy.
        low: The smallest weight of a token.
        high: The largest; the paper's 1 + epsilon_high, TRL's epsilon_high.
        reduction: `prompt_mean` as in the paper, or `token_mean`.
        **options: See `policy_gradient`.
    """
    return _on_groups(model, 0.0, bound=fn(losses.cispo_clip, low=low, high=high), reduction=reduction, **options)


def gspo(
    model: Model,
    *,
    epsilon: Decay = 3e-4,
    epsilon_high: NonNegative = 4e-4,
    of_tokens: bool = False,
    **options: Any,
) -> Algorithm:
    """GSPO (arXiv:2507.18071 eq. 5): the ratio of a whole sample, to the power of one over its length, is clipped.

    That power is no importance weight: on samples of before, the gradient is biased in the ratio's size, not its sign.

    Args:
        model: The network of the policy.
        epsilon: How far below 1 a ratio is followed.
        epsilon_high: How far above 1.
        of_tokens: GSPO-token (eq. 13), for advantages that differ within a sample; the same where they do not.
        **options: See `policy_gradient`.
    """
    ratio = fn(losses.sequence_ratio_of_tokens if of_tokens else losses.sequence_ratio)
    bound = fn(losses.ppo_clip, epsilon=epsilon, epsilon_high=epsilon_high)
    return _on_groups(model, 0.0, ratio=ratio, bound=bound, reduction=fn(losses.sequence_mean), **options)


def luspo(model: Model, *, epsilon: Decay = 2e-3, epsilon_high: NonNegative = 2.5e-3, **options: Any) -> Algorithm:
    """LUSPO (arXiv:2602.05261): GSPO with each sample times its length, so that a token of a long one counts no less.

    Args:
        model: The network of the policy.
        epsilon: How far below 1 a ratio is followed.
        epsilon_high: How far above 1.
        **options: See `policy_gradient`.
    """
    bound = fn(losses.ppo_clip, epsilon=epsilon, epsilon_high=epsilon_high)
    parts = {"ratio": fn(losses.sequence_ratio), "bound": bound, "reduction": fn(losses.sequence_sum)}
    return _on_groups(model, 0.0, **parts, **options)


def sapo(
    model: Model, *, temperature_pos: Positive = 1.0, temperature_neg: Positive = 1.05, **options: Any
) -> Algorithm:
    """SAPO (arXiv:2511.20347): a sigmoid of the ratio in the place of the clip, steeper for bad tokens.

    Args:
        model: The network of the policy.
        temperature_pos: Its steepness for good tokens.
        temperature_neg: For bad ones.
        **options: See `policy_gradient`.
    """
    bound = fn(losses.sapo_gate, temperature_pos=temperature_pos, temperature_neg=temperature_neg)
    return _on_groups(model, 0.0, bound=bound, reduction=fn(losses.sequence_mean), **options)


def vespo(model: Model, *, bound: Fn = fn(losses.vespo_kernel), reduction: Any = None, **options: Any) -> Algorithm:
    """VESPO (arXiv:2602.10693): log-probs of whole samples weighed by a smooth kernel of their whole ratio.

    Args:
        model: The network of the policy.
        bound: The kernel with its exponents.
        reduction: None: token sums divided by max_tokens, the paper's sum in other units. TRL's is `token_mean`.
        **options: See `policy_gradient`.
    """
    whole = fn(losses.constant_length, length=options["max_tokens"]) if reduction is None else reduction
    return _on_groups(model, 0.0, bound=bound, reduction=whole, **options)


def gdpo(
    model: Model,
    *,
    rewards: Mapping[str, Fn],
    judge: Fn | None = None,
    weights: tuple[Number, ...] | None = None,
    tau: NonNegative = 0.0,
    epsilon: Decay = 0.2,
    **options: Any,
) -> Algorithm:
    """GDPO (arXiv:2601.05242): GRPO with several rewards, each normalized within the group by itself, then summed and
    whitened over the batch; so none drowns another by its spread. TRL's `multi_objective_aggregation`.

    Args:
        model: The network of the policy.
        rewards: Stages that fill `reward`, by name.
        judge: One more reward, named "judge": the win rate within the group.
        weights: One number for each reward, in order, the judge's last; None: 1.
        tau: Strength of the KL in the loss, k3; 0: none.
        epsilon: How far from 1 a ratio is followed.
        **options: See `policy_gradient`, without `reward`.
    """
    named = {name: rated(stage, None) for name, stage in rewards.items()}
    if judge is not None:
        named["judge"] = rated(None, judge)
    if len(named) < 2:
        raise ConfigError("gdpo normalizes several rewards apart: give two or more, or one and a judge")
    if options.get("drop_ties"):
        raise ConfigError(
            "gdpo(drop_ties=True): prompts are tied in one of several rewards and not in others; leave it out"
        )
    together = fn(stages.decoupled_advantage, names=tuple(named), weights=weights)
    loss = fn(
        losses.surrogate,
        bound=fn(losses.ppo_clip, epsilon=epsilon),
        reduction=fn(losses.sequence_mean),
        kl=fn(losses.k3, beta=tau) if tau else None,
    )
    return policy_gradient(
        model, loss=loss, advantage={"advantage": together}, reward=filed(named), judge=None, **options
    )
