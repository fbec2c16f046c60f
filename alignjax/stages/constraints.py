"""Exact verifiers of constraints on token ids, and the stage that grades completions by them."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.config import ConfigError, Fn
from alignjax.ranges import Natural
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics


def constraint_rate(
    context: Context, batch: Batch, key: Key, *, constraints: tuple[Fn, ...], applies: str | None = None
) -> tuple[Batch, Metrics]:
    """Fills reward [B,N]: the share of its constraints that a completion satisfies, as ACT ranks its samples
    (arXiv:2403.06326).

    Args:
        context: Not used.
        batch: Completions to verify.
        key: Not used.
        constraints: Verifiers that take the batch and give bool [B,N], such as fn(length_within, most=20).
        applies: batch.prompts[applies] [B,C] says which of them each prompt has; None: every prompt has all.

    Returns:
        The batch; a prompt without constraints has a rate of 1 for all its completions. Metrics: `constraint_rate` and
        `all_satisfied`, over prompts that have any.

    Raises:
        ConfigError: If there are no constraints, or flags that are not one for each.
    """
    if not constraints:
        raise ConfigError("constraint_rate needs constraints: constraints=(fn(length_within, most=20),)")
    satisfied = jnp.stack([check(batch) for check in constraints], axis=-1)  # [B,N,C]
    required = jnp.ones(satisfied.shape, bool)
    if applies is not None:
        flags = batch.need("prompts", applies, of="constraint_rate")
        if flags.shape[1:] != (len(constraints),):
            raise ConfigError(
                f"batch.prompts[{applies!r}] has the shape {flags.shape}; with {len(constraints)} constraints it must "
                f"be [B,{len(constraints)}]"
            )
        required = jnp.broadcast_to(flags[:, None, :] != 0, satisfied.shape)
    total = jnp.sum(required, axis=-1)
    rate = jnp.where(total > 0, jnp.sum(satisfied & required, axis=-1) / jnp.maximum(total, 1), 1.0)
    metrics = {"constraint_rate": Mean.of(rate, total > 0), "all_satisfied": Mean.of(rate == 1, total > 0)}
    return batch.replace(reward=rate), metrics


def length_within(samples: Batch, *, least: Natural = 0, most: Natural) -> Array:
    """Verifies that a completion has between `least` and `most` tokens, an end-of-text token included: bool [B,N].

    Args:
        samples: Completions [B,N,T].
        least: In tokens.
        most: In tokens.

    Returns:
        True where it holds.
    """
    length = jnp.sum(samples.need("valid", of="length_within"), axis=-1)
    return (length >= least) & (length <= most)


def required_token(samples: Batch, *, token: Natural | str, times: Natural = 1) -> Array:
    """Verifies that `token` occurs at least `times` times: bool [B,N]. A name stands for batch.prompts[name] [B], a
    token for each prompt.

    Args:
        samples: Completions [B,N,T].
        token: A token id, or a name.
        times: How often at least.

    Returns:
        True where it holds.
    """
    return jnp.sum(_is(samples, token), axis=-1) >= times


def forbidden_token(samples: Batch, *, token: Natural | str) -> Array:
    """Verifies that `token` does not occur: bool [B,N]. A name stands for batch.prompts[name] [B].

    Args:
        samples: Completions [B,N,T].
        token: A token id, or a name.

    Returns:
        True where it holds.
    """
    return ~jnp.any(_is(samples, token), axis=-1)


def in_order(samples: Batch, *, first: Natural | str, then: Natural | str) -> Array:
    """Verifies that both tokens occur and the first `first` stands before the first `then`: bool [B,N]. Names stand for
    fields of batch.prompts [B].

    Args:
        samples: Completions [B,N,T].
        first: A token id, or a name.
        then: A token id, or a name.

    Returns:
        True where it holds.
    """
    early, late = _is(samples, first), _is(samples, then)
    both = jnp.any(early, axis=-1) & jnp.any(late, axis=-1)
    return both & (jnp.argmax(early, axis=-1) < jnp.argmax(late, axis=-1))


def _is(samples: Batch, token: int | str) -> Array:
    """Marks the tokens that exist and are `token`, [B,N,T]."""
    of = "a constraint"
    wanted = samples.need("prompts", token, of=of)[:, None, None] if isinstance(token, str) else token
    return samples.need("valid", of=of) & (samples.need("tokens", of=of) == wanted)
