"""The loss that balances experts: counted by hand, and on what it may not depend."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from alignjax.config import ConfigError, fn
from alignjax.losses import load_balancing, reads
from alignjax.types import Batch
from tests.support.network import NETWORK, full_batch, parameters
from tests.support.tiny import as_jax, context_of

SITE = "policy@block"  # two layers of states of width 4, taken for the logits of 4 experts


@pytest.mark.parametrize("by_layer", [False, True])
def test_balance_counted_token_by_token(by_layer: bool) -> None:
    """Tokens of all layers in one pool, or in one for each layer, each as often as its mask says."""
    batch = as_jax(full_batch(dtype=np.float32))
    mask = np.asarray(batch.mask) * np.linspace(0.3, 1.7, batch.mask.size).reshape(batch.mask.shape)
    batch = batch.replace(mask=jax.numpy.asarray(mask, "float32"))

    @jax.jit
    def both(params: Any, batch: Batch) -> Any:
        context = context_of(NETWORK, policy=params)
        loss = fn(load_balancing, experts_per_token=3, by_layer=by_layer, site="block")
        return loss(context, batch), context.score(SITE, batch, read=reads.raw_states)[SITE]

    (mean, metrics), logits = jax.tree.map(np.asarray, both(parameters(1), batch))
    pools = [(0, 1)] if not by_layer else [(0,), (1,)]
    values, busiest = [], []
    for layers in pools:
        used, share, total = np.zeros(4), np.zeros(4), 0.0
        for *at, layer in np.ndindex(*mask.shape, 2):
            if layer not in layers or not mask[tuple(at)]:
                continue
            odds = np.exp(logits[(*at, layer)].astype(np.float64))
            used[sorted(range(4), key=lambda expert, odds=odds: -odds[expert])[:3]] += mask[tuple(at)]
            share += mask[tuple(at)] * odds / odds.sum()
            total += mask[tuple(at)]
        values.append(4 * sum(used / total * share / total))
        busiest.append(max(used / total) / 3)
    assert mean.value() == pytest.approx(np.mean(values), rel=1e-5)
    assert metrics["busiest"].value() == pytest.approx(max(busiest), rel=1e-5)


def test_a_model_without_a_router_is_named() -> None:
    with pytest.raises(ConfigError, match="role 'policy' has no model with experts"):
        load_balancing(context_of(NETWORK, policy=None), full_batch())
