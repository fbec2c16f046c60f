"""Stages between rewards and advantages: completions that are left out by weight, penalties, several rewards, and the
baseline of a greedy answer.

    {"generate": ..., "reward": ..., "unfinished": fn(drop_unfinished), "ties": fn(drop_ties),
     "advantage": fn(group_advantage, scale="none")}
"""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.ranges import Count, Natural, NonNegative
from alignjax.sampling.logit_streams import known_stop
from alignjax.stages.advantage import any_counts, counted_rewards, tied
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics


def keep_reward(context: Context, batch: Batch, key: Key, *, name: str) -> Batch:
    """Files the reward [B,N] and how much it counts as completions["reward:NAME"] and ["weight:NAME"], so that the next
    reward may be made.

    Args:
        context: Not used.
        batch: Completions with a reward [B,N].
        key: Not used.
        name: The name of this reward.

    Returns:
        The batch, without a weight of its completions.

    Raises:
        ConfigError: If the batch has no reward.
    """
    reward = batch.need("reward", of="keep_reward")
    rest = {other: leaf for other, leaf in batch.completions.items() if other != "weight"}
    filed = {f"reward:{name}": reward, f"weight:{name}": batch.completions.get("weight", jnp.ones_like(reward))}
    return batch.replace(completions={**rest, **filed})


def kept_reward(batch: Batch, name: str, of: str) -> tuple[Array, Array]:
    """Returns a reward [B,N] that `keep_reward` filed, 0 where nothing is known, and how much it counts [B,N].

    Args:
        batch: The completions.
        name: Its name.
        of: Who asks, for the message.

    Raises:
        ConfigError: If nobody filed it.
    """
    known = batch.need("completions", f"weight:{name}", of=of)
    return jnp.where(known != 0, batch.need("completions", f"reward:{name}", of=of), 0), known


def less_last(context: Context, batch: Batch, key: Key) -> tuple[Batch, Metrics]:
    """Takes the reward of the last completion off that of all others and drops it: the baseline of ReMax, where the
    last one is the greedy answer (arXiv:2310.10505). The expected gradient stays: the greedy answer is no sample.

    Args:
        context: Not used.
        batch: Completions [B,N+1,T] with a reward [B,N+1].
        key: Not used.

    Returns:
        The batch of N completions with the differences as reward; those of a prompt whose last one has no reward have
        completions["weight"] 0. Metrics: `reward` (of the others) and `baseline`.

    Raises:
        ConfigError: If the batch has no reward, or one completion a prompt.
    """
    reward, weight = counted_rewards(batch, "less_last")
    rows, n = reward.shape
    if n < 2:
        raise ConfigError("less_last needs a completion behind those that learn: another stage fn(generate, n=1, ...)")
    metrics = {"reward": Mean.of(reward[:, :-1], weight[:, :-1]), "baseline": Mean.of(reward[:, -1], weight[:, -1])}
    weight = weight * (weight[:, -1:] != 0)
    filled = batch.replace(reward=reward - reward[:, -1:], completions={**batch.completions, "weight": weight})
    return filled.pick(jnp.broadcast_to(jnp.arange(n - 1), (rows, n - 1))), metrics


def drop_ties(context: Context, batch: Batch, key: Key) -> tuple[Batch, Metrics]:
    """Sets completions["weight"] to 0 in prompts whose rewards are all one: nothing is learned from them, and they no
    longer dilute a mean (DAPO's dynamic sampling, arXiv:2503.14476 eq. 11, at fixed shapes: what is dropped is not
    replaced). A choice by outcome: easy and hard prompts count less than by their number.

    Args:
        context: Not used.
        batch: Completions with a reward [B,N].
        key: Not used.

    Returns:
        The batch. Metric: `dropped`, the share of prompts.

    Raises:
        ConfigError: If the batch has no reward.
    """
    reward, weight = counted_rewards(batch, "drop_ties")
    same = tied(reward, weight)
    kept = jnp.where(same[:, None], 0, weight)
    filled = batch.replace(completions={**batch.completions, "weight": kept})
    return filled, {"dropped": Mean.of(same * 1.0, any_counts(weight))}


def drop_unfinished(
    context: Context, batch: Batch, key: Key, *, stop: tuple[Natural, ...] | None = None
) -> tuple[Batch, Metrics]:
    """Sets completions["weight"] to 0 where no stop token ended a completion: it was cut off, so its reward says little
    (DAPO's overlong filter, arXiv:2503.14476 section 3.4; RLOO-N; TRL's `mask_truncated_completions`). It then is in no
    baseline either. What is left are short completions: a bias towards them.

    Args:
        context: Not used.
        batch: Completions [B,N,T].
        key: Not used.
        stop: The tokens that end a completion; None: those of the data's tokenizer.

    Returns:
        The batch. Metric: `dropped`, the share of completions.
    """
    valid, tokens = batch.need("valid", of="drop_unfinished"), batch.need("tokens", of="drop_unfinished")
    ends = jnp.isin(tokens, jnp.array(known_stop(stop, of="drop_unfinished"), tokens.dtype)) & valid
    finished, present = jnp.any(ends, axis=-1), jnp.any(valid, axis=-1)
    weight = batch.completions.get("weight", jnp.ones(finished.shape, jnp.float32)) * finished
    filled = batch.replace(completions={**batch.completions, "weight": weight})
    return filled, {"dropped": Mean.of(~finished * 1.0, present)}


def overlong_penalty(
    context: Context, batch: Batch, key: Key, *, longest: Count, buffer: Count, penalty: NonNegative = 1.0
) -> tuple[Batch, Metrics]:
    """Takes off the reward [B,N] what grows from 0 to `penalty` over the last `buffer` of `longest` tokens (DAPO's soft
    overlong punishment, arXiv:2503.14476 eq. 13).

    Args:
        context: Not used.
        batch: Completions with a reward [B,N].
        key: Not used.
        longest: Tokens of the longest completion.
        buffer: Tokens over which the penalty grows.
        penalty: The largest.

    Returns:
        The batch. Metric: `penalty`.

    Raises:
        ConfigError: If the batch has no reward, or a buffer longer than `longest`.
    """
    if buffer > longest:
        raise ConfigError(f"overlong_penalty: buffer={buffer} is longer than longest={longest}")
    reward, length = (
        batch.need("reward", of="overlong_penalty"),
        jnp.sum(batch.need("valid", of="overlong_penalty"), axis=-1),
    )
    taken = penalty * jnp.clip((length - (longest - buffer)) / buffer, 0, 1).astype(reward.dtype)
    return batch.replace(reward=reward - taken), {"penalty": Mean.of(taken, length > 0)}
