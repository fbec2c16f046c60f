"""Optimizers for the roles of an algorithm: `fn(adamw, learning_rate=3e-4, schedule="cosine", total_steps=1000)`.

Each is a rule of optax between clipping by the global norm and decoupled weight decay, scaled by a schedule.
Hyper-parameters annotated float may be tracers (an `Fn` is a pytree and they are its leaves), so nothing here branches
on one; whole numbers, strings and None are static. A step is an optimizer step: an iteration of an algorithm has
epochs x minibatches of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import optax

from alignjax.config import ConfigError, check_known, hyperparameters
from alignjax.ranges import Count, Decay, Fraction, Natural, NonNegative, Positive

SCHEDULES = ("constant", "linear", "cosine")
# Stacked layers give a norm's scale [layers, width] the rank of a matrix, so rank alone does not tell it.
UNDECAYED = ("scale", "bias", "norm", "sinks")

Optimizer: TypeAlias = Callable[..., optax.GradientTransformation]


def schedule_of(
    *,
    learning_rate: NonNegative,
    schedule: str = "constant",
    warmup_steps: Natural = 0,
    total_steps: Count | None = None,
    final_fraction: Fraction = 0.0,
) -> optax.Schedule:
    """Makes a schedule: a linear rise from 0 to the peak, then constant or falling (arXiv:1608.03983 eq. 5).

    Args:
        learning_rate: The peak.
        schedule: "constant"; "linear" falls in a line and "cosine" in half a cosine wave.
        warmup_steps: The number of steps until the peak.
        total_steps: The step at which a falling schedule ends.
        final_fraction: The share of the peak that is left at `total_steps`.

    Returns:
        A function from the number of the step to the learning rate.

    Raises:
        ConfigError: The schedule is unknown, or falls without a `total_steps` to fall over.
    """
    # Warm-up and the rest are two schedules of optax, joined; the second counts its steps from the end of the first.
    peak = learning_rate
    check_known(schedule, SCHEDULES, f"there is no schedule {schedule!r}")
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
    """Marks the leaves that weight decay shrinks: matrices, but not scales, biases or anything of one axis."""

    def is_matrix(path: tuple[Any, ...], leaf: Any) -> bool:
        names = [str(getattr(key, "key", getattr(key, "name", ""))).lower() for key in path]
        return leaf.ndim > 1 and not any(word in name for name in names for word in UNDECAYED)

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def _chain(
    rule: optax.GradientTransformation,
    *,
    weight_decay: NonNegative | None = None,
    max_grad_norm: Positive | None = None,
    **schedule: Any,
) -> optax.GradientTransformation:
    """clip -> rule -> decoupled decay -> learning rate (arXiv:1711.05101 alg. 2)."""
    parts = [optax.clip_by_global_norm(max_grad_norm)] if max_grad_norm is not None else []
    parts.append(rule)
    if weight_decay is not None:
        parts.append(optax.add_decayed_weights(weight_decay, mask=decayed))
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule_of(**schedule)))


_SHARED = hyperparameters(schedule_of) | hyperparameters(_chain)


def _optimizer(**defaults: Any) -> Callable[[Optimizer], Optimizer]:
    """Makes an optimizer of a rule: the hyper-parameters that all share, with these defaults, stand before its own."""

    def decorate(rule: Optimizer) -> Optimizer:
        shared = [p.replace(default=defaults.get(p.name, p.default)) for p in _SHARED.values()]
        parameters = [*shared, *hyperparameters(rule).values()]

        def optimizer(**values: Any) -> optax.GradientTransformation:
            # Read from the function, not from its closure, which would be written into config.json.
            values = optimizer.defaults | values
            shared = {name: values.pop(name) for name in _SHARED}
            return _chain(optimizer.rule(**values), **shared)

        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            setattr(optimizer, name, getattr(rule, name))
        optimizer.rule, optimizer.defaults = rule, {p.name: p.default for p in parameters}  # pyright: ignore
        optimizer.__signature__ = inspect.Signature(parameters)  # pyright: ignore
        optimizer.__annotations__ = {p.name: p.annotation for p in parameters}
        return optimizer

    return decorate


@_optimizer(learning_rate=3e-4, weight_decay=0.01, max_grad_norm=1.0)
def adamw(*, b1: Decay = 0.9, b2: Decay = 0.999, eps: NonNegative = 1e-8) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (arXiv:1711.05101); weight_decay=None makes it Adam (arXiv:1412.6980 alg. 1).

    Args:
        b1: Decay of the mean of gradients.
        b2: Decay of the mean of their squares.
        eps: Added to the root of the latter.

    Returns:
        The chain of clipping, this rule, decoupled decay and learning rate, whose hyper-parameters stand first.
    """
    return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)


@_optimizer(learning_rate=1e-2)
def sgd(*, momentum: Decay | None = None) -> optax.GradientTransformation:
    """Gradient descent, with momentum when it is given."""
    return optax.identity() if momentum is None else optax.trace(decay=momentum)


@_optimizer(learning_rate=1e-4, weight_decay=0.1, max_grad_norm=1.0)
def lion(*, b1: Decay = 0.9, b2: Decay = 0.99) -> optax.GradientTransformation:
    """Sign of an interpolated momentum (arXiv:2302.06675 alg. 2): one moment instead of Adam's two.

    Args:
        b1: How the momentum and the gradient are mixed for the sign.
        b2: Decay of the momentum.

    Returns:
        The chain of clipping, this rule, decoupled decay and learning rate, whose hyper-parameters stand first.
    """
    return optax.scale_by_lion(b1=b1, b2=b2)


@_optimizer(learning_rate=1e-2)
def adafactor(
    *, min_dim_size_to_factor: Count = 128, clipping_threshold: Positive = 1.0
) -> optax.GradientTransformation:
    """Factored second moments, steps relative to a parameter's size (arXiv:1804.04235 alg. 4): little memory.

    Args:
        min_dim_size_to_factor: Smaller matrices keep all second moments.
        clipping_threshold: The largest root mean square of an update.

    Returns:
        The chain of clipping, this rule, decoupled decay and learning rate, whose hyper-parameters stand first.
    """
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=min_dim_size_to_factor),
        optax.clip_by_block_rms(clipping_threshold),
        optax.scale_by_param_block_rms(),
    )
