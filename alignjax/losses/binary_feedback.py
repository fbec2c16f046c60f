"""Losses on single completions that were found good or bad: `batch.reward` [B,N] is the probability z in [0, 1] that a
completion is good. The loss of a soft label is z l(good) + (1-z) l(bad). Completions count by completions["weight"]
where a stage filled it (0: nobody judged them, and their labels mean nothing); those that are all padding do not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, nearest
from alignjax.losses.decorators.declared import needs, shared
from alignjax.losses.decorators.sequences import (
    completion_weights,
    mask_of,
    scored,
    sequence_logps,
    sequence_scores,
    weighted_rewards,
)
from alignjax.losses.decorators.unpaired import score_completions, unpaired
from alignjax.losses.supervised import cross_entropy
from alignjax.numerics import first_valid
from alignjax.ranges import Natural, NonNegative, Number, Positive
from alignjax.types import Array, Batch, Context, Mean, Metrics


@unpaired
def pointwise_dpo(ratio: Array, *, beta: Positive = 0.1, shift: Number = 0.0) -> tuple[Array, Array]:
    """Point-wise DPO: -z log S(beta rho + shift) - (1-z) log S(-beta rho - shift), z the label (arXiv:2312.02554).

    Minimized at rho = (logit(z) - shift) / beta. The form is our derivation from DPO's implicit reward, beta rho + beta
    log Z, as the logit of a label.

    Args:
        ratio: Log-ratio of the completion [..,N], nats.
        beta: Inverse temperature of the log-ratio.
        shift: A constant that stands for beta times the log of the partition function, added as in `ulma`. BCO's d is
            minus it.

    Returns:
        Loss of a good and of a bad completion [..,N], nats.
    """
    logit = beta * ratio + shift
    return -jax.nn.log_sigmoid(logit), -jax.nn.log_sigmoid(-logit)


def _prospect(logit: Array, lam_desirable: float, lam_undesirable: float) -> tuple[Array, Array]:
    """lam_D S(-logit) for good completions, lam_U S(logit) for bad ones."""
    return lam_desirable * jax.nn.sigmoid(-logit), lam_undesirable * jax.nn.sigmoid(logit)


@unpaired
def apo_zero_unpaired(
    ratio: Array, *, beta: Positive = 0.1, lam_desirable: NonNegative = 1.0, lam_undesirable: NonNegative = 1.0
) -> tuple[Array, Array]:
    """APO-zero on single completions: z lam_D (1 - S(beta rho)) + (1-z) lam_U S(beta rho), z the label
    (arXiv:2408.06266; unpaired as in TRL).

    KTO with k = 0. Linear in z, so the likelihood of any completion with z above lam_U / (lam_D + lam_U) rises without
    end.

    Args:
        ratio: Log-ratio of the completion [..,N], nats.
        beta: Inverse temperature of the log-ratio.
        lam_desirable: Weight of good completions.
        lam_undesirable: Weight of bad completions.

    Returns:
        Loss of a good and of a bad completion [..,N].
    """
    return _prospect(beta * ratio, lam_desirable, lam_undesirable)


@needs("reward")
@shared("role", "normalize")
def kto(
    context: Context,
    batch: Batch,
    *,
    beta: Positive = 0.1,
    lam_desirable: NonNegative = 1.0,
    lam_undesirable: NonNegative = 1.0,
    reference: str = "reference",
    **where: Any,
) -> tuple[Mean, Metrics]:
    """Kahneman-Tversky optimization: z lam_D (1 - S(beta (rho - k))) + (1-z) lam_U (1 - S(beta (k - rho))), z the
    label, k = sg max(0, mean of rho over mismatched pairs) (arXiv:2402.01306).

    k estimates KL(policy || reference) in nats, one number for the batch of all devices: every completion is scored
    under the prompt of the next row, by both models, in a pass of its own. Rows that share a prompt are not mismatched,
    so keep prompts of a batch different. Bounded, so one hopeless example stops pulling.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with labels in reward [B,N].
        beta: Inverse temperature of rho - k.
        lam_desirable: Weight of good completions, chosen with the other to balance their numbers.
        lam_undesirable: Weight of bad completions.
        reference: What log-ratios are against.
        **where: role and normalize, see `declared.shared`.

    Returns:
        The mean over completions, and the metrics of completions with `kl`: k.

    Raises:
        ConfigError: If the batch has no reward, or a single row, which has nothing to be mismatched with.
    """
    # Both branches of the value function are computed for every completion and mixed by the label, so that a soft label
    # needs no case of its own.
    completions = score_completions(context, batch, loss="kto", reference=reference, **where)
    kl = _mismatched_kl(context, batch, reference=reference, **where)
    good, bad = _prospect(beta * (completions.ratio - kl), lam_desirable, lam_undesirable)
    return Mean.of(completions.mix(good, bad), completions.weight), completions.metrics(kl=Mean.of(kl))


def _mismatched_kl(context: Context, batch: Batch, role: str, reference: str, normalize: str) -> Array:
    """max(0, mean log-ratio of completions under the prompt of the next row), a constant for the gradient."""
    tokens, mask = batch.need("tokens", of="kto"), mask_of(batch)
    if tokens.shape[0] < 2:
        raise ConfigError(
            "kto estimates its KL from completions under the prompts of other rows and got a batch of one row; use a "
            "batch size (rows per minibatch) of at least 2"
        )
    completions = {"tokens": tokens, "valid": batch.valid, "mask": mask, "completions": batch.completions}
    rolled = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), completions)
    other = batch.replace(**rolled, logps={}, views={})
    scores = context.score((role, reference), other)
    policy, against = (
        sequence_logps(jax.lax.stop_gradient(scores[name]), rolled["mask"], normalize) for name in (role, reference)
    )
    return jnp.maximum(Mean.of(policy - against, completion_weights(other)).value(), 0)


@needs("reward")
@shared("role", "reference", "normalize")
def bco(
    context: Context,
    batch: Batch,
    *,
    beta: Positive = 0.1,
    shift: str | None = "shift",
    pooled: bool = False,
    min_density_ratio: NonNegative = 0.5,
    max_density_ratio: Positive = 10.0,
    **where: Any,
) -> tuple[Mean, Metrics]:
    """Binary classifier optimization: -z log S(beta rho - d) - (1-z) w log S(d - beta rho), z the label, d the running
    beta (E[rho | good] + E[rho | bad]) / 2, w a clipped density ratio of prompts (arXiv:2404.04656).

    d is constant for the gradient and counts this batch too; a class that was never seen is left out of it. w is
    batch.prompts["density_ratio"] [B] (good over bad prompts, see the stage `density_ratio`), 1 where the batch has
    none. Like TRL it enters the sum and not the count. Twice this loss on a pair with hard labels is an upper bound of
    DPO whatever d is.

    Args:
        context: Scores the role and the reference, and has the role `shift`.
        batch: Completions [B,N,T] with labels in reward [B,N].
        beta: Inverse temperature of the log-ratio.
        shift: The state role that remembers earlier batches: Role(None, start=roles.zero_means("ratio_good",
            "ratio_bad"), rule=fn(roles.running_mean, of="bco", decay=0.99)); None uses this batch alone.
        pooled: Takes the mean of all log-ratios, good and bad, for d, as TRL does; the two agree on balanced batches.
        min_density_ratio: Least w.
        max_density_ratio: Largest w.
        **where: role, reference and normalize, see `declared.shared`.

    Returns:
        The mean over completions in nats, and the metrics of completions with `shift`: d.

    Raises:
        ConfigError: If the batch has no reward, or there is no such role.
    """
    # The center is a running statistic and nothing to be learned, hence the stop_gradient. The density ratio scales the
    # bad side alone: it makes the prompts of bad completions count as those of good ones do.
    completions = score_completions(context, batch, loss="bco", **where)
    d = jax.lax.stop_gradient(beta * _center(context, completions.metrics(), shift, pooled))
    logit = beta * completions.ratio - d
    density = batch.prompts.get("density_ratio")
    w = 1.0 if density is None else jnp.clip(density, min_density_ratio, max_density_ratio)[:, None].astype(logit.dtype)
    values = completions.mix(-jax.nn.log_sigmoid(logit), -w * jax.nn.log_sigmoid(-logit))
    return Mean.of(values, completions.weight), completions.metrics(shift=Mean.of(d))


def _center(context: Context, metrics: Metrics, shift: str | None, pooled: bool) -> Array:
    """The running mean log-ratio, of the means of good and of bad completions or of all together; nats."""
    means = [metrics["ratio_good"], metrics["ratio_bad"]]
    if shift is not None:
        if shift not in context.state:
            raise ConfigError(
                f"bco has no state role {shift!r} for its running shift.{nearest(shift, context.state)} Add one (its "
                "docstring says how), or set shift=None to use each batch's own"
            )
        earlier = [context.state[shift][name] for name in ("ratio_good", "ratio_bad")]
        means = [Mean(a.total + b.total, a.weight + b.weight) for a, b in zip(means, earlier, strict=True)]
    good, bad = means
    if pooled:
        return Mean(good.total + bad.total, good.weight + bad.weight).value()
    seen = jnp.stack([good.weight > 0, bad.weight > 0])
    return Mean.of(jnp.stack([good.value(), bad.value()]), seen).value()


@needs("reward")
def prompt_classifier(context: Context, batch: Batch, *, output: str = "classifier:value") -> tuple[Mean, Metrics]:
    """Classifier of prompts, for the weights of BCO: -z log S(v) - (1-z) log S(-v), z the label of the completion, v a
    head's number after the prompt (arXiv:2404.04656).

    The paper fits a logistic regression on a text embedding; here a head stands on a role of its own, trained beside
    the policy or in an earlier step.

    Args:
        context: Scores the head.
        batch: Completions [B,N,T] with labels in reward [B,N].
        output: A role and a head of it that reads the state before a token; at the first token that is the prompt
            alone.

    Returns:
        The mean over completions in nats, `accuracy`, and `margin`, the mean of |v|.

    Raises:
        ConfigError: If the batch has no reward.
    """
    label, weight = weighted_rewards(batch, "prompt_classifier", 0.5)
    logit = first_valid(scored(context, batch, output), batch.need("valid", of="prompt_classifier"))
    return cross_entropy(logit, label.astype(logit.dtype), weight)


@needs("reward")
@shared("role", "reference", "normalize", normalize="length")
def ulma(
    context: Context,
    batch: Batch,
    *,
    beta: Positive = 0.1,
    shift: Number = 0.0,
    lam: NonNegative = 1.0,
    pooled: bool = False,
    **where: Any,
) -> tuple[Mean, Metrics]:
    """Unified language model alignment: lam mean of (-lp / len) over good + mean of -log S(-beta rho / len - shift)
    over bad completions (arXiv:2312.02554).

    Good completions are imitated, bad ones pushed below the reference. Weights of the two means are z and 1-z, so the
    balance of the classes does not matter and a class that is missing counts 0.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with labels in reward [B,N].
        beta: Inverse temperature of the log-ratio.
        shift: A constant that stands for beta times the log of the partition function, as in `pointwise_dpo`.
        lam: Weight of the imitation (beta is another choice of released code).
        pooled: Takes one mean over all completions instead of one per class.
        **where: role, reference and normalize, see `declared.shared`.

    Returns:
        The loss in nats (per token with "length"), and the metrics of completions with `good` and `bad`: the two means.

    Raises:
        ConfigError: If the batch has no reward.
    """
    # The two means are taken before they are added, so that a batch with few bad completions weighs them as much as one
    # with many; `pooled` gives that up.
    completions = score_completions(context, batch, loss="ulma", **where)
    label, weight = completions.label, completions.weight
    good, bad = -lam * completions.logps, -jax.nn.log_sigmoid(-beta * completions.ratio - shift)
    if pooled:
        return Mean.of(completions.mix(good, bad), weight), completions.metrics()
    good_mean, bad_mean = Mean.of(good, weight * label), Mean.of(bad, weight * (1 - label))
    total = good_mean.value() + bad_mean.value()
    return Mean(total, jnp.ones_like(total)), completions.metrics(good=good_mean, bad=bad_mean)


def d2o(
    context: Context,
    batch: Batch,
    *,
    beta: Positive = 0.1,
    alpha: NonNegative = 0.1,
    rejected: Natural = 0,
    role: str = "policy",
    reference_samples: str = "reference",
    reference_rejected: str = "reference",
    normalize: str = "none",
) -> tuple[Mean, Metrics]:
    """Distributional dispreference optimization: -log S(beta mean over samples y of (lp(y) - lr1(y)) - alpha (lp(l) -
    lr2(l))), l the rejected completion (arXiv:2403.03419).

    Only bad completions are given; the other side is K = N - 1 samples of the policy itself, which the stage `generate`
    appends. With K = 1, alpha = beta and one reference it is DPO in which the sample wins. Samples are averaged, and
    rejected completions counted, by completions["weight"] where a stage filled it.

    Args:
        context: Scores the role and the references.
        batch: Completions [B,N,T].
        beta: Inverse temperature of the samples' side.
        alpha: Inverse temperature of the rejected side.
        rejected: The number of the rejected completion.
        role: What is trained.
        reference_samples: The role of lr1, meant to be a more harmful model.
        reference_rejected: The role of lr2, a more helpful one; both may be one checkpoint.
        normalize: "none" for sums over tokens, "length" for means.

    Returns:
        The mean over prompts in nats, and `ratio_samples`, `ratio_rejected` (nats) and `accuracy`.

    Raises:
        ConfigError: If the batch has no completion beside the rejected one.
    """
    # The samples are averaged as log-ratios before the sigmoid, not after: it is the distribution of samples that wins,
    # not each sample by itself. A prompt without a sample, or without the rejected completion, weighs 0.
    n = batch.need("tokens", of="d2o").shape[1]
    if not 0 <= rejected < n or n < 2:
        raise ConfigError(
            f"d2o needs the rejected completion (number {rejected}) and at least one sample beside it; the batch has "
            f"{n} completions a prompt. Add the stage fn(generate, n=..., ...)"
        )
    present, how = completion_weights(batch), {"role": role, "normalize": normalize}
    _, from_samples = sequence_scores(context, batch, reference=reference_samples, **how)
    _, from_rejected = sequence_scores(context, batch, reference=reference_rejected, **how)
    is_sample = present.at[:, rejected].set(0)
    number = jnp.sum(is_sample, axis=1)
    ratio = jnp.sum(from_samples * is_sample, axis=1) / jnp.where(number > 0, number, 1)
    other = from_rejected[:, rejected]
    weight = present[:, rejected] * (number > 0)
    margin = beta * ratio - alpha * other
    metrics = {"ratio_samples": Mean.of(ratio, weight), "ratio_rejected": Mean.of(other, weight)}
    return Mean.of(-jax.nn.log_sigmoid(margin), weight), metrics | {"accuracy": Mean.of(margin > 0, weight)}
