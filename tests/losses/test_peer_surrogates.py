"""Values and gradients that TRL's own code gave in float64 for GRPO's loss types and RLOO, from the choices that the
surrogate is made of: names and parameters are those of TRL 1.16's GRPOConfig and RLOOConfig."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import losses
from alignjax.config import Fn, fn
from alignjax.losses.reads import entropy
from alignjax.types import Array, Batch


@pytest.fixture(scope="module")
def cases(oracles: Path) -> list[dict[str, Any]]:
    every = json.loads((oracles / "peer_losses.json").read_text())["cases"]
    return [case for case in every if case["name"].startswith(("grpo/", "rloo/"))]


def bound_of(loss_type: str, hyper: dict[str, Any]) -> Fn:
    if loss_type == "cispo":
        return fn(losses.cispo_clip, high=hyper["epsilon_high"])
    if loss_type == "sapo":
        names = ("temperature_pos", "temperature_neg")
        return fn(losses.sapo_gate, **{name: hyper[f"sapo_{name}"] for name in names})
    if loss_type == "vespo":
        names = ("k_pos", "lambda_pos", "k_neg", "lambda_neg")
        return fn(losses.vespo_kernel, **{name: hyper[f"vespo_{name}"] for name in names})
    high = hyper["epsilon_high"]
    return fn(losses.ppo_clip, epsilon=hyper["epsilon"], epsilon_high=high, delta=hyper.get("delta"))


def reduction_of(loss_type: str, hyper: dict[str, Any]) -> Fn:
    if loss_type == "dr_grpo":
        return fn(losses.constant_length, length=hyper["max_completion_length"])
    if loss_type == "luspo":
        return fn(losses.sequence_sum)
    return fn(losses.sequence_mean if loss_type in ("grpo", "sapo") else losses.token_mean)


def losses_of(case: dict[str, Any]) -> list[Fn]:
    """The surrogate, and the entropy bonus if there is one."""
    hyper, kind = case["hyper"], case["loss_type"]
    if case["algorithm"] == "rloo":
        return [fn(losses.surrogate, bound=bound_of(kind, hyper), reduction=fn(losses.sequence_mean), behaviour="old")]
    by_sequence = hyper["importance_sampling_level"] == "sequence"
    filters = []
    if hyper["top_entropy_quantile"] < 1:
        filters.append(fn(losses.top_entropy, share=hyper["top_entropy_quantile"]))
    if hyper["off_policy_mask_threshold"] is not None:
        filters.append(fn(losses.off_policy_mask, threshold=hyper["off_policy_mask_threshold"]))
    weighted = hyper["use_bias_correction_kl"]
    parts = [
        fn(
            losses.surrogate,
            ratio=fn(losses.sequence_ratio if by_sequence else losses.token_ratio),
            bound=bound_of(kind, hyper),
            reduction=reduction_of(kind, hyper),
            kl=fn(losses.k3, beta=hyper["beta"], weighted=weighted) if hyper["beta"] else None,
            filters=tuple(filters),
            behaviour="old",
        )
    ]
    if hyper["entropy_coef"]:
        of_all = kind in ("cispo", "dapo", "vespo")
        share = hyper["top_entropy_quantile"] if hyper["top_entropy_quantile"] < 1 else None
        parts.append(fn(losses.entropy_bonus, coefficient=hyper["entropy_coef"], share=share, of_all=of_all))
    return parts


def padded(rows: list[Any], length: int) -> np.ndarray:
    """Ragged numbers per token as [1,N,T], 0 where there is no token; one number per completion is one token."""
    rows = [row if isinstance(row, list) else [row] for row in rows]
    return np.asarray([[[*row, *[0.0] * (length - len(row))] for row in rows]])


def batch_of(case: dict[str, Any]) -> tuple[Batch, Array, Array | None]:
    """(batch, log-probs, entropies)."""
    inputs = case["inputs"]
    rows = inputs.get("policy_token_logps", inputs.get("policy_logps"))
    lengths = np.asarray([[len(row) if isinstance(row, list) else 1 for row in rows]])
    valid = np.arange(lengths.max()) < lengths[..., None]
    given = {
        name: padded(inputs[key], lengths.max())
        for name, keys in (("old", ("old_token_logps", "old_logps")), ("reference", ("ref_token_logps",)))
        for key in keys
        if key in inputs
    }
    advantage = np.broadcast_to(np.asarray(inputs["advantages"])[None, :, None], valid.shape)
    batch = Batch(tokens=np.zeros(valid.shape, int), valid=valid, advantage=advantage, logps=given)
    entropies = padded(inputs["token_entropies"], lengths.max()) if "token_entropies" in inputs else None
    return jax.tree.map(jnp.asarray, (batch, padded(rows, lengths.max()), entropies))


def test_surrogates_agree_with_trl(cases: list[dict[str, Any]], float64: None) -> None:
    assert len(cases) == 27
    for case in cases:
        batch, logps, entropies = batch_of(case)

        def mean(logps: Array, case=case, batch=batch, entropies=entropies) -> Array:
            def score(role: str, batch: Batch, read: Any = None) -> dict[str, Array]:
                return {"entropy": entropies} if read is entropy else {role: logps}

            parts = [loss(SimpleNamespace(score=score), batch)[0].value() for loss in losses_of(case)]
            return sum(parts[1:], parts[0])

        value, gradient = jax.value_and_grad(mean)(logps)
        check = {"rtol": case["rtol"], "atol": case["rtol"], "err_msg": case["name"]}
        np.testing.assert_allclose(value, case["expected"]["loss_mean"], **check)
        by = "grad_policy_logps" if case["algorithm"] == "rloo" else "grad_policy_token_logps"
        np.testing.assert_allclose(gradient, padded(case["expected"][by], logps.shape[-1]), **check)
