"""Packed rows score what padded ones do, in value and gradient, and never leave out a token."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import algorithms, roles
from alignjax.config import ConfigError, Packing, fn
from alignjax.models.packing import into_rows, pack, packing_for, packs
from alignjax.scoring import Request, one_pass
from alignjax.train import step as step_module
from alignjax.train.state import create_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Batch, Hidden, Model, Role
from alignjax.workspace import Workspace
from tests.support import tiny
from tests.support.compiled import compilations

ROWS = Packing(prompts=4, length=56)  # of 4 * (6 + 2 * 7) = 80 padded slots
NOWHERE = Workspace(Path("nowhere"))


def small(**changes: Any) -> Model:
    return tiny.model(layers=1, **changes)


@functools.cache
def scored(network: Model, packing: Packing | None, microbatches: int = 1) -> Callable[..., Any]:
    """(params, batch, weights) -> (gradient of a weighted sum of log-probs and values, the two), jitted."""
    requests = [Request(("policy",), None), Request(("policy:value", "policy:reward"), None)]
    given = {"policy": Role(network, None)}

    def total(params: Any, batch: Batch, weights: Any) -> tuple[jax.Array, Any]:
        found = one_pass(given, lambda role: params, batch, requests, microbatches=microbatches, packing=packing)
        values = [value for request in requests for value in found[request].values()]
        return sum(jnp.sum(value * weight) for value, weight in zip(values, weights, strict=True)), values

    return jax.jit(jax.grad(total, has_aux=True))


@pytest.mark.parametrize(
    ("changes", "microbatches"),
    [pytest.param({}, 1, marks=pytest.mark.slow), ({"window": 3, "remat": "layer"}, 2)],
)
def test_packed_rows_are_padded_ones(changes: dict[str, Any], microbatches: int) -> None:
    network = small(outputs=("value", "reward"), **changes)
    params = tiny.parameters(network)
    batch = tiny.as_jax(tiny.ragged(1, rows=8, gaps=True))
    packing = ROWS if microbatches == 1 else Packing(prompts=4, length=30, rows=2)
    assert packs(packing, np.asarray(batch.prompt_valid), np.asarray(batch.valid), microbatches)
    weights = np.random.default_rng(0).normal(size=(3, 8, 2, 7)).astype(np.float32)
    gradient, values = scored(network, None, microbatches)(params, batch, weights)
    packed_gradient, packed = scored(network, packing, microbatches)(params, batch, weights)
    for value, same in zip(values, packed, strict=True):
        np.testing.assert_allclose(same, value, atol=1e-5)
    assert tiny.difference(gradient, packed_gradient) < 1e-5


def test_states_at_sites_and_right_padded_prompts() -> None:
    network = small()
    params = tiny.parameters(network)
    batch = tiny.as_jax(tiny.ragged(2))
    batch = batch.replace(prompt=batch.prompt[:, ::-1], prompt_valid=batch.prompt_valid[:, ::-1])
    hidden = jax.jit(network.hidden, static_argnums=(2, 3))
    wanted, found = (hidden(params, batch, ("block", "embed"), packing) for packing in (None, ROWS))
    there = np.asarray(batch.valid)
    for one, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(np.asarray(other)[there], np.asarray(one)[there], atol=1e-5)


def test_layout() -> None:
    """Every prompt lies in one row, its tokens and then those of each completion in order, and nothing twice."""
    batch = tiny.ragged(3, rows=8, gaps=True)
    counts = batch.prompt_valid.sum(1) + batch.valid.sum((1, 2))
    two = packing_for(counts[None], 8, rows=2, padded=0, multiple=1)
    packed = pack(two, *tiny.as_jax((batch.prompt_valid, batch.valid)))
    rows, prompt = np.asarray(into_rows(packed, batch.prompt, batch.tokens))[:, 0], np.asarray(packed.prompt)
    assert bool(packed.fits)
    assert max(np.asarray(packed.filled).sum(1)) == two.length  # as short as it can be
    seen = []
    for row in range(2):
        for b in dict.fromkeys(prompt[row][packed.filled[row]].tolist()):
            wanted = batch.prompt[b][batch.prompt_valid[b]].tolist() + batch.tokens[b][batch.valid[b]].tolist()
            assert rows[row][np.asarray(packed.filled[row]) & (prompt[row] == b)].tolist() == wanted
            seen.append(b)
    assert sorted(seen) == list(range(8))


def test_rows_as_long_as_the_data_needs() -> None:
    tokens = np.random.default_rng(0).integers(1, 30, (200, 8))
    for share in (0.0, 0.093):
        found = packing_for(tokens, 4, padded=share, multiple=1)
        over = [np.any(rows.reshape(2, 4).sum(1) > found.length) for rows in tokens]
        tighter = [np.any(rows.reshape(2, 4).sum(1) > found.length - 1) for rows in tokens]
        assert np.mean(over) <= share < np.mean(tighter)
    assert packing_for(tokens, 4).length % 16 == 0


def algorithm(packing: Packing | None, **parts: Any) -> Any:
    network = small()
    # The reference is another network than the policy, so that a wrong number shows at once.
    given = algorithms.ipo(network, start=roles.fresh(), optimizer=fn(tiny.sgd), n=2)
    reference = Role(network, roles.fresh())
    return dataclasses.replace(given, roles={**given.roles, "reference": reference}, packing=packing, **parts)


def test_an_update_is_the_same_and_long_batches_have_their_own_program() -> None:
    short = tiny.as_jax(tiny.ragged(1, rows=8).replace(logps={}))
    full = short.replace(valid=jnp.ones_like(short.valid))  # 4 * 2 * 7 completion slots do not fit beside prompts
    assert not packs(ROWS, np.asarray(full.prompt_valid), np.asarray(full.valid))
    for batch, programs in ((short, 2), (full, 1)):
        found = []
        compiled = compilations(step_module._update)
        for packing in (None, ROWS):
            given = algorithm(packing)
            state = create_state(given, 0, NOWHERE)
            seen, _ = make_experience(given)(state, batch)
            state, metrics = make_update(given)(state, seen)
            found.append((seen.logps["reference"], metrics["loss"], state.roles["policy"]))
        assert compiled() == [programs]  # a batch that does not fit: the padded program
        assert tiny.difference(*found) < 1e-5


def test_without_the_check_a_token_too_many_is_nan() -> None:
    network = small(outputs=("value", "reward"))
    full = tiny.ragged(1, rows=8)
    full = tiny.as_jax(full.replace(valid=np.ones_like(full.valid)))
    weights = np.ones((3, 8, 2, 7), np.float32)
    _, values = scored(network, ROWS)(tiny.parameters(network), full, weights)
    assert all(bool(jnp.isnan(value).all()) for value in values)


def plain(params: Any, batch: Batch, sites: tuple[str, ...] = ()) -> Hidden:
    raise AssertionError("never run")


def test_what_does_not_go_together_is_refused() -> None:
    network, batch = small(), tiny.as_jax(tiny.ragged(1, rows=6))
    ask = [Request(("policy",), None)]

    def score(model: Model) -> Any:
        params = jax.eval_shape(network.init, jax.random.key(0))
        return jax.eval_shape(
            lambda p: one_pass({"policy": Role(model, None)}, lambda _: p, batch, ask, packing=ROWS), params
        )

    with pytest.raises(ConfigError, match=r"6 prompts .* do not split into rows of 4"):
        score(network)
    with pytest.raises(ConfigError, match="two ways to lay out"):
        score(small(group_chunks=2))
    with pytest.raises(ConfigError, match="'policy' cannot run over packed rows"):
        score(dataclasses.replace(network, hidden=plain))
    with pytest.raises(ConfigError, match=r"Packing\.prompts is 0"):
        Packing(prompts=0, length=8)
    for more in ({"minibatches": 2}, {"epochs": 2}):
        with pytest.raises(ConfigError, match="minibatches=1"):
            make_update(algorithm(ROWS, **more))
