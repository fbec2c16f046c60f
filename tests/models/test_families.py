"""Every switch that families of models differ by goes with every feature: caches, packed rows, adapters, devices."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.cli.open_model import config_from
from alignjax.config import ConfigError, Packing
from alignjax.models import RopeScaling, TransformerConfig, lora, quantize, transformer
from alignjax.models.experts import chosen, mix_experts
from alignjax.models.huggingface.config_codec import fields_in
from alignjax.sampling import Filters, Sampling, generate
from alignjax.train.run_record import config_json
from tests.support.family_configs import CONFIGS, SIZES
from tests.support.tiny import as_jax, context_of, ragged, slow_but

BATCH = as_jax(ragged(seed=3, n=2, vocab=SIZES["vocab"]))


@functools.cache
def made(case: str) -> tuple[Any, Any]:
    """A model, and params away from their initial scale with no bias at 0."""
    network = transformer(CONFIGS[case])
    params = jax.jit(network.init)(jax.random.key(1))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return network, jax.tree.unflatten(tree, moved)


@functools.partial(jax.jit, static_argnames=("network", "packing"))
def scored(network: Any, params: Any, packing: Packing | None = None) -> jax.Array:
    hidden = network.hidden(params, BATCH, packing=packing)
    logits = network.heads["lm"].apply(params, hidden.before)
    logps = jnp.take_along_axis(jax.nn.log_softmax(logits), BATCH.tokens[..., None], -1)[..., 0]
    return jnp.where(BATCH.valid, logps, 0)


@functools.partial(jax.jit, static_argnames="network")
def sampled(network: Any, params: Any) -> tuple[Any, jax.Array]:
    """Greedy completions, the log-probs that the sampler saw, and those of the scorer."""
    context = context_of(network, policy=params)
    out = generate(context, BATCH, jax.random.key(0), Sampling(2, 4, filters=Filters(0.0), stop=()))
    again = context.score("policy", BATCH.replace(tokens=out.tokens, valid=out.valid, mask=None, logps={}))
    return out.logps["policy"], again["policy"]


@pytest.mark.parametrize("case", [slow_but("gpt_neox", "qwen3_moe", name=case) for case in CONFIGS])
def test_what_is_cached_is_what_is_scored(case: str) -> None:
    one, other = sampled(*made(case))
    np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CONFIGS)
def test_features_change_no_number(case: str) -> None:
    """Packed rows, pieces of a group, rematerialized layers, adapters that are 0; weights in 8 bits are those that they
    stand for."""
    network, params = made(case)
    plain = scored(network, params)
    np.testing.assert_allclose(scored(network, params, Packing(2, 32)), plain, atol=2e-5)
    other = transformer(dataclasses.replace(network.config, remat="layer", group_chunks=2))
    np.testing.assert_allclose(scored(other, params), plain, atol=2e-5)
    adapters = lora.init(jax.random.key(0), params, rank=2)
    assert "up" in adapters["layers"]
    loss = lambda adapters: jnp.sum(scored(network, lora.adapt(params, adapters, alpha=4.0)))  # noqa: E731
    value, grad = jax.value_and_grad(loss)(adapters)
    np.testing.assert_allclose(value, plain.sum(), rtol=1e-5)
    assert all(np.any(np.asarray(part["b"])) for part in grad["layers"].values())
    moved = jax.tree.map(lambda leaf: leaf + 0.1, adapters)
    merged = scored(network, lora.merged(lora.adapt(params, moved, alpha=4.0)))
    np.testing.assert_allclose(scored(network, lora.adapt(params, moved, alpha=4.0)), merged, atol=2e-5)
    few = quantize(params, bits=8)
    written_out = scored(network, lora.merged(few))
    np.testing.assert_allclose(scored(network, few), written_out, atol=2e-5)
    assert float(jnp.abs(written_out - plain).max()) > 0


@pytest.mark.slow
def test_devices_change_no_number() -> None:
    """fsdp 2 x tensor 2 gives the log-probs and gradients of one device."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.support.family_meshes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    assert set(differences) == set(CONFIGS)
    assert max(map(max, differences.values())) < 1e-4, differences


