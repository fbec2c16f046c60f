"""Losses of self-play and exploration: special cases, TRL's values, and the policies at which they rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import ConfigError, fn
from alignjax.pair_layout import all_pairs
from alignjax.types import Array, Batch
from tests.support.tiny import ragged, standin


def scored(seed: int = 0, n: int = 3, **logps: Any) -> tuple[Any, Batch]:
    """A stand-in policy with log-probs of its own, and a batch with those of other roles and rewards."""
    batch = ragged(seed, n=n)
    draw = np.random.default_rng(seed + 50)

    def drawn() -> Array:
        return jnp.asarray(np.where(batch.valid, -1 - draw.random(batch.valid.shape), 0))

    filed = {"reference": jnp.asarray(batch.logps["reference"], float)}
    batch = jax.tree.map(jnp.asarray, batch).replace(
        mask=jnp.asarray(batch.valid, float), reward=jnp.asarray(draw.random(batch.tokens.shape[:2])), logps=filed
    )
    others = {name: drawn() for name in ("previous", "past1", "past2")}
    return standin(policy=drawn()), batch.with_logps(**others, **logps)


def value(mean_and_metrics: Any) -> float:
    return float(mean_and_metrics[0].value())


@pytest.fixture(autouse=True)
def _exactly(float64: None) -> None:
    pass


# -------------------------------------------------------------------------------------------------- special cases


def test_inpo_without_reference_is_ipo_from_the_previous_policy() -> None:
    policy, batch = scored()
    pairs = all_pairs(3)
    ipo = losses.ipo(policy, batch, tau=0.7, reference="previous", pairs=pairs)
    assert value(losses.inpo(policy, batch, eta=0.7, c=0.0, pairs=pairs)) == pytest.approx(value(ipo), rel=1e-12)
    online = losses.ipo(policy, batch, tau=0.7, pairs=pairs)
    assert value(losses.inpo(policy, batch, eta=0.7, c=1.0, pairs=pairs)) == pytest.approx(value(online), rel=1e-12)
    assert value(ipo) != pytest.approx(value(online), rel=1e-3)


def test_mnpo_of_one_opponent_is_inpo() -> None:
    policy, batch = scored(1)
    one = losses.mnpo(policy, batch, eta=0.4, c=0.3, history=("previous",))
    assert value(one) == pytest.approx(value(losses.inpo(policy, batch, eta=0.4, c=0.3)), rel=1e-12)


def test_mnpo_weighs_its_opponents() -> None:
    policy, batch = scored(2)

    def of(history: Any, **more: Any) -> float:
        return value(losses.mnpo(policy, batch, eta=0.4, c=0.3, history=history, **more))

    assert of(("past1", "past2"), weights=(1.0, 0.0)) == pytest.approx(of(("past1",)), rel=1e-12)
    assert of(("past1", "past2"), weights=(3.0, 1.0)) == pytest.approx(
        of(("past1", "past1", "past2", "past1")), rel=1e-12
    )
    assert of(("past1", "past2"), weights=(3.0, 1.0)) == pytest.approx(
        of(("past1", "past2"), weights=(0.75, 0.25)), rel=1e-12
    ), "only their shares matter"
    assert of(("past1", "past2")) == pytest.approx(of(("past2", "past1")), rel=1e-12)
    assert of(("past1", "past2")) != pytest.approx(of(("past1",)), rel=1e-3)
    # As in the released code, no history leaves the reference its share alone: D(pi) - c D(ref).
    third = batch.with_logps(share=0.3 * batch.logps["reference"])
    assert of(()) == pytest.approx(value(losses.ipo(policy, third, tau=0.4, reference="share")), rel=1e-12)
    with pytest.raises(ConfigError, match="give every opponent a weight"):
        of(("past1", "past2"), weights=(1.0,))


def test_sppo_on_two_is_its_hard_form_where_win_rates_are_hard() -> None:
    policy, batch = scored(3, n=2)
    hard = jnp.broadcast_to(jnp.array([[0.5, 1.0], [0.0, 0.5]]), batch.preference.shape)
    batch = batch.replace(preference=hard, reward=hard[:, :, ::-1].diagonal(axis1=1, axis2=2))
    np.testing.assert_array_equal(batch.reward[0], [1, 0])
    for completions in ("extremes", "all"):
        ours = losses.sppo(policy, batch, eta=20.0, completions=completions)
        assert value(ours) == pytest.approx(
            value(losses.sppo_hard(policy, batch, beta=1 / 20, reference="previous")), rel=1e-12
        )


def test_sppo_takes_the_best_and_the_worst() -> None:
    policy, batch = scored(4, n=4)
    batch = batch.replace(reward=jnp.array([[0.3, 0.9, 0.1, 0.5]] * 3 + [[0.5, 0.5, 0.5, 0.5]]))
    extremes = value(losses.sppo(policy, batch, eta=3.0))
    picked = batch.pick(jnp.array([[1, 2]] * 3 + [[0, 3]]))
    (all_logps,) = policy.score("policy", batch).values()
    both = jnp.take_along_axis(all_logps, jnp.array([[1, 2]] * 3 + [[0, 3]])[..., None], axis=1)
    assert extremes == pytest.approx(
        value(losses.sppo(standin(policy=both), picked, eta=3.0, completions="all")), rel=1e-12
    )
    with pytest.raises(ConfigError, match="'extremes'"):
        losses.sppo(policy, batch, completions="best")


def test_egpo_with_labels_for_rewards_is_ipo() -> None:
    """r_i - r_j = p - 1/2 for the win rates of a pair against its own mixture: the target of online IPO."""
    policy, batch = scored(5, n=2)
    p = batch.preference
    batch = batch.replace(reward=(p[:, :, 0] + p[:, :, 1]) / 2)
    ours = value(losses.egpo(policy, batch, tau=0.3))
    assert ours == pytest.approx(value(losses.ipo(policy, batch, tau=0.3)), rel=1e-12)


def test_bonuses_of_weight_nothing_leave_the_base() -> None:
    policy, batch = scored(6)
    dpo = value(losses.dpo(policy, batch, beta=0.3))
    assert value(losses.xpo(policy, batch, loss=fn(losses.dpo, beta=0.3), alpha=0.0)) == dpo
    assert value(losses.selm(policy, batch, beta=0.3, alpha=0.0)) == dpo
    assert value(losses.vpo(policy, batch, beta=0.3, alpha=0.0)) == dpo
    assert value(losses.vpo(policy, batch, beta=0.3, alpha=0.0, optimistic=False, explored=(2,))) == dpo


def gradient_by(loss: Any, policy: Any, batch: Batch) -> np.ndarray:
    (logps,) = policy.score("policy", batch).values()
    return np.asarray(jax.grad(lambda x: loss(standin(policy=x), batch)[0].value())(logps)).sum(-1)


def test_bonuses_push_the_right_way() -> None:
    """Online, what is explored away from loses probability; offline, what was preferred gains it."""
    policy, batch = scored(7)
    batch = batch.replace(pair_weight=jnp.zeros_like(batch.preference))  # the bonus alone
    for loss in (losses.selm, losses.vpo):
        online = gradient_by(lambda c, b, loss=loss: loss(c, b, alpha=0.5, explored=(2,)), policy, batch)
        assert np.all(online[:, 2] > 0)
        assert not np.any(online[:, :2])
    explored = gradient_by(lambda c, b: losses.xpo(c, b, alpha=0.5, explored=(1,)), policy, batch)
    assert np.all(explored[:, 1] > 0)
    wins = jnp.full((4, 3, 3), 0.5).at[:, 0, 1].set(1.0).at[:, 1, 0].set(0.0)
    batch = batch.replace(pair_weight=None, preference=wins)
    with_bonus, without = (
        gradient_by(lambda c, b, a=a: losses.vpo(c, b, alpha=a, optimistic=False), policy, batch) for a in (0.5, 0.0)
    )
    assert np.all((with_bonus - without)[:, 0] < 0)
    np.testing.assert_allclose((with_bonus - without)[:, 1:], 0, atol=1e-12)


def test_the_two_vpos_differ_in_a_sign() -> None:
    policy, batch = scored(8)
    up, down = (value(losses.vpo(policy, batch, alpha=0.7, optimistic=sign, explored=(2,))) for sign in (True, False))
    assert (up + down) / 2 == pytest.approx(value(losses.dpo(policy, batch, beta=0.1)), rel=1e-12)
    assert abs(up - down) > 1e-3


@pytest.mark.parametrize("loss", [losses.selm, fn(losses.vpo, explored=(2,))], ids=["selm", "vpo"])
def test_optimistic_bonuses_are_those_of_xpo_on_log_ratios(loss: Any) -> None:
    """With a reference that gives log-probs of 0; in units of beta."""
    policy, batch = scored(15)
    batch = batch.with_logps(reference=jnp.zeros(batch.tokens.shape))
    xpo = losses.xpo(policy, batch, loss=fn(losses.dpo, beta=0.3), alpha=0.3 * 0.7, explored=(2,))
    assert value(loss(policy, batch, beta=0.3, alpha=0.7)) == pytest.approx(value(xpo), rel=1e-12)


def test_pessimism_is_the_likelihood_of_cpo_on_log_ratios() -> None:
    """With soft labels, and a reference that gives log-probs of 0. It is what comes without `explored`."""
    policy, batch = scored(16)
    batch = batch.with_logps(reference=jnp.zeros(batch.tokens.shape))
    cpo = value(losses.cpo(policy, batch, beta=0.3, alpha=0.3 * 0.7, pairs=all_pairs(3)))
    for more in ({}, {"optimistic": False}):
        vpo = losses.vpo(policy, batch, beta=0.3, alpha=0.7, pairs=all_pairs(3), **more)
        assert value(vpo) == pytest.approx(cpo, rel=1e-12)
    with pytest.raises(ConfigError, match=r"optimistic=True\) needs explored"):
        losses.vpo(policy, batch, optimistic=True)


def test_selm_counts_its_bonus_in_units_of_beta_and_xpo_does_not() -> None:
    policy, batch = scored(9)
    batch = batch.replace(pair_weight=jnp.zeros_like(batch.preference))
    selm = [gradient_by(lambda c, b, s=s: losses.selm(c, b, beta=s, alpha=0.5), policy, batch) for s in (0.1, 0.2)]
    np.testing.assert_allclose(2 * selm[0], selm[1], rtol=1e-12)
    base = [fn(losses.dpo, beta=s) for s in (0.1, 0.2)]
    xpo = [gradient_by(lambda c, b, f=f: losses.xpo(c, b, loss=f, alpha=0.5), policy, batch) for f in base]
    np.testing.assert_array_equal(xpo[0], xpo[1])


def test_a_bootstrapped_loss_counts_rows_by_the_members_weights() -> None:
    policy, batch = scored(10)
    weight = jnp.array([[1.0, 0.0], [1.0, 2.0], [1.0, 0.0], [1.0, 1.0]])
    batch = batch.replace(prompts={"bootstrap": weight})
    plain = fn(losses.dpo, beta=0.3)
    assert value(losses.bootstrapped(policy, batch, loss=plain, member=0)) == pytest.approx(
        value(plain(policy, batch)), rel=1e-12
    )
    rows = jnp.array([1, 1, 3])
    (logps,) = policy.score("policy", batch).values()
    thrice = value(plain(standin(policy=logps[rows]), batch.take(rows)))
    assert value(losses.bootstrapped(policy, batch, loss=plain, member=1)) == pytest.approx(thrice, rel=1e-12)
    with pytest.raises(ConfigError, match="bootstrap"):
        losses.bootstrapped(policy, batch.replace(prompts={}), loss=plain, member=0)


def test_borda_is_point_wise_dpo_of_the_outcomes() -> None:
    policy, batch = scored(14)
    first = jnp.array([2, 0, 1, 0])
    met = jnp.array([0, 1, 2, 2])
    row = jnp.arange(4)
    weight = jnp.zeros((4, 3, 3)).at[row, first, met].set(1).at[row, met, first].set(1)
    asked = batch.replace(pair_weight=weight, prompts={"optimistic": first})
    (logps,) = policy.score("policy", batch).values()
    alone = batch.pick(first[:, None]).replace(reward=batch.preference[row, first, met][:, None])
    wanted = losses.pointwise_dpo(standin(policy=logps[row, first][:, None]), alone, beta=0.3)
    assert value(losses.borda(policy, asked, beta=0.3)) == pytest.approx(value(wanted), rel=1e-6)
    # With all rivals asked, the label is the Borda score: S(beta rho) is fitted to it.
    scores = jnp.mean(jnp.array([[batch.preference[0, 2, 0], batch.preference[0, 2, 1]]]))
    every = batch.replace(pair_weight=None, prompts={"optimistic": jnp.full(4, 2)})
    assert float(losses.borda(policy, every.take(jnp.array([0])), beta=0.3)[1]["outcome"].value()) == pytest.approx(
        float(scores), rel=1e-6
    )
    with pytest.raises(ConfigError, match="active_pairs"):
        losses.borda(policy, batch)


def test_egpo_on_log_probs_per_token_is_ipo_on_them() -> None:
    policy, batch = scored(5, n=2)
    p = batch.preference
    batch = batch.replace(reward=(p[:, :, 0] + p[:, :, 1]) / 2)
    ours = value(losses.egpo(policy, batch, tau=0.3, normalize="length"))
    assert ours == pytest.approx(value(losses.ipo(policy, batch, tau=0.3, normalize="length")), rel=1e-12)
    assert ours != pytest.approx(value(losses.egpo(policy, batch, tau=0.3)), rel=1e-3)


# -------------------------------------------------------------------------------------------- the policy gradient


def test_reinforce_forms_agree_on_one_token() -> None:
    """On completions of one token the token-wise KL term is the sequence's."""
    policy, batch = scored(11)
    (logps,) = policy.score("policy", batch).values()
    short = batch.replace(tokens=batch.tokens[..., :1], valid=batch.valid[..., :1], mask=jnp.ones((4, 3, 1)))
    short = short.replace(logps={name: leaf[..., :1] for name, leaf in batch.logps.items()})
    forms = [
        gradient_by(lambda c, b, k=k: losses.reinforce(c, b, tau=0.3, kl=k), standin(policy=logps[..., :1]), short)
        for k in ("sequence", "token")
    ]
    np.testing.assert_allclose(*forms, rtol=1e-12)
    long = [gradient_by(lambda c, b, k=k: losses.reinforce(c, b, tau=0.3, kl=k), policy, batch) for k in ("sequence", "token")]  # fmt: skip  # noqa: E501
    assert np.abs(long[0] - long[1]).max() > 1e-3
    with pytest.raises(ConfigError, match="'sequence'"):
        losses.reinforce(policy, batch, kl="full")


