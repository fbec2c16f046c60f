"""Searches: stages that spend several samples on one completion."""

from __future__ import annotations

import jax.numpy as jnp

from alignjax.config import ConfigError, Fn
from alignjax.ranges import Count
from alignjax.sampling.decode import Rejection
from alignjax.sampling.logit_streams import Sampled
from alignjax.stages.advantage import counted_rewards
from alignjax.stages.select import ranked
from alignjax.types import Array, Batch, Context, Key, Metrics, prefixed, with_metrics


def speculative_rejection(
    context: Context, batch: Batch, key: Key, *, generate: Fn, reward: Fn, every: Count, keep: tuple[Count, ...]
) -> tuple[Batch, Metrics]:
    """Best-of-n that gives up on the way what has the least reward so far (speculative rejection, arXiv:2410.20290).

    After `every` tokens the `keep[0]` completions of each prompt with the largest reward go on, after as many again
    `keep[1]`, and so on; at the end the best is kept. The samples are those of `generate`, so that it is best-of-n
    where nobody is given up, and never better. A completion that has ended is ranked with those that go on, as in
    released code, where a round is when memory is full and (1 - alpha) of the texts stay; counts that a config says
    keep shapes static. Completions of which the reward knows
    nothing (completions["weight"] 0) are given up first. What a reward model
    says of half a text is what it was not trained on.

    Args:
        context: Roles and their params.
        batch: Prompts.
        key: Random key, of `generate` and `reward` alike.
        generate: `fn(stages.generate, n=.., max_tokens=..)`, with any behavior.
        reward: A stage that fills reward, of completions that have not ended too: `fn(stages.reward)`.
        every: Tokens between rounds.
        keep: How many completions of a prompt go on after each round, falling from n: half of them each time is
            alpha = 1/2.

    Returns:
        The batch with one completion of each prompt and its reward. Metrics: those of `generate`, and the
        reward's as `reward/..`, of all that reached the end.

    Raises:
        ConfigError: If the batch has completions, `keep` rises, or its rounds are longer than completions.
    """
    n, length = generate.kwargs["n"], generate.kwargs["max_tokens"]
    if batch.tokens is not None:
        raise ConfigError("speculative_rejection begins with prompts; the batch has completions")
    if list(keep) != sorted(keep, reverse=True) or keep[:1] > (n,) or every * len(keep) >= length:
        raise ConfigError(
            f"speculative_rejection(every={every}, keep={keep}) of n={n} completions of {length} tokens: keep must "
            "fall from n, and every * len(keep) stay below the tokens"
        )

    def rewarded(batch: Batch) -> tuple[Batch, Metrics]:
        return with_metrics(reward(context, batch, key))

    def score(sampled: Sampled) -> Array:
        mask = sampled.valid.astype("float32")
        so_far = batch.replace(tokens=sampled.tokens, valid=sampled.valid, mask=mask, logps=sampled.logps)
        number, weight = counted_rewards(rewarded(so_far)[0], "speculative_rejection")
        return jnp.where(weight != 0, number, -jnp.inf)

    rounds = tuple((every * (number + 1), count) for number, count in enumerate(keep))
    found, metrics = generate(context, batch, key, reject=Rejection(rounds, score))
    found, told = rewarded(found)
    return ranked(context, found, key, keep=1), metrics | prefixed("reward", told)
