"""Plain attention in the place of a fused kernel that this machine does not have: the same numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from alignjax.config import ConfigError, Experiment
from alignjax.models import TransformerConfig, kernels, transformer
from alignjax.parallel.tpu_topologies import Topology


def _with_plain(
    experiment: Experiment, replaced: Callable[[TransformerConfig], bool]
) -> tuple[Experiment, dict[str, TransformerConfig]]:
    """The experiment with plain attention in all transformers that `replaced` picks, and their roles as they were."""
    before = {}
    roles = dict(experiment.algorithm.roles)
    for name, role in roles.items():
        config = None if role.model is None else role.model.config
        if isinstance(config, TransformerConfig) and role.model is transformer(config) and replaced(config):
            before[name] = config
            roles[name] = dataclasses.replace(role, model=transformer(dataclasses.replace(config, attention="xla")))
    algorithm = dataclasses.replace(experiment.algorithm, roles=roles)
    return dataclasses.replace(experiment, algorithm=algorithm), before


def runnable_here(experiment: Experiment) -> tuple[Experiment, list[str]]:
    """Replaces the attention kernels of a run from elsewhere that this machine does not have.

    Returns:
        The experiment, and the names of the roles that now have plain attention.
    """

    def missing(config: TransformerConfig) -> bool:
        try:
            kernels.choose(config)
        except ConfigError:
            return True
        return False

    experiment, before = _with_plain(experiment, missing)
    return experiment, list(before)


def traceable_for(experiment: Experiment, topology: Topology) -> tuple[Experiment, list[str]]:
    """Replaces all attention kernels of a run on a TPU slice, which only a TPU can trace.

    Returns:
        The experiment, and the names of the roles that would have splash attention on the slice.

    Raises:
        ConfigError: for a kernel that does not run on the slice.
    """
    slice_ = ("tpu", topology.devices)
    plain, _ = _with_plain(
        experiment, lambda config: bool(kernels.choose(config, slice_)) and config.attention != "xla"
    )
    _, fused = _with_plain(experiment, lambda config: kernels.choose(config, slice_) != "xla")
    return plain, list(fused)
