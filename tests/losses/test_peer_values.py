"""Values and gradients that TRL's own code gave on fixed log-probs, in float64. Its conventions: "ipo" divides every
log-ratio (or score, under another divergence) by its completion's length; `label_smoothing` is epsilon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import Fn, fn
from alignjax.losses import divergences
from alignjax.types import Array, Batch
from tests.support.tiny import standin

OURS = ("dpo", "cpo", "orpo")  # what TRL calls an algorithm; SimPO and AlphaPO are loss types of its CPO
Entries = list[tuple[float, Callable[..., Any]]]  # weights and losses, whose weighted sum is TRL's loss


@pytest.fixture(scope="module")
def cases(oracles: Path) -> list[dict[str, Any]]:
    return json.loads((oracles / "peer_losses.json").read_text())["cases"]


def by_token(case: dict[str, Any]) -> bool:
    """Length-desensitised and weighted cases, which are those of `test_peer_tokens.py`."""
    return case["hyper"].get("ld_alpha") is not None or bool(case["hyper"].get("use_weighting"))


def dpo_entry(kind: str, hyper: dict[str, Any]) -> tuple[float, Fn]:
    """One of the loss types of TRL's DPO trainer. Its `sppo_hard` is a sum of squares where the authors have a mean,
    its `bco_pair` has no shift."""
    beta, epsilon = hyper["beta"], hyper["label_smoothing"]
    factor, loss = {
        "sigmoid": lambda: (1.0, fn(losses.dpo, beta=beta)),
        "sigmoid_norm": lambda: (1.0, fn(losses.ln_dpo, beta=beta)),
        "hinge": lambda: (1.0, fn(losses.slic, beta=beta)),
        "ipo": lambda: (1.0, fn(losses.ipo, tau=beta, normalize="length")),
        "robust": lambda: (1.0, fn(losses.robust_dpo, beta=beta, epsilon=epsilon)),
        "exo_pair": lambda: (1.0, fn(losses.exo, beta=beta, epsilon=epsilon)),
        "nca_pair": lambda: (1.0, fn(losses.nca, beta=beta)),
        "bco_pair": lambda: (1.0, fn(losses.bco_pair, beta=beta, shift=0.0)),
        "sppo_hard": lambda: (2.0, fn(losses.sppo_hard, beta=beta)),
        "apo_zero": lambda: (1.0, fn(losses.apo_zero, beta=beta)),
        "apo_down": lambda: (1.0, fn(losses.apo_down, beta=beta)),
        "discopop": lambda: (1.0, fn(losses.discopop, beta=beta, temperature=hyper["discopop_tau"])),
        "aot": lambda: (1.0, fn(losses.aot, beta=beta, epsilon=epsilon)),
        "aot_unpaired": lambda: (1.0, fn(losses.aot_unpaired, beta=beta, epsilon=epsilon)),
        "sft": lambda: (1.0, losses.on("chosen", losses.sft)),
    }[kind]()
    divergence = {
        "reverse_kl": None,
        "forward_kl": divergences.forward_kl,
        "js_divergence": divergences.jensen_shannon,
        "alpha_divergence": fn(divergences.alpha_divergence, alpha=1 - hyper["f_alpha_divergence_coef"]),
    }[hyper["f_divergence_type"]]
    return factor, loss if divergence is None else fn(losses.with_divergence, loss=loss, divergence=divergence)


def with_sides_swapped(loss: Fn) -> Callable[..., Any]:
    """The loss of the same batch with each label's opposite."""
    return lambda roles, batch: loss(roles, batch.replace(preference=jnp.swapaxes(batch.preference, 1, 2)))


