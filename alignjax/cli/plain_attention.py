"""Attention of a run on a machine that has no kernel for it: the same numbers from plain attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from alignjax.config import ConfigError, Experiment
from alignjax.models import TransformerConfig, kernels, transformer
from alignjax.parallel.tpu_slices import Topology


def _plain(experiment: Experiment, needs: Callable[[TransformerConfig], bool]) -> tuple[Experiment, list[str]]:
    """The experiment with plain attention in all transformers whose configuration needs it, and the roles of these."""
    changed = {}
    for name, role in experiment.algorithm.roles.items():
        config = None if role.model is None else role.model.config
        if isinstance(config, TransformerConfig) and role.model is transformer(config) and needs(config):
            model = transformer(dataclasses.replace(config, attention="xla"))
            changed[name] = dataclasses.replace(role, model=model)
    algorithm = dataclasses.replace(experiment.algorithm, roles={**experiment.algorithm.roles, **changed})
    return dataclasses.replace(experiment, algorithm=algorithm), list(changed)


def here(experiment: Experiment) -> tuple[Experiment, list[str]]:
    """An experiment that was trained elsewhere, with plain attention in the place of kernels that this machine has not;
    and the roles that have it so."""

    def missing(config: TransformerConfig) -> bool:
        try:
            return not kernels.chosen(config)
        except ConfigError:
            return True

    return _plain(experiment, missing)


def traceable(experiment: Experiment, topology: Topology) -> tuple[Experiment, list[str]]:
    """An experiment for a TPU slice with plain attention, which any machine can trace; and the roles that would have
    splash attention there. Raises ConfigError for a kernel that does not run on the slice."""
    there: dict[TransformerConfig, str] = {}

    def fused(config: TransformerConfig) -> bool:
        there[config] = kernels.chosen(config, ("tpu", topology.devices))
        return config.attention != "xla"

    plain, names = _plain(experiment, fused)
    roles = experiment.algorithm.roles
    return plain, [name for name in names if there[roles[name].model.config] != "xla"]
