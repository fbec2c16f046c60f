"""Searches: stages that spend several samples on one completion.

What papers call the settings of `block_search` (n of `generate`):

- block-wise best-of-n: keep=1; chunk-level beams: more; with `implicit_reward` of small models weak-to-strong search.
- beam search: every=1, likeliest=True, and likelihood=1 with a reward of 0.
- DeAL, the paper: log pi(y_<=t) + lambda r(y_<=t and a greedy look-ahead) of every token: every=1, likeliest=True,
  ahead=L, likelihood=1/lambda (the form as recalled; the top n / keep tokens of a prefix are tried, n of the prompt).
- DeAL as libraries have it: blocks, and no log-prob: every=10, keep=3, n=15; their candidates come from a beam search.

CARDS (arXiv:2406.16306) ends blocks where the policy is unsure and draws each until it is good enough, and RAIN
(arXiv:2309.07124) widens a tree where its values are poor: neither has static shapes, and neither is here.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from alignjax.config import ConfigError, Fn
from alignjax.ranges import Count, Natural, NonNegative
from alignjax.sampling.decode import Blocks, Rejection
from alignjax.sampling.logit_streams import Sampled
from alignjax.stages.advantage import counted_rewards
from alignjax.stages.select import ranked
from alignjax.types import SAMPLER, Array, Batch, Context, Key, Metrics, prefixed, with_metrics


def speculative_rejection(
    context: Context, batch: Batch, key: Key, *, generate: Fn, reward: Fn, every: Count, keep: tuple[Count, ...]
) -> tuple[Batch, Metrics]:
    """Best-of-n that gives up on the way what has the least reward so far (speculative rejection, arXiv:2410.20290).

    After `every` tokens the `keep[0]` completions of each prompt with the largest reward go on, after as many again
    `keep[1]`, and so on; at the end the best is kept. The samples are those of `generate`, so that it is best-of-n
    where nobody is given up, and never better. A completion that has ended is ranked with those that go on, as in
    released code, where a round is when memory is full and (1 - alpha) of the texts stay; counts that a config says
    keep shapes static. Completions of which the reward knows nothing (completions["weight"] 0) are given up first. What
    a reward model says of half a text is what it was not trained on.

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

    rewarded, score = _rewards(context, batch, key, reward, "speculative_rejection")
    rounds = tuple((every * (number + 1), count) for number, count in enumerate(keep))
    found, metrics = generate(context, batch, key, search=Rejection(rounds, score))
    found, told = rewarded(found)
    return ranked(context, found, key, keep=1), metrics | prefixed("reward", told)


def block_search(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    generate: Fn,
    reward: Fn,
    every: Count,
    keep: Count = 1,
    likelihood: NonNegative = 0.0,
    ahead: Natural = 0,
    likeliest: bool = False,
) -> tuple[Batch, Metrics]:
    """Search by blocks: after every block the `keep` completions of largest reward(y_<=t) + likelihood log pi(y_<=t) go
    on, each in n / keep copies (arXiv:2310.17022, block-wise best-of-n, for keep = 1; arXiv:2405.19262,
    chunk-level beams, for more; DeAL, arXiv:2402.06147, with a look-ahead).

    One block of all tokens is best-of-n, blocks of one token are best-of-n of every token, and with `likeliest` a beam
    search. The reward reads the whole text so far after every block. What a reward model says of half a text is what it
    was not trained on; with `ahead` as long as completions it sees whole ones.

    Args:
        context: Roles and their params.
        batch: Prompts.
        key: Random key, of `generate` and `reward` alike.
        generate: `fn(stages.generate, n=.., max_tokens=..)`, with any behavior.
        reward: A stage that fills reward, of completions that have not ended too: `fn(stages.reward)`.
        every: Tokens of a block.
        keep: Completions of a prompt that go on, a divisor of n. A completion that has ended stays for as long as it is
            among them.
        likelihood: How much a nat of log pi counts, of what `generate` samples from, in units of the reward.
        ahead: Tokens by which the reward looks further, greedily; they are sampled again if the completion goes on.
        likeliest: Whether the copies of a prefix go on with its likeliest tokens, each another, in place of drawn ones.

    Returns:
        The batch with one completion of each prompt and its reward. Metrics: those of `generate` of all copies, and
        the reward's as `reward/..`, of the completion.

    Raises:
        ConfigError: If the batch has completions, or `keep` does not divide n.
    """
    n = generate.kwargs["n"]
    if batch.tokens is not None:
        raise ConfigError("block_search begins with prompts; the batch has completions")
    if n % keep:
        raise ConfigError(f"block_search(keep={keep}) of n={n} completions: n / keep copies of each go on; divide n")
    rewarded, rated = _rewards(context, batch, key, reward, "block_search")

    def score(sampled: Sampled, further: Sampled) -> Array:
        return rated(further) + likelihood * jnp.sum(sampled.logps[SAMPLER], axis=-1)

    search = Blocks(every, keep, score, ahead, likeliest)
    found, metrics = generate(context, batch, key, search=search)
    found, told = rewarded(found.pick(jnp.zeros((found.ids().size, 1), jnp.int32)))
    return found, metrics | prefixed("reward", told)


def _rewards(
    context: Context, batch: Batch, key: Key, reward: Fn, stage: str
) -> tuple[Callable[[Batch], tuple[Batch, Metrics]], Callable[[Sampled], Array]]:
    """Returns what rewards completions, and what scores samples on the way: -inf where nothing is known."""

    def rewarded(batch: Batch) -> tuple[Batch, Metrics]:
        return with_metrics(reward(context, batch, key))

    def score(sampled: Sampled) -> Array:
        mask = sampled.valid.astype("float32")
        so_far = batch.replace(tokens=sampled.tokens, valid=sampled.valid, mask=mask, logps=sampled.logps)
        number, weight = counted_rewards(rewarded(so_far)[0], stage)
        return jnp.where(weight != 0, number, -jnp.inf)

    return rewarded, score
