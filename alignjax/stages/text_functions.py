"""Rewards and judges in plain Python: a person's function reads texts on the host, between two compiled parts of a
stage's run.

What it says reaches the compiled part through `Context.ask`; `alignjax/asking/` calls it, `train/text_host.py` sees to
both.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from alignjax.config import ConfigError, Fn, functions_within
from alignjax.pair_layout import all_pairs, preference_matrix
from alignjax.ranges import Count, Natural, Number, Positive
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics


def text_reward(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    function: Any,
    weights: tuple[Number, ...] | None = None,
    prompts_per_call: Natural = 0,
    concurrency: Count = 8,
    timeout: Positive = 600.0,
    retries: Natural = 2,
) -> tuple[Batch, Metrics]:
    """Fills reward [B,N] by a Python function of texts, or by several: the sum of what those with an opinion say, each
    by its weight.

    function(prompts=, completions=, completion_ids=, **columns) returns a list of one number a completion, None for no
    opinion, as the reward functions of TRL do; it may be `async`. A completion that no function has an opinion about
    has completions["weight"] 0, and no loss counts it.

    Args:
        context: Asks the host.
        batch: Completions [B,N,T].
        key: Not used.
        function: A function that config.json can name (no lambda, none defined inside another), or a tuple of several.
        weights: One number a function; None: 1 each.
        prompts_per_call: Prompts of one call, each with its N completions; 0 for all of the batch.
        concurrency: Calls at a time, of all functions.
        timeout: Seconds that a call may take.
        retries: Further attempts after an exception or a timeout; 0.5, 1, 2 .. s apart.

    Returns:
        The batch, and of each function `NAME/mean`, `NAME/std` and `NAME/no_opinion`, the share of None.

    Raises:
        ConfigError: Two functions have one name, or there is another number of weights.
    """
    names = names_of(function)
    if weights is not None and len(weights) != len(names):
        raise ConfigError(f"text_reward: {len(weights)} weights for {len(names)} functions ({', '.join(names)})")
    scores = context.ask(batch, (*batch.need("tokens", of="text_reward").shape[:2], len(names)))
    known = ~jnp.isnan(scores)
    factors = jnp.ones(len(names)) if weights is None else jnp.array(weights, jnp.float32)
    reward = jnp.sum(jnp.where(known, scores, 0) * factors[None, None], axis=-1)
    metrics: Metrics = {}
    for k, name in enumerate(names):
        mean = Mean.of(scores[..., k], known[..., k])
        spread = Mean.of(jnp.square(jnp.where(known[..., k], scores[..., k] - mean.value(), 0)), known[..., k])
        share = Mean.of(~known[..., k] * 1.0)
        said = (mean.weight > 0) * 1.0
        metrics |= {f"{name}/mean": mean, f"{name}/std": Mean(jnp.sqrt(spread.value()) * said, said)}
        metrics[f"{name}/no_opinion"] = share
    weight = jnp.any(known, axis=-1).astype(jnp.float32)
    return batch.replace(reward=reward, completions={**batch.completions, "weight": weight}), metrics


def text_judge(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    function: Any,
    both_orders: bool = False,
    prompts_per_call: Natural = 0,
    concurrency: Count = 8,
    timeout: Positive = 600.0,
    retries: Natural = 2,
) -> tuple[Array, Metrics]:
    """Judges by a Python function of texts, which says the probability that the first of two completions is better.

    function(prompts=, completions=, completion_ids=, **columns) gets one entry a pair, `completions` being (first,
    second), and returns a list of one probability a pair, None for no opinion; it may be `async`. Each pair is asked
    once, and where the batch has a pair_weight only those that have one. A pair without an opinion has pair_weight 0.

    Args:
        context: Asks the host.
        batch: Completions [B,N,T].
        key: Not used.
        function: A function that config.json can name (no lambda, none defined inside another).
        both_orders: Asks each pair as (second, first) too and takes the mean, so that a liking for a place cancels.
        prompts_per_call: Prompts of one call, each with all its pairs; 0 for all of the batch.
        concurrency: Calls at a time.
        timeout: Seconds that a call may take.
        retries: Further attempts after an exception or a timeout; 0.5, 1, 2 .. s apart.

    Returns:
        The preference [B,N,N], NaN where there is no opinion, and the share of those pairs, `no_opinion`.

    Raises:
        ConfigError: There are several functions.
    """
    check_one(names_of(function))
    rows, n = batch.need("tokens", of="text_judge").shape[:2]
    pairs = all_pairs(n)
    answer = context.ask(batch, (rows, len(pairs)))
    return preference_matrix(answer, pairs, n), {"no_opinion": Mean.of(jnp.isnan(answer) * 1.0)}


def check_one(names: Sequence[str]) -> None:
    """Raises ConfigError for several functions of a text_judge."""
    if len(names) > 1:
        raise ConfigError(f"text_judge asks one function, not {', '.join(names)}; let one call the others")


def names_of(function: Any) -> tuple[str, ...]:
    """Returns the names of one function or several, by which metrics call them. Raises ConfigError for a name twice."""
    names = tuple(map(name_of, functions_of(function)))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names:
        raise ConfigError("text_reward: function=() names no function")
    if twice:
        raise ConfigError(f"text functions are known by their names, and two are called {twice[0]!r}: rename one")
    return names


def functions_of(function: Any) -> tuple[Any, ...]:
    """Returns the functions of a slot that takes one or several."""
    return tuple(function) if isinstance(function, (tuple, list)) else (function,)


def name_of(function: Any) -> str:
    """Returns the name by which metrics and messages call a function."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    return function.name if isinstance(function, Fn) else getattr(function, "__name__", type(function).__name__)


def text_function(stage: Any) -> Fn | None:
    """Returns the text_reward or text_judge that a stage is or has within; None for none.

    Raises:
        ConfigError: It has two, of which a run would have to ask the second in the middle of a compiled part.
    """
    within = [each for each in functions_within(stage) if each.function in (text_reward, text_judge)]
    if len(within) > 1:
        raise ConfigError(
            f"stage {stage.name} asks {len(within)} text functions; give each a stage of its own, or one of them "
            "function=(f, g)"
        )
    return within[0] if within else None
