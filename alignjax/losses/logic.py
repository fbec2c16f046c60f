"""Losses generated from propositional logic: a sentence about which completions are good becomes a loss.

A core is a plain function of four truth values, W and L (the policy calls the winner, the loser good), RW and RL (the
reference does), given as boolean arrays over all 16 states of the world. It returns a `Core`: what has to hold, which
states are looked at, and which of them count on both sides. An atom is true with the probability of its completion,
independently of the others, and the loss is the logistic loss of the log-odds of the sentence.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError, fn
from alignjax.losses.decorators.pairwise import pairwise
from alignjax.ranges import Positive
from alignjax.types import Array

STATES = np.array(list(itertools.product([False, True], repeat=4)))  # [16, (W, L, RW, RL)]
Truth = np.ndarray  # [16] bool


class Core(NamedTuple):
    """A core says of each state of the world [16] whether the sentence holds, whether the state is allowed, and whether
    it counts on both sides."""

    sentence: Truth
    constraint: Truth
    additive: Truth


def implies(premise: Truth, conclusion: Truth) -> Truth:
    """Returns the states where the premise is false or the conclusion is true.

    Args:
        premise: Over the states of the world.
        conclusion: Over the same states.

    Returns:
        The implication.
    """
    return ~premise | conclusion


def unconstrained_core(w: Truth, l: Truth, rw: Truth, rl: Truth) -> Core:  # noqa: E741
    """Says that L implies W, in every state of the world.

    Args:
        w: The policy calls the winner good, [16].
        l: The policy calls the loser good, [16].
        rw: The reference calls the winner good, [16].
        rl: The reference calls the loser good, [16].

    Returns:
        The core over the 16 states.
    """
    return Core(implies(l, w), w | ~w, w & ~w)


def odds_core(w: Truth, l: Truth, rw: Truth, rl: Truth) -> Core:  # noqa: E741
    """Says that L implies W, where exactly one of them is good: the odds ratio of ORPO.

    Args:
        w: The policy calls the winner good, [16].
        l: The policy calls the loser good, [16].
        rw: The reference calls the winner good, [16].
        rl: The reference calls the loser good, [16].

    Returns:
        The core over the 16 states.
    """
    return Core(implies(l, w), w ^ l, w & ~w)


def cpo_core(w: Truth, l: Truth, rw: Truth, rl: Truth) -> Core:  # noqa: E741
    """Says that L implies W, where one of them is good; where both are, it counts for and against: lp_w - lp_l of
    CPO.

    Args:
        w: The policy calls the winner good, [16].
        l: The policy calls the loser good, [16].
        rw: The reference calls the winner good, [16].
        rl: The reference calls the loser good, [16].

    Returns:
        The core over the 16 states.
    """
    return Core(implies(l, w), w | l, w & l)


def dpo_core(w: Truth, l: Truth, rw: Truth, rl: Truth) -> Core:  # noqa: E741
    """Says that if the policy calls the loser good and the reference the winner, then also the other way round: DPO's
    margin.

    Args:
        w: The policy calls the winner good, [16].
        l: The policy calls the loser good, [16].
        rw: The reference calls the winner good, [16].
        rl: The reference calls the loser good, [16].

    Returns:
        The core over the 16 states.
    """
    return Core(implies(rw & l, rl & w), (w & rl) | (l & rw), w & l & rw & rl)


def log_odds_of(core: Core, logps: tuple[Array, Array, Array, Array]) -> Array:
    """Computes log of the weight of the states that count for the sentence over the weight of those that count against
    it. Sums over states are taken in logs.

    Args:
        core: The sentence, its constraint, and what counts on both sides.
        logps: Log-probabilities of W, L, RW and RL in nats, of one shape. One that rounds to 0 is taken for the largest
            number below it, so that its complement has a logarithm.

    Returns:
        Log-odds in nats of that shape, float32 at least.

    Raises:
        ConfigError: If nothing counts for, or nothing against the sentence: its odds are then infinite whatever the
            policy.
    """
    states_for = (core.sentence & core.constraint) | core.additive
    states_against = (~core.sentence & core.constraint) | core.additive
    if not states_for.any() or not states_against.any():
        raise ConfigError(
            "the core is a tautology or a contradiction under its constraint, so there is nothing to learn"
        )
    dtype = jnp.promote_types(jnp.result_type(*logps), jnp.float32)
    true = jnp.minimum(jnp.stack(logps).astype(dtype), -jnp.finfo(dtype).eps)  # [4,..]
    false = jax.nn.log1mexp(-true)
    states = STATES.reshape(*STATES.shape, *[1] * (true.ndim - 1))
    weight = jnp.sum(jnp.where(states, true, false), axis=1)  # [16,..]
    return jax.nn.logsumexp(weight[states_for], axis=0) - jax.nn.logsumexp(weight[states_against], axis=0)


@pairwise
def logical(
    logps_w: Array, logps_l: Array, ratio_w: Array, ratio_l: Array, *, beta: Positive = 0.1, core: Any = fn(dpo_core)
) -> Array:
    """Loss of a propositional core: -log S(beta log[WMC(P and C or A) / WMC(not P and C or A)]), WMC the weighted count
    of states (arXiv:2412.17696).

    A completion's probability is that of the whole sequence, or with `normalize="length"` the geometric mean over its
    tokens; cores that leave the reference out go with `reference=None`. `dpo_core` gives DPO, `cpo_core` CPO without
    its anchor (SimPO's logit with per-token means), `odds_core` ORPO's odds ratio, `unconstrained_core` no constraint
    at all. The tuple (P, C, A) is the paper's, these weights are our derivation from it. If P implies Q, then under the
    same C and A the loss of P is nowhere below that of Q.

    Args:
        logps_w: Log-prob of the winner [..,K], nats.
        logps_l: Log-prob of the loser [..,K], nats.
        ratio_w: Log-ratio of the winner [..,K], nats.
        ratio_l: Log-ratio of the loser [..,K], nats.
        beta: Inverse temperature of the log-odds.
        core: A function of this module or of yours that gives the sentence P, the constraint C and the states A that
            count on both sides.

    Returns:
        Loss per pair [..,K], nats.
    """
    states = core(*STATES.T)
    log_odds = log_odds_of(states, (logps_w, logps_l, logps_w - ratio_w, logps_l - ratio_l))
    return -jax.nn.log_sigmoid(beta * log_odds)
