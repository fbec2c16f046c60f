"""Sampling with weights that are read faster: near the policy, scored exactly, and honest about the difference."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import stages
from alignjax.config import ConfigError, fn
from alignjax.models import Adapted, dense, quantize
from alignjax.sampling import Stream, mixture
from alignjax.sampling.decode_weights import decode_weights
from alignjax.types import Batch, Role
from tests.support.tiny import as_jax, context, model, parameters, ragged, scorer

NETWORK = model(layers=1)
POLICY, REFERENCE = parameters(NETWORK, 0), parameters(NETWORK, 1)
PROMPTS = Batch(**{name: getattr(as_jax(ragged(seed=2)), name) for name in ("prompt", "prompt_valid", "example_id")})


@functools.partial(jax.jit, static_argnames="network")
def _sample(trees: Any, batch: Batch, stage: Any, network: Any = NETWORK) -> tuple[Batch, Any]:
    roles = {name: Role(network, None) for name in trees}
    sampled, metrics = stage(context(roles, trees), batch, jax.random.key(0))
    return sampled, {name: mean.value() for name, mean in metrics.items()}


def generate(
    batch: Batch = PROMPTS, *, network: Any = NETWORK, policy: Any = None, reference: Any = None, **changes: Any
) -> tuple[Batch, Any]:
    stage = fn(stages.generate, **{"n": 3, "max_tokens": 6, "stop": (2, 5, 9), **changes})
    trees = {"policy": POLICY if policy is None else policy, "reference": REFERENCE if reference is None else reference}
    return _sample(trees, batch, stage, network)


def assert_told(sampled: Batch, metrics: Any) -> None:
    """The policy is scored exactly, and how far the sampler was from it is a metric (what was sampled from being the
    policy itself, by the sampler's weights)."""
    np.testing.assert_allclose(sampled.logps["policy"], scorer(NETWORK)(POLICY, sampled), atol=1e-5)
    gap = np.abs(sampled.logps["sampler"] - sampled.logps["policy"])[np.asarray(sampled.valid)].mean()
    np.testing.assert_allclose(metrics["sampler_gap/policy"], gap, rtol=1e-3)
    assert 1e-4 < gap < 0.3


def test_int8_samples_what_quantized_weights_sample() -> None:
    view = as_jax(ragged(seed=5))
    asked = PROMPTS.replace(views={"asked": Batch(prompt=view.prompt, prompt_valid=view.prompt_valid)})
    streams = (Stream("policy", "policy"), Stream("reference", "reference", view="asked"))
    mixed = {"behaviour": fn(mixture, beta=0.0), "streams": streams, "slots": 5}
    sampled, metrics = generate(asked, weights="int8", **mixed)
    assert_told(sampled, metrics)
    seen = sampled.replace(prompt=view.prompt, prompt_valid=view.prompt_valid)
    np.testing.assert_allclose(sampled.logps["reference"], scorer(NETWORK)(REFERENCE, seen), atol=1e-5)
    assert 1e-4 < metrics["sampler_gap/reference"] < 0.3
    few = {name: quantize(params, bits=8) for name, params in (("policy", POLICY), ("reference", REFERENCE))}
    other, _ = generate(asked, **few, **mixed)
    np.testing.assert_array_equal(sampled.tokens, other.tokens)
    np.testing.assert_allclose(sampled.logps["sampler"], other.logps["sampler"], atol=1e-5)


def test_bfloat16_samples_what_a_bfloat16_model_samples() -> None:
    sampled, metrics = generate(weights="bfloat16")
    assert_told(sampled, metrics)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), POLICY)
    other, _ = generate(policy=narrow, network=model(layers=1, dtype="bfloat16"))
    np.testing.assert_array_equal(sampled.tokens, other.tokens)
    np.testing.assert_array_equal(sampled.logps["sampler"], other.logps["sampler"])


def test_adapters_are_added_first() -> None:
    draw = np.random.default_rng(0)
    base = POLICY["layers"]["q"]
    a, b = (jnp.asarray(draw.normal(size=size), jnp.float32) / 4 for size in ((*base.shape[:2], 2), (1, 2, 16)))
    adapted = {**POLICY, "layers": {**POLICY["layers"], "q": Adapted(base, a, b)}}
    merged = {**POLICY, "layers": {**POLICY["layers"], "q": dense(adapted["layers"]["q"])}}
    (one, _), (other, _), (plain, _) = (
        generate(policy=policy, weights="bfloat16") for policy in (adapted, merged, POLICY)
    )
    np.testing.assert_array_equal(one.logps["sampler"], other.logps["sampler"])
    assert np.any(one.logps["sampler"] != plain.logps["sampler"])


def test_what_is_quantized_already_is_taken_as_it_is() -> None:
    """All of a base in 4 bits; of one with an adapter somewhere, the rest."""
    coarse = quantize(POLICY, bits=4)
    (one, _), (other, _) = generate(policy=coarse, weights="int8"), generate(policy=coarse)
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.logps["sampler"], other.logps["sampler"])
    some = quantize(POLICY, bits=4, targets="k|up")
    given = decode_weights("policy", NETWORK, some, "int8")[1]
    assert {name: jnp.asarray(given["layers"][name].values).dtype.name for name in ("q", "k", "up", "down")} == {
        "q": "int8", "k": "uint8", "up": "uint8", "down": "int8"
    }  # fmt: skip


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"weights='int4'\)\. Did you mean 'int8'"):
        generate(weights="int4")
    with pytest.raises(ConfigError, match="role 'policy' is no transformer"):
        generate(weights="int8", network=dataclasses.replace(NETWORK, config=None))
