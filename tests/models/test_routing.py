"""Experts that a sampler chose are the experts that scoring replays."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.config import ConfigError, Packing
from alignjax.models import transformer
from alignjax.sampling import Filters, Sampling, generate as sampled_from
from alignjax.stages import generate
from alignjax.types import Batch
from tests.support.family_configs import CONFIGS
from tests.support.tiny import as_jax, as_numpy, context_of, ragged

CONFIG = dataclasses.replace(CONFIGS["qwen3_moe"], experts=5, experts_per_token=2, vocab=11)
NETWORK = transformer(CONFIG)
BATCH = as_jax(ragged(seed=3, n=2, vocab=CONFIG.vocab))
PROMPTS = Batch(prompt=BATCH.prompt, prompt_valid=BATCH.prompt_valid, example_id=jnp.arange(BATCH.prompt.shape[0]))
KEY = "experts:policy"


@functools.cache
def params() -> Any:
    return jax.jit(NETWORK.init)(jax.random.key(1))


def other_router(scale: float) -> Any:
    """The same weights with a router that is moved."""
    layers = dict(params()["layers"])
    layers["router"] = layers["router"] + scale * jax.random.normal(jax.random.key(7), layers["router"].shape)
    return {**params(), "layers": layers}


@functools.partial(jax.jit, static_argnames=("slots", "n", "seed", "max_tokens", "keep"))
def drawn(
    params: Any,
    batch: Batch,
    slots: int | None = None,
    n: int = 3,
    seed: int = 2,
    max_tokens: int = 4,
    keep: bool = True,
) -> Batch:
    context, options = context_of(NETWORK, policy=params), {"max_tokens": max_tokens, "keep_experts": keep}
    return generate(context, batch, jax.random.key(seed), n=n, stop=(0,), slots=slots, **options)[0]


@jax.jit
def scored(params: Any, batch: Batch) -> jax.Array:
    return context_of(NETWORK, policy=params).score("policy", batch)["policy"]


@jax.jit
def routed(params: Any, batch: Batch) -> Any:
    """What the scorer sends where: experts [B,N,T,L,k]."""
    hidden = NETWORK.hidden(params, batch, ("experts",))
    return hidden.states["experts"]


@jax.jit
def in_one_row(params: Any, tokens: jax.Array, valid: jax.Array, router: jax.Array) -> jax.Array:
    """Log-probs [1,1,T,V] of a row whose router's logits [L,1,1,T,E] are edited."""
    hidden, *_ = NETWORK.extend(params, None, tokens, valid, {"router": router})
    return jax.nn.log_softmax(NETWORK.heads["lm"].apply(params, hidden))


def without(batch: Batch) -> Batch:
    return batch.replace(tokens=batch.tokens)


def test_what_was_kept_is_what_the_scorer_would_choose() -> None:
    """With the sampler's weights nothing changes by replaying, in slots that are refilled as in lockstep; where there
    is no token, -1 stands."""
    batch = drawn(params(), PROMPTS)
    kept = np.asarray(batch.completions[KEY])
    assert kept.shape == (*batch.tokens.shape, 2, 2)
    valid = np.asarray(batch.valid)
    assert not valid.all()
    assert (kept[~valid] == -1).all()
    assert (np.asarray(batch.prompts[KEY])[~np.asarray(PROMPTS.prompt_valid)] == -1).all()
    np.testing.assert_array_equal(np.asarray(routed(params(), without(batch)))[valid], kept[valid])
    np.testing.assert_allclose(scored(params(), batch), batch.logps["policy"], atol=2e-5)
    np.testing.assert_array_equal(drawn(params(), PROMPTS, slots=2).completions[KEY], kept)
    assert len({tuple(experts) for experts in kept[valid].reshape(-1, 2).tolist()}) > 4


def test_replaying_is_a_router_that_can_choose_nothing_else() -> None:
    """After the router has moved, tokens go where they went: the same log-probs as with all other logits at minus
    infinity, which for shares that add up to one is the same mixture. Without replaying, others are chosen."""
    batch, moved = drawn(params(), PROMPTS), other_router(0.5)
    replayed = np.asarray(scored(moved, batch))
    assert np.abs(replayed - np.asarray(scored(moved, without(batch)))).max() > 1e-2
    batch = as_numpy(batch)
    every = np.arange(CONFIG.experts)
    others = ~(batch.completions[KEY][..., None] == every).any(-2)  # [B,N,T,L,E]
    at_prompt = ~(batch.prompts[KEY][..., None] == every).any(-2)
    for row, number in np.ndindex(batch.tokens.shape[:2]):
        tokens = np.concatenate([batch.prompt[row], batch.tokens[row, number]])[None, None]
        valid = np.concatenate([batch.prompt_valid[row], batch.valid[row, number]])[None, None]
        edit = np.concatenate([at_prompt[row], others[row, number]])  # [P+T,L,E]
        router = np.where(edit & valid[0, 0, :, None, None], np.float32(-1e9), np.float32(0))
        logps = np.asarray(in_one_row(moved, tokens, valid, router.swapaxes(0, 1)[:, None, None]))[0, 0]
        size = int(batch.valid[row, number].sum())
        start = batch.prompt.shape[1] - 1
        expected = logps[start + np.arange(size), batch.tokens[row, number, :size]]
        np.testing.assert_allclose(replayed[row, number, :size], expected, atol=2e-5)