def test_leaving_one_out_centres_rewards() -> None:
    """Equal rewards then teach nothing, whatever they are; and the mean over a prompt of what is left is 0."""
    policy, batch = scored(12)
    same = batch.replace(reward=jnp.full((4, 3), 7.0))
    assert not np.any(gradient_by(lambda c, b: losses.reinforce(c, b, tau=0.0, leave_one_out=True), policy, same))
    shifted = batch.replace(reward=batch.reward + 3)
    one, other = (
        gradient_by(lambda c, b: losses.reinforce(c, b, tau=0.1, leave_one_out=True), policy, given)
        for given in (batch, shifted)
    )
    np.testing.assert_allclose(one, other, atol=1e-12)
    with pytest.raises(ConfigError, match="at least two"):
        losses.reinforce(policy, batch.pick(jnp.zeros((4, 1), int)), leave_one_out=True)


def test_standardized_rewards_are_alike_in_any_unit() -> None:
    """Rewards in another unit and from another zero teach the same; equal ones, and one alone, nothing; and what is
    learned is the plain policy gradient on rewards that NumPy standardized."""
    policy, batch = scored(12)
    weight = jnp.array([[1.0, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 1]])
    rewards = np.array([[3.0, 1, 7], [2, 9, 4], [1, 5, 3], [6, 6, 6]])

    def slope(reward: np.ndarray, **settings: bool) -> np.ndarray:
        rated = batch.replace(reward=jnp.asarray(reward), completions={"weight": weight})
        return gradient_by(lambda c, b: losses.reinforce(c, b, tau=0.0, **settings), policy, rated)

    first = slope(rewards, standardized=True)
    np.testing.assert_allclose(slope(100 * rewards - 20, standardized=True), first, rtol=1e-3, atol=1e-12)
    expected = np.zeros((4, 3))
    for row, there in ((0, [0, 1, 2]), (1, [0, 2])):
        part = rewards[row, there]
        expected[row, there] = (part - part.mean()) / part.std(ddof=1)
    np.testing.assert_allclose(first, slope(expected), rtol=1e-3, atol=1e-12)
    assert not first[2:].any()
    with pytest.raises(ConfigError, match="choose one"):
        slope(rewards, standardized=True, leave_one_out=True)
    with pytest.raises(ConfigError, match="at least two"):
        losses.reinforce(policy, batch.pick(jnp.zeros((4, 1), int)), standardized=True)


