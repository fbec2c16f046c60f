"""Proximal policy optimization with a critic: from a reward, or from a judge whose win rate is the reward."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from alignjax import losses, roles, stages
from alignjax.algorithms.parts import SelfPlay, log_probs
from alignjax.algorithms.rewarded import rated
from alignjax.config import ConfigError, Fn, fn
from alignjax.ranges import Count, Decay, Fraction, Limit, Natural, NonNegative, Positive
from alignjax.types import Algorithm, Model, Role


def ppo(
    model: Model,
    *,
    reward: Fn | None = None,
    judge: Fn | None = None,
    against: Natural = 0,
    critic: Model | None = None,
    critic_start: Any = None,
    critic_optimizer: Fn | None = None,
    normalize: Fn | None = None,
    rewards: Fn = fn(stages.token_rewards, eta=0.05),
    target: Positive | None = None,
    advantage: Fn = fn(stages.gae, lam=0.95, whiten=True),
    warm_up: Natural = 0,
    importance: Fn | None = None,
    bound: Fn = fn(losses.ppo_clip, epsilon=0.2),
    value_clip: Limit = 0.2,
    value_weight: NonNegative = 0.5,
    n: Count = 1,
    epochs: Count = 4,
    minibatches: Count = 1,
    **parts: Any,
) -> Algorithm:
    """Proximal policy optimization of language models (arXiv:1707.06347, arXiv:1909.08593): advantages of a critic from
    token rewards with the KL in them, a clipped ratio, a clipped value loss, several steps on the same samples.

    Args:
        model: The network of the policy; with the head "value" where it is its own critic.
        reward: A stage that fills `reward`: `fn(stages.text_reward, function=...)`, or `fn(stages.reward)` with the
            reward model in `judges`.
        judge: In its place, a judge of pairs: the win rate is the reward, in [0, 1].
        against: The reference's samples per prompt that the policy's meet before the judge; 0: they meet each other.
        critic: The network of a critic with a trunk of its own; None: the policy's head "value" on its trunk.
        critic_start: Its first value, `roles.restored("reward", "reward", grow=True)` for a reward model's trunk; None:
            fresh.
        critic_optimizer: Its optimizer; None: one as the policy's.
        normalize: `fn(stages.normalize_reward, ...)`, whose moments are then kept; None: rewards stay as they are.
        rewards: `fn(stages.token_rewards, ...)`, whose eta is the strength of the KL.
        target: The KL in nats a completion that the strength is moved towards from eta on (`stages.adaptive_kl`); None:
            it stays.
        advantage: `fn(stages.gae, ...)`.
        warm_up: Iterations in which only the critic learns.
        importance: `fn(stages.importance, ...)` for samples of a policy before, or of an engine: the ratio is then
            that to the policy as the update begins; None: to what was sampled.
        bound: `fn(losses.ppo_clip, ...)` or another bound of the ratio.
        value_clip: How far a value may move in an iteration, in units of the reward; inf: any way.
        value_weight: The weight of the value loss, which a shared trunk feels.
        n: Samples per prompt.
        epochs: Passes over the same samples.
        minibatches: Optimizer steps in each.
        **parts: `judges`, `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`, see `parts.SelfPlay`.

    Raises:
        ConfigError: For a reward and a judge, or neither; `against` without a judge; no head "value".
    """
    # The reference's samples come behind the policy's and are dropped once they are judged, and with them what only
    # one of the two samplers has said, so the policy's own log-probs are made by a stage of their own.
    play = SelfPlay(model, judge=judge, **parts)
    value = _value_output(model, critic)
    state = {**play.policy_and_reference(), **play.judges}
    if critic is not None:
        state["critic"] = Role(critic, critic_start or roles.fresh(), critic_optimizer or play.optimizer)
    experience = {"generate": play.sample(n), **_rated(play, reward, judge, against, n)}
    if normalize is not None:
        experience["normalize"] = normalize
        state["moments"] = Role(None, roles.value(fn(stages.no_moments)), rule=fn(stages.running_moments))
    experience |= {**log_probs("policy"), **log_probs(), "values": fn(stages.values, output=value)}
    if target is not None:
        initial = roles.value(fn(stages.kl_coefficient, initial=rewards.kwargs["eta"]))
        state["beta"] = Role(None, initial, rule=fn(stages.adaptive_kl, target=target))
        rewards = rewards.replace(eta=1.0, coefficient="beta")
    experience |= {"rewards": rewards, "advantage": advantage}
    if warm_up:
        experience["warm_up"] = fn(stages.warm_up, iterations=warm_up)
    clipped = fn(losses.surrogate, bound=bound)
    if importance is not None:
        experience["importance"] = importance
        clipped = clipped.replace(behaviour="policy", importance="importance")
    value_loss = fn(losses.value_loss, output=value, clip=value_clip)
    learn = {"surrogate": clipped, "value": fn(losses.weighted, loss=value_loss, weight=value_weight)}
    return play.algorithm(experience, learn, state, epochs=epochs, minibatches=minibatches)


def _value_output(model: Model, critic: Model | None) -> str:
    """The head that says values, which must be there."""
    owner, name = (model, "policy") if critic is None else (critic, "critic")
    if "value" not in owner.heads:
        advice = "" if critic is not None else ", or give a critic of its own, critic=.."
        raise ConfigError(f'ppo: the {name} has no head "value": make its model with outputs=("value",){advice}')
    return f"{name}:value"


def _rated(play: SelfPlay, reward: Fn | None, judge: Fn | None, against: int, n: int) -> dict[str, Fn]:
    """The stages that give every sample a reward, among themselves or against samples of the reference."""
    made = rated(reward, judge)
    if not against:
        return made
    if judge is None:
        raise ConfigError(f"ppo(against={against}) needs a judge that compares samples; a reward scores each by itself")
    opponents = {"opponent": play.sample(against, "reference")}
    return {**opponents, **made, "reward": fn(stages.win_rate_against, own=n)}


def ppo_max(
    model: Model,
    *,
    reward_scale: str = "norm",
    reward_clip: Limit = 10.0,
    eta: NonNegative = 0.01,
    lam: Fraction = 0.95,
    advantage_norm: bool = False,
    advantage_clip: Limit = math.inf,
    epsilon: Decay | None = 0.2,
    value_clip: Limit = 0.2,
    value_weight: NonNegative = 1.0,
    warm_up: Natural = 0,
    pretrain: NonNegative = 0.0,
    entropy: NonNegative = 0.0,
    entropy_target: NonNegative = 35.0,
    epochs: Count = 1,
    **options: Any,
) -> Algorithm:
    """PPO-max (arXiv:2307.04964): PPO with every stabilizer that the paper compares as a switch.

    On by default are those of the paper's list: the score normalized and clipped by running moments, the KL of tokens,
    the clip of values and of ratios. Its critic also starts from the reward model (`critic_start`) and learns alone
    first (`warm_up`), gradients are clipped to norm 1 (the optimizer), and a text loss is mixed in (`pretrain`). The
    authors' released scripts have reward_scale="scale", reward_clip=inf, no warm-up and no text loss.

    Args:
        model: The network of the policy.
        reward_scale: "norm", "scale" or "none", see `stages.normalize_reward`.
        reward_clip: The largest absolute score after it; inf: none.
        eta: Strength of the KL in the reward per nat; 0: none.
        lam: GAE's lambda.
        advantage_norm: Whitens advantages over the batch.
        advantage_clip: The largest absolute advantage (0.5 in the authors' code, where it is on); inf: none.
        epsilon: How far from 1 a ratio is followed; None: any way.
        value_clip: How far a value may move; inf: any way.
        value_weight: The weight of the value loss.
        warm_up: Iterations in which only the critic learns.
        pretrain: Weight of the text loss on the view "pretrain"; 0: none. See `ppo_ptx`.
        entropy: Weight of |mean entropy - target|; 0: none.
        entropy_target: In nats per token. (The authors' number, 35, is above the entropy that any vocabulary has; with
            it the term is a bonus for entropy.)
        epochs: Passes over the same samples.
        **options: Of `ppo`: reward or judge, critic, target, and so on.
    """
    switched = reward_scale != "none" or reward_clip < math.inf
    algorithm = ppo(
        model,
        normalize=fn(stages.normalize_reward, how=reward_scale, clip=reward_clip) if switched else None,
        rewards=fn(stages.token_rewards, eta=eta),
        advantage=fn(stages.gae, lam=lam, whiten=advantage_norm, clip=advantage_clip),
        bound=fn(losses.no_bound) if epsilon is None else fn(losses.ppo_clip, epsilon=epsilon),
        value_clip=value_clip,
        value_weight=value_weight,
        warm_up=warm_up,
        epochs=epochs,
        **options,
    )
    more = {}
    if pretrain:
        more["pretrain"] = _text_loss("pretrain", pretrain)
    if entropy:
        more["entropy"] = fn(losses.entropy_target, target=entropy_target, weight=entropy)
    return dataclasses.replace(algorithm, losses={**algorithm.losses, **more})


def _text_loss(view: str, weight: float) -> Fn:
    return losses.on(view, fn(losses.weighted, loss=fn(losses.sft), weight=weight))


def ppo_ptx(model: Model, *, gamma: NonNegative = 27.8, view: str = "pretrain", **options: Any) -> Algorithm:
    """PPO-ptx of InstructGPT (arXiv:2203.02155 eq. 2): PPO and the log-likelihood of pretraining text, E[r - beta KL] +
    gamma E[log pi(x)], against what alignment unlearns.

    The text is a mean over its tokens here, as the policy's own loss is.

    Args:
        model: The network of the policy.
        gamma: The weight of the text loss.
        view: The view of the batch that the source fills with texts (`data.beside`).
        **options: Of `ppo`; the paper's KL coefficient beta is rewards=fn(stages.token_rewards, eta=0.02).
    """
    algorithm = ppo(model, **options)
    return dataclasses.replace(algorithm, losses={**algorithm.losses, "pretrain": _text_loss(view, gamma)})
