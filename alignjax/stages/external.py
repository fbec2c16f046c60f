"""Stages around an external engine: its completions, and their log-probs by our scorer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from alignjax.config import Fn, fn
from alignjax.numerics import token_logps
from alignjax.sampling.engine_client import ask_engine, engine_shapes
from alignjax.stages.host import host
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

__all__ = ["engine", "engine_logps"]


def engine(
    *, n: int, max_tokens: int, temperature: float = 1.0, logprobs: bool = True, role: str = "policy", **settings: Any
) -> dict[str, Fn]:
    """The two stages that stand where `generate` does: {"generate": completions of an external engine (`ask_engine`,
    which takes the `settings`), "engine_logps": their log-probs by our scorer}."""
    sizes = {"n": n, "max_tokens": max_tokens, "logprobs": logprobs}
    asked = fn(ask_engine, temperature=temperature, **sizes, **settings)
    scored = fn(engine_logps, role=role, temperature=temperature, truncated=settings.get("top_p", 1.0) < 1)
    return {"generate": fn(host, stage=asked, like=fn(engine_shapes, **sizes)), "engine_logps": scored}


def engine_logps(
    context: Context, batch: Batch, key: Key, *, role: str = "policy", temperature: float = 1.0, truncated: bool = False
) -> tuple[Batch, Metrics]:
    """Fills logps[role] and, of what was sampled untruncated, logps["sampler"]: log-probs by our scorer, the latter at
    the temperature of the engine. They are the engine's own as far as it has the weights of the role; with
    logps["engine"] the metric sampler_gap/engine says how far it was, in nats per token (of engines that report
    log-probs at temperature 1, untruncated, as vLLM does by default)."""

    def read(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
        (logits,) = outputs.values()
        cold = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)) / jnp.maximum(temperature, 1e-6)
        return {"role": token_logps(logits, token), "sampler": token_logps(cold, token)}

    found = context.score(role, batch, read)
    metrics: Metrics = {}
    if "engine" in batch.logps:
        gap = jnp.abs(batch.logps["engine"] - found["role"])
        metrics["sampler_gap/engine"] = Mean.of(gap, batch.valid)
    filled = batch.with_logps(**{role: found["role"]}, **({} if truncated else {"sampler": found["sampler"]}))
    return filled, metrics
