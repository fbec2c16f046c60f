"""Proximal policy optimization with a critic: from a reward, or from a judge whose win rate is the reward."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from alignjax import losses, roles, stages
from alignjax.algorithms.parts import SelfPlay, log_probs
from alignjax.algorithms.rewarded import rated
from alignjax.config import ConfigError, Fn, check_ranges, fn
from alignjax.ranges import Count, Decay, Fraction, Limit, Natural, NonNegative, Positive
from alignjax.types import Algorithm, Model, Role

REWARDS = fn(stages.token_rewards, eta=0.05)
ADVANTAGE = fn(stages.gae, lam=0.95, whiten=True)
BOUND = fn(losses.ppo_clip, epsilon=0.2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorCritic:
    """The keywords that every recipe with a critic takes beside those of `parts.SelfPlay`.

    Args:
        against: The reference's samples per prompt that the policy's meet before the judge; 0: they meet each other.
        critic: The network of a critic with a trunk of its own; None: the policy's head "value" on its trunk.
        critic_start: Its first value, `roles.restored("reward", "reward", grow=True)` for a reward model's trunk; None:
            fresh.
        critic_optimizer: Its optimizer; None: one as the policy's.
        normalize: `fn(stages.normalize_reward, ...)`, whose moments are then kept; None: rewards stay as they are.
        rewards: `fn(stages.token_rewards, ...)`, whose eta, 0.05, is the strength of the KL.
        target: The KL in nats a completion that the strength is moved towards from eta on (`stages.adaptive_kl`); None:
            it stays.
        advantage: `fn(stages.gae, ...)`; lambda 0.95, whitened.
        warm_up: Iterations in which only the critic learns.
        importance: `fn(stages.importance, ...)` for samples of a policy before, or of an engine: the ratio is then
            that to the policy as the update begins; None: to what was sampled.
        bound: `fn(losses.ppo_clip, epsilon=0.2)` or another bound of the ratio.
        value_clip: How far a value may move in an iteration, in units of the reward; inf: any way.
        value_weight: The weight of the value loss, which a shared trunk feels.
    """

    against: Natural = 0
    critic: Model | None = None
    critic_start: Any = None
    critic_optimizer: Fn | None = None
    normalize: Fn | None = None
    rewards: Fn = REWARDS
    target: Positive | None = None
    advantage: Fn = ADVANTAGE
    warm_up: Natural = 0
    importance: Fn | None = None
    bound: Fn = BOUND
    value_clip: Limit = 0.2
    value_weight: NonNegative = 0.5

    def __post_init__(self) -> None:
        check_ranges(self)

    def value(self, play: SelfPlay) -> str:
        """Name the head that says values, which must be there."""
        owner, name = (play.model, "policy") if self.critic is None else (self.critic, "critic")
        if "value" not in owner.heads:
            advice = "" if self.critic is not None else ", or give a critic of its own, critic=.."
            raise ConfigError(f'ppo: the {name} has no head "value": make its model with outputs=("value",){advice}')
        return f"{name}:value"

    def rated(self, play: SelfPlay, reward: Fn | Mapping[str, Fn] | None, n: int) -> dict[str, Fn]:
        """Make the stages that sample and give every sample a reward, among themselves or against the reference's."""
        sampled, made = {"generate": play.sample(n)}, rated(reward, play.judge)
        if not self.against:
            return {**sampled, **made}
        if play.judge is None:
            raise ConfigError(
                f"ppo(against={self.against}) needs a judge that compares samples; a reward scores each by itself"
            )
        opponents = {"opponent": play.sample(self.against, "reference")}
        return {**sampled, **opponents, **made, "reward": fn(stages.win_rate_against, own=n)}

    def learned(self, play: SelfPlay) -> dict[str, Fn]:
        """Make the stages between the rewards and the losses."""
        # The reference's samples come behind the policy's and are dropped once they are judged, and with them what only
        # one of the two samplers has said, so the policy's own log-probs are made by a stage of their own.
        rewards = self.rewards if self.target is None else self.rewards.replace(eta=1.0, coefficient="beta")
        return {
            **({} if self.normalize is None else {"normalize": self.normalize}),
            **log_probs("policy"),
            **log_probs(),
            "values": fn(stages.values, output=self.value(play)),
            "rewards": rewards,
            "advantage": self.advantage,
            **({"warm_up": fn(stages.warm_up, iterations=self.warm_up)} if self.warm_up else {}),
            **({} if self.importance is None else {"importance": self.importance}),
        }

    def losses(self, play: SelfPlay) -> dict[str, Fn]:
        """Make the clipped loss of the policy and that of the values."""
        clipped = fn(losses.surrogate, bound=self.bound)
        if self.importance is not None:
            clipped = clipped.replace(behaviour="policy", importance="importance")
        value_loss = fn(losses.value_loss, output=self.value(play), clip=self.value_clip)
        return {"surrogate": clipped, "value": fn(losses.weighted, loss=value_loss, weight=self.value_weight)}

    def roles(self, play: SelfPlay) -> dict[str, Role]:
        """Make the policy, the reference, the critic, and the state that the stages read."""
        made = {**play.policy_and_reference(), **play.judges}
        if self.critic is not None:
            optimizer = self.critic_optimizer or play.optimizer
            made["critic"] = Role(self.critic, self.critic_start or roles.fresh(), optimizer)
        if self.normalize is not None:
            made["moments"] = Role(None, roles.value(fn(stages.no_moments)), rule=fn(stages.running_moments))
        if self.target is not None:
            initial = roles.value(fn(stages.kl_coefficient, initial=self.rewards.kwargs["eta"]))
            made["beta"] = Role(None, initial, rule=fn(stages.adaptive_kl, target=self.target))
        return made


