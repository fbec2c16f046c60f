"""Preference losses with a bonus that makes the policy look where it has not looked, or keeps it from there."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, fn
from alignjax.losses.decorators.pairwise import mask_of, pair_indices, pair_labels, reference_logps, sequence_logps
from alignjax.losses.decorators.unpaired import counted
from alignjax.losses.margin import dpo
from alignjax.types import Array, Batch, Context, Mean, Metrics

__all__ = ["bootstrapped", "borda", "selm", "vpo", "xpo"]

Pairs = tuple[tuple[int, int], ...]


def _sum(base: tuple[Mean, Metrics], bonus: Mean, alpha: Any) -> tuple[Mean, Metrics]:
    """base + alpha bonus, each a mean over the whole batch of its own."""
    mean, metrics = base
    return Mean(mean.value() + alpha * bonus.value(), jnp.ones(())), metrics | {"bonus": bonus}


def _mean_ratio(context: Context, batch: Batch, explored: tuple[int, ...], role: str, reference: str | None) -> Mean:
    """Mean of the log-ratios (log-probs without a reference) of the completions with these numbers."""
    assert batch.tokens is not None
    if not explored or any(not 0 <= number < batch.tokens.shape[1] for number in explored):
        raise ConfigError(f"explored={explored} are not completions of a batch with {batch.tokens.shape[1]} a prompt")
    index = jnp.array(explored)
    ratio = _sums(context, batch, role)
    if reference is not None:
        ratio = ratio - sequence_logps(reference_logps(context, batch, reference), mask_of(batch))
    return Mean.of(ratio[:, index], counted(batch)[:, index])


def _sums(context: Context, batch: Batch, role: str) -> Array:
    (logps,) = context.score(role, batch).values()
    return sequence_logps(logps, mask_of(batch))


def xpo(
    context: Context,
    batch: Batch,
    *,
    loss: Any = fn(dpo, beta=0.1),
    alpha: float = 1e-5,
    explored: tuple[int, ...] = (1,),
    role: str = "policy",
) -> tuple[Mean, Metrics]:
    """XPO, exploratory preference optimisation: DPO + alpha mean lp(y'), y' a sample of the reference
    (arXiv:2405.21046).

    Minimised, so that probability leaves what the reference would say anyway. loss: the base loss, `fn(dpo, beta=0.1)`
    unless given, on pairs of a policy sample and y'; alpha: the bonus in units of the base loss per nat, on sequence
    sums, so it scales with length; explored: the numbers of the reference's completions. alpha = 0 is the base loss.

    Raises ConfigError if a number in `explored` is no completion.
    """
    return _sum(loss(context, batch), _mean_ratio(context, batch, explored, role, None), alpha)


def selm(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.01,
    alpha: float = 1e-3,
    explored: tuple[int, ...] = (2,),
    pairs: Pairs = ((0, 1),),
    role: str = "policy",
    reference: str = "reference",
) -> tuple[Mean, Metrics]:
    """SELM, self-exploring language models: -log S(beta h) + alpha beta mean rho(y'), y' a sample of the reference
    (arXiv:2405.19332).

    In nats. The reference is the previous round's policy. beta: inverse temperature of the log-ratio; alpha: the bonus,
    multiplied by beta unlike XPO's; explored: the numbers of the completions y'. alpha = 0 is DPO.

    Raises ConfigError if a number in `explored` is no completion.
    """
    base = dpo(context, batch, beta=beta, pairs=pairs, role=role, reference=reference)
    return _sum(base, _mean_ratio(context, batch, explored, role, reference), alpha * beta)


def vpo(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    alpha: float = 1e-3,
    optimistic: bool = True,
    explored: tuple[int, ...] | None = None,
    pairs: Pairs = ((0, 1),),
    role: str = "policy",
    reference: str = "reference",
) -> tuple[Mean, Metrics]:
    """VPO, value-incentivised preference optimisation: -log S(beta h) + s alpha beta E rho(y), s = +1 online, -1
    offline, y of a calibration policy (arXiv:2405.19320).

    In nats. With rewards centred under the calibration policy the best regularised value is -beta E rho: raising it
    (optimistic, online) pushes calibration samples down, lowering it (pessimistic, offline) holds them up as `sft`
    does. beta: inverse temperature; alpha: the weight of the value, whose default is our choice; optimistic: the sign;
    explored: the numbers of the calibration policy's completions, or None for the preferred one of every pair.

    Raises ConfigError if a number in `explored` is no completion.
    """
    base = dpo(context, batch, beta=beta, pairs=pairs, role=role, reference=reference)
    weight = (1 if optimistic else -1) * alpha * beta
    if explored is not None:
        return _sum(base, _mean_ratio(context, batch, explored, role, reference), weight)
    mean, metrics = base
    value = _preferred(context, batch, pairs, role, reference)  # over the same pairs: one mean
    return Mean(mean.total + weight * value.total, mean.weight), metrics | {"bonus": value}


def _preferred(context: Context, batch: Batch, pairs: Pairs, role: str, reference: str) -> Mean:
    """Mean log-ratio of the preferred completions, each of a pair by its label."""
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    ratio = _sums(context, batch, role) - sequence_logps(reference_logps(context, batch, reference), mask_of(batch))
    return Mean.of(label * ratio[:, i] + (1 - label) * ratio[:, j], weight)


def bootstrapped(context: Context, batch: Batch, *, loss: Any, member: int) -> tuple[Mean, Metrics]:
    """One member of an ensemble on its own resampling of the batch: `loss` with pair weights times w[x, member]
    (bootstrap with random weights; our choice where active exploration asks for an uncertainty, arXiv:2312.00267).

    batch.prompts["bootstrap"] [B,members]: how often each member counts a prompt (the stage `bootstrap`). Members that
    see other weights come to differ where labels are few. Raises ConfigError if there are no such weights.
    """
    if "bootstrap" not in batch.prompts:
        raise ConfigError(
            "bootstrapped needs batch.prompts['bootstrap']: put the stage fn(bootstrap, members=...) first"
        )
    share = batch.prompts["bootstrap"][:, member, None, None]
    assert batch.tokens is not None
    n = batch.tokens.shape[1]
    weight = jnp.ones((share.shape[0], n, n), share.dtype) if batch.pair_weight is None else batch.pair_weight
    return loss(context, batch.replace(pair_weight=weight * share))


def borda(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    role: str = "policy",
    reference: str = "reference",
    field: str = "optimistic",
) -> tuple[Mean, Metrics]:
    """Borda score by logistic regression: -p log S(beta rho) - (1-p) log S(-beta rho), p the outcome against a random
    rival (the estimate behind AE-Borda, arXiv:2312.00267; this form is our choice).

    Nats per labelled prompt. batch.prompts[field] [B]: the completion whose score is fitted (the stage `active_pairs`
    says which); p: the mean of its labels, weighted by pair_weight. With rivals drawn uniformly it is minimised where
    S(beta rho) is the probability of beating a random completion. beta: inverse temperature of the log-ratio. Raises
    ConfigError if the batch has no preference, or does not say which completion.
    """
    if batch.preference is None or field not in batch.prompts:
        raise ConfigError(f"borda needs batch.preference and batch.prompts[{field!r}]: the stages active_pairs, prefer")
    first = batch.prompts[field]

    def fitted(values: Array) -> Array:
        """Of values [B,N,..] those of the completion; along the axis, since values[rows, first] is gathered on a
        mesh."""
        return jnp.take_along_axis(values, first.reshape(-1, *[1] * (values.ndim - 1)), axis=1)[:, 0]

    outcome = fitted(batch.preference)
    asked = jnp.arange(outcome.shape[1]) != first[:, None]
    weight = asked if batch.pair_weight is None else asked * fitted(batch.pair_weight)
    weight = jnp.asarray(weight, outcome.dtype)
    total = jnp.sum(weight, axis=1)
    wins = jnp.sum(jnp.where(weight != 0, outcome, 0) * weight, axis=1)
    label = jnp.where(total != 0, wins / jnp.where(total != 0, total, 1), 0.5)
    against = sequence_logps(reference_logps(context, batch, reference), mask_of(batch))
    logit = beta * fitted(_sums(context, batch, role) - against)
    loss = -label * jax.nn.log_sigmoid(logit) - (1 - label) * jax.nn.log_sigmoid(-logit)
    return Mean.of(loss, total), {"borda": Mean.of(jax.nn.sigmoid(logit), total), "outcome": Mean.of(label, total)}
