"""Losses of reward models beyond one score and a winner: ties, rankings, steps, several attributes, costs, and
SteerLM's policy."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses.decorators.declared import needs
from alignjax.losses.decorators.listwise import list_metrics, list_mle, takes_part
from alignjax.losses.decorators.pairwise import Pairs, pair_indices, pair_labels
from alignjax.losses.decorators.sequences import (
    completion_weights,
    mask_of,
    reference_logps,
    scored,
    sequence_logps,
    weighted_rewards,
)
from alignjax.losses.supervised import cross_entropy
from alignjax.numerics import MASKED, last_valid, step_ends
from alignjax.ranges import Natural, NonNegative, Positive
from alignjax.types import Array, Batch, Context, Mean, Metrics


def _rewards(context: Context, batch: Batch, role: str, loss: str) -> Array:
    """The reward head [B,N] after the last token of each completion."""
    return last_valid(scored(context, batch, f"{role}:reward"), batch.need("valid", of=loss))


@needs("preference")
def davidson(
    context: Context, batch: Batch, *, role: str = "reward", pairs: Pairs = ((0, 1),), nu: Positive = 1.0
) -> tuple[Mean, Metrics]:
    """Cross-entropy of a reward model with ties: P(i wins) = e^r_i / Z, P(tie) = nu e^((r_i + r_j)/2) / Z, Z their sum
    (Davidson 1970, doi:10.1080/01621459.1970.10481082).

    A label p is what i is expected to score, a tie being 1/2: 1 is a win, 1/2 a tie, and between them lies a mixture of
    those two. nu near 0 is `bradley_terry` on pairs without ties.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T] with a preference [B,N,N].
        role: The reward model; r is its "reward" head after the last token of a completion.
        pairs: Which completions are compared.
        nu: Odds of a tie between equals against a win of one of them.

    Returns:
        The mean over pairs in nats, weighted by `pair_weight`; `accuracy`, `margin` (nats), the mean `reward`, and
        `tie_probability`, what the model gives to ties.

    Raises:
        ConfigError: If the batch has no preference, or not the completions that `pairs` names.
    """
    i, j = pair_indices(batch, pairs)
    label, weight = pair_labels(batch, i, j)
    reward = _rewards(context, batch, role, "davidson")
    half = jnp.where(weight != 0, reward[:, i] - reward[:, j], 0) / 2
    scores = jnp.stack([half, jnp.full_like(half, 0) + jnp.log(nu), -half])  # i wins, a tie, j wins; up to a constant
    logps = jax.nn.log_softmax(scores, axis=0)
    shares = jnp.stack([jnp.maximum(2 * label - 1, 0), 1 - jnp.abs(2 * label - 1), jnp.maximum(1 - 2 * label, 0)])
    metrics = cross_entropy(2 * half, label, weight)[1]
    more = {"reward": Mean.of(reward), "tie_probability": Mean.of(jnp.exp(logps[1]), weight)}
    return Mean.of(-jnp.sum(shares * logps, axis=0), weight), metrics | more


@needs("reward")
def plackett_luce_reward(context: Context, batch: Batch, *, role: str = "reward") -> tuple[Mean, Metrics]:
    """Minus the log-probability of a ranking under a reward model: - sum over i of log [e^r_i / sum over {i} and the
    worse j of e^r_j], the order being that of the grades (Plackett 1975, doi:10.2307/2346567; K-wise comparisons,
    arXiv:2301.11270).

    Two completions are Bradley-Terry on the pair. Completions of one grade do not compete with each other.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T] with their grades in reward [B,N]; completions["weight"] 0 leaves one out.
        role: The reward model; r is its "reward" head after the last token of a completion.

    Returns:
        The mean over lists in nats; `accuracy`, `kendall` and `best_hit` as of listwise losses.

    Raises:
        ConfigError: If the batch has no reward.
    """
    grade, weight = weighted_rewards(batch, "plackett_luce_reward", -jnp.inf)
    score = jnp.where(weight != 0, _rewards(context, batch, role, "plackett_luce_reward"), 0)
    lists = jnp.any(takes_part(grade), axis=-1).astype(score.dtype)
    metrics = list_metrics({"ratio": score, "logps": score, "reward": grade}, lists)
    shown = {name: metrics[name] for name in ("accuracy", "kendall", "best_hit")}
    return Mean.of(list_mle(score, grade), lists), shown


@needs("reward")  # or labels of steps, which hold all of it
def process_supervision(
    context: Context, batch: Batch, *, role: str = "reward", separators: tuple[Natural, ...] = ()
) -> tuple[Mean, Metrics]:
    """Cross-entropy of a process reward model: - sum over labeled steps of s log S(r) + (1-s) log S(-r), r read after
    the last token of the step (arXiv:2305.20050; soft labels s, arXiv:2312.08935).

    Rows that hold a step's label behind all steps up to it (layout `stepwise`) and one row with the labels of all its
    steps give the same sum. `stages.process_reward` makes a reward of r.

    Args:
        context: Scores the role.
        batch: Completions [B,N,T]; completions["step_label"] [B,N,T] holds s where a step ends, NaN where nobody
            judged. Without it reward [B,N] is the label of the last step, as the source `thumbs` fills it.
        role: The reward model.
        separators: The tokens between steps, and that which closes a completion, see `numerics.step_ends`.

    Returns:
        The mean over labeled steps in nats, weighted by completions["weight"]; `accuracy`, `margin` (nats), and
        `steps`, those labeled in a completion.

    Raises:
        ConfigError: If the batch has neither.
    """
    valid = batch.need("valid", of="process_supervision")
    ends = step_ends(batch.need("tokens", of="process_supervision"), valid, separators)
    label = batch.completions.get("step_label")
    if label is None:
        after = jnp.cumsum(ends[..., ::-1], axis=-1)[..., ::-1]  # ends from here on
        last = batch.need("reward", of='process_supervision without completions["step_label"]')
        label = jnp.where(ends & (after == 1), last[..., None], jnp.nan)
    weight = jnp.where(ends & ~jnp.isnan(label), completion_weights(batch)[..., None], 0)
    known = weight != 0
    logit = jnp.where(known, scored(context, batch, f"{role}:reward"), 0)
    loss, metrics = cross_entropy(logit, jnp.where(known, label, 0.5), weight)
    return loss, metrics | {"steps": Mean.of(jnp.sum(known, axis=-1).astype(logit.dtype), jnp.any(valid, axis=-1))}


@needs("completions")
def attribute_regression(
    context: Context, batch: Batch, *, output: str = "reward:classes", attributes: tuple[str, ...] = ("quality",)
) -> tuple[Mean, Metrics]:
    """Regression of several attributes of a completion: sum_a m_a (f_a - s_a)^2 / sum_a m_a, m_a 0 where a label is
    missing (HelpSteer2, arXiv:2406.08673). `score_regression` is that of one.

    Args:
        context: Scores the head.
        batch: Completions [B,N,T]; completions[name] [B,N], or where a row has one completion prompts[name] [B], holds
            the attribute `name`, NaN where it is missing.
        output: The head f, as many numbers as attributes, read after the last token.
        attributes: Their names, in the order of the head's numbers.

    Returns:
        The mean over labels in squared units; `error_NAME`, the mean error of each attribute without its sign.

    Raises:
        ConfigError: If there is no such attribute, or the head has another number of numbers.
    """
    # One mean over all labels of the batch, so that neither microbatches nor missing labels change what one counts.
    valid = batch.need("valid", of="attribute_regression")
    values = scored(context, batch, output)
    numbers = values.reshape(*valid.shape, -1)
    if numbers.shape[-1] != len(attributes):
        raise ConfigError(
            f"attribute_regression: {output} gives {numbers.shape[-1]} numbers for {len(attributes)} attributes"
        )
    final = jnp.stack([last_valid(numbers[..., k], valid) for k in range(len(attributes))], axis=-1)
    target = jnp.stack([_attribute(batch, name, valid.shape[1]) for name in attributes], axis=-1)
    counts = ~jnp.isnan(target) & jnp.any(valid, axis=-1)[..., None]
    error = final - jnp.where(counts, target, 0)
    sizes = {f"error_{name}": Mean.of(jnp.abs(error[..., k]), counts[..., k]) for k, name in enumerate(attributes)}
    return Mean.of(jnp.square(error), counts), sizes


def _attribute(batch: Batch, name: str, completions: int) -> Array:
    """An attribute of every completion [B,N]."""
    if completions == 1 and name in batch.prompts:
        return batch.prompts[name][:, None]
    return batch.need("completions", name, of="attribute_regression")


@needs("preference", "completions")
def cost_model(
    context: Context,
    batch: Batch,
    *,
    role: str = "cost",
    pairs: Pairs = ((0, 1),),
    weight: NonNegative = 1.0,
    safe: str | tuple[str, ...] = "safe",
) -> tuple[Mean, Metrics]:
    """Cross-entropy of a cost model, whose sign says what is harmful: -log S(C_l - C_w) - weight [log S(s_l C_l) + log
    S(s_w C_w)], w the safer of two, s = -1 where safe and 1 where harmful (Safe RLHF, arXiv:2310.12773 section 3.2).

    So costs compare completions as a reward model does, and 0 is the border between safe and harmful: the limit of
    `algorithms.safe_rlhf`. (The paper calls the more harmful one w.)

    Args:
        context: Scores the role.
        batch: Completions [B,N,T] with a preference [B,N,N] for the safer.
        role: The cost model; C is its "reward" head after the last token of a completion.
        pairs: Which completions are compared.
        weight: Of the signs; the paper's is 1.
        safe: Says who is safe, 1, or harmful, 0, or the probability of it, NaN where it is not known: completions[safe]
            [B,N], or prompts[name] [B] of a name for each completion.

    Returns:
        The mean over pairs in nats, weighted by `pair_weight`; `accuracy` and `margin` (nats) of the pairs,
        `sign_accuracy` and the mean `cost` of completions.

    Raises:
        ConfigError: If the batch has no preference, or not the completions that `pairs` names; or nothing says who is
            safe.
    """
    i, j = pair_indices(batch, pairs)
    label, counts = pair_labels(batch, i, j)
    cost = _rewards(context, batch, role, "cost_model")
    first, second = (jnp.where(counts != 0, cost[:, side], 0) for side in (i, j))
    ranked, metrics = cross_entropy(second - first, label, counts)
    safety, total, seen = _safety(batch, safe, cost.shape[1]), ranked.total, []
    for side, value in ((i, first), (j, second)):
        known = safety[:, side]
        label = jnp.where(jnp.isnan(known), 0.5, known)
        signs, measured = cross_entropy(-value, label, counts * ~jnp.isnan(known))
        total += weight * signs.total
        seen.append(measured["accuracy"])
    both = Mean(seen[0].total + seen[1].total, seen[0].weight + seen[1].weight)
    return Mean(total, ranked.weight), metrics | {"sign_accuracy": both, "cost": Mean.of(cost)}


def _safety(batch: Batch, safe: str | tuple[str, ...], completions: int) -> Array:
    """How safe every completion is [B,N]."""
    if isinstance(safe, str):
        return batch.need("completions", safe, of="cost_model")
    if len(safe) != completions:
        raise ConfigError(f"cost_model(safe={safe!r}) names {len(safe)} columns for {completions} completions")
    return jnp.stack([batch.need("prompts", name, of="cost_model") for name in safe], axis=-1)


@needs("reward")
def steerlm(
    context: Context, batch: Batch, *, role: str = "policy", prior: str = "prior", proposal: str = "sampler"
) -> tuple[Mean, Metrics]:
    """SteerLM 2.0: sum_i sg(w_i - b_i) NLL(y_i) / mean length, w = softmax_i(log P(a|x,y_i) + log P(y_i|x) -
    log Q'(y_i)), b = softmax_i(log Q(y_i) - log Q'(y_i)) (arXiv:2406.08673; b as in the released code).

    b is the self-normalized estimate of E_Q[grad log Q] = 0, a control variate: the gradient is 0 exactly where the
    policy Q, conditioned on the attributes a in the prompt, weighs the samples as P(y|a,x) does.

    Args:
        context: Scores the role and, unless the batch has their log-probs, the prior.
        batch: N samples [B,N,T] of Q' with log P(a|x,y) in reward [B,N] (an attribute predictor's).
        role: Q, what is trained.
        prior: P(y|x): a role, or a name in batch.logps.
        proposal: Q', what was sampled from: a name in batch.logps, or a role.

    Returns:
        The mean over groups; `distance`, KL(w || b) in nats, which falls to 0.

    Raises:
        ConfigError: If the batch has no reward.
    """
    # Sums over long completions differ by many nats, so that all weights are taken in log space.
    judged, weight = weighted_rewards(batch, "steerlm", 0.0)
    mask = mask_of(batch)
    logps = sequence_logps(scored(context, batch, role), mask)
    before, drawn = (sequence_logps(reference_logps(context, batch, name), mask) for name in (prior, proposal))
    takes = weight != 0
    wanted, current = (
        jax.nn.log_softmax(jnp.where(takes, logits, MASKED), axis=-1)
        for logits in (judged + before - drawn, jax.lax.stop_gradient(logps) - drawn)
    )
    gap = jnp.where(takes, jnp.exp(wanted) - jnp.exp(current), 0)
    groups = jnp.any(takes, axis=-1).astype(logps.dtype)
    length = jnp.sum(jnp.where(takes, jnp.sum(mask, axis=-1), 0), axis=-1) / jnp.maximum(jnp.sum(takes, axis=-1), 1)
    loss = -jnp.sum(jax.lax.stop_gradient(gap) * jnp.where(takes, logps, 0), axis=-1) / jnp.maximum(length, 1)
    distance = jnp.sum(jnp.where(takes, jnp.exp(wanted) * (wanted - current), 0), axis=-1)
    return Mean.of(loss, groups), {"distance": Mean.of(distance, groups)}
