"""A loss that keeps a router from sending all tokens to the same few experts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.ranges import Count
from alignjax.types import Array, Batch, Context, Mean, Metrics


@functools.cache
def _routed(count: int, by_layer: bool) -> Callable[..., dict[str, Array]]:
    """Makes the read of {"chosen", "share"} from a router's logits [..,L,E]: how many of the chosen experts each is,
    and its share of the softmax, [..,L,E], or [..,1,E] as means over layers."""

    def read(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
        (logits,) = outputs.values()
        share = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)
        # Not top_k, for which XLA gathers the rows of all devices.
        experts = jnp.argsort(-share, axis=-1, stable=True)[..., :count]
        chosen = jnp.sum(jax.nn.one_hot(experts, share.shape[-1], dtype=share.dtype), axis=-2)
        both = {"chosen": chosen, "share": share}  # numbers of experts carry no gradient
        return both if by_layer else jax.tree.map(lambda leaf: jnp.mean(leaf, axis=-2, keepdims=True), both)

    return read


def load_balancing(
    context: Context,
    batch: Batch,
    *,
    role: str = "policy",
    by_layer: bool = False,
    experts_per_token: Count | None = None,
    site: str = "router",
) -> tuple[Mean, Metrics]:
    """Load balancing of experts: E sum_e f_e P_e (arXiv:2101.03961 eq. 4-6), with f_e how many of the k experts of a
    token are e and P_e the share that the router gives e, both as means over all completion tokens that count.

    It is k where all experts are as likely and as often chosen, at most E. f carries no gradient. Add it to the losses
    of a recipe as `weighted(load_balancing, weight=0.01)`; what published configs call `router_aux_loss_coef` is that
    weight. `transformers` takes means over prompts too, where no loss looks here.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T].
        role: Whose experts, a model with a router.
        by_layer: Balances each layer by itself and takes the mean over layers, as in Switch Transformer; by default
            tokens of all layers count together, as for Mixtral in `transformers`, so that layers may make up for each
            other.
        experts_per_token: k; None: as many as the role's model chooses.
        site: Where the router's logits [B,N,T,L,E] are read.

    Returns:
        The loss, and the metric `busiest`: the largest f_e over k, which is 1/E where all experts are used alike.

    Raises:
        ConfigError: The model has no router.
    """
    # A read reduces logits to two numbers for each expert where they are made. The product of two means couples rows,
    # so the mean over the batch is taken here, of all devices and microbatches together.
    count = experts_per_token or _count(context, role)
    routed: Mapping[str, Any] = context.score(f"{role}@{site}", batch, read=_routed(count, by_layer))
    weight = batch.need("valid", of="load_balancing") if batch.mask is None else batch.mask
    weight = weight.astype(routed["share"].dtype)
    total = jnp.sum(weight)
    used, share = (
        jnp.einsum("bnt,bntle->le", weight, routed[name]) / jnp.where(total > 0, total, 1)
        for name in ("chosen", "share")
    )
    balance = share.shape[-1] * jnp.mean(jnp.sum(used * share, axis=-1))
    return Mean(balance, jnp.ones_like(balance)), {"busiest": Mean.of(jnp.max(used) / count)}


def _count(context: Context, role: str) -> int:
    model = context.roles[role].model if role in context.roles else None
    if count := getattr(model and model.config, "experts_per_token", 0):
        return count
    raise ConfigError(f"load_balancing: role {role!r} has no model with experts; name the role that has one")
