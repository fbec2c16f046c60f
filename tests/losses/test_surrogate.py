"""The surrogate's choices: where they agree, what each bound holds back, and gradients of KL terms by enumeration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import ConfigError, Fn, fn
from alignjax.losses.reads import entropy
from alignjax.losses.surrogate import tokens_of
from alignjax.types import Array, Batch

BOUNDS = {
    "no_bound": fn(losses.no_bound),
    "ppo_clip": fn(losses.ppo_clip, epsilon=0.1, epsilon_high=0.3, delta=3.0),
    "cispo_clip": fn(losses.cispo_clip, low=0.5, high=2.0),
    "sapo_gate": fn(losses.sapo_gate),
    "dppo_tv": fn(losses.dppo_mask),
    "dppo_kl": fn(losses.dppo_mask, divergence="kl"),
    "vespo_kernel": fn(losses.vespo_kernel),
}
RATIOS = {
    "no_ratio": fn(losses.no_ratio),
    "token_ratio": fn(losses.token_ratio),
    "sequence_ratio": fn(losses.sequence_ratio),
    "sequence_ratio_of_tokens": fn(losses.sequence_ratio_of_tokens),
}


@pytest.fixture(autouse=True)
def _exactly(float64: None) -> None:
    pass


def drawn(seed: int = 0, rows: int = 3, n: int = 4, length: int = 5) -> tuple[Array, Batch]:
    """Log-probs of a policy, and completions of ragged length, holes in the mask and one advantage each."""
    draw = np.random.default_rng(seed)
    valid = np.arange(length) < draw.integers(2, length + 1, (rows, n, 1))
    mask = valid & (draw.random(valid.shape) < 0.8)
    mask[..., 0] = True
    advantage = np.broadcast_to(draw.normal(size=(rows, n, 1)), valid.shape)
    logps = -0.2 - draw.random(valid.shape)
    batch = Batch(
        tokens=np.zeros(valid.shape, int), valid=valid, mask=mask * 1.0, advantage=advantage,
        logps={name: logps + 0.8 * draw.normal(size=logps.shape) for name in ("sampler", "reference")},
        completions={"weight": draw.choice([0.0, 0.5, 1.0, 2.0], (rows, n))},
    )  # fmt: skip
    return jnp.asarray(logps), jax.tree.map(jnp.asarray, batch)


def value_and_gradient(loss: Fn, logps: Array, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    def mean(logps: Array) -> Array:
        return loss(SimpleNamespace(score=lambda role, batch, read=None: {role: logps}), batch)[0].value()

    return jax.tree.map(np.asarray, jax.value_and_grad(mean)(logps))


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("ratio", ["token_ratio", "sequence_ratio_of_tokens"])
def test_at_ratio_1_every_bound_has_the_gradient_of_reinforce(bound: str, ratio: str) -> None:
    logps, batch = drawn()
    plain = fn(losses.surrogate, ratio=RATIOS["no_ratio"], bound=BOUNDS["no_bound"])
    _, expected = value_and_gradient(plain, logps, batch)
    bounded = fn(losses.surrogate, ratio=RATIOS[ratio], bound=BOUNDS[bound])
    _, ours = value_and_gradient(bounded, logps, batch.with_logps(sampler=logps))
    np.testing.assert_allclose(ours, expected, atol=1e-12)
    _, of_now = value_and_gradient(bounded.replace(behaviour=None), logps, batch)
    np.testing.assert_allclose(of_now, expected, atol=1e-12)
    apart = value_and_gradient(bounded, logps, batch)[1]
    assert np.abs(apart - expected).max() > 1e-3, "elsewhere they differ"
    expected = value_and_gradient(fn(losses.reinforce, tau=0.0), logps, batch.replace(reward=batch.advantage[..., 0]))[
        1
    ]
    ours = value_and_gradient(plain.replace(reduction=fn(losses.sequence_sum)), logps, batch)[1]
    np.testing.assert_allclose(ours, expected, atol=1e-12, err_msg="losses.reinforce")


def test_two_sides_of_a_clip() -> None:
    """A good token stops rising above 1 + epsilon_high, a bad one stops falling below 1 - epsilon; the other two go on,
    up to delta."""
    ratio = jnp.broadcast_to(jnp.array([0.5, 0.85, 1.0, 1.25, 1.5, 5.0]), (1, 2, 6))
    logps = jnp.broadcast_to(-jnp.ones(6), (1, 2, 6))
    batch = Batch(
        tokens=jnp.zeros((1, 2, 6), int), valid=jnp.ones((1, 2, 6), bool),
        advantage=jnp.broadcast_to(jnp.array([[[1.0], [-1.0]]]), (1, 2, 6)), logps={"sampler": logps - jnp.log(ratio)},
    )  # fmt: skip
    bound = fn(losses.ppo_clip, epsilon=0.2, epsilon_high=0.3, delta=2.0)
    loss = fn(losses.surrogate, bound=bound, reduction=fn(losses.sequence_sum))
    _, gradient = value_and_gradient(loss, logps, batch)
    np.testing.assert_allclose(-2 * gradient[0, 0], [0.5, 0.85, 1, 1.25, 0, 0], atol=1e-12)
    np.testing.assert_allclose(2 * gradient[0, 1], [0, 0.85, 1, 1.25, 1.5, 0], atol=1e-12)
    _, metrics = loss(SimpleNamespace(score=lambda role, batch, read=None: {role: logps}), batch)
    assert float(metrics["held"].value()) == pytest.approx((2 + 1) / 12)


@pytest.mark.parametrize("divergence", ["tv", "kl"])
def test_dppo_bounds_how_far_a_probability_moves(divergence: str) -> None:
    """An unlikely token may double; a likely one that moves as far as its bound in its advantage's direction stops."""
    old, new = jnp.log(jnp.array([0.01, 0.5, 0.5, 0.9])), jnp.log(jnp.array([0.02, 0.9, 0.1, 0.5]))
    batch = Batch(
        tokens=jnp.zeros((1, 2, 4), int), valid=jnp.ones((1, 2, 4), bool),
        advantage=jnp.broadcast_to(jnp.array([[[1.0], [-1.0]]]), (1, 2, 4)),
        logps={"sampler": jnp.broadcast_to(old, (1, 2, 4))},
    )  # fmt: skip
    loss = fn(losses.surrogate, bound=fn(losses.dppo_mask, threshold=0.2, divergence=divergence))
    _, gradient = value_and_gradient(loss, jnp.broadcast_to(new, (1, 2, 4)), batch)
    np.testing.assert_array_equal(gradient[0] != 0, [[1, 0, 1, 1], [1, 1, 0, 0]])


