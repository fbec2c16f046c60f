"""How much likelier a prompt is among those of good than of bad completions."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.numerics import first_valid
from alignjax.types import Batch, Context, Key, Mean, Metrics

__all__ = ["density_ratio"]


def density_ratio(
    context: Context, batch: Batch, key: Key, *, output: str = "classifier:value", prior: float = 0.5
) -> tuple[Batch, Metrics]:
    """Fills prompts["density_ratio"] [B]: p(prompt | good) / p(prompt | bad) by the classifier that the loss
    `prompt_classifier` trains; `bco` weights bad completions with it (arXiv:2404.04656).

    output: a role and the head that reads the prompt; prior: the share of good completions in what the classifier was
    trained on, which is divided out. TRL leaves that factor out, as prior=0.5 does.
    """
    assert batch.valid is not None
    logit = first_valid(context.score(output, batch)[output], batch.valid)
    there = jnp.any(batch.valid, axis=-1)
    # The number is the same for all completions of a prompt; those without tokens do not have it.
    logit = jnp.sum(logit * there, axis=1) / jnp.maximum(jnp.sum(there, axis=1), 1)
    ratio = jnp.exp(jnp.clip(logit, -30, 30)) * (1 - prior) / prior  # far beyond any sensible clip, and finite
    return batch.replace(prompts={**batch.prompts, "density_ratio": ratio}), {"density_ratio": Mean.of(ratio)}
