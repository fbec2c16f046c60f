"""Memories: which prompts come back, how often, and what is replayed with them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from alignjax import roles, stages
from alignjax.config import ConfigError
from alignjax.types import Batch, Context, Role
from tests.support.tiny import as_jax, as_numpy, context, model, parameters, ragged, run

KEY = jax.random.key(0)


def batch_with(**fields: Any) -> Batch:
    return ragged(n=4).replace(**fields)


def held(**state: Any) -> Context:
    return Context(state=state, step=np.asarray(5))


def remembered(slots: int, batch: Batch, step: int = 5, **fields: Any) -> Any:
    @jax.jit
    def after(step: Any, batch: Batch) -> Any:
        return roles.remember(roles.memory(slots, **fields).function(KEY), Context(step=step), batch, KEY)

    return as_numpy(after(step, as_numpy(batch)))


PROMPTED = {"prompt": ((6,), "int32"), "prompt_valid": ((6,), "bool"), "priority": ((), "float32")}


def prompts_of(priority: Any) -> Batch:
    reward = np.zeros((4, 4))
    reward[:, 1] = priority
    batch = batch_with(reward=reward)
    return run(stages.regret, Context(), batch.replace(example_id=np.array([9, 18, 35, 44])), KEY)[0]


def test_regret_is_the_range_of_rewards() -> None:
    np.testing.assert_allclose(prompts_of([0.0, 1.0, 2.0, 5.0]).prompts["priority"], [0, 1, 2, 5])


def test_a_reward_of_which_nothing_is_known_is_no_regret() -> None:
    reward = np.array([[0.5, 0.7, 0.9, 0.8], [0.5, 0.5, 0.5, 0.5]])
    weight = np.array([[0.0, 0.4, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    batch = Batch(reward=reward, completions={"weight": weight})
    np.testing.assert_allclose(run(stages.regret, Context(), batch, KEY)[0].prompts["priority"], [0.2, 0], atol=1e-7)


def test_no_prompt_is_twice_in_a_batch() -> None:
    """Its completions, a function of example_id, would be the same twice."""
    memory = remembered(16, prompts_of([1.0, 1.0, 2.0, 3.0]), **PROMPTED)
    there, batch = as_jax((held(prompts=memory), batch_with(example_id=np.array([7, 44, 2, 9]))))
    draw = jax.jit(lambda key: stages.select_prompts(there, batch, key, count=3)[0].example_id)
    for key in jax.random.split(KEY, 20):
        assert sorted(draw(key).tolist()) == [2, 9, 18, 35]


def test_prompts_come_back_in_proportion_to_their_regret() -> None:
    """One drawn of four: frequencies over 4000 keys within four standard errors; none of no regret."""
    old = prompts_of([0.0, 1.0, 2.0, 5.0])
    memory = remembered(16, old, **PROMPTED)
    there, new = as_jax((held(prompts=memory), batch_with(example_id=np.arange(4))))
    draw = jax.jit(jax.vmap(lambda key: stages.select_prompts(there, new, key, count=1)[0].example_id))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(1), 4000)))
    np.testing.assert_array_equal(drawn[:, 1:], np.tile([1, 2, 3], (4000, 1)))
    for share, number in ((0.0, 9), (1 / 8, 18), (2 / 8, 35), (5 / 8, 44)):
        assert abs(np.mean(drawn[:, 0] == number) - share) <= 4 * np.sqrt(share * (1 - share) / 4000)


def test_prompts_are_drawn_once_each_and_come_back_whole() -> None:
    old = prompts_of([1.0, 1.0, 2.0, 0.0])
    new = batch_with(example_id=np.arange(4), prompt=np.full((4, 6), 5))
    out, _ = run(stages.select_prompts, held(prompts=remembered(16, old, **PROMPTED)), new, KEY, count=4)
    # Three can be drawn; the fourth row stays its own.
    assert sorted(out.example_id.tolist()) == [3, 9, 18, 35]
    for row, number in enumerate(out.example_id.tolist()):
        if number != 3:
            source = {9: 0, 18: 1, 35: 2}[number]
            np.testing.assert_array_equal(out.prompt[row], old.prompt[source])
            np.testing.assert_array_equal(out.prompt_valid[row], old.prompt_valid[source])
    with pytest.raises(ConfigError, match="count=5"):
        stages.select_prompts(held(prompts=remembered(16, old, **PROMPTED)), new, KEY, count=5)


def test_only_the_prompts_that_score_lowest_are_sampled_anew() -> None:
    network = model(layers=1)
    tree = parameters(network)
    fields = {"tokens": ((2, 5), "int32"), "valid": ((2, 5), "bool"), "reward": ((2,), "float32")}
    batch = as_jax(ragged()).replace(example_id=np.array([8, 1, 2, 3]))
    old = Batch(
        tokens=np.full((3, 2, 5), 7), valid=np.ones((3, 2, 5), bool), example_id=np.array([8, 2, 3]),
        reward=np.array([[1.0, 1.0], [0.0, -1.0], [2.0, 0.0]]),
    )  # fmt: skip

    def there(tree: Any, memory: Any) -> Context:
        return context({"policy": Role(network, None)}, {"policy": tree, "responses": memory}, step=5)

    @functools.partial(jax.jit, static_argnames="count")
    def _regenerated(tree: Any, memory: Any, count: int) -> Batch:
        return stages.regenerate(there(tree, memory), batch, KEY, count=count, n=2, max_tokens=5, stop=(2,))[0]

    def regenerated(count: int, old: Batch = old) -> Batch:
        return as_numpy(_regenerated(tree, remembered(16, old, **fields), count))

    same = lambda out: [bool(np.all(out.tokens[row] == 7)) for row in range(4)]  # noqa: E731
    one, two = regenerated(1), regenerated(2)
    assert same(one) == [True, False, True, True]  # prompt 1 has no responses yet
    assert same(two) == [True, False, False, True]  # and 2 had the lowest
    np.testing.assert_array_equal(one.tokens[1], two.tokens[1])
    np.testing.assert_array_equal(two.pair_weight, 1)
    out = regenerated(1, old.replace(example_id=np.array([100, 101, 102])))
    assert np.sum(np.asarray(out.pair_weight[:, 0, 1])) == 1  # the others have nothing, and count nothing
    np.testing.assert_array_equal(np.any(out.valid, axis=(1, 2)), out.pair_weight[:, 0, 1] > 0)
    memory = as_jax(remembered(16, old, **fields))
    with pytest.raises(ConfigError, match=r"remembers \(2, 5\)"):
        stages.regenerate(there(tree, memory), batch, KEY, count=1, n=2, max_tokens=6)


REPLAY = {
    "prompt": ((6,), "int32"), "prompt_valid": ((6,), "bool"), "tokens": ((2, 7), "int32"), "valid": ((2, 7), "bool"),
    "preference": ((2, 2), "float32"), "logps/reference": ((2, 7), "float32"),
}  # fmt: skip


def test_replay_returns_what_was_and_counts_only_what_is_fresh_enough() -> None:
    batch = ragged().replace(example_id=np.arange(4))
    memory = remembered(4, batch, step=3, **REPLAY)
    young, old = (
        run(stages.recall, held(memory=memory), Batch(), KEY, rows=8, max_age=age)[0].views["replay"] for age in (2, 1)
    )
    rows = young.example_id
    for name in ("prompt", "tokens", "valid", "preference"):
        np.testing.assert_array_equal(getattr(young, name), getattr(batch, name)[rows])
    np.testing.assert_array_equal(young.logps["reference"], batch.logps["reference"][rows])
    np.testing.assert_array_equal(young.pair_weight, 1)
    np.testing.assert_array_equal(young.mask, young.valid)
    assert not np.any(old.pair_weight)
    assert not np.any(old.mask)
    empty = roles.memory(4, **REPLAY).function(KEY)
    unused, _ = run(stages.recall, held(memory=empty), Batch(), KEY, rows=8, max_age=9)
    assert not np.any(unused.views["replay"].pair_weight)


def test_of_prompts_that_share_a_slot_one_is_kept_whole() -> None:
    batch = ragged().replace(example_id=np.array([1, 5, 2, 9]))
    memory = remembered(4, batch, step=3, **REPLAY)
    np.testing.assert_array_equal(memory["owner"], [-1, 9, 2, -1])
    for name in ("prompt", "tokens", "valid", "preference"):
        np.testing.assert_array_equal(memory[name][1], getattr(batch, name)[3])
    np.testing.assert_array_equal(memory["logps/reference"][1], batch.logps["reference"][3])
