"""Behaviors that add and subtract the log-probs of several streams, token by token: policies that nobody trained.

Each distribution below is exact for completions of one token and normalized anew at every token of longer ones, which
is not what a normalization over whole completions gives; `dera` says how far apart the two are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from alignjax.config import ConfigError
from alignjax.numerics import MASKED
from alignjax.ranges import Fraction, NonNegative, Positive, Share
from alignjax.sampling import filters
from alignjax.sampling.behaviors import History
from alignjax.types import Array

STEPS = 40  # of a bisection: float32 has no digit left after 30


def shares(weights: Sequence[float] | None, streams: Sequence[str], *, of: str) -> tuple[float, ...]:
    """Returns weights of streams that add up to 1: equal ones for None.

    Args:
        weights: In any unit.
        streams: The streams.
        of: Who weighs, for the message.

    Raises:
        ConfigError: There are no streams, not a weight for each, or none above 0.
    """
    weights = (1.0,) * len(streams) if weights is None else weights
    if len(weights) != len(streams) or sum(weights) <= 0:
        raise ConfigError(f"{of}: weights={tuple(weights)} for the streams {', '.join(streams) or '(none)'}; one each")
    return tuple(weight / sum(weights) for weight in weights)


def _log_mean(
    logits: Mapping[str, Array], streams: Sequence[str], weights: Sequence[float] | None, *, of: str
) -> Array:
    """sum_k w_k log pi_k [..,V], the log of the geometric mean of streams up to its normalizer."""
    parts = zip(shares(weights, streams, of=of), streams, strict=True)
    return sum((weight * jax.nn.log_softmax(logits[name]) for weight, name in parts), start=jnp.zeros(()))


def dera(
    logits: Mapping[str, Array],
    history: History,
    *,
    lam: NonNegative,
    policy: str = "policy",
    references: tuple[str, ...] = ("reference",),
    weights: tuple[NonNegative, ...] | None = None,
) -> Array:
    """Decoding-time realignment: log pi_ref + lam (log pi - log pi_ref) (DeRa, arXiv:2402.02992).

    lam between 0 and 1 interpolates (`mixture` with beta = 1 - lam), above 1 it extrapolates. A policy that is optimal
    for a reward at a KL strength beta becomes the one that is optimal at beta / lam: exactly for completions of one
    token, and for longer ones if normalized over whole completions, which no sampler by tokens does. How far it is from
    that, as a mean (and largest) total variation over 20 random games of strings of up to 3 tokens (as of `mixture`,
    the policy that of Nash): at lam 1/2, 3/2, 2, 3 by 0.015 (0.031), 0.044 (0.099), 0.10 (0.27), 0.21 (0.69) for tau =
    0.1, by 0.056 (0.14), 0.12 (0.27), 0.21 (0.50), 0.30 (0.81) for tau = 0.02. So far out it is another policy.

    Several references are their geometric mean, the reference of an optimum under a weighted sum of their KLs (our
    derivation: sum_k w_k KL(pi || ref_k) is KL(pi || prod ref_k^w_k / Z) - log Z).

    Args:
        logits: Logits [..,V] by stream.
        history: Not used.
        lam: 0 is the reference, 1 the policy.
        policy: The aligned policy's stream.
        references: The streams that it was aligned from.
        weights: How much each reference counts; None: all the same.

    Returns:
        Unnormalized log-probs [..,V].

    Raises:
        ConfigError: If there is not one weight for each reference.
    """
    reference = _log_mean(logits, references, weights, of="dera")
    return reference + lam * (jax.nn.log_softmax(logits[policy]) - reference)


def contrastive(
    logits: Mapping[str, Array],
    history: History,
    *,
    beta: NonNegative = 0.5,
    alpha: Fraction = 0.1,
    policy: str = "policy",
    amateur: str = "reference",
) -> Array:
    """Contrastive decoding: (1 + beta) log pi - beta log amateur, among tokens with pi >= alpha max pi
    (arXiv:2309.09117; arXiv:2210.15097 ranks by log pi - log amateur, the limit of large beta).

    Args:
        logits: Logits [..,V] by stream.
        history: Not used.
        beta: How much of the amateur is taken away; 0 leaves the policy, cut by alpha.
        alpha: What a token's probability must be of the likeliest one's; 0 keeps all tokens.
        policy: The expert's stream.
        amateur: A weaker model's, or the same model's on a prompt that lacks something (a stream of another view).

    Returns:
        Unnormalized log-probs [..,V].
    """
    expert = jax.nn.log_softmax(logits[policy])
    kept = filters.min_p(expert, alpha) > MASKED / 2
    return jnp.where(kept, expert + beta * (expert - jax.nn.log_softmax(logits[amateur])), MASKED)


def proxy_tuning(
    logits: Mapping[str, Array],
    history: History,
    *,
    alpha: NonNegative = 1.0,
    policy: str = "policy",
    expert: str = "expert",
    anti_expert: str = "anti_expert",
) -> Array:
    """Proxy tuning: log pi + alpha (log expert - log anti_expert) (arXiv:2401.08565; DExperts, arXiv:2105.03023).

    Args:
        logits: Logits [..,V] by stream.
        history: Not used.
        alpha: Strength.
        policy: The model that is not tuned, usually large.
        expert: A small model that was.
        anti_expert: The small model before it was.

    Returns:
        Unnormalized log-probs [..,V].
    """
    tuned, untuned = (jax.nn.log_softmax(logits[name]) for name in (expert, anti_expert))
    return jax.nn.log_softmax(logits[policy]) + alpha * (tuned - untuned)


def linear_alignment(
    logits: Mapping[str, Array],
    history: History,
    *,
    rho: NonNegative = 2.0,
    nucleus: Share = 0.8,
    nucleus_temperature: Positive = 1.0,
    policy: str = "policy",
    plain: str = "plain",
) -> Array:
    """Linear alignment: (1 + rho) log pi(.|x, preference) - rho log pi(.|x), among the nucleus of the first
    (arXiv:2401.11458).

    Before the cut it maximizes E_q[A] - KL(q || pi(.|x, preference)) / rho, A = log pi(.|x, preference) - log pi(.|x):
    our reading of rho; the paper's comes from a first-order expansion under a bound on a divergence.

    Args:
        logits: Logits [..,V] by stream.
        history: Not used.
        rho: Strength; 0 leaves the nucleus of the first.
        nucleus: Its probability.
        nucleus_temperature: Divides log pi before it is cut; in released code the sampling temperature.
        policy: The policy's stream on prompts that say what is preferred.
        plain: The same policy's on prompts that do not (a stream of another view).

    Returns:
        Unnormalized log-probs [..,V].
    """
    told, untold = (jax.nn.log_softmax(logits[name]) for name in (policy, plain))
    kept = filters.top_p(filters.temper(told, nucleus_temperature), nucleus) > MASKED / 2
    return jnp.where(kept, told + rho * (told - untold), MASKED)


def genarm(
    logits: Mapping[str, Array],
    history: History,
    *,
    alpha: NonNegative = 1.0,
    policy: str = "policy",
    rewards: tuple[str, ...] = ("reward",),
    weights: tuple[NonNegative, ...] | None = None,
) -> Array:
    """Guidance by autoregressive reward models: log pi + alpha sum_k w_k log pi_k (GenARM, arXiv:2410.08193).

    pi_k is a language model that `losses.autoregressive_reward` trains; the log-prob of a token is its reward, and
    alpha = 1 / beta the inverse strength of the KL to the policy.

    Args:
        logits: Logits [..,V] by stream.
        history: Not used.
        alpha: Inverse strength of the KL; 0 leaves the policy. (Released code divides by 1 + alpha and multiplies the
            temperature with it to undo that.)
        policy: The stream of the policy that is guided.
        rewards: The streams of the reward models.
        weights: How much each objective counts; None: all the same.

    Returns:
        Unnormalized log-probs [..,V].

    Raises:
        ConfigError: If there is not one weight for each reward model.
    """
    return jax.nn.log_softmax(logits[policy]) + alpha * _log_mean(logits, rewards, weights, of="genarm")


def mod(
    logits: Mapping[str, Array],
    history: History,
    *,
    policies: tuple[str, ...],
    weights: tuple[NonNegative, ...] | None = None,
    alpha: Share | None = None,
    reference: str | None = None,
) -> Array:
    """Multi-objective decoding: prod_k pi_k^w_k, or of policies that were aligned under an alpha-divergence
    ref (sum_k w_k (ref / pi_k)^alpha + c)^(-1/alpha), c such that it sums to 1 (arXiv:2406.18853).

    If pi_k is optimal for a reward r_k less the same multiple of a divergence from the reference, this is optimal for
    sum_k w_k r_k: f'(pi/ref) = sum_k w_k f'(pi_k/ref) - const. c is solved for at every token; c = 0, normalized
    afterwards, is the optimum only for the reverse KL.

    Args:
        logits: Logits [..,V] by stream.
        history: Not used.
        policies: The streams of policies, one an objective.
        weights: How much each objective counts; None: all the same.
        alpha: The divergence, as of `losses.divergences.alpha_divergence`: 1 is the forward KL. None: the reverse KL,
            which is the limit at 0 and needs no reference.
        reference: The reference's stream, for the others.

    Returns:
        Log-probs [..,V], normalized where alpha is given.

    Raises:
        ConfigError: If there is not one weight for each policy, or alpha without a reference.
    """
    if alpha is None:
        return _log_mean(logits, policies, weights, of="mod")
    if reference is None:
        raise ConfigError("mod(alpha=...): a divergence other than the reverse KL needs reference, the stream's name")
    start = jax.nn.log_softmax(logits[reference])
    each = jnp.stack([start - jax.nn.log_softmax(logits[name]) for name in policies])
    part = jnp.array(shares(weights, policies, of="mod"), start.dtype).reshape(-1, *[1] * start.ndim)
    return _normalized(start, jax.nn.logsumexp(alpha * each, axis=0, b=part), alpha)


def _normalized(start: Array, log_sum: Array, alpha: float | Array) -> Array:
    """log of start (exp(log_sum) + c)^(-1/alpha) [..,V], with the c in (-min exp(log_sum), 0] at which it sums to 1."""
    # c = -least (1 - exp(-u)): the sum rises with u from at most 1 (a power mean is at most the arithmetic one) to
    # where the token of the least sum alone has probability 1.
    least = jnp.min(log_sum, axis=-1, keepdims=True)
    above = log_sum - least
    near = jnp.minimum(above, 30.0)
    first = jnp.take_along_axis(start, jnp.argmin(log_sum, axis=-1)[..., None], axis=-1)

    def logps(u: Array) -> Array:
        return start - (least + jnp.log(jnp.expm1(near) + jnp.exp(-u)) + above - near) / alpha

    def halved(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        low = jax.nn.logsumexp(logps(middle), axis=-1, keepdims=True) < 0
        return jnp.where(low, middle, ends[0]), jnp.where(low, ends[1], middle)

    ends = (jnp.zeros_like(least), jnp.clip(least - alpha * first, 0, 60.0))
    return jax.nn.log_softmax(logps(jax.lax.fori_loop(0, STEPS, halved, ends)[1]))
