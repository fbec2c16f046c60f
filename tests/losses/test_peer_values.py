"""Values and gradients that TRL's own code gave on fixed log-probs, in float64. Its conventions: "ipo" divides every
log-ratio by its completion's length; "robust" with epsilon is the loss of the label (1 - epsilon) / (1 - 2 epsilon)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import standin

from alignjax import losses
from alignjax.types import Array, Batch

PAIRWISE = {"sigmoid": losses.dpo, "robust": losses.dpo, "hinge": losses.slic, "ipo": losses.ipo}


@pytest.fixture(scope="module")
def cases(oracles: Path) -> list[dict[str, Any]]:
    return json.loads((oracles / "peer_losses.json").read_text())["cases"]


def plain(case: dict[str, Any]) -> bool:
    """The cases of our losses: no other divergence, no down-weighted or desensitised tokens."""
    hyper = case["hyper"]
    return (
        case["algorithm"] == "dpo"
        and case["loss_type"] in list(PAIRWISE)
        and hyper["f_divergence_type"] == "reverse_kl"
        and hyper["ld_alpha"] is None
        and not hyper["use_weighting"]
    )


def columns(chosen: Any, rejected: Any) -> Array:
    return jnp.stack([jnp.asarray(chosen), jnp.asarray(rejected)], axis=1)


def spread(sums: Array, mask: Array) -> Array:
    """Token log-probs [B,2,T] with the given sums, spread over the tokens that count."""
    return sums[..., None] * mask / mask.sum(-1, keepdims=True)


def batch_of(case: dict[str, Any]) -> Batch:
    given = case["inputs"]
    length = columns(given["chosen_lengths"], given["rejected_lengths"])
    mask = (jnp.arange(int(length.max()) + 3) < length[..., None]).astype(jnp.float64)
    epsilon = case["hyper"]["label_smoothing"]
    label = (1 - epsilon) / (1 - 2 * epsilon)
    preference = jnp.broadcast_to(jnp.array([[0.5, label], [1 - label, 0.5]]), (len(length), 2, 2))
    reference = spread(columns(given["ref_chosen_logps"], given["ref_rejected_logps"]), mask)
    return Batch(
        tokens=jnp.zeros(mask.shape, jnp.int32), valid=mask > 0, mask=mask, preference=preference,
        logps={"reference": reference},
    )  # fmt: skip


def test_pairwise_losses_agree_with_trl(cases: list[dict[str, Any]], float64: None) -> None:
    chosen = [case for case in cases if plain(case)]
    assert {case["loss_type"] for case in chosen} == set(PAIRWISE)
    assert len(chosen) >= 8
    for case in chosen:
        loss, batch = PAIRWISE[case["loss_type"]], batch_of(case)
        hyper = {"tau" if loss is losses.ipo else "beta": case["hyper"]["beta"]}
        normalize = "length" if case["loss_type"] == "ipo" else "none"

        def mean(sums: Array, loss=loss, batch=batch, hyper=hyper, normalize=normalize) -> Array:
            policy = standin(policy=spread(sums, batch.mask))
            return loss(policy, batch, **hyper, normalize=normalize)[0].value()

        given, expected = case["inputs"], case["expected"]
        sums = columns(given["policy_chosen_logps"], given["policy_rejected_logps"])
        value, grad = jax.value_and_grad(mean)(sums)
        check = {"rtol": case["rtol"], "atol": case["rtol"], "err_msg": case["name"]}
        np.testing.assert_allclose(value, expected["loss_mean"], **check)
        grads = columns(expected["grad_policy_chosen_logps"], expected["grad_policy_rejected_logps"])
        np.testing.assert_allclose(grad, grads, **check)


def test_bradley_terry_agrees_with_trl(cases: list[dict[str, Any]], float64: None) -> None:
    (case,) = [case for case in cases if case["name"] == "reward/bradley_terry"]
    given, expected = case["inputs"], case["expected"]
    rewards = columns(given["rewards_chosen"], given["rewards_rejected"])
    valid = jnp.ones((*rewards.shape, 3), bool).at[:, :, 2].set(False)
    batch = Batch(
        tokens=jnp.zeros(valid.shape, jnp.int32),
        valid=valid,
        preference=jnp.broadcast_to(jnp.array([[0.5, 1], [0, 0.5]]), (len(rewards), 2, 2)),
    )

    def mean(rewards: Array) -> Array:
        numbers = jnp.full(valid.shape, 7.0).at[:, :, 1].set(rewards)  # the last token's is what counts
        return losses.bradley_terry(standin(reward_reward=numbers), batch)[0].value()

    value, grad = jax.value_and_grad(mean)(rewards)
    check = {"rtol": case["rtol"], "atol": case["rtol"]}
    np.testing.assert_allclose(value, expected["loss_mean"], **check)
    np.testing.assert_allclose(
        grad, columns(expected["grad_rewards_chosen"], expected["grad_rewards_rejected"]), **check
    )
