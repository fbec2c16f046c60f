"""What tests of losses on single tokens share: a context over small networks, a loss with its gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import losses
from alignjax.config import as_fn
from alignjax.types import Array, Batch, Context, Role
from tests.support.network import NETWORK, VOCAB, WIDTH, full_batch, parameters
from tests.support.tiny import as_jax, context, difference

ROLES = {"policy": Role(NETWORK, None), "reference": Role(NETWORK, None), "masks": Role(None, None)}


def a_policy() -> Any:
    return as_jax(parameters(1, "float64"))


def sure_pairs() -> Batch:
    """Hard labels for completion 0, every pair of weight 1."""
    full = full_batch()
    sure = np.triu(np.ones_like(full.preference), 1) + np.eye(full.preference.shape[-1]) / 2
    return as_jax(full.replace(preference=sure, pair_weight=None))


def now(policy: Any, reference: Any = None, masks: Any = None) -> Context:
    reference = as_jax(parameters(2, "float64")) if reference is None else reference
    return context(ROLES, {"policy": policy, "reference": reference, **({"masks": masks} if masks else {})})


@jax.jit
def _answer(loss: Any, policy: Any, batch: Batch, state: Any) -> tuple[Array, Any]:
    return jax.value_and_grad(lambda params: loss(now(params, **state), batch)[0].value())(policy)


def answer(loss: Any, policy: Any, batch: Batch, **state: Any) -> tuple[Array, Any]:
    """(value, gradient by the policy)."""
    return _answer(as_fn(loss), policy, batch, {"reference": as_jax(parameters(2, "float64")), **state})


def same(one: Any, other: Any, policy: Any, batch: Batch, other_batch: Batch | None = None) -> None:
    """Two losses with one value and one gradient, which is not 0."""
    first, second = answer(one, policy, batch), answer(other, policy, other_batch or batch)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-10)
    assert difference(first[1], second[1]) < 1e-10
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(first[1])) > 1e-3


def distributions(params: Any, batch: Batch) -> np.ndarray:
    """p(v | prompt, prefix) for every v in place of every token, [B,N,T,V], one scoring of the token itself at a
    time."""
    score = jax.jit(lambda tokens: now(params, params).score("policy", batch.replace(tokens=tokens))["policy"])
    length = batch.tokens.shape[2]
    found = [[np.asarray(score(batch.tokens.at[:, :, t].set(v)))[:, :, t] for v in range(VOCAB)] for t in range(length)]
    return np.exp(np.moveaxis(np.asarray(found), (0, 1), (2, 3)))


def told(batch: Batch, judged: Any = 1.0) -> Batch:
    """The judgement is another prompt."""
    view = batch.replace(prompt=(batch.prompt + 1) % VOCAB, prompts={}, completions={}, views={})
    rows = jnp.broadcast_to(jnp.asarray(judged, float), (len(batch.tokens),))
    return batch.replace(prompts={"judged": rows}, views={"judged": view})


def masks_of(**options: Any) -> Any:
    return losses.sparse_masks(jax.random.key(3), **{"width": WIDTH, "layers": 2, **options})
