"""Preference losses with a bonus that makes the policy look where it has not looked, or keeps it from there."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, fn
from alignjax.losses.decorators.declared import needs, shared
from alignjax.losses.decorators.pairwise import score_pairs
from alignjax.losses.decorators.sequences import counted, sequence_scores
from alignjax.losses.margin import dpo
from alignjax.ranges import Natural, NonNegative, Positive
from alignjax.types import Array, Batch, Context, Mean, Metrics


def _plus_bonus(base: tuple[Mean, Metrics], bonus: Mean, alpha: Any) -> tuple[Mean, Metrics]:
    """base + alpha bonus, each a mean over the whole batch of its own."""
    mean, metrics = base
    return Mean(mean.value() + alpha * bonus.value(), jnp.ones(())), metrics | {"bonus": bonus}


def _mean_ratio(context: Context, batch: Batch, explored: tuple[int, ...], role: str, reference: str | None) -> Mean:
    """Mean of the log-ratios (log-probs without a reference) of the completions with these numbers."""
    n = batch.need("tokens", of="an exploration bonus").shape[1]
    if not explored or any(not 0 <= number < n for number in explored):
        raise ConfigError(f"explored={explored} are not completions of a batch with {n} a prompt")
    index = jnp.array(explored)
    _, ratio = sequence_scores(context, batch, role=role, reference=reference)
    return Mean.of(ratio[:, index], counted(batch)[:, index])


def xpo(
    context: Context,
    batch: Batch,
    *,
    loss: Any = fn(dpo, beta=0.1),
    alpha: NonNegative = 1e-5,
    explored: tuple[Natural, ...] = (1,),
    role: str = "policy",
) -> tuple[Mean, Metrics]:
    """XPO, exploratory preference optimization: DPO + alpha mean lp(y'), y' a sample of the reference
    (arXiv:2405.21046).

    Minimized, so that probability leaves what the reference would say anyway. alpha = 0 is the base loss.

    Args:
        context: Scores the role, and what the base loss asks for.
        batch: Completions [B,N,T], and what the base loss reads.
        loss: The base loss, on pairs of a policy sample and y'.
        alpha: The bonus in units of the base loss per nat, on sequence sums, so it scales with length.
        explored: The numbers of the reference's completions.
        role: What is trained.

    Returns:
        The sum of the two means, and the metrics of the base loss with `bonus`: mean lp(y') in nats.

    Raises:
        ConfigError: If a number in `explored` is no completion.
    """
    return _plus_bonus(loss(context, batch), _mean_ratio(context, batch, explored, role, None), alpha)


@needs("preference")
@shared("role", "pairs")
def selm(
    context: Context,
    batch: Batch,
    *,
    beta: Positive = 0.01,
    alpha: NonNegative = 1e-3,
    explored: tuple[Natural, ...] = (2,),
    reference: str = "reference",
    **where: Any,
) -> tuple[Mean, Metrics]:
    """SELM, self-exploring language models: -log S(beta h) + alpha beta mean rho(y'), y' a sample of the reference
    (arXiv:2405.19332).

    The reference is the previous round's policy. alpha = 0 is DPO. It is `vpo`, optimistic, with other defaults.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a preference [B,N,N].
        beta: Inverse temperature of the log-ratio.
        alpha: The bonus, multiplied by beta unlike XPO's.
        explored: The numbers of the completions y'.
        reference: What log-ratios are against.
        **where: role and pairs, see `declared.shared`.

    Returns:
        The sum of the two means in nats, and the metrics of DPO with `bonus`: mean rho(y').

    Raises:
        ConfigError: If a number in `explored` is no completion, or the batch has no preference.
    """
    parts = {"optimistic": True, "explored": explored, "reference": reference}
    return vpo(context, batch, beta=beta, alpha=alpha, **parts, **where)


@needs("preference")
@shared("role", "pairs")
def vpo(
    context: Context,
    batch: Batch,
    *,
    beta: Positive = 0.1,
    alpha: NonNegative = 1e-3,
    optimistic: bool | None = None,
    explored: tuple[Natural, ...] | None = None,
    reference: str = "reference",
    **where: Any,
) -> tuple[Mean, Metrics]:
    """VPO, value-incentivized preference optimization: -log S(beta h) + s alpha beta E rho(y), s = +1 online, -1
    offline, y of a calibration policy (arXiv:2405.19320).

    With rewards centered under the calibration policy the best regularized value is -beta E rho: raising it
    (optimistic, online) pushes calibration samples down, lowering it (pessimistic, offline) holds them up as `sft`
    does. Optimism calibrated on the preferred completions would push the winners down, so it is refused.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a preference [B,N,N].
        beta: Inverse temperature of the log-ratio.
        alpha: Weight of the value, whose default is our choice.
        optimistic: The sign s; not given, it is +1 where completions are `explored` and -1 where none are.
        explored: The numbers of the calibration policy's completions, or None for the preferred one of every pair.
        reference: What log-ratios are against.
        **where: role and pairs, see `declared.shared`.

    Returns:
        The mean in nats, and the metrics of DPO with `bonus`: mean rho(y).

    Raises:
        ConfigError: If it is optimistic without `explored`, a number there is no completion, or the batch has no
            preference.
    """
    # The preferred side shares the pairs of DPO, so its value joins the same sum; other completions are counted per
    # prompt, and their mean is added as one.
    if optimistic and explored is None:
        raise ConfigError("vpo(optimistic=True) needs explored=(...): else it would push the preferred ones down")
    base = dpo(context, batch, beta=beta, reference=reference, **where)
    rises = explored is not None if optimistic is None else optimistic
    weight = (1 if rises else -1) * alpha * beta
    if explored is not None:
        return _plus_bonus(base, _mean_ratio(context, batch, explored, where["role"], reference), weight)
    pair = score_pairs(context, batch, reference=reference, **where)
    value = pair.mean(pair.mix(pair.fields["ratio_i"], pair.fields["ratio_j"]))  # over the same pairs: one mean
    mean, metrics = base
    return Mean(mean.total + weight * value.total, mean.weight), metrics | {"bonus": value}


@needs("prompts")
def bootstrapped(context: Context, batch: Batch, *, loss: Any, member: Natural) -> tuple[Mean, Metrics]:
    """One member of an ensemble on its own resampling of the batch: loss with pair weights times w[x, member]
    (bootstrap with random weights; our choice where active exploration asks for an uncertainty, arXiv:2312.00267).

    Members that see other weights come to differ where labels are few.

    Args:
        context: Handed to the loss.
        batch: Completions [B,N,T], and prompts["bootstrap"] [B,members]: how often each member counts a prompt (the
            stage `bootstrap`).
        loss: An `fn` of a loss whose pairs count by `pair_weight`.
        member: The number of the member.

    Returns:
        The mean and the metrics of the loss.

    Raises:
        ConfigError: If there are no such weights.
    """
    share = batch.need("prompts", "bootstrap", of="bootstrapped")[:, member, None, None]
    n = batch.need("tokens", of="bootstrapped").shape[1]
    weight = jnp.ones((share.shape[0], n, n), share.dtype) if batch.pair_weight is None else batch.pair_weight
    return loss(context, batch.replace(pair_weight=weight * share))


@needs("preference", "prompts")
def borda(
    context: Context,
    batch: Batch,
    *,
    beta: Positive = 0.1,
    role: str = "policy",
    reference: str = "reference",
    field: str = "optimistic",
) -> tuple[Mean, Metrics]:
    """Borda score by logistic regression: -p log S(beta rho) - (1-p) log S(-beta rho), p the outcome against a random
    rival (the estimate behind AE-Borda, arXiv:2312.00267; this form is our choice).

    p is the mean of the completion's labels, weighted by pair_weight. With rivals drawn uniformly the loss is minimized
    where S(beta rho) is the probability of beating a random completion.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a preference [B,N,N].
        beta: Inverse temperature of the log-ratio.
        role: What is trained.
        reference: What log-ratios are against.
        field: batch.prompts[field] [B] is the completion whose score is fitted (the stage `active_pairs` says which).

    Returns:
        The mean over labeled prompts in nats; `borda`, the fitted probability, and `outcome`, the observed one.

    Raises:
        ConfigError: If the batch has no preference, or does not say which completion.
    """
    preference, first = batch.need("preference", of="borda"), batch.need("prompts", field, of="borda")

    def fitted(values: Array) -> Array:
        # Those of the completion, of values [B,N,..]; along the axis, since values[rows, first] is gathered on a mesh.
        return jnp.take_along_axis(values, first.reshape(-1, *[1] * (values.ndim - 1)), axis=1)[:, 0]

    outcome = fitted(preference)
    is_rival = 1 - jax.nn.one_hot(first, outcome.shape[1], dtype=outcome.dtype)
    weight = is_rival if batch.pair_weight is None else is_rival * fitted(batch.pair_weight)
    weight = jnp.asarray(weight, outcome.dtype)
    total = jnp.sum(weight, axis=1)
    wins = jnp.sum(jnp.where(weight != 0, outcome, 0) * weight, axis=1)
    label = jnp.where(total != 0, wins / jnp.where(total != 0, total, 1), 0.5)
    _, ratio = sequence_scores(context, batch, role=role, reference=reference)
    logit = beta * fitted(ratio)
    loss = -label * jax.nn.log_sigmoid(logit) - (1 - label) * jax.nn.log_sigmoid(-logit)
    return Mean.of(loss, total), {"borda": Mean.of(jax.nn.sigmoid(logit), total), "outcome": Mean.of(label, total)}
