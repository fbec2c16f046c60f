"""Exact verifiers of constraints on token ids, and the stage that grades completions by them."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, nearest
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics

__all__ = ["constraint_rate", "forbidden_token", "in_order", "length_within", "required_token"]


def constraint_rate(
    context: Context, batch: Batch, key: Key, *, constraints: tuple[Fn, ...], applies: str | None = None
) -> tuple[Batch, Metrics]:
    """Fills reward [B,N]: the share of its constraints that a completion satisfies, as ACT ranks its samples
    (arXiv:2403.06326).

    constraints: verifiers that take the batch and give bool [B,N], such as fn(length_within, most=20). applies:
    batch.prompts[applies] [B,C] says which of them each prompt has; None: every prompt has all. A prompt without
    constraints has a rate of 1 for all its completions. Metrics: `constraint_rate` and `all_satisfied`, over prompts
    that have any.

    Raises ConfigError if there are no constraints, or flags that are not one for each.
    """
    if not constraints:
        raise ConfigError("constraint_rate needs constraints: constraints=(fn(length_within, most=20),)")
    satisfied = jnp.stack([check(batch) for check in constraints], axis=-1)  # [B,N,C]
    asked = jnp.ones(satisfied.shape, bool)
    if applies is not None:
        flags = _prompt_field(batch, applies)
        if flags.shape[1:] != (len(constraints),):
            raise ConfigError(
                f"batch.prompts[{applies!r}] has the shape {flags.shape}; with {len(constraints)} constraints it must "
                f"be [B,{len(constraints)}]"
            )
        asked = jnp.broadcast_to(flags[:, None, :] != 0, satisfied.shape)
    total = jnp.sum(asked, axis=-1)
    rate = jnp.where(total > 0, jnp.sum(satisfied & asked, axis=-1) / jnp.maximum(total, 1), 1.0)
    metrics = {"constraint_rate": Mean.of(rate, total > 0), "all_satisfied": Mean.of(rate == 1, total > 0)}
    return batch.replace(reward=rate), metrics


def length_within(samples: Batch, *, least: int = 0, most: int) -> Array:
    """Whether a completion has between `least` and `most` tokens, an end-of-text token included: bool [B,N]."""
    assert samples.valid is not None
    length = jnp.sum(samples.valid, axis=-1)
    return (length >= least) & (length <= most)


def required_token(samples: Batch, *, token: int | str, times: int = 1) -> Array:
    """Whether `token` occurs at least `times` times: bool [B,N]. A name stands for batch.prompts[name] [B]: a token for
    each prompt."""
    return jnp.sum(_is(samples, token), axis=-1) >= times


def forbidden_token(samples: Batch, *, token: int | str) -> Array:
    """Whether `token` does not occur: bool [B,N]. A name stands for batch.prompts[name] [B]."""
    return ~jnp.any(_is(samples, token), axis=-1)


def in_order(samples: Batch, *, first: int | str, then: int | str) -> Array:
    """Whether both tokens occur and the first `first` stands before the first `then`: bool [B,N]. Names stand for
    fields of batch.prompts [B]."""
    one, other = _is(samples, first), _is(samples, then)
    both = jnp.any(one, axis=-1) & jnp.any(other, axis=-1)
    return both & (jnp.argmax(one, axis=-1) < jnp.argmax(other, axis=-1))


def _is(samples: Batch, token: int | str) -> Array:
    """Where a token that exists is `token`, [B,N,T]."""
    assert samples.tokens is not None
    assert samples.valid is not None
    wanted = _prompt_field(samples, token)[:, None, None] if isinstance(token, str) else token
    return samples.valid & (samples.tokens == wanted)


def _prompt_field(batch: Batch, name: str) -> Array:
    if name not in batch.prompts:
        raise ConfigError(f"there is no batch.prompts[{name!r}].{nearest(name, batch.prompts)}")
    return batch.prompts[name]