def cpo_entries(kind: str, hyper: dict[str, Any]) -> Entries:
    """The loss types of TRL's CPO trainer, without the likelihood, which it is given as a number. Its label smoothing
    of SimPO leaves the target margin with the labelled side: S(-z) for z = beta h - gamma."""
    beta, gamma, epsilon = hyper["beta"], hyper["simpo_gamma"], hyper["label_smoothing"]
    if kind == "sigmoid":
        return [(1, fn(losses.cpo, beta=beta, alpha=0.0))]
    if kind == "hinge":
        return [(1, fn(losses.slic, beta=beta, reference=None))]
    if kind == "ipo":
        return [(1, fn(losses.ipo, tau=beta, reference=None, normalize="length"))]
    assert kind == "simpo"
    if hyper["alpha"]:
        assert not epsilon
        return [(1, fn(losses.alpha_po, beta=beta, gamma=gamma, alpha=hyper["alpha"]))]
    simpo = fn(losses.simpo, beta=beta, gamma=gamma)
    return [(1 - epsilon, simpo), (epsilon, with_sides_swapped(simpo.replace(gamma=-gamma)))]


def entries_of(case: dict[str, Any]) -> tuple[Entries, float, float]:
    """Our losses for a case, the label that stands for its smoothing, and what TRL's mean has besides."""
    hyper, kind = case["hyper"], case["loss_type"]
    if case["algorithm"] == "orpo":  # the likelihood is a number there, so ours is taken off
        terms = [(1, fn(losses.orpo, lam=hyper["beta"])), (-1, fn(losses.orpo, lam=0.0))]
        return terms, 1.0, case["inputs"]["chosen_nll"]
    if case["algorithm"] == "cpo":
        label = 1 - hyper["label_smoothing"] if kind == "sigmoid" else 1.0
        return cpo_entries(kind, hyper), label, hyper["cpo_alpha"] * case["inputs"]["chosen_nll"]
    kinds = [kind] if isinstance(kind, str) else kind
    weights = hyper["loss_weights"] or [1.0] * len(kinds)
    parts = [dpo_entry(each, hyper) for each in kinds]
    terms = [(weight * factor, loss) for weight, (factor, loss) in zip(weights, parts, strict=True)]
    return terms, 1 - hyper["label_smoothing"] if kind == "sigmoid" else 1.0, 0.0


def columns(chosen: Any, rejected: Any) -> Array:
    return jnp.stack([jnp.asarray(chosen), jnp.asarray(rejected)], axis=1)


def spread(sums: Array, mask: Array) -> Array:
    """Token log-probs [B,2,T] with the given sums, spread over the tokens that count."""
    return sums[..., None] * mask / mask.sum(-1, keepdims=True)


def tokens_of(numbers: dict[str, Any], name: str, mask: Array) -> Array:
    """Numbers per token [B,2,T] where the case has them, else its sums (or means) spread over the tokens."""
    sides = [name.format(side) for side in ("chosen", "rejected")]
    if f"{sides[0]}_token_logps" not in numbers:
        sums = columns(*[numbers[f"{side}_logps"] for side in sides])
        return spread(sums * (mask.sum(-1) if "mean" in numbers.get("logps_are", "") else 1), mask)
    rows = [numbers[f"{side}_token_logps"] for side in sides]
    pad = [[[*row, *[0.0] * (mask.shape[-1] - len(row))] for row in side] for side in rows]
    return columns(*pad)


def batch_of(case: dict[str, Any], label: float) -> Batch:
    """The chosen come first. The view "chosen" counts nothing else."""
    given = case["inputs"]
    length = columns(given["chosen_lengths"], given["rejected_lengths"])
    mask = (jnp.arange(int(length.max()) + 3)[None, None] < length[..., None]).astype(jnp.float64)
    batch = Batch(
        tokens=jnp.zeros(mask.shape, jnp.int32), valid=mask > 0, mask=mask,
        preference=jnp.broadcast_to(jnp.array([[0.5, label], [1 - label, 0.5]]), (len(length), 2, 2)),
        pair_weight=jnp.ones((len(length), 2, 2)),
    )  # fmt: skip
    if case["algorithm"] == "dpo":
        batch = batch.with_logps(reference=tokens_of(given, "ref_{}", mask))
    return batch.replace(views={"chosen": batch.replace(mask=mask.at[:, 1].set(0))})


