"""Checks that every role of a pipeline can start, before the first step runs instead of when the last one begins."""

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
    """Checks the starts of all roles, and that steps can be overlapped and may ask their engines.

    Args:
        config: the experiment or pipeline.
        workspace: where its steps keep their files; a start may name a run that exists there.

    Raises:
        ConfigError: a role is restored from a step that does not come before, from one that has no such role or one of
            other shapes, from a name that is neither a step nor a folder, or from published weights that do not fit; a
            `merge` names a role that does not exist; a step cannot be overlapped, or would ask an engine in vain.
    """
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
                _check_restored(f"step {name!r}: role {role_name!r}", role, before, config, workspace)
        before[name] = _merged_roles(name, step) if isinstance(step, Fn) else roles


def _merged_roles(step: str, job: Fn) -> Mapping[str, Role] | None:
    """The roles of which a job writes a checkpoint, as whole weights; None for a job that writes none."""
    if job.function is not merge:
        return None
    name, roles = job.kwargs["role"], job.kwargs["algorithm"]().roles
    if name not in roles:
        names = ", ".join(map(repr, roles))
        raise ConfigError(f"step {step!r} merges role {name!r}; the roles there are {names}.{nearest(name, roles)}")
    return {name: dataclasses.replace(roles[name], start=Fresh(), build=None)}


def _check_restored(
    who: str, role: Role, before: Mapping[str, Mapping[str, Role] | None], config: Pipeline, workspace: Workspace
) -> None:
    """Raises ConfigError if a role that is restored from an earlier step, or run, does not fit what is there."""
    # From the name to the role to the shapes, so that the first thing that is wrong is the one that is named. Shapes
    # are compared by leaf: those of a model's params, or, of a role that keeps something else, those of its checkpoint.
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
        unmerged = _unmerged_state(config.steps[stage], of, roles[of])
        wanted = _shapes(_params(role.model))
        saved = _shapes(_params(roles[of].model) if unmerged is None else unmerged)
        paths = saved if start.grow else {**wanted, **saved}
        wrong = [path for path in paths if wanted.get(path) != saved.get(path)]
        if wrong:
            path = wrong[0]
            raise ConfigError(
                f"{who} does not have the shapes of role {of!r} of step {stage!r}, from which it starts: "
                f"{path} is {wanted.get(path, 'missing')} here and {saved.get(path, 'missing')} there"
                + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")
                + ("" if unmerged is None else UNMERGED)
            )


def _unmerged_state(step: Experiment | Fn, name: str, role: Role) -> Any:
    """The shapes of a role that keeps something else than its model's params: adapters, quantized weights, a pool. None
    for one that keeps these."""
    whole = role.build is None and not isinstance(role.start, Through)
    return None if whole or not isinstance(step, Experiment) else abstract_state(step.algorithm).roles[name]


def _params(model: Any) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
