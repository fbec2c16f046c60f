"""Whether every role of a pipeline can start: asked before the first step runs, not when the last one begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from alignjax.config import ConfigError, Experiment, Fn, Pipeline, nearest
from alignjax.models import huggingface
from alignjax.models.huggingface import Pretrained
from alignjax.roles import Fresh, Restored, Through, unwrapped
from alignjax.train.adapter_jobs import merge
from alignjax.train.overlap import check_overlap
from alignjax.train.state import abstract_state
from alignjax.train.step import check_asked
from alignjax.types import Role
from alignjax.workspace import Workspace

UNMERGED = (
    ". It is not kept as whole weights: merge it first (`merge`, a job between the two steps), and start from that step"
)


def check_starts(config: Experiment | Pipeline, workspace: Workspace) -> None:
    """Raises ConfigError for a role that is restored from a step that does not come before, or that has no such role,
    or one of other shapes; from a name that is neither a step nor a folder; from published weights that do not fit; for
    a `merge` of a role that is not there; and for steps that cannot be overlapped or ask an engine in vain."""
    for step in [config] if isinstance(config, Experiment) else config.steps.values():
        for role in step.algorithm.roles.values() if isinstance(step, Experiment) else ():
            if isinstance(unwrapped(role.start), Pretrained) and role.model is not None:
                huggingface.check(unwrapped(role.start).folder, role.model)
        if isinstance(step, Experiment):
            check_overlap(step)
            check_asked(step.algorithm)
    if isinstance(config, Experiment):
        return
    before: dict[str, Mapping[str, Role] | None] = {}  # roles of an experiment, None of a job
    for name, step in config.steps.items():
        roles = step.algorithm.roles if isinstance(step, Experiment) else None
        for role_name, role in (roles or {}).items():
            if isinstance(unwrapped(role.start), Restored):
                _check(f"step {name!r}: role {role_name!r}", role, before, config, workspace)
        before[name] = _left(name, step) if isinstance(step, Fn) else roles


def _left(step: str, job: Fn) -> Mapping[str, Role] | None:
    """The roles that a job leaves a checkpoint of: whole weights."""
    if job.function is not merge:
        return None
    name, roles = job.kwargs["role"], job.kwargs["algorithm"]().roles
    if name not in roles:
        there = ", ".join(map(repr, roles))
        raise ConfigError(f"step {step!r} merges role {name!r}; the roles there are {there}.{nearest(name, roles)}")
    return {name: dataclasses.replace(roles[name], start=Fresh(), build=None)}


def _check(
    who: str, role: Role, before: Mapping[str, Mapping[str, Role] | None], config: Pipeline, workspace: Workspace
) -> None:
    start = unwrapped(role.start)
    stage, of = start.stage, start.role
    if stage not in before:
        if stage in config.steps:
            raise ConfigError(f"{who} starts from step {stage!r}, which does not run before it")
        if not workspace.find(stage).is_dir():
            raise ConfigError(
                f"{who} starts from {stage!r}, neither an earlier step nor a run.{nearest(stage, before)}"
            )
        return
    roles = before[stage]
    if roles is None:
        raise ConfigError(f"{who} starts from step {stage!r}, a job, which trains nothing")
    if of not in roles:
        raise ConfigError(f"{who} starts from role {of!r} of step {stage!r}, which has none.{nearest(of, roles)}")
    if role.model is not None and roles[of].model is not None:
        own = _own(config.steps[stage], of, roles[of])
        wanted, found = _shapes(_made(role.model)), _shapes(_made(roles[of].model) if own is None else own)
        paths = found if start.grow else {**wanted, **found}
        wrong = [path for path in paths if wanted.get(path) != found.get(path)]
        if wrong:
            path = wrong[0]
            raise ConfigError(
                f"{who} does not have the shapes of role {of!r} of step {stage!r}, from which it starts: "
                f"{path} is {wanted.get(path, 'missing')} here and {found.get(path, 'missing')} there"
                + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")
                + ("" if own is None else UNMERGED)
            )


def _own(step: Experiment | Fn, name: str, role: Role) -> Any:
    """What a checkpoint holds of a role that is not its model's params: adapters, quantized weights, a pool. Else
    None."""
    whole = role.build is None and not isinstance(role.start, Through)
    return None if whole or not isinstance(step, Experiment) else abstract_state(step.algorithm).roles[name]


def _made(model: Any) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
