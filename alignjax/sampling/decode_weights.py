"""Weights that a sampler reads faster than those that are trained: made once per call, and gone after it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, check_known
from alignjax.models import Adapted, Quantized, TransformerConfig, dense, quantize, transformer
from alignjax.models.weights import MATRICES
from alignjax.types import Model, Params

WEIGHTS = ("bfloat16", "int8")


def decode_weights(role: str, model: Model, params: Params, weights: str) -> tuple[Model, Params]:
    """Makes the model and params that a role is sampled with. Adapters are added to what they adapt.

    Args:
        role: The name of the role, for messages.
        model: Its model, a transformer.
        params: Its params.
        weights: "bfloat16": weights, caches and products in bfloat16. "int8": the matrices of the layers in 8 bits with
            a scale per output (`quantize`), products in the model's dtype, embedding and head as they are; matrices
            that are quantized already, in 8 or 4 bits, and have no adapters are taken as they are.

    Returns:
        The model and params to sample with.

    Raises:
        ConfigError: For other `weights`, or a model that is no transformer.
    """
    # Adapters are merged first: a decoding step is bound by reading weights, and one matrix is read where an adapter
    # would make it three.
    check_known(weights, WEIGHTS, f"generate(weights={weights!r})")
    config = model.config
    if not isinstance(config, TransformerConfig):
        raise ConfigError(f"generate(weights={weights!r}): role {role!r} is no transformer; leave `weights` out")
    params = jax.tree.map(
        lambda leaf: dense(leaf) if isinstance(leaf, Adapted) else leaf,
        params,
        is_leaf=lambda leaf: isinstance(leaf, (Adapted, Quantized)),
    )
    if weights == "int8":
        wide = [name for name in MATRICES.split("|") if isinstance(params["layers"].get(name), jax.Array)]
        return model, quantize(params, bits=8, targets="|".join(wide)) if wide else params
    return transformer(dataclasses.replace(config, dtype=weights)), jax.tree.map(_narrow, params)


def _narrow(leaf: Any) -> Any:
    return leaf.astype(jnp.bfloat16) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
