"""Compares log-probs and gradients of every family's configuration on fsdp 2 x tensor 2 with those of one device, and
prints {case: [of log-probs, of gradients]}; `tests/models/test_families.py` reads it."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import MeshConfig
from alignjax.models import transformer
from alignjax.parallel.mesh import make_mesh, partition_spec, place_batch
from tests.support.family_configs import CONFIGS, SIZES
from tests.support.tiny import as_jax, difference, ragged


def compared(case: str, place: Any) -> list[float]:
    network = transformer(CONFIGS[case])
    params = jax.jit(network.init)(jax.random.key(1))
    batch = as_jax(ragged(seed=3, n=2, vocab=SIZES["vocab"]))

    def logps(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        hidden = network.hidden(params, batch)
        logits = network.heads["lm"].apply(params, hidden.before)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.tokens[..., None], -1)[..., 0]
        picked = jnp.where(batch.valid, picked, 0)
        return jnp.sum(picked * (1 + jnp.arange(picked.shape[-1])).reshape(1, 1, -1)), picked

    run = jax.jit(jax.value_and_grad(logps, has_aux=True))
    (_, one), grad = run(params, batch)

    def put(axes: Any, leaf: jax.Array) -> jax.Array:
        return jax.device_put(leaf, jax.NamedSharding(place, partition_spec(axes, leaf.shape, place)))

    split = jax.tree.map(put, network.axes, params, is_leaf=lambda node: isinstance(node, tuple))
    (_, other), split_grad = run(split, place_batch(batch, place))
    return [float(jnp.abs(one - jax.device_get(other)).max()), difference(grad, jax.device_get(split_grad))]


if __name__ == "__main__":
    mesh = make_mesh(MeshConfig(1, 2, 2))
    print(json.dumps({case: compared(case, mesh) for case in CONFIGS}))
