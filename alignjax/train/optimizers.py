"""Optimizers for the roles of an algorithm: `fn(adamw, learning_rate=3e-4, schedule="cosine", total_steps=1000)`.

Each is optax with a schedule, clipping by global norm and decoupled weight decay around one rule. Hyper-parameters
annotated float may be tracers (an `Fn` is a pytree and they are its leaves), so nothing here branches on one; whole
numbers, strings and None are static. A step is an optimizer step: an iteration of an algorithm has epochs x
minibatches of them.
"""

from __future__ import annotations

from typing import Any

import jax
import optax

from alignjax.config import ConfigError, nearest

SCHEDULES = ("constant", "linear", "cosine")
# Stacked layers give a norm's scale [layers, width] the rank of a matrix, so rank alone does not tell it.
UNDECAYED = ("scale", "bias", "norm")


def schedule_of(
    peak: Any, *, schedule: str, warmup_steps: int, total_steps: int | None, final_fraction: Any
) -> optax.Schedule:
    """step -> learning rate: linear from 0 over `warmup_steps`, then constant, or down to final_fraction * peak at
    `total_steps`, in a line or in half a cosine wave (arXiv:1608.03983 eq. 5).

    Raises ConfigError for an unknown schedule, and for one that falls without a `total_steps` to fall over.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"there is no schedule {schedule!r}.{nearest(schedule, SCHEDULES)}")
    if warmup_steps < 0:
        raise ConfigError(f"warmup_steps is {warmup_steps}; it must be 0 or more")
    if schedule == "constant":
        rest = optax.constant_schedule(peak)
    elif total_steps is None or total_steps <= warmup_steps:
        raise ConfigError(
            f"schedule={schedule!r} falls until total_steps, which is {total_steps}; "
            f"give a number above warmup_steps ({warmup_steps})"
        )
    elif schedule == "linear":
        rest = optax.linear_schedule(peak, peak * final_fraction, total_steps - warmup_steps)
    else:
        rest = optax.cosine_decay_schedule(peak, total_steps - warmup_steps, alpha=final_fraction)
    if warmup_steps == 0:
        return rest
    # The first step is already taken at peak / warmup_steps, not at 0: a step of size 0 would be wasted.
    warmup = optax.linear_schedule(peak / warmup_steps, peak, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, rest], [warmup_steps])


def decayed(params: Any) -> Any:
    """True for the leaves that weight decay shrinks: matrices, not scales, biases or anything of one axis."""

    def one(path: tuple[Any, ...], leaf: Any) -> bool:
        names = [str(getattr(key, "key", getattr(key, "name", ""))).lower() for key in path]
        return leaf.ndim > 1 and not any(word in name for name in names for word in UNDECAYED)

    return jax.tree_util.tree_map_with_path(one, params)


def _chain(
    rule: optax.GradientTransformation, rate: optax.Schedule, weight_decay: Any, max_grad_norm: Any
) -> optax.GradientTransformation:
    """clip -> rule -> decoupled decay -> rate (arXiv:1711.05101 alg. 2)."""
    parts = [optax.clip_by_global_norm(max_grad_norm)] if max_grad_norm is not None else []
    parts.append(rule)
    if weight_decay is not None:
        parts.append(optax.add_decayed_weights(weight_decay, mask=decayed))
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))


def adamw(
    *,
    learning_rate: float = 3e-4,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    final_fraction: float = 0.0,
    weight_decay: float | None = 0.01,
    max_grad_norm: float | None = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (arXiv:1711.05101); `weight_decay=None` leaves the decay out."""
    rate = schedule_of(
        learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        final_fraction=final_fraction,
    )
    return _chain(optax.scale_by_adam(b1=b1, b2=b2, eps=eps), rate, weight_decay, max_grad_norm)


def adam(
    *,
    learning_rate: float = 3e-4,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    final_fraction: float = 0.0,
    max_grad_norm: float | None = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Adam (arXiv:1412.6980 alg. 1)."""
    rate = schedule_of(
        learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        final_fraction=final_fraction,
    )
    return _chain(optax.scale_by_adam(b1=b1, b2=b2, eps=eps), rate, None, max_grad_norm)


def sgd(
    *,
    learning_rate: float = 1e-2,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    final_fraction: float = 0.0,
    momentum: float | None = None,
    weight_decay: float | None = None,
    max_grad_norm: float | None = None,
) -> optax.GradientTransformation:
    """Gradient descent, with momentum when it is given."""
    rate = schedule_of(
        learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        final_fraction=final_fraction,
    )
    rule = optax.identity() if momentum is None else optax.trace(decay=momentum)
    return _chain(rule, rate, weight_decay, max_grad_norm)


def lion(
    *,
    learning_rate: float = 1e-4,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    final_fraction: float = 0.0,
    weight_decay: float | None = 0.1,
    max_grad_norm: float | None = 1.0,
    b1: float = 0.9,
    b2: float = 0.99,
) -> optax.GradientTransformation:
    """Sign of an interpolated momentum (arXiv:2302.06675 alg. 2): one moment instead of Adam's two."""
    rate = schedule_of(
        learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        final_fraction=final_fraction,
    )
    return _chain(optax.scale_by_lion(b1=b1, b2=b2), rate, weight_decay, max_grad_norm)


def adafactor(
    *,
    learning_rate: float = 1e-2,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
    final_fraction: float = 0.0,
    weight_decay: float | None = None,
    max_grad_norm: float | None = None,
    min_dim_size_to_factor: int = 128,
    clipping_threshold: float = 1.0,
) -> optax.GradientTransformation:
    """Factored second moments, steps relative to a parameter's size (arXiv:1804.04235 alg. 4): little memory."""
    rate = schedule_of(
        learning_rate,
        schedule=schedule,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        final_fraction=final_fraction,
    )
    rule = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=min_dim_size_to_factor),
        optax.clip_by_block_rms(clipping_threshold),
        optax.scale_by_param_block_rms(),
    )
    return _chain(rule, rate, weight_decay, max_grad_norm)