def compare(case: dict[str, Any]) -> bool:
    """One case: its mean, its gradients and, unless a sort has mixed the pairs, the loss of every pair. Returns whether
    the last was possible."""
    entries, label, besides = entries_of(case)
    batch, given, expected = batch_of(case, label), case["inputs"], case["expected"]
    check = {"rtol": case["rtol"], "atol": case["rtol"], "err_msg": case["name"]}

    def mean(tokens: Array) -> Array:
        return sum(weight * loss(standin(policy=tokens), batch)[0].value() for weight, loss in entries)

    tokens = tokens_of(given, "policy_{}", batch.mask)
    value, grad = jax.value_and_grad(mean)(tokens)
    np.testing.assert_allclose(value + besides, expected["loss_mean"], **check)
    if "grad_policy_chosen_token_logps" in expected:
        np.testing.assert_allclose(grad, tokens_of(expected, "grad_policy_{}", batch.mask), **check)
    else:  # how much a sum grows by is shared by its tokens; a mean is what every token has
        means = "mean" in given.get("logps_are", "")
        by_sequence = jnp.sum(grad * batch.mask, axis=-1) / (1 if means else batch.mask.sum(-1))
        grads = columns(expected["grad_policy_chosen_logps"], expected["grad_policy_rejected_logps"])
        np.testing.assert_allclose(by_sequence, grads, **check)
    if case["couples_pairs"] or "loss_per_pair" not in expected:
        return False

    def total(weight: Array) -> Array:
        weighted = batch.replace(pair_weight=batch.pair_weight.at[:, 0, 1].set(weight))
        return sum(scale * loss(standin(policy=tokens), weighted)[0].total for scale, loss in entries)

    # A sum grows with the weight of a pair by the pair's loss.
    np.testing.assert_allclose(jax.grad(total)(jnp.ones(len(tokens))), expected["loss_per_pair"], **check)
    return True


@pytest.mark.slow
def test_pairwise_losses_agree_with_trl(cases: list[dict[str, Any]], float64: None) -> None:
    ours = [case for case in cases if case["algorithm"] in OURS]
    elsewhere = [case for case in ours if by_token(case)]
    assert (len(ours), len(elsewhere)) == (81, 8)
    one_by_one = [compare(case) for case in ours if case not in elsewhere]
    assert (len(one_by_one), sum(one_by_one)) == (73, 62)


@pytest.mark.parametrize("name", ["", "/margin", "/center=0.01"])
def test_bradley_terry_agrees_with_trl(name: str, cases: list[dict[str, Any]], float64: None) -> None:
    (case,) = [case for case in cases if case["name"] == f"reward/bradley_terry{name}"]
    given, expected = case["inputs"], case["expected"]
    rewards = columns(given["rewards_chosen"], given["rewards_rejected"])
    valid = jnp.ones((*rewards.shape, 3), bool).at[:, :, 2].set(False)
    batch = Batch(
        tokens=jnp.zeros(valid.shape, jnp.int32),
        valid=valid,
        preference=jnp.broadcast_to(jnp.array([[0.5, 1], [0, 0.5]]), (len(rewards), 2, 2)),
        prompts={} if given["margin"] is None else {"margin": jnp.asarray(given["margin"])},
    )

    def mean(rewards: Array) -> Array:
        numbers = jnp.full(valid.shape, 7.0).at[:, :, 1].set(rewards)  # the last token's is what counts
        return fn(losses.bradley_terry, **case["hyper"])(standin(reward_reward=numbers), batch)[0].value()

    value, grad = jax.value_and_grad(mean)(rewards)
    check = {"rtol": case["rtol"], "atol": case["rtol"]}
    np.testing.assert_allclose(value, expected["loss_mean"], **check)
    np.testing.assert_allclose(
        grad, columns(expected["grad_rewards_chosen"], expected["grad_rewards_rejected"]), **check
    )
