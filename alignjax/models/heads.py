"""What stands on a trunk: the language-model head and scalar heads for values, rewards and pairwise preferences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, nearest
from alignjax.numerics import linear
from alignjax.types import Array, Head, Key, Params

# Where each scalar head reads: a value predicts what comes after the state, a reward or a preference judges what has
# been read.
SCALAR = {"value": "before", "reward": "after", "preference": "after"}


def _scalars(config: Any) -> tuple[str, ...]:
    for name in config.outputs:
        if name not in SCALAR:
            raise ConfigError(f"unknown model output {name!r}.{nearest(name, SCALAR)}")
    return config.outputs


def init(key: Key, config: Any, dtype: Any) -> Params:
    """Params of all heads. Scalar heads start small, so that a fresh critic or judge is near 0 and 1/2."""
    lm, *rest = jax.random.split(key, 1 + len(_scalars(config)))
    kernel = lambda key, out: jax.random.normal(key, (config.width, out), dtype) * config.width**-0.5  # noqa: E731
    params = {} if config.tied else {"lm": {"kernel": kernel(lm, config.vocab)}}
    for name, own in zip(_scalars(config), rest, strict=True):
        params[name] = {"kernel": kernel(own, 1) * 0.1, "bias": jnp.zeros((1,), dtype)}
    return params


def axes(config: Any) -> Params:
    named = {} if config.tied else {"lm": {"kernel": ("embed", "vocab")}}
    return named | {name: {"kernel": ("embed", None), "bias": (None,)} for name in _scalars(config)}


def _lm(params: Params, states: Array) -> Array:
    return linear(states, params["heads"]["lm"]["kernel"].astype(states.dtype))


def _tied(params: Params, states: Array) -> Array:
    return linear(states, params["embed"].astype(states.dtype).T)


def _scalar(name: str) -> Any:
    def apply(params: Params, states: Array) -> Array:
        own = params["heads"][name]
        # In float32: a reward or a preference logit is a number people compare, not a distribution that a softmax
        # forgives.
        return states.astype(jnp.float32) @ own["kernel"].astype(jnp.float32) + own["bias"].astype(jnp.float32)

    return apply


def heads(config: Any) -> dict[str, Head]:
    """The heads of a configuration by name; "lm" gives logits [..,V], the others [..,1]."""
    named = {"lm": Head("before", _tied if config.tied else _lm)}
    return named | {name: Head(SCALAR[name], _scalar(name)) for name in _scalars(config)}
