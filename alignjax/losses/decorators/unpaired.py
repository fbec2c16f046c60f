"""The decorator that turns the math of one completion with a label into a loss over a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from alignjax.losses.decorators.declared import as_loss, check_inputs
from alignjax.losses.decorators.sequences import mask_of, neutral, sequence_scores, weighted_rewards
from alignjax.types import Array, Batch, Context, Mean, Metrics

# What the math of a completion may ask for by parameter name; each is [B,N].
FIELDS = {
    "ratio": "log-ratio of the completion: log policy - log reference, summed over its tokens",
    "logps": "log-probability of the completion under the policy, summed",
    "length": "how many tokens of the completion count (the sum of its mask)",
    "label": "probability in [0, 1] that the completion is good",
}


class ScoredCompletions(NamedTuple):
    """Completions with all that is known of them, [B,N] each."""

    ratio: Array  # log policy - log reference, over the tokens that count; without a reference, log policy
    logps: Array  # log policy
    label: Array  # probability that the completion is good
    weight: Array  # how much the completion counts: 0 if it is all padding or nothing is known of it

    def mix(self, good: Array, bad: Array) -> Array:
        """Returns z good + (1-z) bad: the loss of every completion from its loss under either verdict."""
        return self.label * good + (1 - self.label) * bad

    def metrics(self, **more: Mean) -> Metrics:
        """Returns the mean log-ratios of good and of bad completions in nats, how often the sign of a log-ratio agrees
        with a label, and more."""
        sign = jnp.sign(2 * self.label - 1)
        right = (self.ratio * sign > 0) + 0.5 * (self.ratio == 0)
        return {
            "ratio_good": Mean.of(self.ratio, self.weight * self.label),
            "ratio_bad": Mean.of(self.ratio, self.weight * (1 - self.label)),
            "accuracy": Mean.of(right, self.weight * (sign != 0)),
            "log_ratio": Mean.of(self.ratio, self.weight),
        } | more


def score_completions(
    context: Context, batch: Batch, *, loss: str, role: str, reference: str | None, normalize: str
) -> ScoredCompletions:
    """Labels and scores the completions of a batch.

    Args:
        context: Scores the role and the reference.
        batch: Completions [B,N,T] with a reward [B,N].
        loss: The name of the loss, for messages.
        role: What is scored.
        reference: What log-ratios are against; None: reference-free.
        normalize: "none" for sums over tokens, "length" for means.

    Returns:
        Log-ratios, log-probs, labels and weights, [B,N] each.

    Raises:
        ConfigError: If the batch has no reward; it names the `loss` that asks.
    """
    label, weight = weighted_rewards(batch, loss, 0.5)
    logps, ratio = sequence_scores(context, batch, role=role, reference=reference, normalize=normalize)
    fields = neutral({"ratio": ratio, "logps": logps}, weight != 0)
    return ScoredCompletions(**fields, label=label.astype(logps.dtype), weight=weight)


def unpaired(per_completion: Callable[..., Any] | None = None, **defaults: Any) -> Any:
    """Makes a Loss of a function of one completion with a label: `@unpaired`, or `@unpaired(normalize="length")`.

    `batch.reward` [B,N] is the label: the probability z that a completion is good. Math that does not ask for it
    returns two losses, of a good and of a bad completion, which become z good + (1-z) bad; a verdict that the label
    rules out is not evaluated. The decorator owns masks, completions that are all padding or of which nothing is known
    (completions["weight"] 0), and the (sum, weight) of the mean.

    The loss gains three hyper-parameters: role, reference and normalize, as those of `pairwise`. It raises a
    ConfigError if the batch has no reward.

    Args:
        per_completion: The math. Its positional parameters name what it reads (see `FIELDS`; all [..,N]), its
            keyword-only parameters are the hyper-parameters, and it returns (loss if good, loss if bad), [..,N] each,
            or, if it asks for `label`, one loss [..,N].
        **defaults: Other defaults of the three hyper-parameters.

    Returns:
        The loss; the math stays reachable as `loss.per_completion`.

    Raises:
        ConfigError: If the math asks for what a completion does not have.
    """
    # The wrapper reads the names of the math's parameters once, here: they check the fields and say whether the math
    # mixes the label itself, so no flag has to repeat it.
    if per_completion is None:
        return functools.partial(unpaired, **defaults)
    math = per_completion
    inputs = check_inputs(math, FIELDS, f"a completion has {', '.join(FIELDS)}")

    def evaluate(context: Context, batch: Batch, where: Any, hyper: Any) -> tuple[Mean, Metrics]:
        completions = score_completions(context, batch, loss=math.__name__, **where)
        length = jnp.sum(mask_of(batch), axis=-1).astype(completions.logps.dtype)
        fields = {**completions._asdict(), "length": length}

        def of(counts: Array) -> Any:
            return math(*[neutral(fields, counts)[name] for name in inputs], **hyper)

        label = completions.label
        values = of(label >= 0) if "label" in inputs else completions.mix(of(label > 0)[0], of(label < 1)[1])
        return Mean.of(values, completions.weight), completions.metrics()

    shares = ("role", "reference", "normalize")
    return as_loss(math, evaluate, shares, defaults, per_completion=math, needs=("reward",))
