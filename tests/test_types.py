"""The batch says what it lacks and who fills it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.config import ConfigError
from alignjax.types import Batch


def test_a_missing_field_is_named_with_who_fills_it() -> None:
    batch = Batch(reward=jnp.ones((2, 3)), logps={"policy": jnp.zeros((2, 3, 4))})
    assert batch.need("reward", of="ranked") is batch.reward
    assert batch.need("logps", "policy", of="reinforce") is batch.logps["policy"]
    with pytest.raises(ConfigError, match=r"^sppo needs batch\.preference: .*fn\(prefer, judge=\.\.\.\)$"):
        batch.need("preference", of="sppo")
    with pytest.raises(ConfigError, match=r'^reinforce needs batch\.logps\["polic"\].*Did you mean .policy'):
        batch.need("logps", "polic", of="reinforce")
    with pytest.raises(ConfigError, match=r'^hir needs batch\.prompts\["other"\].*fn\(hindsight'):
        batch.need("prompts", "other", of="hir")
    with pytest.raises(ConfigError, match=r'^mine needs batch\.completions\["risks"\]: a source or a stage'):
        batch.need("completions", "risks", of="mine")


def test_ids_are_those_of_the_examples_or_numbers_of_rows() -> None:
    batch = Batch(prompt=jnp.zeros((3, 2), jnp.int32))
    np.testing.assert_array_equal(batch.ids(), [0, 1, 2])
    np.testing.assert_array_equal(batch.replace(example_id=jnp.array([7, 9, 4])).ids(), [7, 9, 4])
    with pytest.raises(ConfigError, match=r"batch\.prompt: "):
        Batch().ids()
