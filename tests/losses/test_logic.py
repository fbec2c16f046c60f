"""Losses generated from propositional cores: the known ones recovered, and what implication says about the rest."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import ConfigError, fn
from alignjax.losses import logic
from alignjax.types import Batch
from tests.support.tiny import evaluate, standin

pytestmark = pytest.mark.usefixtures("float64")
CORES = [logic.unconstrained_core, logic.odds_core, logic.cpo_core, logic.dpo_core]


def core_of(function: Any) -> logic.Core:
    return function(*logic.STATES.T)


def probabilities(seed: int, count: int = 50) -> np.ndarray:
    """[4, count] probabilities of W, L, RW, RL."""
    return np.random.default_rng(seed).uniform(0.01, 0.99, (4, count))


def log_odds(core: logic.Core, chances: np.ndarray) -> np.ndarray:
    return np.asarray(logic.log_odds_of(core, tuple(jnp.log(chances))))


def counted(core: logic.Core, chances: np.ndarray) -> np.ndarray:
    """The odds by going through the worlds one by one, with probabilities and no logs."""
    sides = np.zeros((2, chances.shape[1]))
    for number, world in enumerate(itertools.product([False, True], repeat=4)):
        weight = math.prod(np.where(true, chance, 1 - chance) for true, chance in zip(world, chances, strict=True))
        holds, allowed, both = (bool(part[number]) for part in core)
        sides += [weight * (both or (allowed and holds)), weight * (both or (allowed and not holds))]
    return np.log(sides[0] / sides[1])


def random_core(draw: np.random.Generator) -> logic.Core:
    while True:
        core = logic.Core(*draw.integers(0, 2, (3, 16)).astype(bool))
        if (core.sentence & core.constraint).any() and (~core.sentence & core.constraint).any():
            return core


def test_log_odds_are_those_of_counting_worlds() -> None:
    draw = np.random.default_rng(0)
    for core in [core_of(core) for core in CORES] + [random_core(draw) for _ in range(20)]:
        chances = probabilities(int(draw.integers(1000)))
        np.testing.assert_allclose(log_odds(core, chances), counted(core, chances), rtol=1e-9, atol=1e-12)


def test_known_losses_are_recovered() -> None:
    """The log-odds that the checked forms of the paper's examples have."""
    w, l, rw, rl = chances = probabilities(1)  # noqa: E741
    odds = lambda p: np.log(p / (1 - p))  # noqa: E731
    known = {
        logic.unconstrained_core: odds(1 - l * (1 - w)),
        logic.odds_core: odds(w) - odds(l),
        logic.cpo_core: np.log(w / l),
        logic.dpo_core: np.log(w * rl / (l * rw)),
    }
    for core, expected in known.items():
        np.testing.assert_allclose(log_odds(core_of(core), chances), expected, rtol=1e-9, atol=1e-12)


def batch_of(chances: np.ndarray) -> tuple[jax.Array, Batch]:
    """Completions of four equally likely tokens whose whole probabilities are the given ones."""
    count = chances.shape[1]
    policy, reference = (np.repeat(np.log(part.T)[..., None] / 4, 4, axis=-1) for part in (chances[:2], chances[2:]))
    on = np.ones(policy.shape, bool)
    preference = np.broadcast_to(np.array([[0.5, 0.8], [0.2, 0.5]]), (count, 2, 2))
    batch = Batch(
        tokens=np.zeros(policy.shape, np.int32), valid=on, mask=on.astype(float), preference=preference,
        logps={"reference": reference},
    )  # fmt: skip
    return jnp.asarray(policy), jax.tree.map(jnp.asarray, batch)


@pytest.mark.parametrize(
    ("core", "how", "other"),
    [
        (logic.dpo_core, {}, fn(losses.dpo, beta=0.4)),
        (logic.dpo_core, {"normalize": "length"}, fn(losses.ln_dpo, beta=0.4)),
        (logic.cpo_core, {"reference": None}, fn(losses.cpo, beta=0.4, alpha=0.0)),
        (logic.cpo_core, {"reference": None, "normalize": "length"}, fn(losses.simpo, beta=0.4, gamma=0.0)),
    ],
)
def test_generated_losses_are_those_of_the_library(core: Any, how: dict[str, Any], other: Any) -> None:
    logps, batch = batch_of(probabilities(2, 12))
    both = [evaluate(loss, batch, policy=logps) for loss in (fn(losses.logical, beta=0.4, core=core, **how), other)]
    np.testing.assert_allclose(both[0][0], both[1][0], rtol=1e-9)
    np.testing.assert_allclose(both[0][1], both[1][1], rtol=1e-7, atol=1e-12)


