"""The first state: where roles start, buffers of their own, definite dtypes, the same for the same seed."""

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
from alignjax.train.state import TrainState, abstract_state, create_state, unchanging
from alignjax.types import Algorithm, Role
from alignjax.workspace import Workspace
from tests.support.tiny import difference, model, sgd

NOWHERE = Workspace(Path("nowhere"))
NETWORK = model(layers=1)


def momentum(*, learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate)


def ring(key: Any) -> Any:
    return {"ring": jnp.full(3, 0.8), "drawn": jax.random.uniform(key, (2,)), "count": 0}


ALGORITHM = Algorithm(
    roles={
        "second": Role(NETWORK, roles.copy_of("reference")),
        "reference": Role(NETWORK, roles.copy_of("policy")),
        "policy": Role(NETWORK, roles.fresh(), fn(momentum, learning_rate=0.1)),
        "other": Role(NETWORK, roles.fresh(), fn(sgd, learning_rate=0.1)),
        "memory": Role(None, roles.value(ring)),
    }
)


@pytest.fixture(scope="module")
def state() -> TrainState:
    return create_state(ALGORITHM, 0, NOWHERE)


def test_roles_start_where_they_should(state: TrainState) -> None:
    assert difference(state.roles["policy"], state.roles["reference"]) == 0
    assert difference(state.roles["policy"], state.roles["second"]) == 0
    assert difference(state.roles["policy"], state.roles["other"]) > 0.1  # a role's name is in its key
    np.testing.assert_allclose(state.roles["memory"]["ring"], 0.8)
    assert set(state.optimizers) == {"policy", "other"}
    assert (int(state.step), int(state.seed)) == (0, 0)


def test_no_two_leaves_share_a_buffer_and_none_is_weak(state: TrainState) -> None:
    leaves = jax.tree.leaves(state)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    assert not any(leaf.weak_type for leaf in leaves)


def test_a_state_is_a_function_of_the_seed(state: TrainState) -> None:
    same, other = (create_state(ALGORITHM, seed, NOWHERE) for seed in (0, 1))
    assert difference(state.roles, same.roles) == 0
    assert difference(state.roles["policy"], other.roles["policy"]) > 0.1
    assert np.all(state.roles["memory"]["drawn"] != other.roles["memory"]["drawn"])


def test_what_no_step_changes() -> None:
    """Neither what is trained nor what a rule moves."""
    average = Role(NETWORK, roles.copy_of("policy"), rule=fn(roles.ema, of="policy", decay=0.5))
    assert unchanging({**ALGORITHM.roles, "average": average}) == ("second", "reference", "memory")


def test_roles_beside_it_do_not_change_what_a_role_starts_as(state: TrainState) -> None:
    alone = Algorithm(roles={"policy": ALGORITHM.roles["policy"]})
    assert difference(create_state(alone, 0, NOWHERE).roles["policy"], state.roles["policy"]) == 0


def test_shapes_are_known_without_a_state(state: TrainState) -> None:
    shapes = abstract_state(ALGORITHM)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for shape, leaf in zip(jax.tree.leaves(shapes), jax.tree.leaves(state), strict=True):
        assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)


def test_starts_that_lead_nowhere_are_named() -> None:
    def create(**given: Role) -> None:
        create_state(Algorithm(roles=given), 0, NOWHERE)

    policy = Role(NETWORK, roles.fresh())
    with pytest.raises(ConfigError, match=r"'reference' starts as a copy of 'polcy', .*Did you mean 'policy'"):
        create(policy=policy, reference=Role(NETWORK, roles.copy_of("polcy")))
    with pytest.raises(ConfigError, match="copies of each other: a -> b -> a"):
        create(a=Role(NETWORK, roles.copy_of("b")), b=Role(NETWORK, roles.copy_of("a")))
    with pytest.raises(ConfigError, match="role 'memory' cannot start as"):
        create(memory=Role(None, roles.fresh()))
