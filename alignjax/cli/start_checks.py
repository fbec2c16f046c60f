"""Checks that every role of a pipeline can start, before the first step runs instead of when the last one begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from alignjax.config import ConfigError, Experiment, Fn, Pipeline, nearest
from alignjax.models import huggingface
from alignjax.models.huggingface import Pretrained
from alignjax.roles import Fresh, Restored, Through, unwrapped
from alignjax.train.adapter_jobs import merge
from alignjax.train.overlap import check_overlap
from alignjax.train.slots_of_stages import check_slots
from alignjax.train.state import abstract_state, check_shapes, shapes_of
from alignjax.train.step import check_asked
from alignjax.train.text_host import check_text_functions
from alignjax.train.token_ids import check_one_tokenizer
from alignjax.train.trackers import check_tags
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
        ConfigError: batches do not split into microbatches and minibatches; a role is restored from a step that does
            not come before, from one that has no such role or one of other shapes, from one with data of another
            tokenizer, from a name that is neither a step nor a folder, or from published weights that do not fit; a
            `merge` names a role that does not exist; a step cannot be overlapped, would ask an engine in vain, or asks
            a text function that has no name; a tag is no tracker's.
    """
    before: dict[str, Mapping[str, Role] | None] = {}  # roles of an experiment, None of a job
    for name, step in config.steps.items() if isinstance(config, Pipeline) else [("", config)]:
        if isinstance(step, Fn):
            before[name] = _merged_roles(name, step)
            continue
        check_slots(step.algorithm)
        check_split(f"step {name!r}: " if name else "", step)
        check_overlap(step)
        check_asked(step.algorithm)
        check_text_functions(step)
        check_tags(step.tags)
        for role_name, role in step.algorithm.roles.items():
            start = unwrapped(role.start)
            if isinstance(start, Pretrained) and role.model is not None:
                huggingface.check(start.folder, role.model)
            if isinstance(start, Restored) and isinstance(config, Pipeline):
                who = f"step {name!r}: role {role_name!r}"
                _check_restored(who, role, before, config, workspace)
                earlier = config.steps.get(start.stage)
                if isinstance(earlier, Experiment):
                    check_one_tokenizer(who, step, start.stage, earlier)
        before[name] = step.algorithm.roles


def check_split(who: str, step: Experiment) -> None:
    """Checks that the batches of a step split as its algorithm splits them, where that can be known before its source
    is opened: stages may change how many rows there are.

    Args:
        who: The step, as a message begins.
        step: The step.

    Raises:
        ConfigError: They do not.
    """
    algorithm, size = step.algorithm, step.source.kwargs.get("batch_size")
    if algorithm.experience or not isinstance(size, int):
        return
    small = size // algorithm.minibatches
    if size % algorithm.minibatches:
        wrong = f"{size} prompts do not split into {algorithm.minibatches} minibatches"
    elif small % algorithm.microbatches:
        wrong = f"{small} prompts do not split into {algorithm.microbatches} microbatches"
    else:
        return
    raise ConfigError(f"{who}{wrong}; make batch_size, which is {size}, a multiple")


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
    model = roles[of].model
    if role.model is None or model is None:
        return
    step = config.steps[stage]
    # What a role keeps may be something else than its model's params: adapters, quantized weights, a pool.
    unmerged = None
    if isinstance(step, Experiment) and (roles[of].build is not None or isinstance(roles[of].start, Through)):
        unmerged = abstract_state(step.algorithm).roles[of]
    whence, advice = f"role {of!r} of step {stage!r}", "" if unmerged is None else UNMERGED
    check_shapes(who, role, shapes_of(model) if unmerged is None else unmerged, whence, advice)