def ppo(
    model: Model,
    *,
    reward: Fn | Mapping[str, Fn] | None = None,
    judge: Fn | None = None,
    n: Count = 1,
    epochs: Count = 4,
    minibatches: Count = 1,
    **options: Any,
) -> Algorithm:
    """Proximal policy optimization of language models (arXiv:1707.06347, arXiv:1909.08593): advantages of a critic from
    token rewards with the KL in them, a clipped ratio, a clipped value loss, several steps on the same samples.

    Args:
        model: The network of the policy; with the head "value" where it is its own critic.
        reward: A stage that fills `reward`: `fn(stages.text_reward, function=...)`, or `fn(stages.reward)` with the
            reward model in `judges`; or several stages by name.
        judge: In its place, a judge of pairs: the win rate is the reward, in [0, 1].
        n: Samples per prompt.
        epochs: Passes over the same samples.
        minibatches: Optimizer steps in each.
        **options: Those of `ActorCritic`, and `judges`, `optimizer`, `start`, `max_tokens`, `microbatches` and `stop`,
            see `parts.SelfPlay`.

    Raises:
        ConfigError: For a reward and a judge, or neither; `against` without a judge; no head "value".
    """
    names = {field.name for field in dataclasses.fields(ActorCritic)}
    made = ActorCritic(**{name: option for name, option in options.items() if name in names})
    rest = {name: option for name, option in options.items() if name not in names}
    play = SelfPlay(model, judge=judge, **rest)
    experience = {**made.rated(play, reward, n), **made.learned(play)}
    return play.algorithm(experience, made.losses(play), made.roles(play), epochs=epochs, minibatches=minibatches)


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
    pretrain: NonNegative = 0.0,
    entropy: NonNegative = 0.0,
    entropy_target: NonNegative = 35.0,
    **options: Any,
) -> Algorithm:
    """PPO-max (arXiv:2307.04964): PPO with every stabilizer that the paper compares as a switch.

    On by default: the score normalized and clipped by running moments, the KL of tokens, the clips of values and of
    ratios. The paper's critic also starts from the reward model (`critic_start`) and learns alone first (`warm_up`),
    gradients are clipped to norm 1 (the optimizer), a text loss is mixed in. The authors' scripts have
    reward_scale="scale", reward_clip=inf, no warm-up and no text loss.

    Args:
        model: The network of the policy.
        reward_scale: "norm", "scale" or "none", see `stages.normalize_reward`.
        reward_clip: The largest absolute score after it; inf: none.
        eta: Strength of the KL in the reward per nat; 0: none.
        lam: GAE's lambda.
        advantage_norm: Whitens advantages over the batch.
        advantage_clip: The largest absolute advantage (0.5 in the authors' code, where it is on); inf: none.
        epsilon: How far from 1 a ratio is followed; None: any way.
        pretrain: Weight of the text loss on the view "pretrain"; 0: none. See `ppo_ptx`.
        entropy: Weight of |mean entropy - target|; 0: none.
        entropy_target: In nats per token. (The authors' 35 is above the entropy of any vocabulary: a bonus for it.)
        **options: Of `ppo`: reward or judge, critic, warm_up, value_clip, and so on.
    """
    switched = reward_scale != "none" or reward_clip < math.inf
    switches = {
        "normalize": fn(stages.normalize_reward, how=reward_scale, clip=reward_clip) if switched else None,
        "rewards": fn(stages.token_rewards, eta=eta),
        "advantage": fn(stages.gae, lam=lam, whiten=advantage_norm, clip=advantage_clip),
        "bound": fn(losses.no_bound) if epsilon is None else fn(losses.ppo_clip, epsilon=epsilon),
    }
    algorithm = ppo(model, **{"epochs": 1, "value_weight": 1.0, **switches, **options})
    more = {"pretrain": _text_loss("pretrain", pretrain)} if pretrain else {}
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