def test_the_odds_core_is_orpo_without_its_likelihood() -> None:
    """ORPO's term is lam times the loss of the core on per-token means, at beta = 1."""
    logps, batch = batch_of(probabilities(3, 12))
    value = lambda loss: loss(standin(policy=logps), batch)[0].value()  # noqa: E731
    likelihood = value(fn(losses.orpo, lam=0.0))
    core = fn(losses.logical, beta=1.0, core=logic.odds_core, reference=None, normalize="length")
    np.testing.assert_allclose(value(fn(losses.orpo, lam=0.3)) - likelihood, 0.3 * value(core), rtol=1e-9)


def test_simpo_is_dpos_core_against_a_constant() -> None:
    """With per-token means, and a reference whose margin is gamma / beta for every pair, whichever side won."""
    logps, batch = batch_of(probabilities(4, 12))
    batch = batch.replace(preference=jnp.broadcast_to(jnp.array([[0.5, 1], [0, 0.5]]), (12, 2, 2)))
    constant = jnp.broadcast_to(jnp.array([-0.5, -0.5 - 0.7 / 0.4])[:, None], batch.mask.shape)
    core = fn(losses.logical, beta=0.4, normalize="length")
    one, _ = core(standin(policy=logps), batch.with_logps(reference=constant))
    other, _ = losses.simpo(standin(policy=logps), batch, beta=0.4, gamma=0.7)
    np.testing.assert_allclose(one.value(), other.value(), rtol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_a_stronger_sentence_has_the_larger_loss(seed: int) -> None:
    """If P implies Q, under one constraint and one additive set, the log-odds of P are nowhere above those of Q."""
    draw = np.random.default_rng(seed)
    core = random_core(draw)
    weaker = core._replace(sentence=core.sentence | (draw.random(16) < 0.3))
    if not (~weaker.sentence & weaker.constraint).any():
        weaker = core
    chances = probabilities(seed)
    gap = log_odds(weaker, chances) - log_odds(core, chances)
    assert np.all(gap >= -1e-9)
    if ((weaker.sentence != core.sentence) & core.constraint & ~core.additive).any():
        assert np.all(gap > 1e-9)


def test_the_lattice_of_the_known_losses() -> None:
    """All say "L implies W". No constraint lets the worlds where both or neither is good count for it, so its loss is
    the least. Counting "both" on either side pulls CPO's odds towards even, so ORPO's are larger, same sign."""
    chances = probabilities(5, 500)
    free, odds, cpo = (log_odds(core_of(core), chances) for core in CORES[:3])
    assert np.all(free > odds)
    assert np.all(np.sign(odds) == np.sign(cpo))
    assert np.all(np.abs(odds) > np.abs(cpo))


@pytest.mark.parametrize("core", CORES, ids=lambda core: core.__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sure_and_impossible_completions(core: Any, dtype: str) -> None:
    """Probabilities of 0 and 1, and numbers that are none: finite, with finite slopes."""
    sizes = [-1e4, -1.0, -1e-9, 0.0, 1e4]
    logps = tuple(jnp.asarray(x, dtype) for x in zip(*itertools.product(sizes, repeat=4), strict=True))
    value = lambda logps: jnp.sum(jax.nn.log_sigmoid(logic.log_odds_of(core_of(core), logps)))  # noqa: E731
    found, grad = jax.value_and_grad(value)(logps)
    assert found.dtype == jnp.float32
    assert np.isfinite(found)
    assert all(np.all(np.isfinite(np.asarray(leaf, np.float32))) for leaf in grad)


def test_a_sentence_without_a_counterpart_is_refused() -> None:
    nothing = logic.STATES[:, 0] & ~logic.STATES[:, 0]
    with pytest.raises(ConfigError, match="tautology or a contradiction"):
        log_odds(logic.Core(~nothing, ~nothing, nothing), probabilities(0))
