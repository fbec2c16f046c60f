"""Win rate and KL of policies along their training: the job `measure` of the pipelines of run.py."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import stages
from alignjax.config import Fn
from alignjax.evaluate.diagnostics import sequence_kl
from alignjax.evaluate.intervals import interval
from alignjax.evaluate.tournament import sampled
from alignjax.numerics import fold_name
from alignjax.scoring import context as context_of
from alignjax.train.checkpoint.read_steps import restore_role, steps
from alignjax.types import Array, Batch, Model, Params
from alignjax.workspace import Workspace

FILE = "along.json"


@functools.partial(jax.jit, static_argnames="model")
def _preferred(model: Model, judge: Params, first: Batch, second: Batch) -> Array:
    """P(first beats second) [B]."""
    context = context_of({"preference": model}, {"preference": judge})
    sides: dict[str, Any] = {
        name: jnp.concatenate([getattr(first, name), getattr(second, name)], 1) for name in ("tokens", "valid")
    }
    pair = Batch(prompt=first.prompt, prompt_valid=first.prompt_valid, **sides)
    return stages.preference_model(context, pair, jax.random.key(0), reading="apart")[:, 0, 1]


def _joined(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *map(jax.device_get, parts))


def measure(
    workspace: Workspace,
    *,
    model: Model,
    judge_model: Model,
    players: tuple[str, ...],
    judges: tuple[tuple[str, str], ...],
    source: Fn,
    batches: int,
    max_tokens: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Job that writes along.json, {player: {step: {"kl": interval, judge: interval}}}, of every checkpoint on disk.

    players: steps whose "policy" is looked at, the first being what KL and win rates are against; judges: (name, step)
    of preference models; source: prompts; batches: how many of them.
    """
    posts = [source(workspace, seed)[number] for number in range(batches)]
    baseline = restore_role(workspace.find(players[0]), "policy")
    models = {name: restore_role(workspace.find(stage), "preference") for name, stage in judges}

    def draw(name: str, policy: Params) -> list[Batch]:
        key = fold_name(jax.random.key(seed), name)
        return [sampled(model, policy, baseline, batch, key, max_tokens) for batch in posts]

    def statistics(answers: Sequence[Batch]) -> dict[str, Any]:
        rows = _joined(answers)
        measured = {"kl": sequence_kl(rows.logps["policy"], rows.logps["reference"], rows.valid)["kl"]}
        for name, judge in models.items():
            rates = [_preferred(judge_model, judge, *pair) for pair in zip(answers, baselines, strict=True)]
            measured[name] = interval(_joined(rates))
        return measured

    baselines = draw(players[0], baseline)
    table: dict[str, Mapping[int, Any]] = {}
    for name in players[1:]:
        folder = workspace.find(name)
        table[name] = {step: statistics(draw(name, restore_role(folder, "policy", step))) for step in steps(folder)}
    (workspace.folder / FILE).write_text(json.dumps(table, indent=1))
    return {"players": len(table)}
