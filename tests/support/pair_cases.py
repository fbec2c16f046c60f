"""Every loss on pairs with what is known of it in closed form: the list that test_margin.py goes through."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from alignjax import losses
from alignjax.config import fn
from alignjax.losses import divergences, logic

LOG2 = math.log(2)
EPS = float(np.finfo(np.float32).eps)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@dataclasses.dataclass(frozen=True)
class Case:
    """at_zero: the loss of a hard label where every log-ratio is 0 (for an `absolute` loss: every log-prob too).

    minimiser: label p -> where the loss of one pair is least: how many nats the first completion's log-prob has moved,
    or how many both have. A loss that has no minimum says in `slopes` which way it goes: (rho_w, rho_l) -> the signs of
    its derivatives for a hard label. base: the log-prob of both completions from which this is measured.

    absolute: it reads log-probs, not only how far they are from the reference's. coupled: a pair's loss depends on the
    other pairs of the batch. of_means: with normalize="length" it is a function of per-token means.
    """

    loss: Any
    hyper: dict[str, Any]
    at_zero: float
    minimiser: Callable[[float], float | tuple[float, float]] | None
    slopes: Callable[[float, float], tuple[float, float]] | None = None
    absolute: bool = False
    coupled: bool = False
    of_means: bool = True
    base: float = 0.0


def up_and_down(rho_w: float, rho_l: float) -> tuple[float, float]:
    return -1, 1


def discopop_minimum(p: float) -> float:
    """Where p exp(-x) - (1-p) log S(-x) is least: what is left of the loss on both sides of 0."""
    rest = (1 - max(p, 1 - p)) / max(p, 1 - p)
    return math.copysign(-math.log((math.sqrt(1 + 4 * rest) - 1) / 2), p - 0.5)


def simpo_minimum(p: float, gamma: float) -> float:
    """The logit x where p S(gamma - x) = (1-p) S(gamma + x): a quadratic equation for exp(x)."""
    b = math.exp(gamma) * (2 * p - 1)
    return math.log((b + math.sqrt(b * b + 4 * p * (1 - p))) / (2 * (1 - p)))


def orpo_minimum(p: float, lam: float) -> float:
    """Where the loss is stationary in the mean log-prob m of one completion, that of the other being -1."""

    def slope(m: float) -> float:
        odds = m - math.log(-math.expm1(m)) - logit(math.exp(-1))
        return -p + lam * (1 / (1 + math.exp(-odds)) - p) / -math.expm1(m)

    return 2 * (brentq(slope, -19, -1e-9, xtol=1e-12) + 1)


def cal_dpo_minimum(p: float, beta: float) -> tuple[float, float]:
    x = brentq(lambda x: 1 / (1 + math.exp(-2 * x)) + x - p - (2 * p - 1) / (2 * beta), -50, 50, xtol=1e-12)
    return x, -x


def f_dpo_case(divergence: Any, inverse: Callable[[float], float]) -> Case:
    """inverse: a score, as the difference from that of a log-ratio of 0 -> the log-ratio."""
    hyper = {"beta": 4.0, "divergence": divergence}
    linear = divergence.function is divergences.reverse_kl
    return Case(losses.f_dpo, hyper, LOG2, lambda p: inverse(logit(p) / 4), of_means=linear)


def logical_case(core: Any, at_zero: float = LOG2, reference: str | None = None, **how: Any) -> Case:
    return Case(losses.logical, {"beta": 0.3, "core": fn(core), "reference": reference}, at_zero, absolute=True, **how)


LOSSES = [
    Case(losses.dpo, {"beta": 0.3}, LOG2, lambda p: logit(p) / 0.3),
    Case(losses.ipo, {"tau": 0.1}, 25.0, lambda p: (2 * p - 1) / 0.2),
    Case(losses.ipo, {"tau": 0.7}, 1 / (4 * 0.7**2), lambda p: (2 * p - 1) / 1.4),
    Case(losses.slic, {"beta": 0.3}, 1.0, lambda p: math.copysign(1 / 0.3, p - 0.5)),
    Case(losses.robust_dpo, {"beta": 0.3, "epsilon": 0.02}, LOG2, lambda p: logit((p - 0.02) / 0.96) / 0.3),
    Case(losses.ln_dpo, {"beta": 1.3}, LOG2, lambda p: 2 * logit(p) / 1.3),  # two tokens
    Case(losses.h_dpo, {"beta": 0.3, "alpha": 0.7}, LOG2, lambda p: logit(p) / 0.21, absolute=True),
    Case(
        losses.discopop, {"beta": 0.5, "temperature": 0.05}, LOG2 / 2 + 0.5, lambda p: discopop_minimum(p) / 0.5
    ),
    Case(
        losses.exo, {"beta": 0.3, "epsilon": 0.1}, (math.log(5 / 9) + math.log(5)) / 2,
        lambda p: logit(0.9 * p + 0.1 * (1 - p)) / 0.3,
    ),
    Case(losses.dpo_positive, {"beta": 0.3, "lam": 50.0}, LOG2, lambda p: max(logit(p), 0) / 0.3),
    Case(losses.nca, {"beta": 0.3}, 2 * LOG2, lambda p: (math.log(2 * p) / 0.3, math.log(2 - 2 * p) / 0.3)),
    Case(losses.sppo_hard, {"beta": 0.1}, 25.0, lambda p: ((p - 0.5) / 0.1, (0.5 - p) / 0.1)),
    Case(losses.apo_zero, {"beta": 0.3}, 1.0, None, up_and_down),
    Case(losses.apo_down, {"beta": 0.3}, 1.0, None, lambda w, other: (math.copysign(1, abs(w - other) - abs(w)), 1)),
    Case(losses.cal_dpo, {"beta": 0.1}, LOG2 + 25, lambda p: cal_dpo_minimum(p, 0.1)),
    Case(losses.bco_pair, {"beta": 0.3}, 2 * LOG2, lambda p: 2 * logit(p) / 0.3, coupled=True),
    Case(
        losses.bco_pair, {"beta": 0.3, "shift": 0.5}, softplus(0.5) + softplus(-0.5),
        lambda p: ((0.5 + logit(p)) / 0.3, (0.5 - logit(p)) / 0.3),
    ),
    f_dpo_case(fn(divergences.reverse_kl), lambda score: score),
    f_dpo_case(fn(divergences.forward_kl), lambda score: -math.log(1 - score)),
    f_dpo_case(fn(divergences.jensen_shannon), lambda score: logit(math.exp(score) / 2)),
    f_dpo_case(fn(divergences.alpha_divergence, alpha=0.5), lambda score: -2 * math.log(1 - score / 2)),
    Case(
        losses.cpo, {"beta": 0.3, "alpha": 0.02}, LOG2, lambda p: logit(p * (1 + 0.02 / 0.3)) / 0.3, absolute=True
    ),
    Case(
        losses.simpo, {"beta": 2.0, "gamma": 0.7}, softplus(0.7), lambda p: simpo_minimum(p, 0.7), absolute=True
    ),
    Case(
        losses.alpha_po, {"beta": 2.0, "gamma": 0.7, "alpha": 0.25}, softplus(0.7),
        lambda p: -8 * math.log(1 - simpo_minimum(p, 0.7) / 8), absolute=True,
    ),
    Case(losses.orpo, {"lam": 0.5}, LOG2 / 2, lambda p: orpo_minimum(p, 0.5), absolute=True, base=-2.0),
    Case(
        losses.slic_hf, {"gamma": 1.5, "lam": 0.05}, 1.5, lambda p: math.copysign(1.5, p - 0.5), absolute=True
    ),
    Case(
        losses.aot, {"beta": 0.3, "epsilon": 0.1}, LOG2, lambda p: math.copysign(logit(0.9) / 0.3, p - 0.5),
        coupled=True,
    ),
    Case(
        losses.aot_unpaired, {"beta": 0.3, "epsilon": 0.1}, LOG2,
        lambda p: math.copysign(logit(0.9) / 0.3, p - 0.5), coupled=True,
    ),
    logical_case(logic.dpo_core, reference="reference", minimiser=lambda p: logit(p) / 0.3, base=-50.0),
    logical_case(logic.cpo_core, minimiser=lambda p: logit(p) / 0.3, base=-50.0),
    logical_case(
        logic.odds_core, base=-2.0,
        minimiser=lambda p: 2 - softplus(-logit(p) / 0.3 - logit(math.exp(-2))),
    ),
    logical_case(
        logic.unconstrained_core, softplus(0.3 * math.log(EPS)), minimiser=None, slopes=up_and_down, base=-4.0
    ),
]  # fmt: skip
