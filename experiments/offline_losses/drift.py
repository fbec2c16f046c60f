"""What training has done to the log-probs of pairs: the job `measure` of the pipelines of run.py."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import Fn
from alignjax.evaluate.intervals import Interval, interval
from alignjax.evaluate.verdicts import TIE
from alignjax.numerics import token_logps
from alignjax.pair_layout import all_pairs
from alignjax.scoring import context as context_of
from alignjax.train.checkpoint.read_steps import restore_role
from alignjax.types import Array, Batch, Model, Params
from alignjax.workspace import Workspace

FILE = "drift.json"


def logps_and_entropy(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
    """Read: log-prob of the token, and entropy of the whole next-token distribution, in nats."""
    (logits,) = outputs.values()
    every = jax.nn.log_softmax(logits.astype(jnp.float32))
    return {"logps": token_logps(logits, token), "entropy": -jnp.sum(jnp.exp(every) * every, axis=-1)}


@functools.partial(jax.jit, static_argnames="model")
def _scored(model: Model, params: Params, batch: Batch) -> dict[str, Array]:
    """Summed log-prob [B,N] of every completion, and the mean entropy [B,N] at its tokens."""
    found = context_of({"policy": model}, {"policy": params}).score("policy", batch, logps_and_entropy)
    assert batch.valid is not None
    length = jnp.maximum(jnp.sum(batch.valid, axis=-1), 1)
    return {"logps": jnp.sum(found["logps"], axis=-1), "entropy": jnp.sum(found["entropy"], axis=-1) / length}


def _all(model: Model, params: Params, batches: list[Batch]) -> dict[str, np.ndarray]:
    rows = [jax.device_get(_scored(model, params, batch)) for batch in batches]
    return {name: np.concatenate([row[name] for row in rows]) for name in ("logps", "entropy")}


def _moved(now: dict[str, np.ndarray], before: dict[str, np.ndarray], preference: np.ndarray) -> dict[str, Any]:
    """Intervals over prompts: how far the chosen and the rejected side have moved from the SFT policy (nats, means over
    a prompt's decided pairs), how often the margin has the sign of the label, the entropy (nats per token). Pairs that
    the label leaves even, and prompts that have no others, do not count."""
    i, j = (np.array(side) for side in zip(*all_pairs(preference.shape[1]), strict=True))
    label = preference[:, i, j] - 0.5
    ratio, decided = now["logps"] - before["logps"], np.abs(label) > TIE
    chosen = np.where(label >= 0, ratio[:, i], ratio[:, j])
    rejected = np.where(label >= 0, ratio[:, j], ratio[:, i])
    right = (np.sign(chosen - rejected) + 1) / 2
    columns = {"chosen": chosen, "rejected": rejected, "margin": chosen - rejected, "accuracy": right}
    columns |= {"chosen_rises": (chosen > 0).astype(np.float64)}
    count = decided.sum(axis=1)

    def over_decided(values: np.ndarray) -> Interval:
        # Whole prompts are resampled: a ratio of means, of sums over a prompt's decided pairs.
        sums = np.stack([(values * decided).sum(axis=1), count], 1)
        return interval(sums, lambda means: means[..., 0] / np.maximum(means[..., 1], 1e-12))

    means = {name: over_decided(values) for name, values in columns.items()}
    return means | {"entropy": interval(now["entropy"].mean(axis=1))}


def measure(
    workspace: Workspace, *, model: Model, players: tuple[str, ...], seen: Fn, fresh: Fn, batches: int, seed: int = 0
) -> dict[str, Any]:
    """Job: writes drift.json, {player: {"seen", "fresh": {what: interval}}}.

    players: steps whose "policy" is looked at, the first being what log-ratios are against; seen, fresh: sources of
    labelled pairs, those of the training and those of other posts; batches: how many of each.
    """
    found: dict[str, Any] = {}
    weights = {name: restore_role(workspace.find(name), "policy") for name in players}
    for where, source in (("seen", seen), ("fresh", fresh)):
        pairs = source(workspace, seed)
        rows = [pairs[step] for step in range(batches)]
        preference = np.concatenate([np.asarray(row.preference, np.float64) for row in rows])
        before = _all(model, weights[players[0]], rows)
        for name in players:
            found.setdefault(name, {})[where] = _moved(_all(model, weights[name], rows), before, preference)
    (workspace.folder / FILE).write_text(json.dumps(found, indent=1))
    return {"players": len(players)}
