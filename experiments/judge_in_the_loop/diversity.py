"""How different a policy's answers to one prompt are: the job `measure` of the pipelines of run.py."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import Fn
from alignjax.evaluate.intervals import interval
from alignjax.evaluate.players import Player, sampled
from alignjax.numerics import fold_name
from alignjax.train.checkpoint.read_steps import restore_role
from alignjax.train.token_ids import ends_of
from alignjax.types import Model
from alignjax.workspace import Workspace

FILE = "diversity.json"


def measure(
    workspace: Workspace,
    *,
    model: Model,
    players: tuple[Player, ...],
    source: Fn,
    max_tokens: int,
    n: int,
    batches: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Job: writes diversity.json, {player: {"distinct": share of its n answers to a prompt that are no other's again,
    "entropy": of a whole answer in nats, minus the log-prob of what was sampled}}, intervals over prompts.

    players: policies with their temperatures, the first the reference; source: prompts, `batches` of them.
    """
    key, stop, found = jax.random.key(seed), ends_of(source, workspace), {}
    prompts = [source(workspace, seed)[step] for step in range(batches)]
    reference = restore_role(workspace.find(players[0].stage), players[0].role)
    for player in players:
        weights = restore_role(workspace.find(player.stage), player.role)
        rows = [
            sampled(
                model, weights, reference, batch, fold_name(key, player.name), max_tokens, n,
                temperature=jnp.float32(player.temperature), stop=stop,
            )
            for batch in prompts
        ]  # fmt: skip
        answers: list[Any] = jax.device_get(rows)
        distinct = [len({row.tobytes() for row in texts}) / n for batch in answers for texts in _read(batch)]
        surprise = [-np.where(batch.valid, batch.logps["sampler"], 0).sum(-1).mean(-1) for batch in answers]
        found[player.name] = {"distinct": interval(distinct), "entropy": interval(np.concatenate(surprise))}
    (workspace.folder / FILE).write_text(json.dumps(found, indent=1))
    return {"players": len(players)}


def _read(batch: Any) -> np.ndarray:
    """The answers [B,N,T], what stands behind their ends struck out."""
    return np.where(batch.valid, batch.tokens, -1)
