"""What a run holds on each device of a mesh that need not exist: exactly for what has a sharding, by liveness for the
rest; or from the compiler itself, which needs no TPU either."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies as compilers
from jax.sharding import AbstractMesh, AxisType
from rich.console import Console
from rich.table import Table

from alignjax.cli.layouts import Layout, Spread, layout_of
from alignjax.cli.liveness import device_bytes, in_units, loop_bytes, peak_bytes
from alignjax.config import ConfigError, Experiment, MeshConfig
from alignjax.parallel.mesh import AXES, axis_sizes, batch_shardings, make_mesh
from alignjax.parallel.tpu_slices import Topology
from alignjax.stages.host import host
from alignjax.train.resolve import resolve
from alignjax.train.state import TrainState, trained
from alignjax.train.step import abstract_experience, make_experience, make_update
from alignjax.types import Batch
from alignjax.workspace import Workspace

SURE = 0.5  # an estimate below this share of a device's memory is trusted: see `held`


@dataclasses.dataclass(frozen=True)
class Held:
    """Bytes of one device. The first four lie there from step to step; `batch` from stage to stage; `experience` and
    `update` are what those two functions need beside them, one after the other. Of these, `caches` is what sampling
    carries from token to token (key-value caches) and `gradients` what an update has before its optimizer's step.
    `ahead`, of an overlapped run, lies there besides: the next batch, and the roles that a host stage's thread reads.
    """

    trained: int
    optimizer: int
    frozen: int
    batch: int
    caches: int
    experience: int
    gradients: int
    update: int
    ahead: int = 0

    @property
    def state(self) -> int:
        return self.trained + self.optimizer + self.frozen

    @property
    def total(self) -> int:
        return self.state + self.batch + self.ahead + max(self.experience, self.update)


def describe(experiment: Experiment, workspace: Workspace, topology: Topology, ask: bool, console: Console) -> int:
    """Print what each device of a slice, or of several, holds; its bytes in all. ask: the TPU compiler, instead of
    estimating.

    Raises ConfigError for a mesh that is not the slices' size, and where the compiler is asked and not installed.
    """
    config = experiment.mesh
    mesh = mesh_on(config, topology)
    numbers = (compiled if ask else held)(experiment, workspace, described_mesh(config, topology) if ask else mesh)
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    title = f"each of the {topology.devices} devices of {topology}: mesh {shape}"
    roughly = "says the compiler" if ask else "roughly"
    table = Table("memory", "bytes", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for name, size in {
        "trained weights": numbers.trained,
        "optimizer state": numbers.optimizer,
        "frozen and other roles": numbers.frozen,
        "batch": numbers.batch,
        **({"made ahead of the update (overlap)": numbers.ahead} if experiment.overlap else {}),
        f"to sample and score, {roughly}": numbers.experience,
        "  of this the sampler's caches": numbers.caches,
        f"to update, {roughly}": numbers.update,
        "  of this gradients": numbers.gradients,
    }.items():
        if not (ask and name.startswith("  ")):
            table.add_row(name, in_units(size))
    table.add_section()
    table.add_row("at most at once", in_units(numbers.total))
    table.add_row("memory of the device", in_units(topology.hbm_bytes))
    console.print(table)
    share = numbers.total / topology.hbm_bytes
    verdict = "it does not fit" if share > 1 else "it fits" if ask or share < SURE else "it may not fit: ask --compile"
    lines = [f"{share:.0%} of the device's memory: {verdict}", *_unsplit(experiment, workspace, mesh)]
    console.print("\n".join(lines), highlight=False, markup=False)
    return numbers.total


def _unsplit(experiment: Experiment, workspace: Workspace, mesh: AbstractMesh) -> list[str]:
    """What to say of a batch that does not split over the mesh: its work is not shared out at all."""
    rows = jax.tree.leaves(experiment.source(workspace, experiment.seed).spec.replace(views={}))[0].shape[0]
    ways = mesh.shape["replica"] * mesh.shape["fsdp"]
    if rows % ways == 0:
        return []
    return [f"{rows} prompts do not split over {ways} devices: every device works on all of them. Make the batch a "
            f"multiple of {ways}, or --mesh.tensor larger"]  # fmt: skip


def abstract_mesh(config: MeshConfig, devices: int) -> AbstractMesh:
    """A mesh without devices; ConfigError if its sizes do not multiply to their number."""
    return AbstractMesh(axis_sizes(config, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_on(config: MeshConfig, topology: Topology) -> AbstractMesh:
    """The mesh of TPU slices, without their devices. ConfigError, with a mesh that would do, if its sizes do not
    multiply to their number or its replica axis does not cross the slices."""
    try:
        axis_sizes(config, topology.devices, topology.slices)
    except ConfigError as error:
        best = topology.default_mesh
        raise ConfigError(
            f"{error} on {topology}: for example --mesh.replica {best.replica} --mesh.fsdp {best.fsdp} "
            f"--mesh.tensor {best.tensor} (--all.mesh in a pipeline)"
        ) from None
    return abstract_mesh(config, topology.devices)


def held(experiment: Experiment, workspace: Workspace, mesh: Any) -> Held:
    """What each device of `mesh` holds in a step of `experiment`: state and batch to the byte, the rest estimated.
    Nothing is compiled, and an AbstractMesh will do.

    Raises what the run itself would raise for its shapes.
    """
    algorithm = experiment.algorithm
    state, spec, filled = _placed(experiment, workspace, mesh)
    spread = Spread(dict(mesh.shape), _weights(state))
    names = trained(algorithm.roles)
    own = {name: tree for name, tree in state.roles.items() if name in names}
    frozen = {name: tree for name, tree in state.roles.items() if name not in names}
    caches = experience = 0
    if _traceable(experiment):
        program = jax.make_jaxpr(make_experience(algorithm))(_bare(state), _bare(spec)).jaxpr
        given = _layouts((state, spec))
        caches, experience = loop_bytes(program, spread, given), peak_bytes(program, spread=spread, given=given)
    program = jax.make_jaxpr(make_update(algorithm))(_bare(state), _bare(filled)).jaxpr
    return Held(
        trained=device_bytes(own),
        optimizer=device_bytes(state.optimizers),
        frozen=device_bytes(frozen),
        batch=device_bytes(filled),
        caches=caches,
        experience=experience,
        gradients=device_bytes(own),
        update=peak_bytes(program, in_place=True, spread=spread, given=_layouts((state, filled))),
        ahead=_ahead(experiment, state, filled),
    )


def compiled(experiment: Experiment, workspace: Workspace, mesh: Any) -> Held:
    """The same from the compiler of the mesh's devices, which may be only described (`described_mesh`): state and batch
    are the arguments of the compiled functions, the rest their temporary memory. It has no numbers for caches and
    gradients alone, which are 0."""
    algorithm = experiment.algorithm
    state, spec, filled = _placed(experiment, workspace, mesh)
    names = trained(algorithm.roles)
    own = {name: tree for name, tree in state.roles.items() if name in names}
    update = _temporary(jax.jit(make_update(algorithm), donate_argnums=0).lower(state, filled))
    traceable = _traceable(experiment)
    experience = _temporary(jax.jit(make_experience(algorithm)).lower(state, spec)) if traceable else 0
    return Held(
        trained=device_bytes(own),
        optimizer=device_bytes(state.optimizers),
        frozen=device_bytes({name: tree for name, tree in state.roles.items() if name not in names}),
        batch=device_bytes(filled),
        caches=0,
        experience=experience,
        gradients=0,
        update=update,
        ahead=_ahead(experiment, state, filled),
    )


def _ahead(experiment: Experiment, state: TrainState, filled: Batch) -> int:
    """What an overlapped run holds besides: two batches instead of one, and with a host stage a copy of the roles (in a
    run of one process, which is what is counted)."""
    copied = state.roles if any(stage.function is host for stage in experiment.algorithm.experience.values()) else {}
    return device_bytes((filled, copied)) if experiment.overlap else 0


def _temporary(lowered: Any) -> int:
    """What a function needs beside its inputs and outputs, compiled. ConfigError if there is no room for it."""
    try:
        analysis = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        lines = str(error).splitlines()
        said = next((line for line in lines if "Used" in line), lines[0])
        raise ConfigError(f"it does not fit, says the compiler: {said.strip()[:300]}") from None
    assert analysis is not None
    return analysis.temp_size_in_bytes


def described_mesh(config: MeshConfig, topology: Topology) -> jax.sharding.Mesh:
    """A mesh of slices that are not there, for their compiler: libtpu compiles on any x86 Linux machine.

    Raises ConfigError where libtpu is not installed, or does not know the slice.
    """
    os.environ.setdefault(
        "TPU_SKIP_MDS_QUERY", "1"
    )  # asked from outside of Google's cloud, it would wait for an answer
    several = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        devices = compilers.get_topology_desc(topology.compiler_name, "tpu", **several).devices
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        busy = "lockfile" in reason  # one process of a machine at a time
        what = "wait for the other process that uses it" if busy else 'pip install "jax[tpu]", on Linux and x86'
        raise ConfigError(
            f"the TPU compiler cannot be asked about {topology} ({reason[:160]}): {what}, or leave out --compile"
        ) from None
    return make_mesh(config, devices)


def _traceable(experiment: Experiment) -> bool:
    stages = experiment.algorithm.experience.values()
    return bool(stages) and not any(stage.function is host for stage in stages)


def _placed(experiment: Experiment, workspace: Workspace, mesh: Any) -> tuple[TrainState, Batch, Batch]:
    """(state, batch of the source, batch after the stages) in shapes, dtypes and shardings."""
    algorithm = experiment.algorithm
    resolved = resolve(experiment, workspace, mesh)
    state, spec = dataclasses.replace(resolved.state, pending=None), resolved.spec
    filled = abstract_experience(algorithm, _bare(state), spec)
    return state, _on(spec, mesh), _on(filled, mesh)


def _on(batch: Any, mesh: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        batch,
        batch_shardings(batch, mesh),
    )


def _bare(tree: Any) -> Any:
    """Shapes and dtypes alone: a trace looks after shardings differently when it is told of them."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _layouts(tree: Any) -> list[Layout]:
    return [layout_of(leaf.sharding, len(leaf.shape)) for leaf in jax.tree.leaves(tree)]


def _weights(state: TrainState) -> Mapping[tuple[int, ...], Layout]:
    """Layouts by shape of all matrices of the roles, and of the slices of stacked ones, where they are split."""
    found: dict[tuple[int, ...], Layout] = {}
    for leaf in jax.tree.leaves(state.roles):
        layout = layout_of(leaf.sharding, len(leaf.shape))
        for first in range(max(len(leaf.shape) - 1, 0)):
            if any(layout[first:]) and not any(layout[:first]):
                found.setdefault(tuple(leaf.shape[first:]), layout[first:])
    return found
