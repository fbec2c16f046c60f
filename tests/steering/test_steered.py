"""Steered params: what is added is added at its site, layer and positions, in every way in which a network is run."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import sampling, stages, steering
from alignjax.config import ConfigError, fn
from alignjax.models import unrolled
from alignjax.roles import fresh
from alignjax.scoring import context
from alignjax.types import Batch, Role
from tests.support.tiny import SIZES, as_jax, context_of, model, parameters, ragged

NETWORK = model()
PARAMS = parameters(NETWORK)
BATCH = as_jax(ragged(seed=2))
LAYERS, WIDTH, HEADS = SIZES["layers"], SIZES["width"], SIZES["heads"]
DRAW = np.random.default_rng(0)
DIRECTIONS = {
    "block": jnp.asarray(DRAW.normal(size=(LAYERS, WIDTH)), jnp.float32),
    "attn": jnp.asarray(DRAW.normal(size=(LAYERS, WIDTH)), jnp.float32),
    "heads": jnp.asarray(DRAW.normal(size=(LAYERS, HEADS, WIDTH // HEADS)), jnp.float32),
    "embed": jnp.asarray(DRAW.normal(size=WIDTH), jnp.float32),
}
STEERED = steering.steered(PARAMS, DIRECTIONS, strength=0.7)
SPLIT = steering.steered(
    steering.steered(PARAMS, DIRECTIONS, strength=0.7, positions="prompt"), DIRECTIONS, strength=-0.4,
    positions="completion",
)  # fmt: skip


@jax.jit
def hidden(params: Any) -> Any:
    return NETWORK.hidden(params, BATCH, ("embed", "attn", "heads", "block"))


@jax.jit
def logps(params: Any) -> jax.Array:
    return context_of(NETWORK, policy=params).score("policy", BATCH)["policy"]


def test_strength_zero_is_the_model_bit_for_bit() -> None:
    zero = steering.steered(PARAMS, DIRECTIONS, strength=0.0)
    jax.tree.map(np.testing.assert_array_equal, hidden(PARAMS), hidden(zero))
    assert np.abs(np.asarray(logps(STEERED) - logps(PARAMS))).max() > 0.1


def test_a_direction_is_added_at_its_site_and_layer() -> None:
    """What a site is, less what is read there without the edit, where nothing in front of it has changed."""
    plain = hidden(PARAMS).states
    for site, direction in DIRECTIONS.items():
        first = direction if site == "embed" else steering.layers_only(direction, [1])
        states = hidden(steering.steered(PARAMS, {site: first}, strength=-2.5)).states
        there = (...,) if site == "embed" else (..., 1, *[slice(None)] * (direction.ndim - 1))
        added = np.asarray(states[site][there] - plain[site][there])
        wanted = np.broadcast_to(-2.5 * (direction if site == "embed" else direction[1]), added.shape)
        np.testing.assert_allclose(added, wanted, atol=2e-5, err_msg=site)
        if site != "embed":
            np.testing.assert_array_equal(states["block"][..., 0, :], plain["block"][..., 0, :])


def test_positions_alone_and_together() -> None:
    """Steered in the prompt alone, states of completions change through attention, and of the embeddings not at all;
    both places together are all."""
    plain, before = hidden(PARAMS), hidden(steering.steered(PARAMS, DIRECTIONS, positions="prompt"))
    np.testing.assert_array_equal(before.states["embed"], plain.states["embed"])
    assert np.abs(np.asarray(before.after - plain.after)).max() > 0.1
    both = PARAMS
    for positions in ("prompt", "completion"):
        both = steering.steered(both, DIRECTIONS, strength=0.7, positions=positions)
    np.testing.assert_allclose(hidden(both).after, hidden(STEERED).after, atol=1e-5)


@pytest.mark.parametrize("params", [STEERED, SPLIT], ids=["everywhere", "by_position"])
def test_cache_scoring_and_scan_agree(params: Any) -> None:
    """What was sampled token by token with a cache, and layer by layer, is what one pass over a scan scores; in pieces
    of a group, and in slots, too."""
    prompts = Batch(prompt=BATCH.prompt, prompt_valid=BATCH.prompt_valid, example_id=BATCH.example_id)

    @jax.jit
    def both(params: Any) -> Any:
        one = context_of(NETWORK, policy=params)
        options = {"n": 2, "max_tokens": 5, "stop": (2, 5, 9)}
        drawn, _ = stages.generate(one, prompts, jax.random.key(0), **options)
        refilled, _ = stages.generate(one, prompts, jax.random.key(0), slots=3, **options)
        pieces = context_of(model(group_chunks=2), policy=params).score("policy", drawn)["policy"]
        loop = context_of(NETWORK, policy=unrolled(params)).score("policy", drawn)["policy"]
        return drawn, refilled, one.score("policy", drawn)["policy"], pieces, loop

    drawn, refilled, *scores = both(params)
    for each in (refilled.logps["policy"], *scores):
        np.testing.assert_allclose(drawn.logps["policy"], each, atol=2e-5)


def test_a_role_that_is_steered_and_a_behavior_of_it() -> None:
    """Of a model and its steered self, DeRa at 0 is the model and at 1 the steered one."""
    build = fn(steering.steered_role, of="policy", strength=0.7)
    roles = {"policy": Role(NETWORK, fresh()), "steered": Role(NETWORK, fresh(), build=build)}
    prompts = Batch(prompt=BATCH.prompt, prompt_valid=BATCH.prompt_valid, example_id=BATCH.example_id)

    @jax.jit
    def drawn(lam: Any, trees: Any) -> Any:
        behaviour = fn(sampling.dera, policy="steered", references=("policy",), lam=lam)
        options = {"n": 1, "max_tokens": 4, "stop": (2,), "behaviour": behaviour}
        return stages.generate(context(roles, trees), prompts, jax.random.key(0), **options)[0].logps

    trees = {"policy": PARAMS, "steered": DIRECTIONS}
    for lam, name in ((0.0, "policy"), (1.0, "steered")):
        samples = drawn(lam, trees)
        np.testing.assert_allclose(samples["sampler"], samples[name], atol=1e-5)
        assert np.abs(np.asarray(samples["steered"] - samples["policy"])).max() > 0.05


def test_a_gate_is_of_a_prompt_and_a_layer() -> None:
    """Shut it leaves the numbers of its prompts, open it is no gate, and each prompt has its own."""
    only = {site: DIRECTIONS[site] for site in ("block", "attn", "heads")}
    gate = jnp.zeros((BATCH.prompt.shape[0], LAYERS)).at[1].set(1).at[2, 1].set(1)
    some = np.asarray(logps(steering.steered(PARAMS, steering.gated(only, gate))))
    plain, every = (np.asarray(logps(params)) for params in (PARAMS, steering.steered(PARAMS, only)))
    last = {site: steering.layers_only(direction, [1]) for site, direction in only.items()}
    np.testing.assert_array_equal(some[[0, 3]], plain[[0, 3]])
    np.testing.assert_allclose(some[1], every[1], atol=1e-5)
    np.testing.assert_allclose(some[2], np.asarray(logps(steering.steered(PARAMS, last)))[2], atol=1e-5)
    assert all(np.abs(some[row] - plain[row]).max() > 0.01 for row in (1, 2))


def test_the_gate_opens_for_prompts_on_the_positive_side() -> None:
    states = steering.prompt_states(NETWORK, PARAMS, BATCH)
    positive, negative = states[:2], states[2:]
    middle = (positive.mean(0) + negative.mean(0)) / 2
    gate = steering.prompt_gate(states, steering.difference_of_means(positive, negative), middle)
    np.testing.assert_array_equal(gate[:2].min(0), np.ones(LAYERS))  # two vectors lie on their mean's side
    np.testing.assert_array_equal(gate[2:].max(0), np.zeros(LAYERS))


def test_states_are_those_of_the_last_prompt_token_and_of_completions() -> None:
    """The state behind the last token of a prompt predicts a completion's first, wherever padding is."""
    states = steering.prompt_states(NETWORK, PARAMS, BATCH)
    assert states.shape == (4, LAYERS, WIDTH)
    rows = hidden(PARAMS).states["block"]
    assert BATCH.valid is not None
    counted = np.asarray(BATCH.valid)[..., None, None]
    mean = steering.completion_states(NETWORK, PARAMS, BATCH)
    np.testing.assert_allclose(mean, (np.asarray(rows) * counted).sum(2) / counted.sum(2), atol=1e-5)
    last = steering.completion_states(NETWORK, PARAMS, BATCH, at="last")
    lengths = np.asarray(BATCH.valid).sum(-1)
    np.testing.assert_array_equal(last[1, 1], rows[1, 1, lengths[1, 1] - 1])
    # The final norm of the last layer's state is what the head reads in front of a completion.
    behind = jnp.asarray(states[:, -1])
    scale = np.asarray(PARAMS["norm"])
    normed = behind / jnp.sqrt(jnp.mean(behind**2, -1, keepdims=True) + 1e-6) * scale[None]
    np.testing.assert_allclose(normed, hidden(PARAMS).before[:, 0, 0], atol=1e-3)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"no positions 'promt'.*'prompt'"):
        steering.steered(PARAMS, DIRECTIONS, positions="promt")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="steer each model in front of a behavior"):
        steering.steered({"policy": PARAMS}, DIRECTIONS)
    with pytest.raises(ConfigError, match="no layer 2: the direction has 2, which are"):
        steering.layers_only(DIRECTIONS["block"], [2])
    gate = jnp.ones((4, LAYERS))
    with pytest.raises(ConfigError, match="site 'embed' has no layers"):
        steering.gated(DIRECTIONS, gate)
    gated = steering.gated({"block": DIRECTIONS["block"]}, gate)
    with pytest.raises(ConfigError, match="do not add up"):
        steering.steered(STEERED, gated)
    with pytest.raises(ConfigError, match="prompt or completion, or everywhere"):
        NETWORK.hidden({**PARAMS, "edits": {"block@answer": DIRECTIONS["block"]}}, BATCH)
    one = context_of(NETWORK, policy=steering.steered(PARAMS, gated))
    with pytest.raises(ConfigError, match="steered prompt by prompt"):
        stages.generate(one, BATCH, jax.random.key(0), n=1, max_tokens=2, stop=(), slots=1)


