"""Four ways to optimize a policy for a proxy, as algorithms on the world of `hackable`: PPO and GRPO on the policy's
own samples, DPO and IPO on pairs of SFT's samples, which the proxy labels. None has a KL in its reward or loss beside
the one that DPO and IPO are made of: how far a policy goes is a matter of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hackable

from alignjax import algorithms, losses, stages
from alignjax.config import Fn, fn
from alignjax.roles import restored
from alignjax.sampling import own
from alignjax.train.optimizers import adamw
from alignjax.types import Algorithm

SAMPLES = 4  # of a prompt, in every method
PARTS: dict[str, Any] = {
    "judges": {"world": hackable.WORLD},
    "start": restored("sft", "policy"),
    "max_tokens": hackable.LANGUAGE.length,
    "stop": (),
    "n": SAMPLES,
}
CRITIC = hackable.network(32, 2, 4, "value")


def optimizer(rate: float, max_grad_norm: float = 1.0) -> Fn:
    """Adam at one rate throughout, without weight decay."""
    return fn(adamw, learning_rate=rate, weight_decay=0.0, max_grad_norm=max_grad_norm)


def ppo(rate: float) -> Algorithm:
    """PPO with a critic on a trunk of its own, which starts from SFT's."""
    critic = {"critic": CRITIC, "critic_start": restored("sft", "policy", grow=True)}
    return algorithms.ppo(
        hackable.POLICY, reward=fn(hackable.by_proxy), rewards=fn(stages.token_rewards, eta=0.0), epochs=2,
        optimizer=optimizer(rate), **critic, **PARTS,
    )  # fmt: skip


def grpo(rate: float) -> Algorithm:
    """GRPO, two steps on a batch as PPO takes them."""
    return algorithms.grpo(
        hackable.POLICY, reward=fn(hackable.by_proxy), tau=0.0, epochs=2, optimizer=optimizer(rate), **PARTS
    )


def _on_pairs(loss: Fn, rate: float) -> Algorithm:
    """A loss of pairs on SFT's samples, labels drawn by the proxy."""
    judge = fn(stages.bernoulli, judge=fn(hackable.proxy_judge))
    return algorithms.online(
        hackable.POLICY, loss=loss, behaviour=fn(own, stream="reference"), judge=judge, epochs=2,
        optimizer=optimizer(rate), **PARTS,
    )  # fmt: skip


def dpo(rate: float) -> Algorithm:
    """DPO whose optimum is SFT's times exp(proxy / 0.1)."""
    return _on_pairs(fn(losses.dpo, beta=0.1), rate)


def ipo(rate: float) -> Algorithm:
    """IPO whose optimum is SFT's times exp(win rate / 0.025), of win rates that rise a quarter as fast as the proxy."""
    return _on_pairs(fn(losses.ipo, tau=0.025), rate)


METHODS: dict[str, Callable[[float], Algorithm]] = {"ppo": ppo, "grpo": grpo, "dpo": dpo, "ipo": ipo}
