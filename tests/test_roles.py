"""Rules and builds that keep a past: pools of opponents, memories of examples, look-ahead, domains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import roles
from alignjax.config import ConfigError, fn
from alignjax.scoring import params_of
from alignjax.train.state import create_state
from alignjax.train.step import make_update
from alignjax.types import Algorithm, Batch, Context, Mean, Metrics, Role
from alignjax.workspace import Workspace

NOWHERE = Workspace(Path("nowhere"))
KEY = jax.random.key(0)


def climbing(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
    """A policy that grows by 1 an iteration under `ascent`."""
    return Mean.of(-context.params("policy")["x"]), {}


def ascent() -> Any:

    return optax.sgd(2.0)


POLICY = Role(None, roles.value(lambda key: {"x": jnp.zeros(2)}), fn(ascent))
ROWS = Batch(example_id=jnp.arange(4, dtype=jnp.int32))


def history(steps: int, **others: Role) -> list[Any]:
    algorithm = Algorithm(losses={"climb": fn(climbing)}, roles={"policy": POLICY, **others})
    state, seen = create_state(algorithm, 0, NOWHERE), []
    for _ in range(steps + 1):
        params = params_of(algorithm.roles, state.roles)
        seen.append(jax.tree.map(np.array, (dict(state.roles), {name: params(name) for name in others})))
        state, _ = make_update(algorithm)(state, ROWS)
    return seen


def test_a_pool_is_a_ring_of_past_policies() -> None:
    pool = Role(None, roles.pool_of("policy", 3), rule=fn(roles.pool, of="policy", every=2), build=fn(roles.chosen))
    seen = history(12, pool=pool)
    pushed = [int(state["pool"]["pushed"]) for state, _ in seen]
    assert pushed == [1 + number // 2 for number in range(13)]
    for number, (state, params) in enumerate(seen):
        every = [0.0, *(2.0 * k for k in range(1, number // 2 + 1))]  # the start, then the policy after 2, 4, ...
        ring = state["pool"]["ring"]["x"][:, 0].tolist()
        assert set(every[-3:]) == set(ring[: len(every)])
        chosen = float(params["pool"]["x"][0])
        assert chosen in every[-3:]  # never a slot that nothing was pushed to since the start
    assert len({float(params["pool"]["x"][0]) for _, params in seen}) > 3


@pytest.mark.parametrize("pushed", [1, 4])
def test_a_pools_opponent_is_drawn_uniformly(pushed: int) -> None:
    """From the slots that something was pushed to, this iteration's included."""
    own = {"ring": {"x": jnp.arange(4.0)}, "pushed": jnp.asarray(pushed), "slot": jnp.asarray(0)}
    context = Context(step=jnp.asarray(0), params=lambda role: {"x": jnp.asarray(9.0)})
    draw = jax.jit(jax.vmap(lambda key: roles.pool(own, context, ROWS, key, of="policy")["slot"]))
    slots = np.asarray(draw(jax.random.split(KEY, 2000)))
    share, filled = np.bincount(slots, minlength=4) / 2000, min(pushed + 1, 4)
    np.testing.assert_allclose(share[:filled], 1 / filled, atol=4 * np.sqrt(0.25 / 2000))
    assert not np.any(share[filled:])


def test_a_trained_role_may_look_ahead_and_return() -> None:
    """With every = 2 the first of two steps is undone, so the policy gains 1 in two iterations; `ahead` saw both."""
    looking = Role(None, POLICY.start, fn(ascent), rule=fn(roles.return_to, of="centre", every=2))
    algorithm = Algorithm(
        losses={"climb": fn(climbing)},
        roles={
            "policy": looking,
            "centre": Role(None, roles.copy_of("policy"), rule=fn(roles.snapshot, of="policy", every=2)),
            "ahead": Role(None, roles.copy_of("policy"), rule=fn(roles.snapshot, of="policy", every=1)),
        },
    )
    state, seen = create_state(algorithm, 0, NOWHERE), []
    for _ in range(6):
        state, _ = make_update(algorithm)(state, ROWS)
        seen.append(tuple(float(state.roles[name]["x"][0]) for name in ("policy", "centre", "ahead")))
    assert seen == [(0, 0, 1), (1, 1, 1), (1, 1, 2), (2, 2, 2), (2, 2, 3), (3, 3, 3)]


def test_a_memory_keeps_the_newest_of_a_slot() -> None:
    memory = roles.memory(4, reward=((2,), "float32"), note=((), "int32"))
    own = memory.function(KEY)
    assert np.all(own["owner"] == -1)

    def after(own: Any, ids: Any, number: int) -> Any:
        batch = Batch(
            example_id=jnp.array(ids), reward=jnp.full((len(ids), 2), float(number)),
            prompts={"note": jnp.full(len(ids), number)},
        )  # fmt: skip
        return roles.remember(own, Context(step=jnp.asarray(number)), batch, KEY)

    own = after(own, [0, 1, 6], 1)
    own = after(own, [5, 6], 2)
    np.testing.assert_array_equal(own["owner"], [0, 5, 6, -1])
    np.testing.assert_array_equal(own["step"], [1, 2, 2, 0])
    np.testing.assert_array_equal(own["note"], [1, 2, 2, 0])
    np.testing.assert_array_equal(own["reward"][:, 0], [1, 2, 2, 0])
    with pytest.raises(ConfigError, match="no 'reward'"):
        roles.remember(own, Context(), Batch(example_id=jnp.arange(2), prompts={"note": jnp.zeros(2)}), KEY)
    with pytest.raises(ConfigError, match="example_id"):
        roles.remember(own, Context(), Batch(), KEY)


def test_a_domains_memory_follows_while_its_domain_is_seen() -> None:
    context = Context(state={"policy": {"x": jnp.asarray(3.0)}})
    own = {"x": jnp.asarray(1.0)}

    def after(domains: Any, domain: int) -> float:
        batch = Batch(prompts={"domain": jnp.array(domains)})
        return float(roles.while_domain(own, context, batch, KEY, of="policy", domain=domain)["x"])

    assert after([1, 1, 0], 1) == 3
    assert after([1, 1, 0], 0) == 1
    assert after([1, 0], 0) == after([1, 0], 1) == 1  # neither has the most
    with pytest.raises(ConfigError, match="needs batch\\.prompts"):
        roles.while_domain(own, context, Batch(), KEY, of="policy", domain=0)


def test_a_combination_is_linear_in_its_weights() -> None:
    trees = {"a": {"x": jnp.array([1.0, 2.0])}, "b": {"x": jnp.array([10.0, 20.0])}}
    made = roles.combined({"weights": jnp.array([0.25, 0.75])}, trees.__getitem__, of=("a", "b"))
    np.testing.assert_allclose(made["x"], [7.75, 15.5])