@pytest.mark.parametrize("weight", [[0.5, 0.5, 0.5], [1.0, 1 / 3, 0.5]])
def test_leaving_one_out_centres_rewards_that_count_in_part(weight: list[float]) -> None:
    """Equal rewards teach nothing; with equal weights the advantages are those of weight 1."""
    policy, batch = scored(12)

    def slope(reward: list[float], weight: list[float]) -> np.ndarray:
        rated = batch.replace(
            reward=jnp.tile(jnp.array(reward), (4, 1)), completions={"weight": jnp.tile(jnp.array(weight), (4, 1))}
        )
        return gradient_by(lambda c, b: losses.reinforce(c, b, tau=0.0, leave_one_out=True), policy, rated)

    np.testing.assert_allclose(slope([0.7, 0.7, 0.7], weight), 0, atol=1e-12)
    if len(set(weight)) == 1:
        np.testing.assert_allclose(slope([0.9, 0.5, 0.1], weight), slope([0.9, 0.5, 0.1], [1, 1, 1]), atol=1e-12)
    else:  # the second is compared with (1 * 0.9 + 0.5 * 0.1) / 1.5, and counts 1/3 of all the weight of 11/6
        length = np.asarray(batch.mask).sum(-1)[:, 1]
        expected = -(0.5 - 0.95 / 1.5) * (1 / 3) / (4 * 11 / 6) * length
        np.testing.assert_allclose(slope([0.9, 0.5, 0.1], weight)[:, 1], expected, rtol=1e-9)


