"""Jobs after a step that trained adapters: one adds them to their weights, one writes them as `peft` reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from alignjax.config import ConfigError
from alignjax.models import TransformerConfig, lora, peft
from alignjax.train import checkpoint
from alignjax.train.state import restored_params
from alignjax.types import Algorithm
from alignjax.workspace import Workspace


def merge(
    workspace: Workspace, *, stage: str, algorithm: Callable[[], Algorithm], role: str = "policy"
) -> dict[str, Any]:
    """Writes the plain weights of a role of an earlier step, adapters added and quantized weights written out, as a
    checkpoint of this step: a job. `restored`, tournaments, exports and `alignjax generate` then take the role from
    here.

    Args:
        workspace: The workspace of this step.
        stage: The earlier step.
        algorithm: Makes the algorithm that trained it (a function, so that the job can stand in a config).
        role: The role.

    Returns:
        {"parameters": the number of weights}.
    """
    params = jax.jit(lora.merged)(restored_params(workspace.find(stage), algorithm(), role))
    last = checkpoint.steps(workspace.find(stage))[-1]
    with checkpoint.writing(workspace.folder, keep=1, alone=True) as writer:
        checkpoint.save(writer, last, {"roles": {role: params}}, {"merged": stage})
    return {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}


def write_adapters(
    workspace: Workspace, *, stage: str, algorithm: Callable[[], Algorithm], role: str = "policy", base: str = ""
) -> dict[str, Any]:
    """Writes the adapters of a role of an earlier step into the folder "adapters" of this one, as `peft` reads them
    over the weights called `base`: a job. `alignjax export` writes those of role "base".

    Args:
        workspace: The workspace of this step.
        stage: The earlier step.
        algorithm: Makes the algorithm that trained them.
        role: The role.
        base: The name of the weights that the adapters belong to.

    Returns:
        {"folder": where they are, "left_out": what `peft` has no name for}.

    Raises:
        ConfigError: The role holds other things than adapters, or runs on no transformer.
    """
    left = save_adapters(workspace.find(stage), algorithm(), role, workspace.folder / "adapters", base)
    return {"folder": str(workspace.folder / "adapters"), "left_out": left}


def save_adapters(folder: Path, algorithm: Algorithm, role: str, to: Path, base: str = "") -> list[str]:
    """Writes the adapters of a role in the newest checkpoint of a folder as `peft` reads them.

    Args:
        folder: The folder of a run, or of a step in one.
        algorithm: The algorithm that trained them.
        role: The role.
        to: The new folder.
        base: The name of the weights that the adapters belong to.

    Returns:
        What `peft` has no name for.

    Raises:
        ConfigError: The role holds other things than adapters, or runs on no transformer.
    """
    adapted = algorithm.roles.get(role)
    build = None if adapted is None else adapted.build
    if adapted is None or build is None or build.function is not lora.build or build.kwargs["inner"] is not None:
        raise ConfigError(f"role {role!r} of {str(folder)!r} is not one that holds adapters")
    config = None if adapted.model is None else adapted.model.config
    if not isinstance(config, TransformerConfig):
        raise ConfigError(f"role {role!r} runs on no transformer, so peft has no names for its adapters")
    adapters = checkpoint.restore_role(folder, role)
    settings = {name: build.kwargs[name] for name in ("alpha", "rank_stabilised")}
    return peft.save(adapters, config, to, base=base, **settings)
