"""Losses on single completions that were found good or bad: `batch.reward` [B,N] is the probability z in [0, 1] that a
completion is good. The loss of a soft label is z l(good) + (1-z) l(bad); completions that are all padding do not
count."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError, nearest
from alignjax.losses.decorators.pairwise import mask_of, reference_logps, sequence_logps
from alignjax.losses.decorators.unpaired import Completions, completion_fields, counted, labels, mixed, ratio_metrics
from alignjax.numerics import first_valid
from alignjax.types import Array, Batch, Context, Mean, Metrics

__all__ = ["apo_zero_unpaired", "bco", "d2o", "kto", "pointwise_dpo", "prompt_classifier", "ulma"]


def pointwise_dpo(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    shift: float = 0.0,
    role: str = "policy",
    reference: str | None = "reference",
    normalize: str = "none",
) -> tuple[Mean, Metrics]:
    """Point-wise DPO: -z log S(beta rho - shift) - (1-z) log S(shift - beta rho), z the label (arXiv:2312.02554).

    Nats per completion. beta: inverse temperature of the log-ratio; shift: a constant that stands for the log of the
    partition function. Minimised at rho = (logit(z) + shift) / beta. The form is our derivation from DPO's implicit
    reward as the logit of a label. Raises ConfigError if the batch has no reward.
    """
    given = completion_fields(context, batch, loss="pointwise_dpo", role=role, reference=reference, normalize=normalize)
    logit = beta * given.ratio - shift
    value = mixed(given, -jax.nn.log_sigmoid(logit), -jax.nn.log_sigmoid(-logit))
    return Mean.of(value, given.weight), ratio_metrics(given)


def _prospect(given: Completions, logit: Array, lam_desirable: float, lam_undesirable: float) -> Array:
    """lam_D S(-logit) for good completions, lam_U S(logit) for bad ones."""
    return mixed(given, lam_desirable * jax.nn.sigmoid(-logit), lam_undesirable * jax.nn.sigmoid(logit))


def kto(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    lam_desirable: float = 1.0,
    lam_undesirable: float = 1.0,
    role: str = "policy",
    reference: str = "reference",
    normalize: str = "none",
) -> tuple[Mean, Metrics]:
    """Kahneman-Tversky optimisation: z lam_D (1 - S(beta (rho - k))) + (1-z) lam_U (1 - S(beta (k - rho))), z the
    label, k = sg max(0, mean of rho over mismatched pairs) (arXiv:2402.01306).

    k estimates KL(policy || reference) in nats, one number for the batch of all devices: every completion is scored
    under the prompt of the next row, by both models, in a pass of its own. Rows that share a prompt are not mismatched,
    so keep prompts of a batch different. beta: inverse temperature of rho - k; lam_desirable, lam_undesirable: weights
    of good and bad completions, chosen to balance their numbers. Bounded, so one hopeless example stops pulling.

    Raises ConfigError if the batch has no reward, or a single row, which has nothing to be mismatched with.
    """
    given = completion_fields(context, batch, loss="kto", role=role, reference=reference, normalize=normalize)
    kl = _mismatched_kl(context, batch, role, reference, normalize)
    value = _prospect(given, beta * (given.ratio - kl), lam_desirable, lam_undesirable)
    return Mean.of(value, given.weight), ratio_metrics(given) | {"kl": Mean.of(kl)}


def _mismatched_kl(context: Context, batch: Batch, role: str, reference: str, normalize: str) -> Array:
    """max(0, mean log-ratio of completions under the prompt of the next row), a constant for the gradient."""
    assert batch.tokens is not None
    if batch.tokens.shape[0] < 2:
        raise ConfigError(
            "kto estimates its KL from completions under the prompts of other rows and got a batch of one row; use a "
            "batch size (rows per minibatch) of at least 2"
        )

    def rolled(leaf: Array) -> Array:
        return jnp.roll(leaf, 1, axis=0)

    mask = rolled(mask_of(batch))
    other = Batch(
        prompt=batch.prompt,
        prompt_valid=batch.prompt_valid,
        tokens=rolled(batch.tokens),
        valid=None if batch.valid is None else rolled(batch.valid),
        mask=mask,
        example_id=batch.example_id,
        prompts=batch.prompts,
        completions=jax.tree.map(rolled, batch.completions),
    )
    scored = context.score((role, reference), other)
    own, against = (sequence_logps(jax.lax.stop_gradient(scored[name]), mask, normalize) for name in (role, reference))
    return jnp.maximum(Mean.of(own - against, counted(other)).value(), 0)


def apo_zero_unpaired(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    lam_desirable: float = 1.0,
    lam_undesirable: float = 1.0,
    role: str = "policy",
    reference: str | None = "reference",
    normalize: str = "none",
) -> tuple[Mean, Metrics]:
    """APO-zero on single completions: z lam_D (1 - S(beta rho)) + (1-z) lam_U S(beta rho), z the label
    (arXiv:2408.06266; unpaired as in TRL).

    KTO with k = 0. beta: inverse temperature of the log-ratio; lam_desirable, lam_undesirable: weights of good and bad
    completions. Linear in z, so the likelihood of any completion with z above lam_U / (lam_D + lam_U) rises without
    end. Raises ConfigError if the batch has no reward.
    """
    given = completion_fields(
        context, batch, loss="apo_zero_unpaired", role=role, reference=reference, normalize=normalize
    )
    value = _prospect(given, beta * given.ratio, lam_desirable, lam_undesirable)
    return Mean.of(value, given.weight), ratio_metrics(given)


def bco(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    shift: str | None = "shift",
    pooled: bool = False,
    min_density_ratio: float = 0.5,
    max_density_ratio: float = 10.0,
    role: str = "policy",
    reference: str | None = "reference",
    normalize: str = "none",
) -> tuple[Mean, Metrics]:
    """Binary classifier optimisation: -z log S(beta rho - d) - (1-z) w log S(d - beta rho), z the label, d the running
    beta (E[rho | good] + E[rho | bad]) / 2, w a clipped density ratio of prompts (arXiv:2404.04656).

    Nats per completion. d is constant for the gradient and counts this batch too. `shift` names the state role that
    remembers earlier batches: Role(None, start=roles.zero_means("ratio_good", "ratio_bad"), rule=fn(roles.running_mean,
    of="bco", decay=0.99)); shift=None uses this batch alone. A class that was never seen is left out of d.
    pooled=True takes the mean of all log-ratios, good and bad, as TRL does; the two agree on balanced batches.
    w is batch.prompts["density_ratio"] [B] (good over bad prompts, see the stage `density_ratio`), clipped to
    [min_density_ratio, max_density_ratio]; 1 where the batch has none. Like TRL it enters the sum and not the count.

    Twice this loss on a pair with hard labels is an upper bound of DPO whatever d is. Raises ConfigError if the batch
    has no reward, or there is no such role.
    """
    given = completion_fields(context, batch, loss="bco", role=role, reference=reference, normalize=normalize)
    metrics = ratio_metrics(given)
    d = jax.lax.stop_gradient(beta * _centre(context, metrics, shift, pooled))
    logit = beta * given.ratio - d
    density = batch.prompts.get("density_ratio")
    w = 1.0 if density is None else jnp.clip(density, min_density_ratio, max_density_ratio)[:, None].astype(logit.dtype)
    value = mixed(given, -jax.nn.log_sigmoid(logit), -w * jax.nn.log_sigmoid(-logit))
    return Mean.of(value, given.weight), metrics | {"shift": Mean.of(d)}


def _centre(context: Context, metrics: Metrics, shift: str | None, pooled: bool) -> Array:
    """The running mean log-ratio, of the means of good and of bad completions or of all together; nats."""
    means = [metrics["ratio_good"], metrics["ratio_bad"]]
    if shift is not None:
        if shift not in context.state:
            raise ConfigError(
                f"bco has no state role {shift!r} for its running shift.{nearest(shift, context.state)} Add one (its "
                "docstring says how), or set shift=None to use each batch's own"
            )
        kept = context.state[shift]
        old = (kept["ratio_good"], kept["ratio_bad"])
        means = [Mean(a.total + b.total, a.weight + b.weight) for a, b in zip(means, old, strict=True)]
    good, bad = means
    if pooled:
        return Mean(good.total + bad.total, good.weight + bad.weight).value()
    seen = jnp.stack([good.weight > 0, bad.weight > 0])
    return Mean.of(jnp.stack([good.value(), bad.value()]), seen).value()


def prompt_classifier(context: Context, batch: Batch, *, output: str = "classifier:value") -> tuple[Mean, Metrics]:
    """Classifier of prompts, for the weights of BCO: -z log S(v) - (1-z) log S(-v), z the label of the completion, v a
    head's number after the prompt (arXiv:2404.04656).

    Nats per completion. output: a role and a head of it that reads the state before a token; at the first token that is
    the prompt alone. The paper fits a logistic regression on a text embedding; here a head stands on a role of its own,
    trained beside the policy or in an earlier step. Raises ConfigError if the batch has no reward.
    """
    label, weight = labels(batch, "prompt_classifier")
    assert batch.valid is not None
    logit = first_valid(context.score(output, batch)[output], batch.valid)
    label = label.astype(logit.dtype)
    value = -(label * jax.nn.log_sigmoid(logit) + (1 - label) * jax.nn.log_sigmoid(-logit))
    right = jnp.where(logit == 0, 0.5, (logit > 0) == (label > 0.5))
    return Mean.of(value, weight), {"accuracy": Mean.of(right, weight * (label != 0.5))}


def ulma(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    shift: float = 0.0,
    lam: float = 1.0,
    pooled: bool = False,
    role: str = "policy",
    reference: str | None = "reference",
    normalize: str = "length",
) -> tuple[Mean, Metrics]:
    """Unified language model alignment: lam mean of (-lp / len) over good + mean of -log S(-beta rho / len - shift)
    over bad completions (arXiv:2312.02554).

    Good completions are imitated, bad ones pushed below the reference. Weights of the two means are z and 1-z, so the
    balance of the classes does not matter and a class that is missing counts 0; pooled=True is one mean over all
    completions instead. lam: weight of the imitation (beta is another choice of released code); shift: a constant that
    stands for the log of the partition function. The token means are those of code that carries the authors' names, not
    of a derivation, which has sums: normalize="none". Raises ConfigError if the batch has no reward.
    """
    given = completion_fields(context, batch, loss="ulma", role=role, reference=reference, normalize=normalize)
    good, bad = -lam * given.logps, -jax.nn.log_sigmoid(-beta * given.ratio - shift)
    if pooled:
        return Mean.of(mixed(given, good, bad), given.weight), ratio_metrics(given)
    means = Mean.of(good, given.weight * given.label), Mean.of(bad, given.weight * (1 - given.label))
    total = means[0].value() + means[1].value()
    return Mean(total, jnp.ones_like(total)), ratio_metrics(given) | {"good": means[0], "bad": means[1]}


def d2o(
    context: Context,
    batch: Batch,
    *,
    beta: float = 0.1,
    alpha: float = 0.1,
    rejected: int = 0,
    role: str = "policy",
    reference_samples: str = "reference",
    reference_rejected: str = "reference",
    normalize: str = "none",
) -> tuple[Mean, Metrics]:
    """Distributional dispreference optimisation: -log S(beta mean over samples y of (lp(y) - lr1(y)) - alpha (lp(l) -
    lr2(l))), l the rejected completion (arXiv:2403.03419).

    Only bad completions are given; the other side is K = N - 1 samples of the policy itself, which the stage `generate`
    appends, so `rejected` is 0. Nats per prompt. beta, alpha: inverse temperatures of the two sides. lr1 is the role
    reference_samples, meant to be a more harmful model, lr2 the role reference_rejected, a more helpful one; both may
    be one checkpoint. With K = 1, alpha = beta and one reference it is DPO in which the sample wins.

    Raises ConfigError if the batch has no completion beside the rejected one.
    """
    assert batch.tokens is not None
    n = batch.tokens.shape[1]
    if not 0 <= rejected < n or n < 2:
        raise ConfigError(
            f"d2o needs the rejected completion (number {rejected}) and at least one sample beside it; the batch has "
            f"{n} completions a prompt. Add the stage fn(generate, n=..., ...)"
        )
    mask, there = mask_of(batch), counted(batch)
    (scored,) = context.score(role, batch).values()
    own = sequence_logps(scored, mask, normalize)
    against = {
        name: sequence_logps(reference_logps(context, batch, name), mask, normalize)
        for name in (reference_samples, reference_rejected)
    }
    of_sample = there * (jnp.arange(n) != rejected)
    number = jnp.sum(of_sample, axis=1)
    ratio = jnp.sum((own - against[reference_samples]) * of_sample, axis=1) / jnp.maximum(number, 1)
    other = own[:, rejected] - against[reference_rejected][:, rejected]
    weight = there[:, rejected] * (number > 0)
    margin = beta * ratio - alpha * other
    metrics = {"ratio_samples": Mean.of(ratio, weight), "ratio_rejected": Mean.of(other, weight)}
    return Mean.of(-jax.nn.log_sigmoid(margin), weight), metrics | {"accuracy": Mean.of(margin > 0, weight)}
