"""Heads on a backbone: the language-model head, and small heads for values, rewards and pairwise preferences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, check_known
from alignjax.models.attention import soft_cap
from alignjax.numerics import linear
from alignjax.types import Array, Head, Key, Params

# Where each small head reads and how many numbers it gives: a value predicts what comes after the state, the others
# judge what has been read. An "embedding" is a score and two vectors of INTERACTION numbers, see
# `pair_layout.pair_logits`, after the last token; a "mean_embedding" is the mean of those after every token. "classes"
# are as many numbers as the configuration says.
INTERACTION = 8
SMALL = {
    "value": ("before", 1),
    "reward": ("after", 1),
    "preference": ("after", 1),
    "embedding": ("after", 1 + 2 * INTERACTION),
    "mean_embedding": ("after", 1 + 2 * INTERACTION),
    "classes": ("after", 0),
}


def _small(config: Any) -> tuple[str, ...]:
    for name in config.outputs:
        check_known(name, SMALL, f"unknown model output {name!r}")
    if ("classes" in config.outputs) != (config.classes > 0):
        raise ConfigError(f"outputs={config.outputs} and classes={config.classes}: the output 'classes' needs a number")
    return config.outputs


def _size(name: str, config: Any) -> int:
    return config.classes if name == "classes" else SMALL[name][1]


def init(key: Key, config: Any, dtype: Any) -> Params:
    """Draws the params of all heads. Small ones start near 0, so that a fresh critic says 0 and a fresh judge 1/2.

    Args:
        key: What they are drawn from.
        config: A TransformerConfig.
        dtype: Theirs.

    Returns:
        {head: {"kernel": [D,K], "bias": [K]}}; a tied "lm" has none.

    Raises:
        ConfigError: A head that does not exist, or "classes" without their number.
    """
    lm, *rest = jax.random.split(key, 1 + len(_small(config)))
    kernel = lambda key, out: jax.random.normal(key, (config.width, out), dtype) * config.width**-0.5  # noqa: E731
    params = {} if config.tied else {"lm": {"kernel": kernel(lm, config.vocab)}}
    for name, head_key in zip(_small(config), rest, strict=True):
        size = _size(name, config)
        params[name] = {"kernel": kernel(head_key, size) * 0.1}
        if config.head_bias:
            params[name]["bias"] = jnp.zeros((size,), dtype)
    return params


def axes(config: Any) -> Params:
    """The logical axes of the params of `init`."""
    named = {} if config.tied else {"lm": {"kernel": ("embed", "vocab")}}
    few = {"kernel": ("embed", None)} | ({"bias": (None,)} if config.head_bias else {})
    return named | dict.fromkeys(_small(config), few)


def _few(name: str) -> Any:
    def apply(params: Params, states: Array) -> Array:
        head = params["heads"][name]
        # In float32: a reward or a preference logit is a number people compare, not a distribution that a softmax
        # forgives.
        numbers = states.astype(jnp.float32) @ head["kernel"].astype(jnp.float32)
        if "bias" in head:
            numbers += jnp.broadcast_to(head["bias"].astype(jnp.float32), numbers.shape)
        return numbers

    return apply


def heads(config: Any) -> dict[str, Head]:
    """Makes the heads of a configuration.

    Args:
        config: A TransformerConfig.

    Returns:
        Heads by name: "lm" gives logits [..,V], the others [..,K] as SMALL says.

    Raises:
        ConfigError: A head that does not exist, or "classes" without their number.
    """

    def lm(params: Params, states: Array) -> Array:
        kernel = params["embed"].T if config.tied else params["heads"]["lm"]["kernel"]
        logits = linear(states, kernel.astype(states.dtype))
        if config.logit_multiplier != 1:
            logits = logits * jnp.asarray(config.logit_multiplier, logits.dtype)
        return soft_cap(logits, config.logit_softcap)

    return {"lm": Head("before", lm)} | {name: Head(SMALL[name][0], _few(name)) for name in _small(config)}