@pytest.mark.parametrize("bound", BOUNDS)
def test_padding_and_what_the_policy_did_not_write_have_no_say(bound: str) -> None:
    """Longer padding, NaN where the mask is 0, and completions of weight 0; ratios and reductions take turns."""
    number = list(BOUNDS).index(bound)
    ratio = list(RATIOS)[number % 4]
    reduction = (losses.token_mean, losses.sequence_mean, losses.prompt_mean, losses.sequence_sum)[(number + 1) % 4]
    logps, batch = drawn()
    kl = fn(losses.k3, weighted=True)
    loss = fn(losses.surrogate, ratio=RATIOS[ratio], bound=BOUNDS[bound], reduction=fn(reduction), kl=kl)
    value, gradient = value_and_gradient(loss, logps, batch)
    assert np.abs(gradient).max() > 1e-3

    def longer(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, 0), (0, 0), (0, 2)]) if leaf.ndim == 3 else leaf

    padded, more = longer(logps), jax.tree.map(longer, batch)
    off = (more.mask == 0) | (more.completions["weight"] == 0)[..., None]
    nan = {name: jnp.where(more.mask == 0, jnp.nan, numbers) for name, numbers in more.logps.items()}
    strange = more.replace(logps=nan, advantage=jnp.where(off, 7.0, more.advantage))
    other, moved = value_and_gradient(loss, padded, strange)
    np.testing.assert_allclose([other, *moved[..., :5].ravel()], [value, *gradient.ravel()], atol=1e-12)
    assert not np.any(moved[..., 5:])
    assert not np.any(gradient[np.asarray(batch.completions["weight"]) == 0])