def test_completions_of_weight_nothing_do_not_count() -> None:
    policy, batch = scored(13)
    off = batch.replace(
        completions={"weight": jnp.ones((4, 3)).at[:, 1].set(0)}, reward=batch.reward.at[:, 1].set(jnp.nan)
    )
    for loss in (losses.reinforce, losses.sppo):
        gradient = gradient_by(loss, policy, off)
        assert np.all(np.isfinite(gradient))
        assert not np.any(gradient[:, 1])


# ------------------------------------------------------------------------------------------------------------- TRL


@pytest.fixture(scope="module")
def cases(oracles: Path) -> list[dict[str, Any]]:
    return json.loads((oracles / "peer_losses.json").read_text())["cases"]


def test_nash_md_agrees_with_trl(cases: list[dict[str, Any]]) -> None:
    """Its "score" is (P - 1/2) lp, its KL goes token by token."""
    chosen = [case for case in cases if case["algorithm"] == "nash_md"]
    assert len(chosen) == 2
    for case in chosen:
        given, expected = case["inputs"], case["expected"]
        longest = max(map(len, given["policy_token_logps"]))

        def filled(rows: Any, longest: int = longest) -> Array:
            return jnp.array([[*row, *[0.0] * (longest - len(row))] for row in rows])[:, None]

        policy, reference = filled(given["policy_token_logps"]), filled(given["ref_token_logps"])
        valid = filled([[1.0] * len(row) for row in given["policy_token_logps"]]) > 0
        batch = Batch(
            tokens=jnp.zeros(valid.shape, int), valid=valid, mask=valid * 1.0, logps={"reference": reference},
            reward=jnp.array(given["probability"])[:, None],
        )  # fmt: skip

        def mean(logps: Array, batch: Batch = batch, tau: float = case["hyper"]["beta"]) -> Array:
            return losses.reinforce(standin(policy=logps), batch, tau=tau, baseline=0.5, kl="token")[0].value()

        total, gradient = jax.value_and_grad(mean)(policy)
        check = {"rtol": case["rtol"], "atol": case["rtol"], "err_msg": case["name"]}
        np.testing.assert_allclose(total, expected["loss_mean"], **check)
        np.testing.assert_allclose(gradient, filled(expected["grad_policy_token_logps"]), **check)


