"""Stages for several scores that users weigh differently: what completions score, whose wish a prompt carries, and the
reward that follows; and the likeness to a reference as a reward."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError, Fn
from alignjax.numerics import row_keys
from alignjax.ranges import Count, Number, Positive
from alignjax.stages.condition import Goals, with_drawn_goal
from alignjax.types import SAMPLER, Array, Batch, Context, Key, Metrics


def scores_by(context: Context, batch: Batch, key: Key, *, functions: tuple[Fn, ...], field: str = "scores") -> Batch:
    """Fills completions[field] [B,N,K] with K numbers about each completion, for `directed_reward` and
    `configured_pairs`.

    Args:
        context: Not used.
        batch: Completions [B,N,T].
        key: Not used.
        functions: K functions (batch) -> [B,N], such as the measures of an exact task.
        field: Where the numbers go.

    Returns:
        The batch.
    """
    scores = jnp.stack([function(batch) for function in functions], axis=-1)
    return batch.replace(completions={**batch.completions, field: scores})


def draw_goal(context: Context, batch: Batch, key: Key, *, goals: Goals) -> Batch:
    """Puts one of several goals, drawn evenly, in front of each prompt, and its number in prompts["goal"] [B]: the
    direction that a policy is asked for while it is trained (DPA, arXiv:2402.18571).

    Args:
        context: Not used.
        batch: Prompts [B,P].
        key: Random key; a prompt's goal is a function of it and the example_id.
        goals: Token ids of each goal.

    Returns:
        The batch with longer prompts.
    """
    keys = row_keys(key, batch.ids(), 1)[:, 0]
    number = jax.vmap(lambda row: jax.random.randint(row, (), 0, len(goals)))(keys)
    return with_drawn_goal(batch, goals, number)


def neighbor_samples(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    generate: Fn,
    goals: Goals,
    directions: tuple[tuple[Number, ...], ...],
    nearest: Count,
) -> tuple[Batch, Metrics]:
    """Samples under the goals whose directions are nearest to that of the prompt's own, which comes first: y_j from
    pi(. | v_j, x), v_j among the `nearest` by angle. `scores_by`, `directed_reward` and `ranked(keep=1)` then take the
    best for the prompt's own direction, argmax_j v . scores(y_j) (RPS, arXiv:2510.20498).

    The paper draws directions within 30 degrees; these are the goals that a policy was trained on. The control is as
    many samples under the own goal alone.

    Args:
        context: Roles and their params.
        batch: Prompts under goals of `draw_goal`, without completions.
        key: Random key; each neighbor's is its own.
        generate: `fn(stages.generate, n=.., max_tokens=..)`: n completions under each of the goals.
        goals: Token ids of each goal, as of `draw_goal`.
        directions: A vector for each goal, as of `directed_reward`.
        nearest: How many goals, the own one included.

    Returns:
        The batch with n * nearest completions of each prompt, and of log-probs the sampler's. Metrics: of `generate`
        under the own goal.

    Raises:
        ConfigError: If prompts have no goal, there are completions, or too few goals or directions.
    """
    # Which goals are near is known when the config is; whose they are is of each prompt, so that each place among the
    # nearest is one sampling of all prompts under goals of their own.
    own = batch.need("prompts", "goal", of="neighbor_samples")
    if batch.tokens is not None:
        raise ConfigError("neighbor_samples begins with prompts; the batch has completions")
    if not nearest <= len(goals) == len(directions):
        counts = f"nearest={nearest}, {len(goals)} goals, {len(directions)} directions"
        raise ConfigError(
            f"neighbor_samples with {counts}: give each goal a direction, and take no more than there are"
        )
    unit = np.array(directions, float) / np.linalg.norm(directions, axis=1, keepdims=True)
    cosine = unit @ unit.T + 3 * np.eye(len(goals))  # itself first, also beside an equal direction
    order = jnp.asarray(np.argsort(-cosine, axis=1, kind="stable")[:, :nearest])
    each = []
    for place in range(nearest):
        under = with_drawn_goal(batch, goals, order[own, place])
        each.append(generate(context, under, jax.random.fold_in(key, place) if place else key))

    def joined(read: Callable[[Batch], Any]) -> Array:
        return jnp.concatenate([read(drawn) for drawn, _ in each], axis=1)

    tokens, valid, mask = (joined(operator.attrgetter(name)) for name in ("tokens", "valid", "mask"))
    logps = {SAMPLER: joined(lambda drawn: drawn.logps[SAMPLER])}
    return batch.replace(tokens=tokens, valid=valid, mask=mask, logps=logps), each[0][1]


def directed_reward(
    context: Context, batch: Batch, key: Key, *, directions: tuple[tuple[Number, ...], ...], scores: str = "scores"
) -> Batch:
    """Directional reward: r(v, y) = v . scores(y), v the direction of the prompt's goal (DPA, arXiv:2402.18571). With
    the loss `sft` on the best of n by it, a policy that is steered by arithmetic.

    Args:
        context: Not used.
        batch: Completions with completions[scores] [B,N,K], under goals of `draw_goal`.
        key: Not used.
        directions: A vector of K numbers for each goal; the paper's have norm 1.
        scores: Where the scores are.

    Returns:
        The batch with a reward [B,N].

    Raises:
        ConfigError: If the directions do not have as many numbers as there are scores.
    """
    values = batch.need("completions", scores, of="directed_reward")
    if any(len(direction) != values.shape[-1] for direction in directions):
        raise ConfigError(
            f"directed_reward(directions={directions}): each needs {values.shape[-1]} numbers, one a score"
        )
    chosen: Array = jnp.asarray(directions, values.dtype)[batch.need("prompts", "goal", of="directed_reward")]
    return batch.replace(reward=jnp.einsum("bnk,bk->bn", values, chosen))


def reference_reward(
    context: Context, batch: Batch, key: Key, *, field: str = "quality", offset: Positive = 1.0
) -> Batch:
    """Reward of likeness to a reference answer: (1 + 1 / (offset + length)) times completions[field], of all but the
    first completion, which is the reference and is dropped (RefAlign, arXiv:2504.09895, as its reviews tell it).

    The paper's likeness is BERTScore and its offset is not known to us; `overlap` fills a field with an F1 of tokens.

    Args:
        context: Not used.
        batch: The reference and samples [B,1+N,T], with completions[field] [B,1+N].
        key: Not used.
        field: The likeness to the first completion, in [0, 1].
        offset: C, in tokens: how little short answers are favored.

    Returns:
        The batch of N completions with a reward [B,N].

    Raises:
        ConfigError: If there is no likeness, or no sample beside the reference.
    """
    likeness = batch.need("completions", field, of="reference_reward")
    rows, n = likeness.shape
    if n < 2:
        raise ConfigError("reference_reward needs a sample behind the reference: a stage fn(generate, ...) before it")
    length = jnp.sum(batch.need("valid", of="reference_reward"), axis=-1)
    rated = batch.replace(reward=(1 + 1 / (offset + length)) * likeness)
    return rated.pick(jnp.broadcast_to(jnp.arange(1, n), (rows, n - 1)))
