"""Stages for several scores that users weigh differently: what completions score, whose wish a prompt carries, and the
reward that follows; and the likeness to a reference as a reward."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, Fn
from alignjax.numerics import row_keys
from alignjax.ranges import Number, Positive
from alignjax.stages.condition import Goals, with_drawn_goal
from alignjax.types import Array, Batch, Context, Key


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
