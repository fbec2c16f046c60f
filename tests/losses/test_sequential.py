"""SPO of rounds: the recursion of rewards against an optimum that is found by enumeration, round after round."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import ConfigError
from alignjax.types import Batch, Context

ANSWERS, BETA = 5, 0.7
ALPHAS = (0.3, 1.6)


def evaluated(loss, policy, earlier, label, pairs):
    """The loss of table policies [K] on answers of one token each."""
    tables = {"policy": policy, **earlier}
    batch = Batch(
        prompt=jnp.zeros((1, 1), jnp.int32), tokens=jnp.arange(ANSWERS)[None, :, None], preference=label[None],
        valid=jnp.ones((1, ANSWERS, 1), bool), mask=jnp.ones((1, ANSWERS, 1)),
    )  # fmt: skip

    def score(outputs, batch, read=None):
        names = (outputs,) if isinstance(outputs, str) else outputs
        return {name: jax.nn.log_softmax(tables[name])[None, :, None] for name in names}

    return loss(Context(score=score), batch, pairs=pairs)[0].value()


def test_every_round_s_optimum_is_that_of_the_held_rewards():
    """With labels of Bradley-Terry rewards R_1, R_2, R_3, pi_n = pi_(n-1) exp((R_n + sum alpha_i R_i) / beta) has no
    gradient in round n, and without the earlier rewards it has one. Nothing flows into the earlier policies."""
    draw = np.random.default_rng(0)
    rewards = jnp.asarray(draw.normal(size=(3, ANSWERS)), jnp.float32)
    sft = jnp.asarray(draw.normal(size=ANSWERS), jnp.float32)
    first = sft + rewards[0] / BETA
    second = first + (rewards[1] + ALPHAS[0] * rewards[0]) / BETA
    third = second + (rewards[2] + ALPHAS[0] * rewards[0] + ALPHAS[1] * rewards[1]) / BETA
    pairs = tuple((i, j) for i in range(ANSWERS) for j in range(i))
    names = ("sft", "round_1", "reference")
    chains = [(sft,), (sft, first), (sft, first, second)]

    def gradient(policy, chain, label, alphas):
        earlier = dict(zip(names[len(names) - len(chain) :] if len(chain) > 1 else ("reference",), chain, strict=True))
        frozen = tuple(earlier)[:-1]

        def loss(context, batch, pairs):
            return losses.sequential_dpo(context, batch, beta=BETA, earlier=frozen, alphas=alphas, pairs=pairs)

        def value(policy, earlier):
            return evaluated(loss, policy, earlier, label, pairs)

        return jax.grad(value, (0, 1))(policy, earlier)

    for number, (policy, chain) in enumerate(zip((first, second, third), chains, strict=True)):
        label = jax.nn.sigmoid(rewards[number][:, None] - rewards[number][None])
        own, others = gradient(policy, chain, label, ALPHAS[:number])
        np.testing.assert_allclose(own, 0, atol=1e-6)
        if number:
            assert max(float(jnp.abs(leaf).max()) for name, leaf in others.items() if name != "reference") == 0
            assert float(jnp.abs(gradient(policy, chain, label, (0.0,) * number)[0]).max()) > 5e-3


def test_one_dpo_after_another_without_weights():
    label = jax.nn.sigmoid(jnp.arange(ANSWERS)[:, None] - 1.0 * jnp.arange(ANSWERS)[None])
    tables = {"reference": jnp.linspace(0, 2, ANSWERS), "sft": jnp.linspace(1, -1, ANSWERS) ** 2}
    policy, pairs = jnp.linspace(-1, 1, ANSWERS) ** 3, ((0, 1), (2, 4))

    def sequential(context, batch, pairs):
        return losses.sequential_dpo(context, batch, beta=BETA, earlier=("sft",), alphas=(0.0,), pairs=pairs)

    def plain(context, batch, pairs):
        return losses.dpo(context, batch, beta=BETA, pairs=pairs)

    found, expected = (evaluated(loss, policy, tables, label, pairs) for loss in (sequential, plain))
    assert found == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(ConfigError, match="one weight"):
        losses.sequential_dpo(Context(), Batch(), earlier=("sft",))
