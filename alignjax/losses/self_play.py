"""Losses of self-play whose target is a step from an earlier policy. On one role's own samples, labeled by a judge."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.losses.decorators.declared import needs, shared
from alignjax.losses.decorators.sequences import reference_logps, sequence_scores, weighted_rewards
from alignjax.losses.margin import ipo
from alignjax.ranges import Fraction, NonNegative, Positive
from alignjax.types import Array, Batch, Context, Mean, Metrics


@needs("preference")
@shared("role", "pairs")
def mnpo(
    context: Context,
    batch: Batch,
    *,
    eta: Positive = 0.0075,
    c: Fraction = 1 / 3,
    history: tuple[str, ...] = ("past1", "past2"),
    weights: tuple[NonNegative, ...] | None = None,
    reference: str = "reference",
    **where: Any,
) -> tuple[Mean, Metrics]:
    """MNPO, multiplayer Nash preference optimization: (D(pi) - c D(ref) - (1-c) sum_j w_j D(past_j) -
    (2p-1) / (2 eta))^2, D = log-prob of i minus that of j (arXiv:2509.23102).

    That is IPO against the geometric mean of the reference and earlier policies, on sequence sums. The paper labels
    with a draw (p = 1), which a soft label replaces with the same expected gradient. On pairs of samples of the newest
    opponent it is minimized at reference^c past^(1-c) exp(P(. beats newest) / eta), so a policy that no round moves is
    the equilibrium regularized by tau = c eta; whether rounds get there depends on eta. As in the released code an
    empty history leaves c D(ref) alone.

    Args:
        context: Scores the role, the reference and the history.
        batch: Samples [B,N,T] with a preference [B,N,N].
        eta: Strength of the pull towards the mean of the anchors.
        c: The reference's share of it.
        history: The roles (or names in batch.logps) of past policies, newest first, one for each opponent.
        weights: How much each opponent counts, divided by their sum (equal if not given).
        reference: The other anchor.
        **where: role and pairs, see `declared.shared`.

    Returns:
        The mean over pairs in nats^2, and the metrics of pairs against the mean of the anchors.

    Raises:
        ConfigError: If there are not as many weights as opponents, they do not sum to a positive number, or the batch
            has no preference.
    """
    # A weighted mean of log-probs is itself a reference, so all anchors are folded into one and the loss is IPO on it:
    # one code path for any number of opponents.
    share = (1.0,) * len(history) if weights is None else weights
    if len(share) != len(history) or (history and not sum(share) > 0):
        raise ConfigError(f"mnpo has history={history} and weights={weights}; give every opponent a weight")
    anchor = c * reference_logps(context, batch, reference)
    for name, weight in zip(history, share, strict=True):
        anchor = anchor + (1 - c) * (weight / sum(share)) * reference_logps(context, batch, name)
    return ipo(context, batch.with_logps(anchor=anchor), tau=eta, reference="anchor", **where)


@needs("preference")
@shared("role", "pairs")
def inpo(
    context: Context,
    batch: Batch,
    *,
    eta: Positive = 0.002,
    c: Fraction = 1 / 3,
    reference: str = "reference",
    previous: str = "previous",
    **where: Any,
) -> tuple[Mean, Metrics]:
    """INPO, iterative Nash policy optimization: (D(pi) - c D(ref) - (1-c) D(previous) - (2p-1) / (2 eta))^2, D =
    log-prob of i minus that of j (arXiv:2407.00617).

    MNPO with one opponent, the previous policy, on sequence sums. c = 0 is IPO around the previous policy (mirror
    descent without regularization), c = 1 online IPO at tau = eta. eta is what the script of COMAL's repository runs
    (a target of 250 nats); the 0.1 of its argument parser is not, and the repository is not that of INPO's authors.

    Args:
        context: Scores the role, the reference and the previous policy.
        batch: Samples [B,N,T] with a preference [B,N,N].
        eta: Strength of the pull towards the mean of the two anchors, the inverse of a step size.
        c: tau / eta, the reference's share, so that the game solved is regularized by tau = c eta.
        reference: One anchor.
        previous: The role of the other.
        **where: role and pairs, see `declared.shared`.

    Returns:
        The mean over pairs in nats^2, and the metrics of pairs against the mean of the anchors.

    Raises:
        ConfigError: If the batch has no preference, or not the completions that `pairs` names.
    """
    # One opponent is the general game with a history of one, so nothing is computed here.
    return mnpo(context, batch, eta=eta, c=c, history=(previous,), reference=reference, **where)


@needs("reward")
def sppo(
    context: Context,
    batch: Batch,
    *,
    eta: Positive = 1000.0,
    completions: str = "extremes",
    role: str = "policy",
    reference: str = "previous",
) -> tuple[Mean, Metrics]:
    """SPPO, self-play preference optimization: mean of (rho_i - eta (r_i - 1/2))^2 over the best and the worst
    completion, r the win rate (arXiv:2405.00675).

    A multiplicative-weights step whose normalizer is taken to be exp(eta / 2), hence the 1/2. Released code counts a
    sample as an opponent of itself, which shrinks r - 1/2 by (N-1) / N.

    Args:
        context: Scores the role and the previous policy.
        batch: Samples [B,N,T]; reward [B,N] is the probability of beating the previous policy, estimated on the
            prompt's other samples (the stage `win_rate_against`).
        eta: Step size, in nats per unit of win rate.
        completions: "extremes" takes the first of the best and the last of the worst, as the released code; "all" takes
            every one.
        role: What is trained.
        reference: The previous policy.

    Returns:
        The mean over completions in nats^2; `log_ratio` (nats) and `reward`.

    Raises:
        ConfigError: If the batch has no reward, or for other `completions`.
    """
    # Completions that are not chosen weigh 0 instead of being dropped, so shapes stay fixed under jit; a padded
    # completion reads the neutral win rate 1/2.
    win_rate, weight = weighted_rewards(batch, "sppo", 0.5)
    if completions == "extremes":
        chosen = weight * _extremes(win_rate, weight)
    elif completions == "all":
        chosen = weight
    else:
        raise ConfigError(f"completions={completions!r}; it must be 'extremes' (best and worst) or 'all'")
    _, ratio = sequence_scores(context, batch, role=role, reference=reference)
    metrics = {"log_ratio": Mean.of(ratio, chosen), "reward": Mean.of(win_rate, weight)}
    return Mean.of(jnp.square(ratio - eta * (win_rate - 0.5)), chosen), metrics


def _extremes(reward: Array, weight: Array) -> Array:
    """1 at the first of the best and at the last of the worst completions of each prompt, else 0."""
    best = jnp.argmax(jnp.where(weight != 0, reward, -jnp.inf), axis=1)
    last_first = jnp.flip(jnp.where(weight != 0, reward, jnp.inf), axis=1)
    worst = reward.shape[1] - 1 - jnp.argmin(last_first, axis=1)
    return jnp.maximum(*(jax.nn.one_hot(which, reward.shape[1], dtype=weight.dtype) for which in (best, worst)))


@needs("reward")
@shared("role", "reference", "pairs", "normalize")
def egpo(context: Context, batch: Batch, *, tau: Positive = 0.1, **where: Any) -> tuple[Mean, Metrics]:
    """Regression onto win rates against an opponent, the step of extragradient preference optimization: (h -
    (r_i - r_j) / tau)^2, r_i = P(i beats the opponent) (arXiv:2503.08942).

    Whatever full-support sampler the pair comes from, it is minimized at the best response reference exp(P(. beats
    opponent) / tau). On pairs drawn uniformly, and on those alone, one gradient step against the policy itself is a
    mirror-descent step, against the geometric mixture Nash-MD's; pairs of the policy's own samples (`algorithms.egpo`)
    move each completion in proportion to its probability besides. The authors' code for language models draws the pair
    from the policy at temperature 2 with top_k 10 and y'' at temperature 1, and divides log-probs by lengths, which
    `normalize="length"` does. It is IPO at tau / 2 with the label (1 + r_i - r_j) / 2.

    Args:
        context: Scores the role and the reference.
        batch: Samples [B,N,T]; reward [B,N] holds win rates against samples of the opponent (the stage
            `win_rate_against`), one draw each or a mean.
        tau: Strength of the regularization.
        **where: role, reference, pairs and normalize, see `declared.shared`.

    Returns:
        The mean over pairs in nats^2, and the metrics of pairs, preferred by win rate. A pair of which a completion has
        a weight of 0 does not count.

    Raises:
        ConfigError: If the batch has no reward, or not the completions that `pairs` names.
    """
    reward, weight = weighted_rewards(batch, "egpo", 0)
    counts = (weight[:, :, None] != 0) & (weight[:, None, :] != 0)
    pair_weight = counts * (1.0 if batch.pair_weight is None else batch.pair_weight)
    label = (1 + (reward[:, :, None] - reward[:, None, :])) / 2
    return ipo(context, batch.replace(preference=label, pair_weight=pair_weight), tau=tau / 2, **where)
