"""The memory that each device of a run needs: to the byte for what has a sharding, and for the rest from the compiler.

Neither needs the devices. Shapes and shardings lie on an abstract mesh; the compiler gets abstract arguments, and
libtpu compiles for a TPU slice on any x86 Linux machine.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies as compilers
from jax.sharding import AbstractMesh, AxisType, Mesh
from rich.console import Console
from rich.table import Table

from alignjax.cli.compiled_costs import Costs, costs_of
from alignjax.cli.roofline import roofline
from alignjax.config import ConfigError, MeshConfig
from alignjax.parallel.mesh import AXES, axis_sizes, batch_shardings, make_mesh, with_shardings
from alignjax.parallel.processes import first_line
from alignjax.parallel.tpu_topologies import Topology
from alignjax.train.ask_host import is_asked
from alignjax.train.checkpoint.checksums import in_units
from alignjax.train.resolve import Resolved
from alignjax.train.state import trained
from alignjax.train.step import make_experience, make_update


class Compiled(NamedTuple):
    """What the compiler says of one function, in bytes of one device.

    arguments, outputs: what goes in and comes out, of which `in_place` is written over arguments; temporary: the most
    that exists beside them at once.
    """

    arguments: int
    outputs: int
    in_place: int
    temporary: int


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """Bytes of one device during a run.

    trained, optimizer, frozen: the roles and moments, which exist from step to step; batch: of the batch after all
    stages; ahead: what an overlapped run holds besides, the next batch and the copy of the roles that a host stage's
    thread reads; compiled: the functions that the compiler was asked about, "sample and score" and "update", which run
    one after the other; costs: what they cost; both empty where it was not asked.
    """

    trained: int
    optimizer: int
    frozen: int
    batch: int
    ahead: int
    compiled: dict[str, Compiled] = dataclasses.field(default_factory=dict)
    costs: dict[str, Costs] = dataclasses.field(default_factory=dict)

    @property
    def state(self) -> int:
        """Bytes of all roles and optimizers."""
        return self.trained + self.optimizer + self.frozen

    @property
    def total(self) -> int:
        """The most bytes at once; without the compiler, those of state and batch."""
        return self.state + self.batch + self.ahead + max((f.temporary for f in self.compiled.values()), default=0)


def device_bytes(tree: Any) -> int:
    """Bytes of a tree's arrays, or of abstract ones with shardings, on each device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def device_memory(resolved: Resolved, *, compile_: bool = False) -> DeviceMemory:
    """Measures what each device of a mesh holds in a step of an experiment, without allocating anything.

    Args:
        resolved: The experiment on a mesh, which may be abstract unless the compiler is asked.
        compile_: Also asks the compiler of the mesh's devices, which may exist only as a description (`slice_mesh`).

    Returns:
        Bytes of one device.

    Raises:
        ConfigError: There is no room for a compiled function; also whatever the run itself raises for its shapes.
    """
    experiment, algorithm = resolved.experiment, resolved.experiment.algorithm
    state = dataclasses.replace(resolved.state, pending=None)
    spec, filled = (
        with_shardings(batch, batch_shardings(batch, resolved.mesh)) for batch in (resolved.spec, resolved.filled)
    )
    names = trained(algorithm.roles)
    hosted = any(map(is_asked, algorithm.experience.values()))
    programs = {}
    if compile_ and algorithm.experience and not hosted:
        programs["sample and score"] = _compiled(jax.jit(make_experience(algorithm)).lower(state, spec))
    if compile_:
        programs["update"] = _compiled(jax.jit(make_update(algorithm), donate_argnums=0).lower(state, filled))
    return DeviceMemory(
        trained=device_bytes({name: tree for name, tree in state.roles.items() if name in names}),
        optimizer=device_bytes(state.optimizers),
        frozen=device_bytes({name: tree for name, tree in state.roles.items() if name not in names}),
        batch=device_bytes(filled),
        ahead=device_bytes((filled, state.roles if hosted else {})) if experiment.overlap else 0,
        compiled={name: _memory(program) for name, program in programs.items()},
        costs={name: costs_of(program.as_text()) for name, program in programs.items()},
    )


def _compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        lines = str(error).splitlines()
        reason = next((line for line in lines if "Used" in line), lines[0])
        raise ConfigError(f"it does not fit, says the compiler: {reason.strip()[:300]}") from None


def _memory(program: jax.stages.Compiled) -> Compiled:
    analysis = program.memory_analysis()
    if analysis is None:
        raise ConfigError("this backend's compiler does not say how much memory a program needs: leave out --compile")
    sizes = ("argument", "output", "alias", "temp")
    return Compiled(*(getattr(analysis, f"{size}_size_in_bytes") for size in sizes))


