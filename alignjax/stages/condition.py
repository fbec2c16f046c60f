"""Stages that put a goal in front of a prompt: the reward to reach, the instruction that was met, a configuration.

A goal is a sequence of token ids. It goes behind the prompt's first token (BOS), and the prompt grows by the longest
goal + 1 tokens. What a prompt was without a goal stays in prompts["plain"] and ["plain_valid"], and a second goal
replaces the first. Stored log-probs belong to the old prompt and are dropped, so `logprobs` comes after these stages.

Where one prompt gets several goals, its row is repeated, once per goal: rows are independent, so losses, minibatches
and sharding need not know. batch_size times that number has to be a multiple of minibatches and microbatches.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError
from alignjax.models.prefixed import in_front
from alignjax.numerics import row_keys
from alignjax.ranges import Natural, Number
from alignjax.types import Array, Batch, Context, Key

Goals = tuple[tuple[Natural, ...], ...]


def _table(goals: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """(tokens, valid) [K,G] of K goals, padded in front."""
    if not goals or any(not goal for goal in goals) or len({tuple(goal) for goal in goals}) < len(goals):
        raise ConfigError(f"goals={tuple(goals)}; they must be different, non-empty sequences of token ids")
    longest = max(len(goal) for goal in goals)
    tokens = np.array([(*[-1] * (longest - len(goal)), *goal) for goal in goals], np.int32)
    return jnp.asarray(np.maximum(tokens, 0)), jnp.asarray(tokens >= 0)


def _plain(batch: Batch) -> tuple[Array, Array]:
    """The prompt without any goal."""
    if "plain" in batch.prompts:
        return batch.prompts["plain"], batch.prompts["plain_valid"]
    return batch.need("prompt", of="a goal"), batch.need("prompt_valid", of="a goal")


def _in_front(batch: Batch, goal: tuple[Array, Array]) -> tuple[Array, Array]:
    """(prompt, prompt_valid) with a goal [B,G] of its own for each row behind the first token."""
    return in_front(*_plain(batch), *goal)[:2]


def _with_goal(batch: Batch, goal: tuple[Array, Array]) -> Batch:
    plain, plain_valid = _plain(batch)
    prompt, valid = _in_front(batch, goal)
    prompts = {**batch.prompts, "plain": plain, "plain_valid": plain_valid}
    return batch.replace(prompt=prompt, prompt_valid=valid, prompts=prompts, logps={})


def _repeated(batch: Batch, times: int) -> Batch:
    """Every row `times` times in a row. Views are other streams and are left alone."""
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), batch.replace(views={}, logps={}))
    return rows.replace(views=batch.views)


def _row_per_completion(batch: Batch) -> Batch:
    """A row for every completion: N becomes 1. Labels of pairs are dropped."""
    rows, n = batch.need("tokens", of="a goal").shape[:2]
    index = jnp.tile(jnp.arange(n), rows)[:, None]
    return _repeated(batch.replace(preference=None, pair_weight=None), n).pick(index)


def _present(batch: Batch) -> Array:
    """Which completions have a token and a reward that is known (completions["weight"] is not 0), [B,N]."""
    weight = batch.completions.get("weight", 1)
    return jnp.any(batch.need("valid", of="a goal"), axis=-1) & (jnp.asarray(weight) != 0)


def _bins(batch: Batch, edges: tuple[float, ...], goals: Goals, stage: str) -> Array:
    """The number of the bin that each reward falls into, [B,N]; edge k is the least reward of bin k + 1."""
    reward = batch.need("reward", of=stage)
    if len(goals) != len(edges) + 1 or sorted(set(edges)) != list(edges):
        raise ConfigError(
            f"{stage} has {len(edges)} edges {edges} and {len(goals)} goals; edges must rise, and cut rewards into one "
            "bin per goal"
        )
    return jnp.sum(reward[..., None] >= jnp.asarray(edges, reward.dtype)[None, None], axis=-1)


def condition_on(context: Context, batch: Batch, key: Key, *, goal: tuple[Natural, ...]) -> Batch:
    """Puts one goal in front of all prompts: what a policy trained on goals is asked for when it samples.

    Args:
        context: Not used.
        batch: Prompts [B,P].
        key: Not used.
        goal: The token ids of the goal.

    Returns:
        The batch with longer prompts.
    """
    rows = _plain(batch)[0].shape[0]
    tokens, valid = _table([goal])
    return _with_goal(batch, (jnp.repeat(tokens, rows, axis=0), jnp.repeat(valid, rows, axis=0)))


def with_drawn_goal(batch: Batch, goals: Goals, number: Array) -> Batch:
    """Returns the batch with goal `number` [B] in front of each prompt, and the numbers in prompts["goal"]."""
    tokens, valid = _table(goals)
    under = _with_goal(batch, (tokens[number], valid[number]))
    return under.replace(prompts={**under.prompts, "goal": number})


def condition_on_reward(context: Context, batch: Batch, key: Key, *, edges: tuple[Number, ...], goals: Goals) -> Batch:
    """Each completion under the goal of the reward that it got: with the loss `sft`, a decision transformer on text
    (arXiv:2308.12050, arXiv:2106.01345).

    Args:
        context: Not used.
        batch: Completions with rewards.
        key: Not used.
        edges: Rising numbers that cut rewards into bins, one goal each.
        goals: Token ids of the goal of each bin.

    Returns:
        B N rows of one completion; the mask of one of which nothing is known (completions["weight"] 0) is 0.

    Raises:
        ConfigError: If the batch has no reward, or goals and edges do not fit.
    """
    number = _bins(batch, edges, goals, "condition_on_reward").reshape(-1)
    tokens, valid = _table(goals)
    mask = batch.need("valid", of="condition_on_reward") if batch.mask is None else batch.mask
    mask = mask * _present(batch)[..., None]
    return _with_goal(_row_per_completion(batch.replace(mask=mask)), (tokens[number], valid[number]))


def hindsight(context: Context, batch: Batch, key: Key, *, edges: tuple[Number, ...], goals: Goals) -> Batch:
    """Hindsight relabeling: each completion under the instruction (goal) that its reward says it satisfied, and
    another one drawn evenly in prompts["other"] and ["other_valid"], for the loss `hir` (arXiv:2302.05206).

    The other instruction is a field and not a view, because minibatches deal out rows of views in an order of their
    own.

    Args:
        context: Not used.
        batch: Completions with rewards.
        key: Random key of the other instructions.
        edges: Rising numbers that cut rewards into outcomes, one instruction each: (0.5,) for failure and success.
        goals: Token ids of each instruction.

    Returns:
        B N rows of one completion.

    Raises:
        ConfigError: If the batch has no reward, or goals and edges do not fit.
    """
    number = _bins(batch, edges, goals, "hindsight")
    if not edges:
        raise ConfigError("hindsight needs at least two goals: there is no other instruction")
    keys = row_keys(key, batch.ids(), number.shape[1])
    step = jax.vmap(jax.vmap(lambda key: jax.random.randint(key, (), 1, len(goals))))(keys)
    other = ((number + step) % len(goals)).reshape(-1)
    rows = condition_on_reward(context, batch, key, edges=edges, goals=goals)
    tokens, valid = (leaf[other] for leaf in _table(goals))
    elsewhere, elsewhere_valid = _in_front(rows, (tokens, valid))
    return rows.replace(prompts={**rows.prompts, "other": elsewhere, "other_valid": elsewhere_valid})


def _preferred_under(batch: Batch, goal: tuple[Array, Array], scores: Array, weight: Array) -> Batch:
    """A row for every goal [B,K,G], in which the completion with the higher score [B,K,N] is preferred. weight [B,K]: 0
    for a goal that does not count. Equal scores are not labeled."""
    n, out = scores.shape[2], _repeated(batch, scores.shape[1])
    gap = (scores[..., :, None] - scores[..., None, :]).reshape(-1, n, n)
    present = _present(out) & (weight.reshape(-1, 1) != 0)
    labeled = (gap != 0) & present[:, :, None] & present[:, None, :]
    old = jnp.ones_like(gap) if out.pair_weight is None else out.pair_weight
    out = out.replace(preference=(jnp.sign(gap) + 1) / 2, pair_weight=jnp.where(labeled, old, 0))
    tokens, valid = (leaf.reshape(len(gap), -1) for leaf in goal)
    return _with_goal(out, (tokens, valid))


def goal_pairs(context: Context, batch: Batch, key: Key, *, edges: tuple[Number, ...], goals: Goals) -> Batch:
    """Reward-augmented relabeling: for the reward g of each completion as the goal, prefer the completion whose reward
    is nearer to g (arXiv:2410.08067). A pair becomes two; any pairwise loss then learns from both.

    Rewards are compared by their bin, which is what the goal says; completions as far from the goal as each other are
    not labeled. At test time `condition_on` asks for the best goal.

    Args:
        context: Not used.
        batch: Completions with rewards.
        key: Not used.
        edges: Rising numbers that cut rewards into bins, one goal each.
        goals: Token ids of the goal of each bin.

    Returns:
        B N rows of N completions.

    Raises:
        ConfigError: If the batch has no reward, or goals and edges do not fit.
    """
    number = _bins(batch, edges, goals, "goal_pairs")
    tokens, valid = _table(goals)
    distance = jnp.abs(number[:, None, :] - number[:, :, None]).astype(jnp.float32)
    return _preferred_under(batch, (tokens[number], valid[number]), -distance, _present(batch))


def configured_pairs(context: Context, batch: Batch, key: Key, *, goals: Goals, scores: str = "scores") -> Batch:
    """Configuration-conditioned pairs: under each of K configurations (goals), prefer the completion that it scores
    higher (as CoSAlign builds its pairs, arXiv:2410.08968).

    Completions that a configuration scores alike are not labeled. The paper chooses configurations and pairs by error
    scores of its own; those are `scores` here.

    Args:
        context: Not used.
        batch: Completions with scores.
        key: Not used.
        goals: Token ids of each of K configurations.
        scores: batch.completions[scores] [B,N,K] is what every configuration thinks of every completion: helpfulness
            where it allows the content, minus it where it does not.

    Returns:
        B K rows of N completions.

    Raises:
        ConfigError: If the batch has no such scores.
    """
    # Each configuration is a goal in front of the prompt, so K of them make K rows of the same completions and the
    # labels come from the general case, with every goal counting 1.
    values = batch.completions.get(scores)
    if values is None or values.ndim != 3 or values.shape[2] != len(goals):
        have = "none" if values is None else f"shape {values.shape}"
        raise ConfigError(
            f"configured_pairs needs batch.completions[{scores!r}] [B,N,{len(goals)}], a score under each of the "
            f"{len(goals)} goals, and the batch has {have}"
        )
    rows = values.shape[0]
    tokens, valid = (jnp.tile(leaf[None], (rows, 1, 1)) for leaf in _table(goals))
    return _preferred_under(batch, (tokens, valid), jnp.swapaxes(values, 1, 2), jnp.ones((rows, len(goals))))