def test_reductions_weigh_tokens_as_they_say() -> None:
    """The weight of a token, read off a loss that is linear: all alike, by completion, by prompt, or by one length."""
    _, batch = drawn()
    weight, mask = np.asarray(batch.completions["weight"]), np.asarray(batch.mask)

    def share(reduction: Fn) -> np.ndarray:
        return np.asarray(jax.grad(lambda x: reduction(x, batch.mask, batch.completions["weight"]).value())(mask * 0.0))

    def spread(tokens: np.ndarray) -> float:
        return float(np.ptp(tokens))

    counted = mask * weight[..., None] != 0
    assert spread((share(losses.token_mean) / np.where(weight == 0, 1, weight)[..., None])[counted]) < 1e-15
    np.testing.assert_allclose(share(losses.sequence_mean).sum(-1), weight / weight.sum(), atol=1e-15)
    np.testing.assert_allclose(share(losses.prompt_mean).sum((1, 2)), np.full(3, 1 / 3), atol=1e-15)
    np.testing.assert_allclose(7 * share(fn(losses.constant_length, length=7)), share(losses.sequence_sum), atol=1e-15)
    np.testing.assert_allclose(share(losses.sequence_sum).sum(-1), weight * mask.sum(-1) / weight.sum(), atol=1e-15)


def test_importance_multiplies_the_policy_and_not_the_kl() -> None:
    logps, batch = drawn()
    weights = jnp.where(batch.mask != 0, 0.3, jnp.nan)
    weighed = batch.replace(completions={**batch.completions, "importance": weights})
    with_kl = fn(losses.surrogate, kl=fn(losses.k2, beta=0.7))
    plain = value_and_gradient(with_kl.replace(kl=None), logps, batch)[1]
    both = value_and_gradient(with_kl, logps, batch)[1]
    ours = value_and_gradient(with_kl.replace(importance="importance"), logps, weighed)[1]
    np.testing.assert_allclose(ours, both - 0.7 * plain, atol=1e-12)
    kernel = with_kl.replace(importance="importance", bound=fn(losses.vespo_kernel))
    with pytest.raises(ConfigError, match="leave importance out"):
        value_and_gradient(kernel, logps, weighed)
    with pytest.raises(ConfigError, match=r"needs batch\.completions"):
        value_and_gradient(with_kl.replace(importance="importance"), logps, batch)
    with pytest.raises(ConfigError, match=r"needs batch\.logps\[\"cold\"\]"):
        value_and_gradient(with_kl.replace(behaviour="cold"), logps, batch)


def test_what_has_moved_very_far_still_has_a_finite_gradient() -> None:
    logps, batch = drawn()
    far = batch.with_logps(sampler=logps - 5e3, reference=logps + 5e3)
    for bound in BOUNDS.values():
        loss = fn(losses.surrogate, bound=bound, kl=fn(losses.k3))
        assert all(np.all(np.isfinite(numbers)) for numbers in value_and_gradient(loss, logps, far))
        assert all(np.all(np.isfinite(numbers)) for numbers in value_and_gradient(loss, logps - 1e4, batch))


# ------------------------------------------------------------------------------------------------------ KL terms

P, Q, OLD = (np.array(x) for x in ([0.1, 0.0, -0.4, 0.7], [0.5, -0.9, 0.2, 0.3], [-0.3, 0.4, 0.1, 0.2]))


def kl_gradient(term: Any, weighted: bool, sampled: np.ndarray) -> tuple[float, np.ndarray]:
    """The expected value and gradient by the policy's logits of a term, over tokens that `sampled` draws."""
    drawn_by = jax.nn.softmax(jnp.asarray(sampled))

    def expected(logits: Array) -> Array:
        logps = jax.nn.log_softmax(logits)
        log_ratio = logps - jax.nn.log_softmax(jnp.asarray(sampled))
        values = term(logps - jax.nn.log_softmax(jnp.asarray(Q)), log_ratio, beta=1.0, weighted=weighted)
        return jnp.sum(drawn_by * values)

    value, gradient = jax.value_and_grad(expected)(jnp.asarray(P))
    return float(value), np.asarray(gradient)


def exact(objective: Any) -> np.ndarray:
    def of(logits: Array) -> Array:
        p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(jnp.asarray(Q))
        return objective(p, q)

    return np.asarray(jax.grad(of)(jnp.asarray(P)))