def abstract_mesh(config: MeshConfig, devices: int) -> AbstractMesh:
    """Makes a mesh without devices.

    Args:
        config: The sizes of the axes.
        devices: The number of devices.

    Raises:
        ConfigError: If the sizes do not multiply to their number.
    """
    return AbstractMesh(axis_sizes(config, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_on(config: MeshConfig, topology: Topology) -> AbstractMesh:
    """Makes the mesh of TPU slices, without their devices.

    Args:
        config: The sizes of the axes.
        topology: The slices.

    Raises:
        ConfigError: With a mesh that would do, if the sizes do not multiply to the number of devices or the replica
            axis does not cross the slices.
    """
    try:
        axis_sizes(config, topology.devices, topology.slices)
    except ConfigError as error:
        best = topology.default_mesh
        raise ConfigError(
            f"{error} on {topology}: for example --mesh.replica {best.replica} --mesh.fsdp {best.fsdp} "
            f"--mesh.tensor {best.tensor} (--all.mesh in a pipeline)"
        ) from None
    return abstract_mesh(config, topology.devices)


def slice_mesh(config: MeshConfig, topology: Topology) -> Mesh:
    """Makes a mesh of described TPU devices, for which libtpu compiles on any x86 Linux machine.

    Args:
        config: The sizes of the axes.
        topology: The slices.

    Raises:
        ConfigError: Where libtpu is not installed, is in use, or does not know the slice.
    """
    # Outside of Google's cloud libtpu would wait for an answer of its metadata server.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    slices = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        devices = compilers.get_topology_desc(topology.compiler_name, "tpu", **slices).devices
    except Exception as error:
        reason = first_line(error)
        busy = "lockfile" in reason  # one process of a machine at a time
        advice = "wait for the other process that uses it" if busy else 'pip install "jax[tpu]", on Linux and x86'
        raise ConfigError(
            f"the TPU compiler cannot be asked about {topology} ({reason}): {advice}, or leave out --compile"
        ) from None
    return make_mesh(config, devices)


def mesh_for(config: MeshConfig, topology: Topology | None, compile_: bool) -> tuple[Any, str]:
    """Makes the mesh that a dry run is for, and says in words which of its devices are meant.

    Args:
        config: The sizes of the axes.
        topology: TPU slices; if None, as many devices as the axes have, or those of this machine for the compiler.
        compile_: Whether the compiler will be asked, for which a mesh without devices is not enough.

    Raises:
        ConfigError: The mesh has not the devices' size, or there is no compiler for them.
    """
    if topology is not None:
        mesh = mesh_on(config, topology)
        place = f"each of the {topology.devices} devices of {topology}"
        return slice_mesh(config, topology) if compile_ else mesh, place
    if compile_:
        return make_mesh(config), f"each of the {jax.device_count()} x {jax.default_backend()} here"
    sizes = [max(size, 1) for size in dataclasses.astuple(config)]
    count = math.prod(sizes)
    return abstract_mesh(MeshConfig(*sizes), count), "one device" if count == 1 else f"each of the {count} devices"


def describe(resolved: Resolved, place: str, topology: Topology | None, compile_: bool, console: Console) -> int:
    """Prints what each device of a mesh holds, and returns the bytes of one.

    Args:
        resolved: The experiment on the mesh, both by `mesh_for`.
        place: Which of its devices are meant, in words.
        topology: TPU slices, if it lies on these.
        compile_: Also asks their compiler what sampling and updating need.
        console: Where it is printed.

    Raises:
        ConfigError: The compiler cannot answer.
    """
    # A batch that no axis splits is told last, as that is what to change.
    experiment, sizes = resolved.experiment, resolved.mesh.shape
    memory = device_memory(resolved, compile_=compile_)
    shape = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    table = right_aligned("memory", "bytes", "", title=f"{place}: mesh {shape}")
    rows = {
        "trained weights": memory.trained,
        "optimizer state": memory.optimizer,
        "frozen and other roles": memory.frozen,
        "batch": memory.batch,
        **({"made ahead of the update (overlap)": memory.ahead} if experiment.overlap else {}),
        **{f"to {name}, says the compiler": program.temporary for name, program in memory.compiled.items()},
    }
    total = {"at most at once" if compile_ else "in all, before what sampling and updating need": memory.total}
    total |= {"memory of the device": topology.hbm_bytes} if topology else {}
    for part in (rows, total):
        for name, size in part.items():
            table.add_row(name, f"{size:,}", in_units(size))
        table.add_section()
    console.print(table)
    if compile_:
        table = right_aligned("compiled", "arguments", "outputs", "written in place", "temporary")
        for name, program in memory.compiled.items():
            table.add_row(name, *map(in_units, program))
        console.print(table)
        if topology is not None:
            console.print(roofline(memory.costs, topology))
        if len(memory.compiled) == 1 and experiment.algorithm.experience:
            console.print("the stages are not compiled: a host stage stands among them")
    if topology is not None:
        console.print(_verdict(memory.total / topology.hbm_bytes, compile_))
    ways, prompts = sizes["replica"] * sizes["fsdp"], jax.tree.leaves(resolved.spec)[0].shape[0]
    if prompts % ways:
        console.print(
            f"{prompts} prompts do not split over {ways} devices: every device works on all of them. Make the "
            f"batch a multiple of {ways}, or --mesh.tensor larger"
        )
    return memory.total


def _verdict(share: float, compile_: bool) -> str:
    fits = "it does not fit" if share > 1 else "it fits" if compile_ else "--compile says what is needed beside it"
    return f"{share:.0%} of the device's memory: {fits}"


def right_aligned(first: str, *numbers: str, **options: Any) -> Table:
    """Makes a table whose first column holds names, and the others numbers.

    Args:
        first: The head of the first column.
        numbers: The heads of the others.
        options: Those of `Table`.
    """
    table = Table(first, **options, title_justify="left")
    for head in numbers:
        table.add_column(head, justify="right")
    return table