MESH = """
import jax, numpy as np
from alignjax import steering
from alignjax.config import MeshConfig
from alignjax.parallel import mesh
from tests.steering.test_steered import BATCH, DIRECTIONS, NETWORK, PARAMS, context_of, logps
from jax.sharding import NamedSharding

place = mesh.make_mesh(MeshConfig(1, 2, 2), jax.devices()[:4])
def laid(axes, leaf):
    return jax.device_put(leaf, NamedSharding(place, mesh.partition_spec(axes, leaf.shape, place)))
split = jax.tree.map(laid, NETWORK.axes, PARAMS, is_leaf=lambda node: isinstance(node, tuple))
rows = mesh.place_batch(BATCH, place)
only = {name: value for name, value in DIRECTIONS.items() if name != "embed"}
gate = np.eye(4, 2, dtype=np.float32)
for edits in (DIRECTIONS, steering.gated(only, gate)):
    score = jax.jit(lambda params, batch: context_of(NETWORK, policy=params).score("policy", batch)["policy"])
    away = np.abs(score(steering.steered(split, edits), rows) - logps(steering.steered(PARAMS, edits))).max()
    print(away)
    assert away < 2e-5, away
"""


@pytest.mark.slow
def test_a_mesh_gives_the_same() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", MESH], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