def exact_gradients() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of KL(p to q), of KL(q to p) and of half the mean squared log-ratio."""
    return (
        exact(lambda p, q: jnp.sum(jnp.exp(p) * (p - q))),
        exact(lambda p, q: jnp.sum(jnp.exp(q) * (q - p))),
        exact(lambda p, q: jnp.sum(jnp.exp(p) * (p - q) ** 2) / 2),
    )


def test_gradients_of_kl_terms_by_enumeration() -> None:
    """Of fresh samples: k1 pulls nowhere, k2 towards KL(p to q), k3 towards KL(q to p)."""
    reverse, forward, squared = exact_gradients()
    np.testing.assert_allclose(kl_gradient(losses.k1, False, P)[1], 0, atol=1e-15)
    np.testing.assert_allclose(kl_gradient(losses.k2, False, P)[1], reverse, atol=1e-14)
    np.testing.assert_allclose(kl_gradient(losses.k3, False, P)[1], forward, atol=1e-14)
    assert min(np.abs(a - b).max() for a, b in ((reverse, forward), (reverse, squared))) > 0.01
    kl = float(
        np.sum(np.exp(P) / np.exp(P).sum() * (np.asarray(jax.nn.log_softmax(P)) - np.asarray(jax.nn.log_softmax(Q))))
    )
    for term, value in ((losses.k1, kl), (losses.k3, kl)):
        assert kl_gradient(term, False, P)[0] == pytest.approx(value, rel=1e-12)
    assert kl_gradient(losses.k2, False, P)[0] != pytest.approx(kl, rel=0.01)


@pytest.mark.parametrize("sampled", [P, OLD], ids=["fresh", "old"])
def test_a_weighted_kl_term_has_the_gradient_of_its_expectation(sampled: np.ndarray) -> None:
    reverse, _, squared = exact_gradients()
    for term, gradient in ((losses.k1, reverse), (losses.k2, squared), (losses.k3, reverse)):
        np.testing.assert_allclose(kl_gradient(term, True, sampled)[1], gradient, atol=1e-14)
    unweighted = kl_gradient(losses.k2, False, OLD)[1]
    assert np.abs(unweighted - reverse).max() > 0.01, "samples of before have another gradient"


def test_top_entropy_keeps_the_share_that_it_names() -> None:
    logps, batch = drawn()
    entropies = jnp.asarray(np.random.default_rng(3).random(logps.shape))
    context = SimpleNamespace(score=lambda role, batch, read=None: {"entropy": entropies if read is entropy else logps})
    kept = np.asarray(losses.top_entropy(tokens_of(context, batch, "policy", None), context, batch, share=0.3))
    counted = np.asarray((batch.mask != 0) & (batch.completions["weight"] != 0)[..., None])
    assert kept[counted].mean() == pytest.approx(0.3, abs=1 / counted.sum())
    assert not np.any(kept[~counted])
    assert np.asarray(entropies)[counted & (kept == 0)].max() < np.asarray(entropies)[kept != 0].min()


# ------------------------------------------------------------------------------------------------------ old samples

EVERY = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
TABLE, BEFORE = np.array([[0.4, -0.2], [0.9, 0.1], [-0.5, 0.3]]), np.array([[-0.3, 0.5], [0.2, 0.6], [0.4, -0.7]])
REWARD = np.array([0.3, 1.4, -0.8, 0.9])


def logps_of(table: Array) -> Array:
    """Log-probs [4,2] of the tokens of every completion: the first by row 0, the second by the row of the first."""
    logs = jax.nn.log_softmax(jnp.asarray(table))
    return jnp.stack([logs[0][EVERY[:, 0]], logs[1 + EVERY[:, 0], EVERY[:, 1]]], axis=-1)


def gradient_on(sampled: np.ndarray, **choices: Any) -> np.ndarray:
    """The expected gradient of the surrogate by the policy's table on completions that another table draws."""
    old = logps_of(jnp.asarray(sampled))
    batch = Batch(
        tokens=jnp.asarray(EVERY)[:, None], valid=jnp.ones((4, 1, 2), bool), logps={"sampler": old[:, None]},
        advantage=jnp.broadcast_to(jnp.asarray(REWARD)[:, None, None], (4, 1, 2)),
        completions={"weight": jnp.exp(jnp.sum(old, axis=-1))[:, None]},
    )  # fmt: skip
    loss = fn(losses.surrogate, bound=fn(losses.no_bound), **choices)

    def expected(table: Array) -> Array:
        logps = logps_of(table)[:, None]
        return -loss(SimpleNamespace(score=lambda role, batch, read=None: {role: logps}), batch)[0].value()

    return np.asarray(jax.grad(expected)(jnp.asarray(TABLE)))