def test_experts_are_a_sum_over_the_chosen() -> None:
    """Written out token by token, with every expert's whole matrix; a permutation of the experts changes nothing."""
    config = dataclasses.replace(CONFIGS["qwen3_moe"], experts=5, experts_per_token=3)
    draw = np.random.default_rng(0)
    x, logits = draw.normal(size=(2, 1, 3, 32)), draw.normal(size=(2, 1, 3, 5))
    weights = {
        "gate": draw.normal(size=(5, 32, 8)),
        "up": draw.normal(size=(5, 32, 8)),
        "down": draw.normal(size=(5, 8, 32)),
    }
    float32 = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, jnp.float32))

    def mixed_of(weights: Any, x: Any, logits: Any) -> jax.Array:
        return mix_experts(config, weights, x, *chosen(logits, 3, config.renormalized), jax.nn.silu)

    mixed = mixed_of(*float32((weights, x, logits)))
    shares, experts = (np.asarray(part) for part in chosen(jnp.asarray(logits), 3, config.renormalized))
    for at in np.ndindex(2, 1, 3):
        expected = np.zeros(32)
        for share, expert in zip(shares[at], experts[at], strict=True):
            gate, up = x[at] @ weights["gate"][expert], x[at] @ weights["up"][expert]
            expected += share * (gate / (1 + np.exp(-gate)) * up) @ weights["down"][expert]
        np.testing.assert_allclose(mixed[at], expected, rtol=1e-3, atol=1e-3)
    order = draw.permutation(5)
    moved = float32(({name: weight[order] for name, weight in weights.items()}, x, logits[..., order]))
    np.testing.assert_allclose(mixed_of(*moved), mixed, rtol=1e-4, atol=1e-4)


def test_records_of_before_a_switch_are_those_of_now() -> None:
    """A switch at its default stands in no record, so a run of before goes on; any other is read back."""
    plain = config_json(TransformerConfig(vocab=8, rope_scaling=RopeScaling("linear", 2.0)))
    assert not {"norm", "experts", "rope_layers"} & set(plain)
    assert set(plain["rope_scaling"]) == {"type", "kind", "factor", "low", "high", "original"}
    for config in CONFIGS.values():
        assert config_from(json.loads(json.dumps(config_json(config)))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "batch"}, "norm='batch'; it must be 'rms' or 'layer'"),
        ({"pre_norms": False}, "without pre_norms, post_norms are needed"),
        ({"shared_norm": True}, "shared_norm needs parallel"),
        ({"qk_norm_whole": True}, "qk_norm_whole needs qk_norm"),
        ({"rotary_dim": 3}, "rotary_dim=3 must be even"),
        ({"rope_layers": (False, False)}, "some of both"),
        ({"positions": 9, "rotary_dim": 2}, "nothing turns beside them"),
        ({"experts": 4}, "goes to at least one"),
        ({"experts": 4, "experts_per_token": 5}, "at most to all"),
        ({"experts": 4, "experts_per_token": 1, "gated": False}, "experts have a gate"),
    ],
)
def test_switches_that_contradict_each_other(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformerConfig(**SIZES, **changes)


def test_a_row_longer_than_the_learned_positions_is_no_number() -> None:
    """The table has no row for them, and nothing is made up; rows beside it are as they were."""
    network = transformer(TransformerConfig(**{**SIZES, "layers": 1}, positions=4))
    params = network.init(jax.random.key(0))
    valid = jnp.asarray([[[True] * 4 + [False] * 2], [[True] * 6]])
    hidden, _, _ = network.extend(params, None, jnp.ones((2, 1, 6), jnp.int32), valid)
    assert np.isfinite(hidden[0, 0]).all()
    assert np.isnan(hidden[1, 0]).all()


def test_a_window_without_a_size_is_refused() -> None:
    sizes = {"vocab_size": 37, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2}
    raw = {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "num_attention_heads": 8, **sizes}
    raw |= {"sliding_window": None, "layer_types": ["sliding_attention", "full_attention"]}
    with pytest.raises(ConfigError, match="layer_types has sliding_attention, and no sliding_window"):
        fields_in(raw, "file")
