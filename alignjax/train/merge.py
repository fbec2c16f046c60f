"""Adapters added to their weights: a job between the step that trained them and those that want plain weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from alignjax.config import ConfigError, nearest
from alignjax.models import lora
from alignjax.train import checkpoint
from alignjax.train.state import abstract_state, params_of
from alignjax.types import Algorithm, Params
from alignjax.workspace import Workspace

__all__ = ["merge", "restored_params"]


def restored_params(
    workspace: Workspace, algorithm: Algorithm, stage: str, role: str, step: int | None = None
) -> Params:
    """What a role's model ran on in a checkpoint (the newest unless a step is given) of the step or run folder `stage`,
    which `algorithm` trained: the role's `build` applied, adapters and quantised weights left as they are.

    Raises ConfigError if the algorithm has no such role and CheckpointError if there is no good checkpoint.
    """
    roles = algorithm.roles
    if role not in roles:
        raise ConfigError(f"the algorithm of {stage!r} has no role {role!r}.{nearest(role, roles)}")
    like = abstract_state(algorithm).roles
    needed = roles if roles[role].build is not None else (role,)  # a build may read any other role
    folder = workspace.find(stage)
    state = {name: checkpoint.restore_role(folder, name, step, like=like[name]) for name in needed}
    return params_of(roles, state)(role)


def merge(
    workspace: Workspace, *, stage: str, algorithm: Callable[[], Algorithm], role: str = "policy"
) -> dict[str, Any]:
    """Job: plain weights of a role of an earlier step, adapters added and quantised weights written out, as a
    checkpoint of this step. `restored`, tournaments, exports and `alignjax generate` then take the role from here.

    algorithm: makes the algorithm that trained it (a function, so that the job can stand in a config).
    """
    params = jax.jit(lora.merged)(restored_params(workspace, algorithm(), stage, role))
    last = checkpoint.steps(workspace.find(stage))[-1]
    with checkpoint.writing(workspace.folder, keep=1) as writer:
        checkpoint.save(writer, last, {"roles": {role: params}}, {"merged": stage})
    return {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}
