"""Rewards that differ from user to user: identities, closed forms, and what is nobody's."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses, stages, user_scores
from alignjax.config import ConfigError, fn
from alignjax.types import Batch, Context
from tests.support.tiny import as_numpy, context_of, model, parameters, ragged, run

WIDTH, LATENT = 3, 2
DRAW = np.random.default_rng(0)


def drawn(*shape: int) -> Any:
    return DRAW.normal(size=shape).astype(np.float32)


def known(features: Any, user: Any, label: Any, **roles: Any) -> tuple[Any, Any]:
    """A context that embeds completions of one token, and is of these roles; and their pairs."""
    ones, label = np.ones((*features.shape[:2], 1), np.float32), np.asarray(label, np.float32)
    half = np.full_like(label, 0.5)
    preference = np.stack([np.stack([half, label], -1), np.stack([1 - label, half], -1)], -2)
    fields: Any = {"tokens": ones.astype(np.int32), "valid": ones > 0, "mask": ones, "preference": preference}
    context = Context(score=lambda output, batch, read=None: {output: features[:, :, None]}, params=roles.__getitem__)
    return context, Batch(**fields, prompts={"user": np.asarray(user, np.float32)})


@jax.jit
def measured(loss: Any, features: Any, batch: Batch, roles: Any) -> Any:
    context = Context(score=lambda output, batch, read=None: {output: features[:, :, None]}, params=roles.__getitem__)
    mean, metrics = loss(context, batch)
    return mean, metrics


def value(loss: Any, features: Any, user: Any, label: Any, noise: Any = None, **roles: Any) -> Any:
    _, batch = known(features, user, label)
    if noise is not None:
        batch = batch.replace(prompts={**batch.prompts, "noise": noise})
    return as_numpy(measured(loss, features, batch, roles))


TASTES: Any = {
    "prototypes": {"points": drawn(4, WIDTH), "log_scale": np.float32(0.7)},
    "users": {"weights": drawn(5, 4)},
}
USER, LABEL = [3, 0, 3, 4, 1, 0], [1, 0, 0.3, 1, 0.8, 0]
ITEMS = drawn(6, 2, WIDTH)


@pytest.mark.parametrize("similarity", ["distance", "angle"])
def test_a_user_who_is_one_prototype_has_its_point(similarity: Any) -> None:
    """Scores are greatest at the point itself, do not know turns of the whole space, and angles know no lengths."""
    points = drawn(4, WIDTH)
    sure: Any = 60 * np.eye(4, dtype=np.float32)
    near: Any = np.concatenate([points[:, None], points[:, None] + drawn(4, 9, WIDTH)], 1)
    turn: Any = np.linalg.qr(drawn(WIDTH, WIDTH))[0]
    score = jax.jit(lambda points, features: user_scores.ideal_point_scores(
        {"points": points, "log_scale": jnp.asarray(0.7)}, sure, features, similarity=similarity
    ))  # fmt: skip
    found = score(points, near)
    assert np.all(np.argmax(found, axis=1) == 0)
    np.testing.assert_allclose(found[:, 0], 0 if similarity == "distance" else np.exp(0.7), atol=2e-5)
    np.testing.assert_allclose(score(points @ turn, near @ turn), found, atol=2e-5)
    if similarity == "angle":
        np.testing.assert_allclose(score(3 * points, 7 * near), found, atol=2e-5)


def test_an_angle_is_never_sharper_than_a_hundred_and_points_of_one_prompt_are_fixed_points() -> None:
    points, weights, features = drawn(4, 2, WIDTH), drawn(6, 4), drawn(6, 3, WIDTH)
    prompt: Any = np.repeat(drawn(1, 2), 6, 0)
    fixed: Any = {"points": np.einsum("p,kpd->kd", prompt[0], points), "log_scale": np.float32(np.log(250))}
    for similarity in ("distance", "angle"):
        moving = user_scores.ideal_point_scores({**fixed, "points": points}, weights, features, prompt, similarity)
        still = user_scores.ideal_point_scores(fixed, weights, features, similarity=similarity)
        np.testing.assert_allclose(moving, still, rtol=2e-4, atol=1e-4)
    own = user_scores.ideal_point_scores(
        fixed, weights, jax.nn.softmax(weights)[:, None] @ fixed["points"], None, "angle"
    )
    np.testing.assert_allclose(own, 100, rtol=1e-5)


def test_exchanging_sides_and_label_changes_nothing_and_users_who_are_not_there_count_nothing() -> None:
    for loss in (fn(losses.pal), fn(losses.pal, link="logistic")):
        one = value(loss, ITEMS, USER, LABEL, **TASTES)
        other = value(loss, ITEMS[:, ::-1], USER, 1 - np.array(LABEL), **TASTES)
        np.testing.assert_allclose(one[0].total, other[0].total, rtol=1e-5)
        some = value(loss, ITEMS, [3, np.nan, 3, 5, -1, 0], LABEL, **TASTES)
        few = value(loss, ITEMS[[0, 2, 5]], [3, 3, 0], np.array(LABEL)[[0, 2, 5]], **TASTES)
        np.testing.assert_allclose(some[0].total, few[0].total, rtol=1e-5)
        assert some[0].weight == some[1]["known"].total == 3


def test_a_hinge_rests_where_all_are_ahead_by_one() -> None:
    far = np.stack([0 * ITEMS[:, 0], 0 * ITEMS[:, 0] + 30], 1)  # all points are nearer to 0
    assert value(fn(losses.pal), far, USER, np.ones(6), **TASTES)[0].total == 0
    assert value(fn(losses.pal), far[:, ::-1], USER, np.ones(6), **TASTES)[0].value() > 30


def test_another_width_is_told_what_to_give() -> None:
    context, batch = known(drawn(6, 2, 5), USER, LABEL, **TASTES)
    with pytest.raises(ConfigError, match=r"has 5 numbers; give role 'prototypes' fn\(ideal_points, width=5"):
        losses.pal(context, batch)
    with pytest.raises(ConfigError, match=r'pal_scores needs batch.prompts\["user"\]'):
        losses.pal(context, batch.replace(prompts={}))


def test_the_reward_of_a_row_is_that_of_its_user() -> None:
    context, batch = known(ITEMS, [3, np.nan, 9, 0, 1, 2], LABEL, **TASTES)
    filled: Any = stages.user_reward(context, batch, jax.random.key(0))[0]
    np.testing.assert_array_equal(filled.completions["weight"], np.repeat([[1], [0], [0], [1], [1], [1]], 2, 1))
    mixture = jax.nn.softmax(TASTES["users"]["weights"][[3, 0, 1, 2]]) @ TASTES["prototypes"]["points"]
    away = np.linalg.norm(ITEMS[[0, 3, 4, 5]] - np.asarray(mixture)[:, None], axis=-1)
    np.testing.assert_allclose(filled.reward[np.array([0, 3, 4, 5])], -away, rtol=1e-5)


def test_a_prompt_is_embedded_as_the_completion_that_is_its_last_token() -> None:
    """On a transformer: the state after the prompt, whatever stands in its padding; and completions at their ends."""
    network = model(outputs=("reward",))
    context, batch = context_of(network, policy=parameters(network)), ragged(rows=3)
    last = Batch(**{**vars(batch), "tokens": batch.prompt[:, None, -1:], "valid": batch.prompt_valid[:, None, -1:]})
    last = last.replace(prompt=batch.prompt[:, :-1], prompt_valid=batch.prompt_valid[:, :-1])
    found = jax.jit(lambda batch: user_scores.prompt_embeddings(context, batch, "policy:reward"))(batch)
    expected = jax.jit(lambda last: context.score("policy:reward", last)["policy:reward"])(last)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.ptp(found) > 1e-3


# -------------------------------------------------------------------------------------------------------- latent users


NETWORK = as_numpy(user_scores.latent_network(jax.random.key(1), width=WIDTH, latent=LATENT, hidden=7))


def posteriors(items: Any, label: Any, weight: Any, user: Any) -> Any:
    return jax.jit(lambda *given: user_scores.user_posteriors(NETWORK["encoder"], *given, users=3))(
        items[:, 0], items[:, 1], np.asarray(label, np.float32), np.asarray(weight, np.float32), np.asarray(user)
    )


def test_a_user_is_their_pairs_in_any_order_and_no_others() -> None:
    user = np.array([0, 2, 0, 2, 2, 0])
    all_of = posteriors(ITEMS, LABEL, np.ones(6), user)
    order = DRAW.permutation(6)
    again = posteriors(ITEMS[order], np.array(LABEL)[order], np.ones(6), user[order])
    turned = posteriors(ITEMS[:, ::-1], 1 - np.array(LABEL), np.ones(6), user)
    alone = posteriors(np.where((user == 2)[:, None, None], ITEMS, np.float32(5)), LABEL, user == 2, user)
    for other in (again, turned):
        np.testing.assert_allclose(other.mean, all_of.mean, atol=1e-5)
        np.testing.assert_allclose(other.log_variance, all_of.log_variance, atol=1e-5)
    np.testing.assert_allclose(alone.mean[2], all_of.mean[2], atol=1e-5)
    assert np.all(np.asarray(all_of.mean[1]) == 0)
    assert np.abs(all_of.mean[0]).min() > 1e-3


def test_the_kl_is_that_of_normals() -> None:
    """By numbers on a grid, of q to the prior and not the other way round."""
    mean, deviation = 0.7, 0.4
    z = np.linspace(-8, 8, 40001)
    density = np.exp(-(((z - mean) / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi))
    apart = -(((z - mean) / deviation) ** 2) / 2 - np.log(deviation) + z**2 / 2
    given = user_scores.Posterior(jnp.asarray(mean), jnp.asarray(2 * np.log(deviation)))
    assert float(given.kl()) == pytest.approx(np.trapezoid(density * apart, z), rel=1e-4)


def test_the_loss_of_latent_users_is_likelihood_and_kl_of_each() -> None:
    """kappa moves it by the mean KL of the users who have a pair; noise is one draw a user; whoever is NaN counts 0."""
    loss = lambda kappa, noise=None, user=USER: value(  # noqa: E731
        fn(losses.vpl, kappa=kappa), ITEMS, user, LABEL, noise, latent=NETWORK
    )
    none, some = loss(0.0), loss(0.4)
    places = np.unique(USER, return_inverse=True)[1]
    own = jax.jit(lambda *given: user_scores.user_posteriors(NETWORK["encoder"], *given, users=4))(
        ITEMS[:, 0], ITEMS[:, 1], np.array(LABEL, np.float32), np.ones(6, np.float32), places
    )
    kl = float(np.sum(own.kl(), axis=-1).mean())
    assert some[1]["kl"].value() == pytest.approx(kl, rel=1e-5)
    assert some[0].value() - none[0].value() == pytest.approx(0.4 * kl, rel=1e-4)

    noise = drawn(6, LATENT)
    first = {user: USER.index(user) for user in USER}
    same = noise[[first[user] for user in USER]]
    np.testing.assert_allclose(loss(0.0, noise)[0].value(), loss(0.0, same)[0].value(), rtol=1e-6)
    assert abs(loss(0.0, noise)[0].value() - none[0].value()) > 1e-3
    nobody = loss(0.4, user=[3, 0, 3, np.nan, 1, 0])
    fewer = value(fn(losses.vpl, kappa=0.4), *(np.delete(x, 3, 0) for x in (ITEMS, USER, LABEL)), latent=NETWORK)
    np.testing.assert_allclose(nobody[0].total, fewer[0].total, rtol=1e-5)


def test_noise_is_a_function_of_the_example() -> None:
    batch = Batch(prompt=np.zeros((4, 2), np.int32), example_id=np.array([7, 9, 7, 1], np.int32))
    noise = run(stages.latent_noise, Context(), batch, jax.random.key(2), latent=3).prompts["noise"]
    assert noise.shape == (4, 3)
    np.testing.assert_array_equal(noise[0], noise[2])
    assert len(np.unique(noise)) == 9


# ---------------------------------------------------------------------------------------- directions of differences


def test_planted_directions_are_found_and_what_all_agree_on_is_the_mean() -> None:
    """Differences spread along three planted axes of eight, and along a fourth all agree."""
    axes = np.linalg.qr(drawn(8, 8))[0][:4]
    along = drawn(4000, 3) * [3, 2, 1.5] @ axes[:3] + 4 * axes[3] + 0.1 * drawn(4000, 8)
    found = user_scores.principal_directions(jnp.asarray(along), 3)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found @ axes[:3].T, axis=0), 1, atol=1e-2)
    assert abs(float(found[0] @ axes[0])) > 0.99  # the largest spread comes first
    assert float(np.linalg.norm(found @ axes[3])) < 0.05
    whole = user_scores.principal_directions(jnp.asarray(along), 3, centered=False)
    assert abs(float(whole[0] @ axes[3])) > 0.95


def test_heads_are_weighed_by_their_own_fit_and_units_do_not_count() -> None:
    first, second = drawn(6, 4), drawn(6, 4)
    label: Any = np.array(LABEL, np.float32)
    weight: Any = np.array([1, 1, 1, 1, 1, 0], np.float32)
    fit = jax.jit(user_scores.fit_heads)
    one: Any = fit(first, second, label, weight)
    assert float(np.sum(one["weights"])) == pytest.approx(1, rel=1e-6)
    units = np.array([3, 0.1, 50, 1], np.float32)
    other = fit(first * units + 2, second * units + 2, label, weight)
    np.testing.assert_allclose(other["weights"], one["weights"], rtol=1e-4)
    scores = user_scores.weighted_heads(one, first)
    np.testing.assert_allclose(user_scores.weighted_heads(other, first * units + 2), scores, atol=1e-4)
    np.testing.assert_allclose(fit(first[:5], second[:5], label[:5], weight[:5])["weights"], one["weights"], rtol=1e-5)

    right = np.where(label[:, None] > 0.5, 1, -1) * np.abs(first - second)  # never wrong, and its reverse
    sure = np.stack([right[:, 0], -right[:, 0]], 1)
    weights = [fit(sure * (label != 0.3)[:, None], 0 * sure, label, weight, t)["weights"] for t in (1.0, 0.1)]
    assert 0.5 < weights[0][0] < weights[1][0]
    faint = fit(first, second, label, 0.05 * weight)  # the scale of weights is that of a temperature and no more
    np.testing.assert_allclose(faint["mean"], one["mean"], rtol=1e-5)
    np.testing.assert_allclose(faint["weights"], fit(first, second, label, weight, 20.0)["weights"], rtol=1e-5)
    unknown = fit(first, second, label, 0 * weight)
    np.testing.assert_allclose(unknown["weights"], 0.25, rtol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in unknown.values())


def test_a_head_and_its_reverse_are_one_direction() -> None:
    directions, items = drawn(2, WIDTH), drawn(5, WIDTH)
    scores = user_scores.head_scores(directions, items)
    np.testing.assert_array_equal(scores[:, 2:], -scores[:, :2])
    for k, n in itertools.product(range(2), range(5)):
        assert float(scores[n, k]) == pytest.approx(float(directions[k] @ items[n]), rel=1e-4, abs=1e-5)