def test_samples_of_before_by_enumeration() -> None:
    """The ratio of whole completions is exact, those of tokens, of GSPO and none are not; on fresh samples all give the
    gradient of the mean reward."""
    exact = np.asarray(
        jax.grad(lambda table: jnp.sum(jnp.exp(jnp.sum(logps_of(table), axis=-1)) * REWARD))(jnp.asarray(TABLE))
    )
    whole = {"ratio": fn(losses.sequence_ratio, per_token=False), "reduction": fn(losses.sequence_mean)}
    tokens = {"ratio": fn(losses.token_ratio), "reduction": fn(losses.sequence_sum)}
    gspo = {"ratio": fn(losses.sequence_ratio), "reduction": fn(losses.sequence_sum)}
    none = {"ratio": fn(losses.no_ratio), "reduction": fn(losses.sequence_sum)}
    for choices in (whole, tokens, gspo, none):
        np.testing.assert_allclose(gradient_on(TABLE, **choices), exact, atol=1e-14)
    np.testing.assert_allclose(gradient_on(BEFORE, **whole), exact, atol=1e-14)
    assert min(np.abs(gradient_on(BEFORE, **choices) - exact).max() for choices in (tokens, gspo, none)) > 0.02


def test_reductions_by_enumeration_of_groups() -> None:
    """Of two fresh samples whose lengths differ, sums have the gradient of the mean reward and one length for all has
    it in other units; means over a completion's tokens, over a batch's and over a prompt's point elsewhere."""
    mask, reward = jnp.asarray([[1.0, 0.0], [1, 1], [1, 1]]), jnp.asarray([0.3, 1.4, -0.8])  # one token, or two
    drawn_of = np.array([[i, j] for i in range(3) for j in range(3)])

    def logps(table: Array) -> Array:
        logs = jax.nn.log_softmax(table)
        return jnp.stack([logs[0][jnp.array([0, 1, 1])], logs[1][jnp.array([0, 0, 1])]], axis=-1)

    def probability(table: Array) -> Array:
        return jnp.exp(jnp.sum(logps(table) * mask, axis=-1))

    def expected(reduction: Any) -> np.ndarray:
        def of_group(group: Array, table: Array) -> Array:
            advantage = jnp.broadcast_to(reward[group][None, :, None], (1, 2, 2))
            batch = Batch(tokens=jnp.zeros((1, 2, 2), int), mask=mask[group][None], advantage=advantage)
            context = SimpleNamespace(score=lambda role, batch, read=None: {role: logps(table)[group][None]})
            plain = {"ratio": RATIOS["no_ratio"], "bound": BOUNDS["no_bound"], "behaviour": None}
            return -losses.surrogate(context, batch, reduction=reduction, **plain)[0].value()

        share = jnp.prod(probability(jnp.asarray(TABLE[:2]))[drawn_of], axis=1)
        gradients = jax.vmap(lambda group: jax.grad(of_group, 1)(group, jnp.asarray(TABLE[:2])))(jnp.asarray(drawn_of))
        return np.asarray(jnp.einsum("g,gij->ij", share, gradients))

    exact = np.asarray(jax.grad(lambda table: jnp.sum(probability(table) * reward))(jnp.asarray(TABLE[:2])))
    np.testing.assert_allclose(expected(losses.sequence_sum), exact, atol=1e-14)
    np.testing.assert_allclose(5 * expected(fn(losses.constant_length, length=5)), exact, atol=1e-14)
    for reduction in (losses.sequence_mean, losses.token_mean, losses.prompt_mean):
        ours = expected(reduction)
        cosine = np.sum(ours * exact) / np.linalg.norm(ours) / np.linalg.norm(exact)
        assert cosine < 0.999, reduction
