"""Which losses are put to the test, on which labels, and what they claim to find."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from scipy.optimize import brentq
from tabular import ACTIONS, CONTEXTS, World, everything, normalised

from alignjax import losses
from alignjax.config import Fn, fn
from alignjax.losses import divergences, logic
from alignjax.types import Batch

FLIP = 0.2
ALPHA = 0.7
PAIRS = tuple(itertools.combinations(range(ACTIONS), 2))
Cases = tuple[Batch, np.ndarray]  # batches with a leading axis, and their weights


def _alone(batch: Batch) -> Cases:
    return jax.tree.map(lambda leaf: leaf[None], batch), np.ones(1)


def soft(world: World) -> Cases:
    """Every pair with its probability; rewards as they are."""
    return _alone(everything(world))


def flipped(world: World) -> Cases:
    """The labels of annotators who are wrong in a share FLIP of the cases."""
    batch = everything(world)
    return _alone(batch.replace(preference=(1 - FLIP) * batch.preference + FLIP * (1 - batch.preference)))


def rankings(world: World) -> Cases:
    """Every order of the completions with its Plackett-Luce probability: rewards are ranks."""
    batches, weights = [], []
    for context in range(CONTEXTS):
        strength = np.exp(world.reward[context])
        for order in itertools.permutations(range(ACTIONS)):
            left = [strength[list(order[place:])].sum() for place in range(ACTIONS)]
            weights.append(float(np.prod(strength[list(order)] / left)) / CONTEXTS)
            grade = np.empty(ACTIONS)
            grade[list(order)] = np.arange(ACTIONS)[::-1]
            batch = everything(world, slice(context, context + 1))
            batches.append(batch.replace(reward=grade[None]))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches), np.array(weights)


def graded(world: World) -> Cases:
    """Rewards as a distribution over the completions of a prompt, softmax(r)."""
    return _alone(everything(world).replace(reward=normalised(world.reward)))


def thumbs(world: World) -> Cases:
    """Every completion with the probability S(r) that it is found good."""
    return _alone(everything(world).replace(reward=1 / (1 + np.exp(-world.reward))))


def thumbs_centred(world: World) -> Cases:
    """The same with rewards moved so that mu exp(r / beta) sums to 1 in every context."""
    log_z = np.log((world.mu * np.exp(world.reward / world.beta)).sum(-1, keepdims=True))
    return thumbs(world._replace(reward=world.reward - world.beta * log_z))


def samples(world: World) -> Cases:
    """Completions as often as mu gives them, with their rewards."""
    return _alone(everything(world).replace(mask=world.mu[..., None]))


def pi_star(world: World) -> np.ndarray:
    return world.optimum


def h_optimum(world: World) -> np.ndarray:
    """mu^(1/alpha) exp(r / (alpha beta)), normalised: the optimum with the entropy times alpha."""
    return normalised(np.log(world.mu) / ALPHA + world.reward / (ALPHA * world.beta))


def win_rate_optimum(world: World) -> np.ndarray:
    """mu exp(P(y > uniform) / beta), normalised: Psi-PO with the identity, compared with all completions alike."""
    return normalised(np.log(world.mu) + world.preference.mean(-1) / world.beta)


def inpo_optimum(world: World) -> np.ndarray:
    """The same step from the geometric mean of mu and the previous policy (here uniform)."""
    return normalised(0.4 * np.log(world.mu) + world.preference.mean(-1) / world.beta)


def reference(world: World) -> np.ndarray:
    return world.mu


def f_optimum(inverse: Callable[[np.ndarray], np.ndarray], highest: float) -> Callable[[World], np.ndarray]:
    """The policy mu u with f'(u) = (r - lambda) / beta that sums to 1: the optimum of E r - beta D_f(pi || mu).

    inverse: of f'; highest: the supremum of f', which scores stay below.
    """

    def optimum(world: World) -> np.ndarray:
        found = np.empty_like(world.mu)
        for context, (reward, mu) in enumerate(zip(world.reward, world.mu, strict=True)):
            score = reward / world.beta
            low = score.max() - highest if np.isfinite(highest) else score.min() - 50
            total = lambda shift: float(np.sum(mu * inverse(score - shift)) - 1)  # noqa: B023, E731
            shift = brentq(total, low + 1e-12, score.max() + 50, xtol=1e-14, rtol=1e-14)
            found[context] = mu * inverse(score - shift)
        return found

    return optimum


@dataclasses.dataclass(frozen=True)
class Method:
    """claim: what is said to come out, in words; target: that policy, or None where nothing is claimed; recovers:
    whether it does; smooth: False for hinges; state: further roles."""

    label: str
    loss: Fn
    data: Callable[[World], Cases] = soft
    claim: str = "pi*"
    target: Callable[[World], np.ndarray] | None = pi_star
    recovers: bool = True
    smooth: bool = True
    state: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _none(label: str, loss: Fn, data: Callable[[World], Cases] = soft, **more: Any) -> Method:
    """A loss that makes no claim to a closed form."""
    return Method(label, loss, data, "none", None, recovers=False, **more)


def methods(beta: float) -> list[Method]:
    """All of them; hyper-parameters such that pi* is the optimum wherever a loss claims it."""
    p: dict[str, Any] = {"pairs": PAIRS}
    b: dict[str, Any] = {"beta": beta, **p}
    dpo = fn(losses.dpo, **b)
    reliable = {"reliability": np.array([1 - FLIP])}
    alpha = fn(divergences.alpha_divergence, alpha=0.5)
    return [
        Method("DPO", dpo),
        Method("DPO on flipped labels (conservative DPO)", dpo, flipped, "none", None, recovers=False),
        Method("robust DPO on flipped labels", fn(losses.robust_dpo, **b, epsilon=FLIP), flipped),
        Method("LCPO of DPO on flipped labels, reliability known", fn(losses.lcpo, loss=dpo), flipped, state=reliable),
        Method("LN-DPO (completions of one length)", fn(losses.ln_dpo, **b)),
        Method("H-DPO", fn(losses.h_dpo, **b, alpha=ALPHA), claim="mu^(1/alpha) exp(r / (alpha beta))",
               target=h_optimum),
        Method("f-DPO, reverse KL", fn(losses.f_dpo, **b)),
        Method("f-DPO, forward KL", fn(losses.f_dpo, **b, divergence=divergences.forward_kl),
               claim="optimum under its f", target=f_optimum(lambda s: -1 / s, 0)),
        Method("f-DPO, Jensen-Shannon", fn(losses.f_dpo, **b, divergence=divergences.jensen_shannon),
               claim="optimum under its f", target=f_optimum(lambda s: np.exp(s) / (2 - np.exp(s)), np.log(2))),
        Method("f-DPO, alpha = 1/2", fn(losses.f_dpo, **b, divergence=alpha),
               claim="optimum under its f", target=f_optimum(lambda s: (1 - s / 2) ** -2, 2)),
        Method("EXO", fn(losses.exo, **b, epsilon=0.0)),
        Method("logic, DPO's core", fn(losses.logical, **b, core=logic.dpo_core)),
        Method("WPO of DPO", fn(losses.wpo, loss=dpo)),
        Method("LD-DPO (completions of one length)", fn(losses.ld_dpo, **b)),
        Method("TDPO1 (completions of one token)", fn(losses.tdpo, **b, variant="tdpo1")),
        _none("TDPO2 (completions of one token)", fn(losses.tdpo, **b)),
        Method("IPO", fn(losses.ipo, tau=beta, **p), claim="mu exp(P(y > uniform) / tau)", target=win_rate_optimum),
        Method("INPO, c = 0.4, previous policy uniform", fn(losses.inpo, eta=beta, c=0.4, **p),
               claim="mu^c previous^(1-c) exp(P(y > uniform) / eta)", target=inpo_optimum,
               state={"previous": {"logits": np.zeros((CONTEXTS, ACTIONS))}}),
        Method("SPPO", fn(losses.sppo_hard, **b), claim="mu exp(P(y > uniform) / beta), if log Z were 1/(2 beta)",
               target=win_rate_optimum, recovers=False),
        Method("NCA on pairs", fn(losses.nca, **b), claim="pi*, with samples of mu and many of them", recovers=False),
        _none("DPO-Positive, lam = 1", fn(losses.dpo_positive, **b, lam=1.0), smooth=False),
        _none("Cal-DPO", fn(losses.cal_dpo, **b)),
        _none("BCO on pairs", fn(losses.bco_pair, **b)),
        _none("APO-zero", fn(losses.apo_zero, **b)),
        _none("APO-down", fn(losses.apo_down, **b)),
        _none("SLiC on log-ratios", fn(losses.slic, **b), smooth=False),
        _none("DiscoPOP", fn(losses.discopop, **b, temperature=0.5)),
        _none("AOT", fn(losses.aot, **b)),
        _none("CPO", fn(losses.cpo, **b)),
        _none("SimPO, gamma = 1/2", fn(losses.simpo, **b, gamma=0.5)),
        Method("SimPO, gamma = 0", fn(losses.simpo, **b, gamma=0.0), claim="exp(r / beta), no reference",
               target=lambda world: normalised(world.reward / world.beta)),
        _none("AlphaPO", fn(losses.alpha_po, **b)),
        _none("ORPO", fn(losses.orpo, **p, lam=1.0)),
        Method("Plackett-Luce DPO", fn(losses.plackett_luce, beta=beta), rankings),
        Method("LiPO, pairwise logistic", fn(losses.lipo, beta=beta, objective=losses.pairwise_logistic), rankings),
        _none("LiPO-lambda", fn(losses.lipo, beta=beta), rankings),
        Method("InfoNCA (LiPO, softmax)", fn(losses.lipo, beta=beta, objective=losses.softmax_listwise), graded),
        _none("ACT", fn(losses.act), rankings),
        _none("KnowPAT", fn(losses.knowpat, weight=1.0), rankings),
        Method("point-wise DPO, log Z = 0", fn(losses.pointwise_dpo, beta=beta), thumbs_centred),
        Method("point-wise DPO, log Z unknown", fn(losses.pointwise_dpo, beta=beta), thumbs, recovers=False),
        _none("KTO", fn(losses.kto, beta=beta), thumbs),
        _none("BCO", fn(losses.bco, beta=beta, shift=None), thumbs),
        _none("ULMA", fn(losses.ulma, beta=beta), thumbs),
        Method("reward-weighted regression", fn(losses.reward_weighted_regression, beta=beta), samples),
        Method("SFT", fn(losses.sft), samples, "mu", reference),
    ]  # fmt: skip
