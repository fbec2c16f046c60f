"""Directions, scores and likeness to a reference, by the numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import stages
from alignjax.config import ConfigError, fn
from alignjax.stages.condition import with_drawn_goal
from alignjax.types import Batch, Context
from tests.support.tiny import context_of, model, parameters

KEY = jax.random.key(0)
GOALS = ((4,), (5, 6), (7, 8, 9))


def prompts(rows=300):
    prompt = jnp.stack([jnp.ones(rows, jnp.int32), jnp.arange(rows) + 20], axis=1)
    return Batch(prompt=prompt, prompt_valid=prompt > 0, example_id=jnp.arange(rows))


def length(batch):
    return jnp.sum(batch.valid, axis=-1).astype(jnp.float32)


def first_token(batch):
    return batch.tokens[..., 0].astype(jnp.float32)


def test_each_prompt_carries_the_goal_that_its_reward_is_of():
    batch = stages.draw_goal(Context(), prompts(), KEY, goals=GOALS)
    numbers = np.asarray(batch.prompts["goal"])
    assert abs(np.bincount(numbers) - 100).max() < 35
    for row in range(300):
        shown = np.asarray(batch.prompt[row])[np.asarray(batch.prompt_valid[row])].tolist()
        assert shown == [1, *GOALS[numbers[row]], row + 20]
    tokens = jnp.asarray(np.random.default_rng(0).integers(1, 9, (300, 4, 3)), jnp.int32)
    valid = jnp.asarray(np.broadcast_to(np.arange(3) < np.array([1, 3, 2, 3])[:, None], tokens.shape))
    batch = batch.replace(tokens=tokens, valid=valid)
    batch = stages.scores_by(Context(), batch, KEY, functions=(fn(length), fn(first_token)))
    directions = ((1.0, 0.0), (0.6, -0.8), (-0.3, 0.9))
    reward = stages.directed_reward(Context(), batch, KEY, directions=directions).reward
    v = np.array(directions)[numbers]
    expected = v[:, :1] * np.array([1, 3, 2, 3]) + v[:, 1:] * np.asarray(tokens)[..., 0]
    np.testing.assert_allclose(reward, expected, atol=1e-5)
    with pytest.raises(ConfigError, match="2 numbers"):
        stages.directed_reward(Context(), batch, KEY, directions=((1.0,), (1.0,), (1.0,)))


def test_neighbors_answer_for_a_prompt():
    """The own goal's samples come first, then those of the goal whose direction is next by angle, whatever its length;
    the best is picked for the own direction (RPS)."""
    directions, beside = ((1.0, 0.0), (8.0, 6.0), (-1.0, 0.1)), np.array([1, 0, 1])
    network = model(vocab=40)
    context = context_of(network, policy=parameters(network))
    batch = stages.draw_goal(context, prompts(12), KEY, goals=GOALS)
    numbers = np.asarray(batch.prompts["goal"])
    assert set(numbers) == {0, 1, 2}
    samples = fn(stages.generate, n=2, max_tokens=3, stop=())
    search = fn(stages.neighbor_samples, generate=samples, goals=GOALS, directions=directions, nearest=2)
    found, told = jax.jit(search)(context, batch, KEY)
    assert found.tokens.shape == (12, 4, 3)
    other = with_drawn_goal(prompts(12), GOALS, jnp.asarray(beside[numbers]))
    drawn = jax.jit(samples)
    for asked, key, places in ((batch, KEY, slice(0, 2)), (other, jax.random.fold_in(KEY, 1), slice(2, 4))):
        alone = drawn(context, asked, key)[0]
        np.testing.assert_array_equal(found.tokens[:, places], alone.tokens)
        np.testing.assert_allclose(found.logps["sampler"][:, places], alone.logps["sampler"], atol=1e-5)
    np.testing.assert_array_equal(found.prompt, batch.prompt)
    np.testing.assert_array_equal(found.prompts["goal"], numbers)
    assert set(found.logps) == {"sampler"}
    assert told["length"].value() == 3
    for wrong in ({"nearest": 4}, {"directions": directions[:2]}):
        with pytest.raises(ConfigError, match="give each goal a direction"):
            search.replace(**wrong)(context, batch, KEY)
    with pytest.raises(ConfigError, match="the batch has completions"):
        search(context, found, KEY)


def test_samples_are_rated_by_their_likeness_to_the_first_which_is_dropped():
    tokens = jnp.array([[[5, 6, 7, 2], [7, 6, 5, 2], [5, 2, 0, 0], [9, 9, 9, 9]]])
    batch = Batch(prompt=jnp.ones((1, 1), jnp.int32), tokens=tokens, valid=tokens > 0)
    batch = stages.overlap(Context(), batch, KEY, vocab=12)
    rated = stages.reference_reward(Context(), batch, KEY, offset=2.0)
    np.testing.assert_allclose(rated.reward, [[1 + 1 / 6, (1 + 1 / 4) * 4 / 6, 0]], rtol=1e-6)
    np.testing.assert_array_equal(rated.tokens, tokens[:, 1:])
    with pytest.raises(ConfigError, match="behind the reference"):
        stages.reference_reward(Context(), batch.pick(jnp.array([[0]])), KEY)


def test_advantages_are_cut_where_asked():
    batch = Batch(reward=jnp.array([[0.0, 1.0, 5.0]]), mask=jnp.ones((1, 3, 2)), tokens=jnp.ones((1, 3, 2), jnp.int32))
    batch = batch.replace(valid=jnp.ones((1, 3, 2), bool))
    cut, _ = stages.group_advantage(Context(), batch, KEY, scale="none", clip=1.5)
    np.testing.assert_allclose(cut.advantage[0, :, 0], [-1.5, -1.0, 1.5])
