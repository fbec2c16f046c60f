"""What a line of `cases.py` says: a loss with its hyper-parameters and what it reads, and for losses of single pairs
what is known of them in closed form."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.optimize import brentq

from alignjax import losses
from alignjax.config import Fn, fn
from alignjax.losses import divergences
from alignjax.types import Batch, Role

LOG2 = math.log(2)
EPS = float(np.finfo(np.float32).eps)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


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


def as_is(batch: Batch) -> Batch:
    return batch


@dataclasses.dataclass(frozen=True)
class Pair:
    """What is known of a loss of single pairs in closed form.

    at_zero: the loss of a hard label where every log-ratio is 0 (for an `absolute` loss: every log-prob too). None:
    nothing is known.

    minimiser: label p -> where the loss of one pair is least: how many nats the first completion's log-prob has moved,
    or how many both have. A loss that has no minimum says in `slopes` which way it goes: (rho_w, rho_l) -> the signs of
    its derivatives for a hard label. base: the log-prob of both completions from which this is measured.

    absolute: it reads log-probs, not only how far they are from the reference's. coupled: a pair's loss depends on the
    other pairs of the batch. of_means: with normalize="length" it is a function of per-token means.
    """

    at_zero: float | None = None
    minimiser: Callable[[float], float | tuple[float, float]] | None = None
    slopes: Callable[[float, float], tuple[float, float]] | None = None
    absolute: bool = False
    coupled: bool = False
    of_means: bool = True
    base: float = 0.0


@dataclasses.dataclass(frozen=True)
class Case:
    loss: Fn
    couples_rows: bool = False
    order_matters: bool = False
    fields: Callable[[Batch], Batch] = as_is
    extra: Mapping[str, Role] = dataclasses.field(default_factory=dict)
    name: str = ""
    pair: Pair | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.loss.name)


def f_dpo_case(name: str, divergence: Fn, inverse: Callable[[float], float]) -> Case:
    """inverse: a score, as the difference from that of a log-ratio of 0 -> the log-ratio."""
    linear = divergence.function is divergences.reverse_kl
    known = Pair(LOG2, lambda p: inverse(logit(p) / 4), of_means=linear)
    return Case(fn(losses.f_dpo, beta=4.0, divergence=divergence), name=name, pair=known)


def logical_case(core: Any, reference: str | None = None, at_zero: float = LOG2, **known: Any) -> Case:
    loss = fn(losses.logical, beta=0.3, core=fn(core), reference=reference)
    return Case(loss, name=f"logical_{core.__name__}", pair=Pair(at_zero, **known, absolute=True))
