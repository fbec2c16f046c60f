"""The decorator that turns the math of one graded list into a loss over a batch, and what such math is made of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.losses.decorators.declared import as_loss, check_inputs
from alignjax.losses.decorators.sequences import is_per_token, mask_of, sequence_scores, weighted_rewards
from alignjax.numerics import MASKED
from alignjax.types import Array, Batch, Context, Mean, Metrics

# What the math of a list may ask for by parameter name; each is [B,N] for N completions of a prompt.
FIELDS = {
    "ratio": "log-ratio of a completion: log policy - log reference, summed over its tokens",
    "logps": "log-probability of a completion under the policy, summed",
    "nll": "minus the log-probability, summed over tokens whatever `normalize` says",
    "length": "how many tokens of a completion count (the sum of its mask)",
    "reward": "the grade of a completion, higher is better; equal ones are ties; -inf where it takes no part",
}


# ---------------------------------------------------------------------------------------- pieces of the math of a list


def takes_part(reward: Array) -> Array:
    """Returns [..,N] of rewards [..,N]: which completions are in the list. The others, which have no token that counts
    or of which nothing is known, have a reward of -inf."""
    return reward > -jnp.inf


def beats(reward: Array) -> Array:
    """Returns [..,N,N] of rewards [..,N]: whether i has the higher one. Ties beat nobody, so a pair of equals takes no
    part, and nobody beats who takes no part."""
    return (reward[..., :, None] > reward[..., None, :]) & takes_part(reward)[..., None, :]


def best(reward: Array) -> Array:
    """Returns weights [..,N] of the best of the list, which share 1 equally where several are best."""
    top = (reward == jnp.max(reward, axis=-1, keepdims=True)).astype(reward.dtype)
    return top / jnp.sum(top, axis=-1, keepdims=True)


def mean_rank(*keys: Array) -> Array:
    """Ranks the entries of a list in descending order.

    Args:
        *keys: Numbers [..,N]; the first decides, ties go by the next.

    Returns:
        Ranks [..,N] from 1 on. Entries that are equal in all keys share the mean of their ranks, so that a rank never
        depends on a position.
    """
    above = jnp.zeros((*keys[0].shape, keys[0].shape[-1]), bool)
    equal = jnp.ones_like(above)
    for key in keys:
        above |= equal & beats(key).swapaxes(-1, -2)
        equal &= key[..., :, None] == key[..., None, :]
    dtype = keys[0].dtype
    return 0.5 + jnp.sum(above.astype(dtype) + 0.5 * equal.astype(dtype), axis=-1)  # an entry equals itself


def first_of_worse(exponent: Array, other: Array, worse: Array) -> Array:
    """Computes -log of the probability that i comes first among itself and what is worse.

    Args:
        exponent: Of i [..,N].
        other: Exponents of j as i sees them [..,N,N].
        worse: Which j take part [..,N,N].

    Returns:
        Nats [..,N]; 0 where nothing is worse.
    """
    exponents = jnp.concatenate([exponent[..., None], jnp.where(worse, other, MASKED)], axis=-1)
    return jax.nn.logsumexp(exponents, axis=-1) - exponent


def score_gaps(score: Array) -> Array:
    """Returns s_i - s_j [..,N,N] of scores [..,N]."""
    return score[..., :, None] - score[..., None, :]


# ---------------------------------------------------------------------------------------------------------- objectives
# (score [..,N], reward [..,N]) -> loss per list [..]: what `lipo` chooses from.


def list_mle(score: Array, reward: Array) -> Array:
    """List-MLE: minus the log-probability that drawing without replacement, with probabilities softmax(score), gives
    the order of the rewards. Ties do not compete: each tied completion is compared with itself and what is worse.

    Args:
        score: [..,N].
        reward: [..,N], which orders the completions.

    Returns:
        The loss of each list [..] in nats.
    """
    return jnp.sum(first_of_worse(score, score[..., None, :], beats(reward)), axis=-1)


def pairwise_logistic(score: Array, reward: Array) -> Array:
    """RankNet: sum over pairs with r_i > r_j of log(1 + exp(s_j - s_i)).

    Args:
        score: [..,N].
        reward: [..,N], which orders the completions.

    Returns:
        The loss of each list [..] in nats.
    """
    return jnp.sum(jnp.where(beats(reward), jax.nn.softplus(-score_gaps(score)), 0), axis=(-1, -2))


def softmax_listwise(score: Array, reward: Array) -> Array:
    """Softmax cross-entropy: - sum_i r_i log softmax(s)_i. Rewards are weights and must not be negative; the best
    order is approached in proportion to them, and ties are equal targets.

    Args:
        score: [..,N].
        reward: [..,N], not negative.

    Returns:
        The loss of each list [..] in nats times the reward's unit.
    """
    on = takes_part(reward)
    return -jnp.sum(jnp.where(on, reward, 0) * jax.nn.log_softmax(jnp.where(on, score, MASKED), axis=-1), axis=-1)


def lambda_loss(score: Array, reward: Array) -> Array:
    """LambdaLoss: pairwise logistic terms, each times how much exchanging the pair would change the discounted
    cumulative gain: |2^r_i - 2^r_j| |1/ln(1 + rank_i) - 1/ln(1 + rank_j)|, rank the current order of the scores.

    Weights are constant for the gradient, since ranks come from comparisons. Equal scores are ranked by reward, since
    the ranks of a policy that equals its reference would otherwise depend on positions (or, shared, would make every
    weight and gradient 0).

    Args:
        score: [..,N].
        reward: [..,N], the relevance of each completion.

    Returns:
        The loss of each list [..].
    """
    # 2^60 leaves room for sums in float32; labels that large order the list by their best alone.
    gain = jnp.exp2(jnp.minimum(reward, 60))
    discount = 1 / jnp.log1p(mean_rank(jnp.where(takes_part(reward), score, -jnp.inf), reward))
    weight = jnp.abs(score_gaps(gain) * score_gaps(discount))
    return jnp.sum(jnp.where(beats(reward), weight * jax.nn.softplus(-score_gaps(score)), 0), axis=(-1, -2))


# ----------------------------------------------------------------------------------------------------------- decorator


def _list_fields(
    context: Context, batch: Batch, *, role: str, reference: str | None, normalize: str
) -> dict[str, Array]:
    """Computes all FIELDS [B,N]; without a reference the ratio is the log-probability. All but the reward are 0 where a
    completion takes no part."""
    reward, weight = weighted_rewards(batch, "a listwise loss", -jnp.inf)
    logps, ratio = sequence_scores(context, batch, role=role, reference=reference, normalize=normalize)
    length = jnp.sum(mask_of(batch), axis=-1).astype(logps.dtype)
    nll = -logps * (jnp.maximum(length, 1) if is_per_token(normalize) else 1)
    fields = {"ratio": ratio, "logps": logps, "nll": nll, "length": length}
    numbers = {name: jnp.where(weight != 0, values, 0) for name, values in fields.items()}
    return numbers | {"reward": reward.astype(logps.dtype)}


def list_metrics(fields: dict[str, Array], weight: Array) -> Metrics:
    """Returns how well the policy's order (of log-ratios, or of log-probs without a reference) agrees with the rewards:
    `accuracy` over all pairs that differ in reward, `kendall` the mean over lists of Kendall's tau on them, `best_hit`
    how often the policy's first is one of the best; and where log-probs drift, in nats.

    Args:
        fields: `FIELDS` of the lists, [..,N] each.
        weight: [..], 0 for a list that does not count.

    Returns:
        The five metrics.
    """
    score, reward = fields["ratio"], fields["reward"]
    gap = score_gaps(score)
    differs = beats(reward) * weight[..., None, None]
    pairs = jnp.sum(differs, axis=(-1, -2))
    tau = jnp.sum(differs * jnp.sign(gap), axis=(-1, -2)) / jnp.maximum(pairs, 1)
    on = takes_part(reward)
    first, top = best(jnp.where(on, score, -jnp.inf)), best(reward)
    return {
        "accuracy": Mean.of((gap > 0) + 0.5 * (gap == 0), differs),
        "kendall": Mean.of(tau, (pairs > 0).astype(score.dtype)),
        "best_hit": Mean.of(jnp.sum(first * (top > 0), axis=-1), weight * (pairs > 0)),
        "chosen_logps": Mean.of(jnp.sum(top * fields["logps"], axis=-1), weight),
        "rejected_logps": Mean.of(fields["logps"], (on & (top == 0)) * weight[..., None]),
    }


def listwise(per_list: Callable[..., Array] | None = None, **defaults: Any) -> Any:
    """Makes a Loss of a function of one list: `@listwise`, or `@listwise(reference=None, normalize="length")`.

    The decorator owns masks and the (sum, weight) of the mean: one mean over lists. A completion without a token that
    counts, or of which nothing is known (completions["weight"] 0), takes no part in its list: its reward is -inf and
    its other numbers are 0, so that `beats`, `best` and the objectives pass over it, and math of yours leaves it out
    with `takes_part(reward)`. A weight between 0 and 1 counts as 1. A list of which nothing is left is left out. The
    loss gains three hyper-parameters: role, reference and normalize, as those of `pairwise`. It raises a ConfigError if
    the batch has no reward.

    Args:
        per_list: The math. Its positional parameters name what it reads (see `FIELDS`; all [..,N]), its keyword-only
            parameters are the hyper-parameters, and it returns a loss per list [..].
        **defaults: Other defaults of the three hyper-parameters.

    Returns:
        The loss; the math stays reachable as `loss.per_list`.

    Raises:
        ConfigError: If the math asks for what a list does not have.
    """
    # The wrapper reads the names of the math's parameters once, here, so that a misspelled field fails when the loss is
    # defined and not inside a traced step.
    if per_list is None:
        return functools.partial(listwise, **defaults)
    math = per_list
    inputs = check_inputs(math, FIELDS, f"a list has {', '.join(FIELDS)}")

    def evaluate(context: Context, batch: Batch, where: Any, hyper: Any) -> tuple[Mean, Metrics]:
        fields = _list_fields(context, batch, **where)
        weight = jnp.any(takes_part(fields["reward"]), axis=-1).astype(fields["ratio"].dtype)
        values = math(*[fields[name] for name in inputs], **hyper)
        return Mean.of(values, weight), list_metrics(fields, weight)

    return as_loss(math, evaluate, ("role", "reference", "normalize"), defaults, per_list=math, needs=("reward",))