def test_xpo_agrees_with_trl(cases: list[dict[str, Any]]) -> None:
    chosen = [case for case in cases if case["algorithm"] == "xpo"]
    assert {case["loss_type"] for case in chosen} == {"sigmoid", "ipo"}
    for case in chosen:
        given, expected, beta = case["inputs"], case["expected"], case["hyper"]["beta"]
        loss = fn(losses.dpo, beta=beta) if case["loss_type"] == "sigmoid" else fn(losses.ipo, tau=beta)

        def columns(kind: str, given: Any = given) -> Array:
            names = [f"{kind}_logps_on_{side}_sample" for side in ("policy", "ref")]
            return jnp.stack([jnp.array(given[name]) for name in names], axis=1)[..., None]

        wins = jnp.array(given["policy_sample_wins"], float)
        half = jnp.full((len(wins), 2, 2), 0.5)
        on = jnp.ones((len(wins), 2, 1))
        batch = Batch(
            tokens=jnp.zeros(on.shape, int), valid=on > 0, mask=on, logps={"reference": columns("ref")},
            preference=half.at[:, 0, 1].set(wins).at[:, 1, 0].set(1 - wins),
        )  # fmt: skip

        def mean(logps: Array, batch: Batch = batch, loss: Any = loss, alpha: float = case["hyper"]["alpha"]) -> Array:
            return losses.xpo(standin(policy=logps), batch, loss=loss, alpha=alpha)[0].value()

        total, gradient = jax.value_and_grad(mean)(columns("policy"))
        check = {"rtol": case["rtol"], "atol": case["rtol"], "err_msg": case["name"]}
        np.testing.assert_allclose(total, expected["loss_mean"], **check)
        wanted = [expected[f"grad_policy_logps_on_{side}_sample"] for side in ("policy", "ref")]
        np.testing.assert_allclose(gradient[..., 0], np.stack(wanted, axis=1), **check)
