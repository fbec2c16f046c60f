"""On completions few enough to write all of them down: what online IPO does in expectation is self-play.

The gradient of the loss averaged over pairs drawn from the policy and over labels drawn by the judge is -(4 / tau)
times the self-play policy gradient with payoff p(y > policy) - 1/2 - tau log(policy / reference)."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.models.kv_cache import default_read
from alignjax.types import Array, Batch, Head, Hidden, Model
from tests.support.tiny import context_of

STOP, LETTERS = 0, 3
EVERY = [(STOP,)] + [(a, b) for a in range(1, LETTERS) for b in range(LETTERS)]  # at most two tokens, stop included


def hidden(params: Any, batch: Batch, sites: tuple[str, ...] = ()) -> Hidden:
    """A network that knows what was before: logits are a bilinear function of the prompt and the tokens so far."""
    first = jnp.broadcast_to(params["start"][batch.prompt[:, None, 0]], (*batch.tokens.shape[:2], 4))
    second = jnp.tanh(first @ params["turn"] + params["seen"][batch.tokens[..., 0]])
    states = jnp.stack([first, second], axis=2)
    return Hidden(states, states, {})


def init(key: Any) -> Any:
    shapes = {"start": (1, 4), "turn": (4, 4), "seen": (LETTERS, 4), "out": (4, LETTERS)}
    keys = jax.random.split(key, len(shapes))
    return {name: jax.random.normal(k, shape, float) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


NETWORK = Model(init, hidden, {"lm": Head("before", lambda params, states: states @ params["out"])}, default_read)


def pairs(chosen: list[tuple[int, int]]) -> Batch:
    """A batch with a row for each pair of numbers of completions."""
    tokens = np.zeros((len(EVERY), 2), np.int32)
    valid = np.zeros((len(EVERY), 2), bool)
    for number, completion in enumerate(EVERY):
        tokens[number, : len(completion)], valid[number, : len(completion)] = completion, True
    index = np.array(chosen)
    valid = jnp.asarray(valid[index])
    return Batch(
        prompt=jnp.zeros((len(index), 1), jnp.int32), prompt_valid=jnp.ones((len(index), 1), bool),
        tokens=jnp.asarray(tokens[index]), valid=valid, mask=valid.astype(float),
    )  # fmt: skip


@jax.jit
def sequence_logps(params: Any) -> Array:
    """log-prob of each completion, [7]."""
    batch = pairs([(number, number) for number in range(len(EVERY))])
    return context_of(NETWORK, policy=params).score("policy", batch)["policy"][:, 0].sum(-1)


def weight_matrix(batch: Batch, weight: Array) -> Array:
    return jnp.zeros((len(weight), 2, 2)).at[:, 0, 1].set(weight).at[:, 1, 0].set(weight)


@pytest.fixture
def game(float64: None) -> tuple[Any, Any, np.ndarray]:
    """Policy and reference params, and an arbitrary (intransitive) preference over completions."""
    draw = np.random.default_rng(4).uniform(size=(len(EVERY), len(EVERY)))
    preference = np.triu(draw, 1) + np.tril(1 - draw.T, -1) + np.eye(len(EVERY)) / 2
    return init(jax.random.key(0)), init(jax.random.key(1)), preference


def test_every_completion_is_there(game: Any) -> None:
    for params in game[:2]:
        np.testing.assert_allclose(jnp.sum(jnp.exp(sequence_logps(params))), 1, rtol=1e-12)


@pytest.mark.parametrize("labels", ["probabilities", "draws"])
def test_online_ipo_is_self_play_in_expectation(labels: str, game: Any) -> None:
    policy, reference, preference = game
    tau = 0.3
    chosen = list(itertools.product(range(len(EVERY)), repeat=2))
    pi, log_reference = np.exp(np.asarray(sequence_logps(policy))), np.asarray(sequence_logps(reference))
    i, j = np.array(chosen).T
    probability, weight = preference[i, j], pi[i] * pi[j]
    if labels == "draws":  # each pair twice: won with its probability, lost with the rest
        chosen, weight = chosen * 2, np.concatenate([weight * probability, weight * (1 - probability)])
        probability = np.concatenate([np.ones_like(probability), np.zeros_like(probability)])
    batch = pairs(chosen)
    label = jnp.full((len(chosen), 2, 2), 0.5).at[:, 0, 1].set(probability).at[:, 1, 0].set(1 - probability)
    batch = batch.replace(preference=label, pair_weight=weight_matrix(batch, jnp.asarray(weight)))
    batch = batch.with_logps(reference=context_of(NETWORK, r=reference).score("r", batch)["r"])

    def expected_loss(params: Any) -> Array:
        return losses.ipo(context_of(NETWORK, policy=params), batch, tau=tau)[0].value()

    gradient = jax.jit(jax.grad(expected_loss))(policy)
    payoff = preference @ pi - 0.5 - tau * (np.log(pi) - log_reference)
    jacobian = jax.jit(jax.jacobian(sequence_logps))(policy)
    self_play = jax.tree.map(lambda leaf: np.tensordot(pi * payoff, np.asarray(leaf), axes=1), jacobian)
    for ours, exact in zip(jax.tree.leaves(gradient), jax.tree.leaves(self_play), strict=True):
        np.testing.assert_allclose(ours, -4 / tau * exact, rtol=1e-9, atol=1e-11)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0.1


def test_pairs_of_one_completion_with_itself_count_and_pull_nowhere(game: Any) -> None:
    """They belong to the expectation: with them left out, loss and gradient would be too large."""
    policy, _, _ = game
    batch = pairs([(2, 2)]).replace(preference=jnp.full((1, 2, 2), 0.5), pair_weight=jnp.ones((1, 2, 2)))
    batch = batch.with_logps(reference=jnp.zeros(batch.tokens.shape))
    value, gradient = jax.value_and_grad(
        lambda params: losses.ipo(context_of(NETWORK, policy=params), batch, tau=0.1)[0].value()
    )(policy)
    assert float(value) == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