def test_ties_are_broken_as_the_sampler_did() -> None:
    """A router with five equal columns: any two experts are as good, and the sampler's are taken."""
    layers = dict(params()["layers"])
    layers["router"] = jnp.broadcast_to(layers["router"][..., :1], layers["router"].shape)
    tied = {**params(), "layers": layers}
    batch = drawn(tied, PROMPTS)
    swapped = batch.replace(completions={KEY: jnp.where(batch.completions[KEY] >= 0, 4 - batch.completions[KEY], -1)})
    assert np.abs(np.asarray(scored(tied, swapped) - scored(tied, batch))).max() > 1e-3
    np.testing.assert_allclose(scored(tied, batch), batch.logps["policy"], atol=2e-5)


def test_gradients_reach_the_gates_of_replayed_experts_alone() -> None:
    """All tokens are sent to experts 1 and 3, whatever the router prefers: their weights and their columns of the
    router learn, those of the others do not."""
    batch = drawn(params(), PROMPTS)
    send = lambda kept: jnp.where(kept >= 0, jnp.asarray([1, 3]), -1)  # noqa: E731
    batch = batch.replace(prompts={KEY: send(batch.prompts[KEY])}, completions={KEY: send(batch.completions[KEY])})
    grads = jax.jit(jax.grad(lambda params, batch: jnp.sum(scored(params, batch))))(params(), batch)["layers"]
    for name, axis in (("gate", 1), ("up", 1), ("down", 1), ("router", 2)):
        moved = np.abs(np.moveaxis(np.asarray(grads[name]), axis, 0)).reshape(5, -1).max(axis=1) > 1e-5
        # padding of prompts is seen by nobody, and so are the experts that it goes to
        np.testing.assert_array_equal(moved, [False, True, False, True, False], err_msg=name)


@pytest.mark.slow
def test_layouts_of_a_batch_replay_the_same() -> None:
    """Packed rows, pieces of a group and several microbatches."""
    batch, moved = drawn(params(), PROMPTS), other_router(0.5)
    plain = np.asarray(scored(moved, batch))
    model = context_of(NETWORK, policy=moved).roles["policy"]
    assert model is not None
    view = batch.replace(prompts={"experts": batch.prompts[KEY]}, completions={"experts": batch.completions[KEY]})
    for network, packing in (
        (NETWORK, Packing(2, 32)),
        (transformer(dataclasses.replace(CONFIG, group_chunks=3)), None),
    ):
        hidden = network.hidden(moved, view, packing=packing)
        logps = jax.nn.log_softmax(network.heads["lm"].apply(moved, hidden.before))
        logps = jnp.take_along_axis(logps, batch.tokens[..., None], -1)[..., 0]
        np.testing.assert_allclose(jnp.where(batch.valid, logps, 0), plain, atol=2e-5)


def test_opponents_keep_their_own_choice() -> None:
    """Completions of a second stage stand behind those of the first, each with its experts, or with none known."""
    first = drawn(params(), PROMPTS)
    both = drawn(other_router(0.5), first.replace(example_id=first.example_id + 9), n=2)
    kept = np.asarray(both.completions[KEY])
    assert kept.shape[1] == 5
    np.testing.assert_array_equal(kept[:, :3], first.completions[KEY])
    plain = drawn(params(), first, n=1, seed=5, max_tokens=6, keep=False)
    kept = np.asarray(plain.completions[KEY])
    np.testing.assert_array_equal(kept[:, :3, :4], first.completions[KEY])
    assert (kept[:, 3] == -1).all()
    assert (kept[:, :, 4:] == -1).all()
    assert KEY not in plain.replace(tokens=plain.tokens).completions


def test_only_mixtures_have_experts_to_keep() -> None:
    dense = transformer(dataclasses.replace(CONFIG, experts=0, experts_per_token=0, renormalized=False))
    plan = Sampling(1, 2, filters=Filters(0.0), stop=(), keep_experts=True)
    with pytest.raises(ConfigError, match="no stream's model has experts"):
        sampled_from(context_of(dense, policy={}), PROMPTS, jax.random.key(0), plan)


ROUTERS = """
import jax, jax.numpy as jnp
from alignjax.config import MeshConfig
from alignjax.models.experts import chosen
from alignjax.parallel.mesh import make_mesh
from tests.support.collectives import all_gathers

mesh = make_mesh(MeshConfig(2, 2, 2))
rows = jax.NamedSharding(mesh, jax.P(("replica", "fsdp")))
logits = jax.ShapeDtypeStruct((8, 2, 3, 5), jnp.float32, sharding=rows)
routes = jax.ShapeDtypeStruct((8, 2, 3, 2), jnp.int32, sharding=rows)
for replayed in ((), (routes,)):
    value = lambda logits, *routes: jnp.sum(chosen(logits, 2, True, *routes)[0][..., 0])
    assert not all_gathers(jax.jit(jax.value_and_grad(value)).lower(logits, *replayed).compile())
"""


@pytest.mark.slow
def test_a_router_gathers_no_rows_of_other_devices() -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", ROUTERS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
