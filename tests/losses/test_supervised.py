"""Losses that fit given targets, called with nothing but a `score`; and those that combine losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import ConfigError, fn
from alignjax.pair_layout import all_pairs, pair_view
from alignjax.types import Array, Batch
from tests.support.tiny import all_finite, standin


def random_scores(batch: Batch, seed: int = 3) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=batch.tokens.shape), jnp.float32)


def test_sft_is_one_mean_over_all_tokens(batch: Batch) -> None:
    logps = random_scores(batch)
    mean, metrics = losses.sft(standin(policy=logps), batch)
    counted = np.asarray(logps)[np.asarray(batch.mask) > 0]
    np.testing.assert_allclose(mean.value(), -counted.mean(), rtol=1e-6)
    assert float(mean.weight) == len(counted)
    np.testing.assert_allclose(metrics["nats_per_token"].value(), -counted.mean(), rtol=1e-6)
    rows = zip(logps.reshape(8, -1), batch.mask.reshape(8, -1), strict=True)
    per_sequence = [-row[on > 0].mean() for row, on in rows if on.any()]
    assert abs(np.mean(per_sequence) - float(mean.value())) > 1e-3  # a mean of means is another number


def test_sft_with_real_weights_and_without_any(batch: Batch) -> None:
    logps = random_scores(batch)
    weights = batch.mask * jnp.linspace(0.5, 2, batch.mask.size).reshape(batch.mask.shape)
    mean, metrics = losses.sft(standin(policy=logps), batch.replace(mask=weights))
    np.testing.assert_allclose(mean.value(), -np.average(logps, weights=weights), rtol=1e-6)
    np.testing.assert_allclose(
        metrics["nats_per_token"].value(), losses.sft(standin(policy=logps), batch)[0].value(), rtol=1e-6
    )
    nothing = batch.replace(mask=jnp.zeros_like(batch.mask))
    value, grad = jax.value_and_grad(lambda x: losses.sft(standin(policy=x), nothing)[0].value())(logps)
    assert float(value) == 0
    assert not np.any(grad)


def judged(batch: Batch, numbers: Array, loss: str) -> tuple[Array, dict[str, Array]]:
    context = standin(reward_reward=numbers, preference_preference=numbers)
    more = {"separator": 3} if loss == "preference_cross_entropy" else {}
    mean, metrics = getattr(losses, loss)(context, batch, **more)
    return mean.value(), {name: metric.value() for name, metric in metrics.items()}


def numbers_for(batch: Batch, loss: str) -> Array:
    view = batch if loss == "bradley_terry" else pair_view(batch, ((0, 1),), 3)
    return random_scores(view)


JUDGES = pytest.mark.parametrize("loss", ["bradley_terry", "preference_cross_entropy"])


@JUDGES
def test_judge_losses_are_antisymmetric(loss: str, batch: Batch) -> None:
    """Exchanging the two completions (what is read of them, and the label) leaves loss and accuracy alone."""
    numbers = numbers_for(batch, loss)
    other = batch.pick(jnp.tile(jnp.array([1, 0]), (4, 1)))
    # "y separator y'" of the exchanged batch is "y' separator y" of the first: the two halves of the pair view.
    value, metrics = judged(batch, numbers, loss)
    swapped, swapped_metrics = judged(other, numbers[:, ::-1], loss)
    np.testing.assert_allclose(value, swapped, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], swapped_metrics["accuracy"])


@JUDGES
def test_a_judge_without_an_opinion_is_at_ln_2(loss: str, batch: Batch) -> None:
    value, metrics = judged(batch, 0 * numbers_for(batch, loss) + 5.0, loss)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert float(metrics["accuracy"]) == 0.5


@JUDGES
def test_judge_losses_are_least_at_the_label(loss: str, batch: Batch) -> None:
    """Moving the last token's number of either completion raises the loss where the logit is that of the label."""
    label = jnp.array([0.2, 0.5, 0.7, 0.9])
    matrix = jnp.full((4, 2, 2), 0.5).at[:, 0, 1].set(label).at[:, 1, 0].set(1 - label)
    batch = batch.replace(preference=matrix)
    valid = batch.valid if loss == "bradley_terry" else pair_view(batch, ((0, 1),), 3).valid
    first = jnp.zeros(valid.shape).at[:, 0].set(jnp.log(label / (1 - label))[:, None])

    def value(numbers: Array) -> Array:
        return judged(batch, numbers, loss)[0]

    assert float(jnp.abs(jax.grad(value)(first)).max()) < 1e-6
    entropy = -(label * jnp.log(label) + (1 - label) * jnp.log(1 - label)).mean()
    np.testing.assert_allclose(value(first), entropy, rtol=1e-6)
    # Only the last valid position of every row is read.
    last = jnp.argmax(jnp.where(valid, jnp.arange(valid.shape[-1]), -1), axis=-1)
    read = jax.grad(value)(random_scores(batch.replace(tokens=valid)))
    assert np.array_equal(np.asarray(read != 0), np.arange(valid.shape[-1]) == np.asarray(last)[..., None])


@JUDGES
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_judge_losses_at_extremes(loss: str, size: float, batch: Batch) -> None:
    batch = batch.replace(valid=batch.valid.at[1].set(False), pair_weight=jnp.ones((4, 2, 2)).at[2].set(0))
    batch = batch.replace(preference=batch.preference.at[2].set(jnp.nan))
    numbers = numbers_for(batch, loss) * size
    assert all_finite(jax.value_and_grad(lambda x: judged(batch, x, loss)[0])(numbers))


def test_pair_views_share_the_prompt_and_hold_both_orders(batch: Batch) -> None:
    view = pair_view(batch, all_pairs(2), separator=3)
    n, t = 2, batch.tokens.shape[2]
    assert view.tokens.shape == (4, n, 2 * t + 1)
    assert view.prompt is batch.prompt
    texts = lambda row, tokens, valid: np.asarray(tokens[row][np.asarray(valid[row])]).tolist()  # noqa: E731
    for row in range(4):
        first, second = (texts(row, batch.tokens[:, i], batch.valid[:, i]) for i in (0, 1))
        assert texts(row, view.tokens[:, 0], view.valid[:, 0]) == [*first, 3, *second]
        assert texts(row, view.tokens[:, 1], view.valid[:, 1]) == [*second, 3, *first]


def test_on_reads_a_view_and_weighted_scales(batch: Batch) -> None:
    other = batch.take(jnp.array([1, 2]))
    both = batch.replace(views={"pretrain": other})

    def score(role: str, given: Batch, read: object = None) -> dict[str, Array]:
        return {role: jnp.where(given.valid, -given.tokens * 0.1, 0)}

    context = standin()
    context.score = score
    expected, _ = losses.sft(context, other)
    seen, metrics = losses.on("pretrain", losses.sft)(context, both)
    assert float(seen.value()) == float(expected.value())
    assert float(seen.value()) != float(losses.sft(context, both)[0].value())
    assert "nats_per_token" in metrics
    scaled, _ = fn(losses.weighted, loss=losses.on("pretrain", fn(losses.sft)), weight=0.25)(context, both)
    np.testing.assert_allclose(scaled.value(), 0.25 * expected.value(), rtol=1e-6)
    assert float(scaled.weight) == float(expected.weight)
    with pytest.raises(ConfigError, match=r"no view 'pretrian'\. Did you mean 'pretrain'"):
        losses.on("pretrian", losses.sft)(context, both)
