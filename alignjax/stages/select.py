"""Stages that choose which completions of a prompt are compared, in what order and with what weight, and which pairs
labels are spent on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError
from alignjax.numerics import masked_sum, row_uniforms
from alignjax.pair_layout import weigh_pairs
from alignjax.ranges import Count, Index, Natural, NonNegative, Positive
from alignjax.stages.advantage import counted_rewards
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics


def best_and_worst(context: Context, batch: Batch, key: Key, *, keep: tuple[Index, ...] = ()) -> Batch:
    """Keeps two completions of every prompt, the first of the best and the last of the worst by reward, in this order;
    after them, the completions `keep` (what SELM explores; -1 is the last). One of which nothing is known
    (completions["weight"] 0, or all padding) is neither best nor worst; where one alone is known, it is both.

    Args:
        context: Not used.
        batch: Completions [B,N,T] with a reward [B,N].
        key: Not used.
        keep: Numbers of further completions.

    Returns:
        The batch with 2 + len(keep) completions.

    Raises:
        ConfigError: If the batch has no reward.
    """
    reward, weight = counted_rewards(batch, "best_and_worst")
    known = weight != 0
    best = jnp.argsort(jnp.where(known, -reward, jnp.inf), axis=1)[:, :1]  # stable, so ties keep their order
    worst = jnp.argsort(jnp.where(known, -reward, -jnp.inf), axis=1)[:, -1:]
    numbers = jnp.array(keep, best.dtype) % reward.shape[1]
    others = jnp.broadcast_to(numbers, (reward.shape[0], len(keep)))
    return batch.pick(jnp.concatenate([best, worst, others], axis=1))


def ranked(context: Context, batch: Batch, key: Key, *, keep: Count | None = None) -> Batch:
    """Orders the completions of every prompt by reward, best first, so that pairs are pairs of ranks; with keep=1
    it is best-of-n. Those of which nothing is known (completions["weight"] 0, or all padding) come last.

    Args:
        context: Not used.
        batch: Completions [B,N,T] with a reward [B,N].
        key: Not used.
        keep: How many of the best stay; None: all.

    Returns:
        The batch, reordered.

    Raises:
        ConfigError: If the batch has no reward.
    """
    reward, weight = counted_rewards(batch, "ranked")
    return batch.pick(jnp.argsort(jnp.where(weight != 0, -reward, jnp.inf), axis=1)[:, :keep])


def gap_weights(context: Context, batch: Batch, key: Key) -> Batch:
    """Multiplies pair_weight [B,N,N] with |r_i - r_j|, what a pair can teach.

    A loss is a weighted mean, so only the proportions matter. OPTune weighs pairs by such a utility; its exact form is
    not known to us, and this one is our choice (arXiv:2406.07657).

    Args:
        context: Not used.
        batch: A reward [B,N], with pair_weight or without.
        key: Not used.

    Returns:
        The batch.

    Raises:
        ConfigError: If the batch has no reward.
    """
    reward = batch.need("reward", of="gap_weights")
    return weigh_pairs(batch, jnp.abs(reward[:, :, None] - reward[:, None, :]))


def bootstrap(context: Context, batch: Batch, key: Key, *, members: Count) -> Batch:
    """Fills prompts["bootstrap"] [B,members]: how much each member of an ensemble counts a prompt, independent
    exponential draws of mean 1 (the Bayesian bootstrap).

    Args:
        context: Not used.
        batch: Prompts.
        key: Random key of the draws, a function of the example.
        members: The size of the ensemble.

    Returns:
        The batch.
    """
    weight = -jnp.log1p(-row_uniforms(key, batch.ids(), members))
    return batch.replace(prompts={**batch.prompts, "bootstrap": weight})


def active_pairs(
    context: Context, batch: Batch, key: Key, *, count: Count, members: tuple[str, ...], beta: Positive = 0.1,
    width: NonNegative = 2.0, rivals: Count | None = None, reference: str = "reference",
) -> tuple[Batch, Metrics]:  # fmt: skip
    """Spends labels where the best answer is least certain: keeps one pair of each of `count` prompts and gives all
    others pair_weight 0 (AE-DPO and AE-Borda-DPO, arXiv:2312.00267).

    With R+ and R- the mean of the members' implicit rewards, beta log(member / reference), plus and minus `width`
    standard deviations: the prompts are those of the largest max_a UCB(a) - max_a LCB(a); of each, the completion of
    the largest UCB meets a rival. AE-DPO: UCB = R+, LCB = R-, any other as the rival at random. AE-Borda-DPO: the last
    `rivals` completions are samples a' of the reference, UCB(a) = mean_a' S(R+(a) - R-(a')), LCB(a) = mean_a' S(R-(a) -
    R+(a')), one a' as the rival at random. So the authors' data_selection.py (belakaria/active-llm-alignment), with
    passes under dropout in the place of our ensemble.

    Args:
        context: Scores the members and the reference where the batch has no log-probs of theirs.
        batch: Completions to choose pairs among.
        key: Random key of the rivals, and of prompts that are equally uncertain.
        count: Prompts that get a label.
        members: Roles of the ensemble, at least two.
        beta: Scale of the implicit reward.
        width: How many standard deviations the bounds are from the mean.
        rivals: How many completions, the last, are samples of the reference that the others are compared with; None
            compares all with each other.
        reference: The role that the implicit rewards are relative to.

    Returns:
        The batch with pair_weight and prompts["optimistic"] [B], the number of the completion of the largest UCB.
        Metrics: `uncertainty` and `uncertainty_of_labelled`.

    Raises:
        ConfigError: With fewer than two members or completions, if count is not between 1 and the batch size, or if
            `rivals` leaves nobody on one side.
    """
    # Two keys: one orders prompts that are equally unsure, the other draws the rivals.
    rows, n = batch.need("tokens", of="active_pairs").shape[:2]
    if len(members) < 2 or n < 2 or not 1 <= count <= rows or not 0 < (1 if rivals is None else rivals) < n:
        raise ConfigError(
            f"active_pairs(count={count}, members={members}, rivals={rivals}) on {rows} prompts of {n} completions"
        )
    rewards = _implicit_rewards(context, batch, members, beta, reference)
    middle, spread = jnp.mean(rewards, axis=0), width * jnp.std(rewards, axis=0)
    upper, lower, number = middle + spread, middle - spread, jnp.arange(n)[None]
    if rivals is not None:
        upper, lower = _borda(upper, lower, rivals), _borda(lower, upper, rivals)
    unsure = jnp.max(upper, axis=1) - jnp.max(lower, axis=1)
    order, rival = jax.random.split(key)
    # Members that agree on everything, as at the start, leave the choice to chance.
    most_unsure = jnp.lexsort((row_uniforms(order, batch.ids(), 1)[:, 0], -unsure))
    chosen = jnp.zeros(rows).at[most_unsure[:count]].set(1.0)
    first = jnp.argmax(upper, axis=1)
    others = number != first[:, None] if rivals is None else number >= n - rivals
    other = jnp.argmax(jnp.where(others, row_uniforms(rival, batch.ids(), n), -1), axis=1)
    row = jnp.arange(rows)
    weight = jnp.zeros((rows, n, n)).at[row, first, other].set(chosen).at[row, other, first].set(chosen)
    metrics = {"uncertainty": Mean.of(unsure), "uncertainty_of_labelled": Mean.of(unsure, chosen)}
    return weigh_pairs(batch, weight).replace(prompts={**batch.prompts, "optimistic": first}), metrics


def _borda(ours: Array, theirs: Array, rivals: int) -> Array:
    """The mean chance of beating the last `rivals` completions, whose rewards are `theirs`, of each other one."""
    return jnp.mean(jax.nn.sigmoid(ours[:, :-rivals, None] - theirs[:, None, -rivals:]), axis=2)


def _implicit_rewards(context: Context, batch: Batch, members: tuple[str, ...], beta: float, reference: str) -> Array:
    """beta log(member / reference) of every completion, [M,B,N]."""

    def summed(role: str) -> Array:
        logps = batch.logps[role] if role in batch.logps else context.score(role, batch)[role]
        return masked_sum(logps, batch.need("mask", of="active_pairs"))

    against = summed(reference)
    return beta * jnp.stack([summed(member) - against for member in members])


def query_budget(
    context: Context, batch: Batch, key: Key, *, per_iteration: Natural, total: Natural | None = None
) -> Batch:
    """Keeps the labels of `per_iteration` pairs of the batch drawn at random, and none once `total` labels were spent;
    the others get pair_weight 0.

    Args:
        context: Says which iteration it is.
        batch: Judged completions.
        key: Random key of the draw.
        per_iteration: Labels per iteration.
        total: Labels of the whole run; None: no limit.

    Returns:
        The batch with pair_weight [B,N,N].

    Raises:
        ConfigError: If the batch has no preference.
    """
    preference = batch.need("preference", of="query_budget")
    n = preference.shape[1]
    i, j = np.triu_indices(n, 1)
    u = row_uniforms(key, batch.ids(), len(i))
    left = per_iteration if total is None else jnp.clip(total - context.step * per_iteration, 0, per_iteration)
    rank = jnp.argsort(jnp.argsort(u.reshape(-1))).reshape(u.shape)
    chosen = (rank < left).astype(jnp.float32)
    weight = jnp.zeros_like(preference).at[:, i, j].set(chosen).at[:, j, i].set(chosen)
    return weigh_pairs(batch, weight)
