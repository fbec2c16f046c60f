"""Losses on single completions: peers' values, reductions to other losses, and where they lead."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses, roles, stages
from alignjax.config import ConfigError, fn
from alignjax.types import Array, Batch, Context, Mean
from tests.support.single_completions import completions, value
from tests.support.tiny import as_jax, ragged, standin

# ----------------------------------------------------------------------------------------------------------------
# peers


@pytest.fixture(scope="module")
def peers(oracles: Path) -> list[dict[str, Any]]:
    return json.loads((oracles / "peer_losses.json").read_text())["cases"]


def answering(batch: Batch, here: dict[str, Array], elsewhere: dict[str, Array]) -> Any:
    """A context that scores the batch itself from `here` and completions under other prompts from `elsewhere`."""

    def score(names: Any, asked: Batch, read: Any = None) -> dict[str, Array]:
        known = here if asked is batch else elsewhere
        return {name: known[name] for name in ((names,) if isinstance(names, str) else names)}

    return SimpleNamespace(score=score, state={})


@pytest.mark.parametrize("loss", [losses.kto, losses.apo_zero_unpaired], ids=lambda loss: loss.__name__)
def test_kto_and_apo_zero_agree_with_trl(loss: Any, peers: list[dict[str, Any]], float64: None) -> None:
    chosen = [case for case in peers if case["algorithm"] == "kto" and case["loss_type"] == loss.__name__]
    assert len(chosen) >= (6 if loss is losses.kto else 1)
    for case in chosen:
        given, expected, hyper = case["inputs"], case["expected"], case["hyper"]
        spread = [completions(given[f"{name}_logps"], given["labels"]) for name in ("ref", "policy_kl", "ref_kl")]
        batch = spread[0][1].with_logps(reference=spread[0][0])

        def mean(sums: Array, batch=batch, spread=spread, hyper=hyper) -> tuple[Array, Any]:
            here = {"policy": completions(sums, batch.reward)[0]}
            elsewhere = {"policy": spread[1][0], "reference": spread[2][0]}
            weights = {"lam_desirable": hyper["desirable_weight"], "lam_undesirable": hyper["undesirable_weight"]}
            found, metrics = loss(answering(batch, here, elsewhere), batch, beta=hyper["beta"], **weights)
            return found.value(), metrics

        policy = jnp.asarray(given["policy_logps"])
        (found, metrics), gradient = jax.value_and_grad(mean, has_aux=True)(policy)
        check = {"rtol": case["rtol"], "atol": case["rtol"], "err_msg": case["name"]}
        np.testing.assert_allclose(found, expected["loss_mean"], **check)
        np.testing.assert_allclose(gradient, expected["grad_policy_logps"], **check)
        if loss is losses.kto:
            np.testing.assert_allclose(metrics["kl"].value(), expected["kl"], **check)


def test_bco_agrees_with_trl(peers: list[dict[str, Any]], float64: None) -> None:
    """Good and bad of equal number, where the mean of two means is the pooled mean; both options."""
    chosen = [case for case in peers if case["algorithm"] == "bco"]
    assert len(chosen) >= 2
    for case in chosen:
        given, expected = case["inputs"], case["expected"]
        both = [
            jnp.asarray(given[f"{who}_{side}_logps"]) for who in ("policy", "ref") for side in ("chosen", "rejected")
        ]
        policy, reference = jnp.concatenate(both[:2]), jnp.concatenate(both[2:])
        label = jnp.repeat(jnp.array([1.0, 0.0]), len(both[0]))
        _, batch = completions(policy, label, reference)

        def mean(sums: Array, batch=batch, case=case, **options: Any) -> Array:
            return value(losses.bco, completions(sums, batch.reward)[0], batch, beta=case["hyper"]["beta"], **options)

        nothing = {"shift": roles.zero_means("ratio_good", "ratio_bad").function(jax.random.key(0))}
        check = {"rtol": case["rtol"], "atol": case["rtol"], "err_msg": case["name"]}
        for options in ({"shift": None}, {"shift": None, "pooled": True}, {"state": nothing}):
            found, gradient = jax.value_and_grad(lambda x, o=options: mean(x, **o))(policy)
            np.testing.assert_allclose(found, expected["loss_mean"], **check)
            grads = jnp.concatenate([jnp.asarray(expected[f"grad_policy_{s}_logps"]) for s in ("chosen", "rejected")])
            np.testing.assert_allclose(gradient, grads, **check)


# ----------------------------------------------------------------------------------------------------------------
# KTO's estimate


def kto_on(batch: Batch, logps: Array) -> tuple[Array, Batch]:
    """(KL of the metric, the batch that was scored for it)."""
    asked: list[Batch] = []

    def score(names: Any, of: Batch, read: Any = None) -> dict[str, Array]:
        if isinstance(names, str):
            return {names: logps}
        asked.append(of)
        return {"policy": of.tokens * 1.0, "reference": jnp.zeros(of.tokens.shape)}

    _, metrics = losses.kto(SimpleNamespace(score=score, state={}), batch)
    return metrics["kl"].value(), asked[0]


def test_every_completion_is_read_under_the_prompt_of_the_next_row() -> None:
    batch = as_jax(ragged(rows=5, n=3)).replace(reward=jnp.ones((5, 3)))
    kl, other = kto_on(batch, batch.logps["reference"])
    assert other.logps == {}
    np.testing.assert_array_equal(other.prompt, batch.prompt)
    for row in range(5):
        for name in ("tokens", "valid", "mask"):
            np.testing.assert_array_equal(getattr(other, name)[row], getattr(batch, name)[row - 1])
    there = np.asarray(batch.mask).any(-1)
    np.testing.assert_allclose(kl, (np.asarray(batch.tokens * batch.mask).sum(-1)[there]).mean(), rtol=1e-6)


def test_one_row_has_nothing_to_be_mismatched_with() -> None:
    logps, batch = completions([-1.0, -2.0], [1, 0], n=2)
    with pytest.raises(ConfigError, match="at least 2"):
        value(losses.kto, logps, batch)


def test_kto_is_apo_zero_where_the_estimate_is_clamped(float64: None) -> None:
    logps, batch = completions([-1.0, -2.0, -4.0], [1, 0, 0.3], [-2.0, -1.0, -3.0])
    below = {"policy": logps - 5, "reference": logps}
    context = answering(batch, {"policy": logps}, below)
    kto = losses.kto(context, batch, beta=0.4, lam_desirable=1.3)[0].value()
    np.testing.assert_allclose(kto, value(losses.apo_zero_unpaired, logps, batch, beta=0.4, lam_desirable=1.3))


# ----------------------------------------------------------------------------------------------------------------
# labels


PLAIN = {
    "pointwise_dpo": (losses.pointwise_dpo, {"beta": 0.4, "shift": 0.3}),
    "apo_zero_unpaired": (losses.apo_zero_unpaired, {"beta": 0.4, "lam_desirable": 1.2}),
    "ulma_pooled": (losses.ulma, {"beta": 0.4, "pooled": True}),
}
plain = pytest.mark.parametrize("name", list(PLAIN))


@plain
def test_a_soft_label_is_the_mean_of_its_draws(name: str, float64: None) -> None:
    loss, hyper = PLAIN[name]
    one = completions([-1.5], [0.25], [-2.0])
    four = completions([-1.5] * 4, [1, 0, 0, 0], [-2.0] * 4)
    np.testing.assert_allclose(value(loss, *one, **hyper), value(loss, *four, **hyper), rtol=1e-12)


@plain
def test_good_completions_rise_and_bad_ones_fall(name: str, float64: None) -> None:
    loss, hyper = PLAIN[name]
    logps, batch = completions([-1.5, -1.5], [1, 0], [-2.0, -2.0])
    gradient = jax.grad(lambda x: value(loss, x, batch, **hyper))(logps)
    assert (gradient[0] < 0).all()
    assert (gradient[1] > 0).all()


@pytest.mark.parametrize("z", [0.1, 0.4, 0.8])
def test_pointwise_dpo_is_least_at_the_logit_of_the_label(z: float, float64: None) -> None:
    logps, batch = completions([0.0], [z])
    at = (np.log(z / (1 - z)) - 0.3) / 0.4
    slope = jax.grad(lambda x: value(losses.pointwise_dpo, logps + x / 3, batch, beta=0.4, shift=0.3))
    assert abs(float(slope(at))) < 1e-12
    assert float(slope(at - 1)) < -1e-3
    assert float(slope(at + 1)) > 1e-3


@pytest.mark.parametrize("z", [0.0, 0.3, 1.0])
def test_pointwise_dpo_at_the_reference_is_ln_2(z: float) -> None:
    logps, batch = completions([-3.0, -5.0], [z, z], [-3.0, -5.0])
    np.testing.assert_allclose(value(losses.pointwise_dpo, logps, batch, beta=0.7), np.log(2), rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------------
# BCO


@pytest.mark.parametrize("shift", [-30.0, -1.0, 0.0, 0.4, 25.0])
def test_twice_bco_bounds_dpo(shift: float, float64: None) -> None:
    """The mean over the two sides of a pair, twice, is at least the loss of the pair, whatever the shift."""
    draw = np.random.default_rng(0)
    sums, reference = draw.normal(-5, 4, (2, 64, 2))
    logps, batch = completions(sums, np.tile([1.0, 0.0], 64), reference, n=2)
    batch = batch.replace(preference=jnp.broadcast_to(jnp.array([[0.5, 1.0], [0.0, 0.5]]), (64, 2, 2)))
    big = Mean(jnp.asarray(shift) * 1e9, jnp.asarray(1e9))  # so much seen before that the batch does not move it
    state = {"shift": {"ratio_good": big, "ratio_bad": big}}

    def each(loss: Any, **options: Any) -> Array:
        def of_row(logps: Array, row: Batch) -> Array:
            logps, row = jax.tree.map(lambda leaf: leaf[None], (logps, row))
            return value(loss, logps, row, beta=1.0, **options)

        return jax.vmap(of_row)(logps, batch)

    bound, dpo = 2 * each(losses.bco, state=state), each(losses.dpo)
    assert (bound >= dpo).all()
    assert (bound > dpo + 1e-3).any()


def test_the_shift_is_the_mean_of_two_means() -> None:
    logps, batch = completions([3.0, 1.0, 2.0, -6.0], [1, 1, 1, 0])
    given = SimpleNamespace(score=standin(policy=logps).score, state={})
    for pooled, expected in ((False, (2 - 6) / 2), (True, 0.0)):
        _, metrics = losses.bco(given, batch, beta=0.5, shift=None, pooled=pooled)
        np.testing.assert_allclose(metrics["shift"].value(), 0.5 * expected, atol=1e-6)
    _, metrics = losses.bco(given, batch.replace(reward=jnp.ones((4, 1))), beta=0.5, shift=None)
    np.testing.assert_allclose(metrics["shift"].value(), 0.0, atol=1e-6)  # the class that there is, its mean is 0


def test_the_running_shift_is_the_discounted_mean_of_all_batches(float64: None) -> None:
    """Three iterations through the rule, against the mean over all examples with weights decay^age."""
    draw = np.random.default_rng(2)
    decay, beta = 0.7, 0.5
    sums = draw.normal(size=(3, 6))
    label = (draw.random((3, 6)) < 0.4).astype(float)
    label[0, 0], label[1] = 1, 1  # one batch has no bad completion at all
    state = {"shift": roles.zero_means("ratio_good", "ratio_bad").function(jax.random.key(0))}
    for step in range(3):
        logps, batch = completions(sums[step], label[step])
        context = Context(state=state, score=standin(policy=logps).score)
        _, metrics = losses.bco(context, batch, beta=beta)
        seen, ages = slice(0, step + 1), decay ** np.arange(step, -1, -1)[:, None]
        means = [np.sum(ages * w * sums[seen]) / np.sum(ages * w) for w in (label[seen], 1 - label[seen]) if w.any()]
        np.testing.assert_allclose(metrics["shift"].value(), beta * np.mean(means), rtol=1e-6)
        context = Context(state=state, metrics={f"bco/{name}": metric for name, metric in metrics.items()})
        rule = fn(roles.running_mean, of="bco", decay=decay)
        state = {"shift": rule(state["shift"], context, batch, jax.random.key(0))}


def test_bco_without_its_role_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="no state role 'shift'"):
        value(losses.bco, *completions([1.0], [1]))
    own = roles.zero_means("ratio_good").function(jax.random.key(0))
    with pytest.raises(ConfigError, match=r"no metric 'kto/ratio_good'.*'bco/ratio_good'"):
        roles.running_mean(
            own, Context(metrics={"bco/ratio_good": own["ratio_good"]}), Batch(), None, of="kto", decay=1.0
        )  # type: ignore[arg-type]


def test_density_ratios_weigh_the_bad_ones_and_are_clipped(float64: None) -> None:
    def of(ratio: float, label: float) -> float:
        logps, batch = completions([0.3], [label])
        batch = batch.replace(prompts={"density_ratio": jnp.array([ratio])})
        return float(value(losses.bco, logps, batch, shift=None))

    assert of(3.0, 0) == pytest.approx(3 * of(1.0, 0))
    assert of(1e9, 0) == pytest.approx(10 * of(1.0, 0))
    assert of(0.0, 0) == pytest.approx(0.5 * of(1.0, 0))
    assert of(3.0, 1) == of(1.0, 1)


def test_the_classifier_of_prompts_finds_the_density_ratio(float64: None) -> None:
    """Two kinds of prompts: six good and two bad completions of the one, one good and three bad of the other."""
    kind = jnp.array([0] * 8 + [1] * 4)
    _, batch = completions(np.zeros(12), [1] * 6 + [0] * 2 + [1] + [0] * 3)

    def context(logit: Array) -> Any:
        numbers = jnp.full(batch.tokens.shape, 7.0).at[:, 0, 0].set(logit[kind])  # after the first token it is too late
        return SimpleNamespace(score=lambda name, of: {name: numbers}, metrics={})

    loss = jax.jit(jax.grad(lambda logit: losses.prompt_classifier(context(logit), batch)[0].value()))
    logit = jnp.zeros(2)
    for _ in range(400):
        logit -= 4 * loss(logit)
    out, _ = stages.density_ratio(context(logit), batch, jax.random.key(0), prior=7 / 12)
    of_good, of_bad = np.array([6, 1]) / 7, np.array([2, 3]) / 5
    np.testing.assert_allclose(out.prompts["density_ratio"], (of_good / of_bad)[kind], rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------------
# ULMA, D2O and the weighted likelihoods


def test_ulma_of_good_completions_is_sft_and_of_bad_ones_pointwise_dpo(float64: None) -> None:
    logps, batch = completions([-1.0, -4.0, -2.0], [1, 1, 1], [-2.0, -3.0, -2.5])
    np.testing.assert_allclose(value(losses.ulma, logps, batch), value(losses.sft, logps, batch), rtol=1e-12)
    sums = value(losses.ulma, logps, batch, normalize="none")
    np.testing.assert_allclose(sums, 3 * value(losses.sft, logps, batch), rtol=1e-12)  # three tokens each
    bad = batch.replace(reward=jnp.zeros((3, 1)))
    dpo = value(losses.pointwise_dpo, logps, bad, beta=0.4, normalize="length")
    np.testing.assert_allclose(value(losses.ulma, logps, bad, beta=0.4), dpo, rtol=1e-12)
    shifted = value(losses.pointwise_dpo, logps, bad, beta=0.4, shift=0.3, normalize="length")
    np.testing.assert_allclose(value(losses.ulma, logps, bad, beta=0.4, shift=0.3), shifted, rtol=1e-12)


def test_the_balance_of_classes_does_not_weigh_in_ulma(float64: None) -> None:
    few = completions([-1.0, -4.0], [1, 0])
    many = completions([-1.0, -4.0, -4.0, -4.0], [1, 0, 0, 0])
    np.testing.assert_allclose(value(losses.ulma, *few), value(losses.ulma, *many), rtol=1e-12)
    assert value(losses.ulma, *few, pooled=True) != pytest.approx(float(value(losses.ulma, *many, pooled=True)))


def test_d2o_with_one_sample_is_dpo_in_which_the_sample_wins(float64: None) -> None:
    draw = np.random.default_rng(0)
    logps, batch = completions(draw.normal(-5, 2, 16), np.zeros(16), draw.normal(-5, 2, 16), n=2)
    batch = batch.replace(preference=jnp.broadcast_to(jnp.array([[0.5, 0.0], [1.0, 0.5]]), (8, 2, 2)))
    d2o, dpo = (
        jax.value_and_grad(lambda x, loss=loss, hyper=hyper: value(loss, x, batch, **hyper))(logps)
        for loss, hyper in ((losses.d2o, {"beta": 0.3, "alpha": 0.3}), (losses.dpo, {"beta": 0.3}))
    )
    np.testing.assert_allclose(d2o[0], dpo[0], rtol=1e-12)
    np.testing.assert_allclose(d2o[1], dpo[1], rtol=1e-9, atol=1e-14)


def test_d2o_has_a_temperature_for_each_side(float64: None) -> None:
    """Log-ratios of the rejected scaled by 2/3 are alpha at 2/3 of beta."""
    draw = np.random.default_rng(0)
    logps, batch = completions(draw.normal(-5, 2, 16), np.zeros(16), draw.normal(-5, 2, 16), n=2)
    batch = batch.replace(preference=jnp.broadcast_to(jnp.array([[0.5, 0.0], [1.0, 0.5]]), (8, 2, 2)))
    scale = jnp.array([2 / 3, 1.0])[None, :, None]
    scaled = batch.with_logps(reference=scale * batch.logps["reference"])
    d2o = jax.value_and_grad(lambda x: value(losses.d2o, x, batch, beta=0.3, alpha=0.2))(logps)
    dpo = jax.value_and_grad(lambda x: value(losses.dpo, scale * x, scaled, beta=0.3))(logps)
    np.testing.assert_allclose(d2o[0], dpo[0], rtol=1e-12)
    np.testing.assert_allclose(d2o[1], dpo[1], rtol=1e-9, atol=1e-14)
    assert abs(float(d2o[0] - value(losses.d2o, logps, batch, beta=0.2, alpha=0.3))) > 1e-2


def test_d2o_does_not_care_for_the_order_of_samples_and_counts_those_that_are_there(float64: None) -> None:
    sums = jnp.array([-2.0, -1.0, -3.0, -9.0])
    logps, batch = completions(sums, np.zeros(4), n=4)
    whole = value(losses.d2o, logps, batch)
    turned = value(losses.d2o, logps[:, jnp.array([3, 2, 1, 0])], batch, rejected=3)
    np.testing.assert_allclose(whole, turned, rtol=1e-12)
    gone = batch.replace(mask=batch.mask.at[:, 3].set(0))
    three, smaller = completions(sums[:3], np.zeros(3), n=3)
    np.testing.assert_allclose(value(losses.d2o, logps, gone), value(losses.d2o, three, smaller), rtol=1e-12)
    with pytest.raises(ConfigError, match="at least one sample"):
        value(losses.d2o, *completions([-1.0], [0]))


def test_d2o_reads_two_references(float64: None) -> None:
    logps, batch = completions([-2.0, -1.0], [0, 0], n=2)
    batch = batch.with_logps(minus=logps, plus=logps)  # each side at its own reference
    two = {"reference_samples": "minus", "reference_rejected": "plus"}
    np.testing.assert_allclose(value(losses.d2o, logps, batch, **two), np.log(2), rtol=1e-9)
    nearer = batch.with_logps(plus=logps - 1)  # the rejected one is likelier than its reference has it
    assert value(losses.d2o, logps, nearer, **two) > np.log(2)
    nearer = batch.with_logps(minus=logps - 1)
    assert value(losses.d2o, logps, nearer, **two) < np.log(2)


# ----------------------------------------------------------------------------------------------------------------
# a claim in miniature


def descended(loss: str, key: Array, reference: Array, steps: int = 500) -> Array:
    """Probabilities of a softmax policy over 12 completions after descent on negatives alone (the last four)."""
    k, rows = 4, 32

    def value_of(theta: Array, key: Array) -> Array:
        first, second = jax.random.split(key)
        logp = jax.nn.log_softmax(theta)
        bad = jax.random.randint(first, (rows, 1), 8, 12)
        drawn = jnp.concatenate([bad, jax.random.categorical(second, theta, shape=(rows, k))], axis=1)[..., None]
        on = jnp.ones(drawn.shape)
        batch = Batch(tokens=drawn, valid=on > 0, mask=on, logps={"reference": reference[drawn]})
        if loss == "d2o":
            return losses.d2o(standin(policy=logp[drawn]), batch, beta=1.0, alpha=1.0)[0].value()
        only = batch.replace(mask=on.at[:, 1:].set(0))
        return losses.weighted(standin(policy=logp[drawn]), only, loss=fn(losses.sft), weight=-1.0)[0].value()

    def step(theta: Array, key: Array) -> tuple[Array, None]:
        return theta - 0.3 * jax.grad(value_of)(theta, key), None

    theta, _ = jax.lax.scan(step, reference, jax.random.split(key, steps))
    return jax.nn.softmax(theta)


@pytest.mark.slow
def test_unlikelihood_of_negatives_collapses_at_once_and_d2o_does_not() -> None:
    """After 500 equal steps, over five seeds, unlikelihood has put everything on one completion (which may even be a
    negative: it pushes up whatever is not in the batch), while D2O keeps more than a tenth of the reference's entropy.
    It is slower, not immune: it raises its own samples, and after 3000 steps little is left of it in some seeds too."""
    keys = jax.random.split(jax.random.key(1), 5)
    reference = jax.vmap(lambda key: jax.nn.log_softmax(jax.random.normal(key, (12,))))(keys)

    def entropy(p: Array) -> np.ndarray:
        p = np.asarray(p, np.float64)
        return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=1)

    before = entropy(jnp.exp(reference))
    kept, naive = (
        jax.jit(jax.vmap(lambda k, r, loss=loss: descended(loss, k, r)))(keys, reference)
        for loss in ("d2o", "unlikelihood")
    )
    assert (entropy(naive) < 1e-3 * before).all()
    assert (entropy(kept) > 0.1 * before).all()
