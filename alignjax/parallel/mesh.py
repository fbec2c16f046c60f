"""Device meshes: one table from logical axis names to mesh axes, and where state and batches lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from alignjax.config import ConfigError, MeshConfig
from alignjax.tree_names import path_keys

# replica: across slices; fsdp: batch and weights; tensor: heads, mlp and vocabulary.
AXES = ("replica", "fsdp", "tensor")
BATCH = ("replica", "fsdp")
STORAGE_LAYOUT: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": BATCH,
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
}
# Where things lie while a layer, an embedding or a head is at work: its weights are gathered over fsdp (ZeRO-3).
COMPUTE_LAYOUT: Mapping[str, str | tuple[str, ...] | None] = {**STORAGE_LAYOUT, "embed": None}
# Where things lie while completions are sampled: rows over all devices, weights whole on each.
DECODE_LAYOUT: Mapping[str, str | tuple[str, ...] | None] = {**dict.fromkeys(STORAGE_LAYOUT), "batch": AXES}


def make_mesh(config: MeshConfig, devices: Any = None) -> Mesh:
    """A mesh of all devices with axes (replica, fsdp, tensor); ConfigError if the sizes do not multiply to their
    number, or if replica does not cross the TPU slices that there are.

    Axes are of type Auto: jax's default, Explicit, refuses gathers over a sharded vocabulary.
    """
    devices = jax.devices() if devices is None else devices
    slices = slice_count(devices)
    sizes = axis_sizes(config, len(devices), slices)
    if slices == 1:
        return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    inside = (sizes[0] // slices, *sizes[1:])
    order = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices, allow_split_physical_axes=True)
    return Mesh(order, AXES, axis_types=(AxisType.Auto,) * 3)


def slice_count(devices: Any) -> int:
    """On how many TPU slices devices lie; 1 for any other kind. On GPUs the number says which share a fast link, and
    fsdp over several of those is common."""
    return len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"} or {0})


def axis_sizes(config: MeshConfig, devices: int, slices: int = 1) -> tuple[int, ...]:
    """The mesh's sizes on so many devices of so many TPU slices; ConfigError if they do not multiply to that number, or
    if replica does not cross the slices."""
    sizes = [config.replica, config.fsdp, config.tensor]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise ConfigError(
            f"mesh {dict(zip(AXES, sizes, strict=True))}: sizes are positive, and at most one is -1 for what is left"
        )
    known = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes:
        sizes[sizes.index(-1)] = devices // known
    if int(np.prod(sizes)) != devices:
        raise ConfigError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} needs {int(np.prod(sizes))} devices; there are {devices}"
        )
    if sizes[0] % slices:
        raise ConfigError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} lies on {slices} slices: replica, the axis that crosses the "
            f"slow network between them, must be {slices} or a multiple of it"
        )
    return tuple(sizes)


def partition_spec(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Any, table: Mapping[str, Any] = STORAGE_LAYOUT
) -> PartitionSpec:
    """The partition of an array by its logical axes. An axis that does not divide by all its mesh axes is split by as
    many of them, the first ones, as it does divide by; one whose mesh axis is taken already stays whole."""
    used: set[str] = set()
    parts: list[str | tuple[str, ...] | None] = []
    for name, size in zip(axes, shape, strict=True):
        target = table.get(name) if name else None
        names = (target,) if isinstance(target, str) else tuple(target or ())
        names = () if used & set(names) else names
        while names and size % int(np.prod([mesh.shape[axis] for axis in names])):
            names = names[:-1]
        used |= set(names)
        parts.append(names[0] if len(names) == 1 else names or None)
    return PartitionSpec(*parts)


def constrain(tree: Any, axes: Any, table: Mapping[str, Any]) -> Any:
    """`tree` laid out as `table` says, inside a jitted function whose arguments lie on a mesh; elsewhere unchanged.

    axes: the logical axes of an array, or nested dicts of them. Parts of the tree that they do not describe (adapters,
    weights in few bits) are left to the compiler.
    """
    if isinstance(axes, Mapping) and isinstance(tree, Mapping):
        return {name: constrain(part, axes.get(name), table) for name, part in tree.items()}
    if not isinstance(axes, tuple) or getattr(tree, "ndim", None) != len(axes):
        return tree
    mesh = _mesh_of(tree)
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, partition_spec(axes, tree.shape, mesh, table)))


def replicate(tree: Any) -> Any:
    """Every array of a tree whole on every device of its mesh, inside a jitted function."""

    def one(leaf: Any) -> Any:
        mesh = _mesh_of(leaf)
        return leaf if mesh is None else jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(one, tree)


def shard_rows(tree: Any, beside: Any = (), table: Mapping[str, Any] = STORAGE_LAYOUT) -> Any:
    """Every array of a tree split along its leading axis as the table has batches, inside a jitted function. beside:
    arrays that know the mesh, where those of the tree, made in a loop from nothing, may not."""
    meshes = [mesh for leaf in jax.tree.leaves((tree, beside)) if (mesh := _mesh_of(leaf)) is not None]
    if not meshes:
        return tree
    return jax.tree.map(
        lambda leaf, place: jax.lax.with_sharding_constraint(leaf, place), tree, batch_shardings(tree, meshes[0], table)
    )


def _mesh_of(leaf: Any) -> Any:
    """The mesh of the traced function that made an array, if it is one of ours and has more than one device."""
    if not isinstance(leaf, Tracer):
        return None
    mesh = jax.typeof(leaf).sharding.mesh
    return mesh if tuple(mesh.axis_names) == AXES and mesh.size > 1 else None


def batch_shardings(batch: Any, mesh: Any, table: Mapping[str, Any] = STORAGE_LAYOUT) -> Any:
    """Every leaf split along its leading axis, by default over replica and fsdp; whole where that does not divide."""

    def one(leaf: Any) -> NamedSharding:
        axes = ("batch", *[None] * (leaf.ndim - 1)) if leaf.ndim else ()
        return NamedSharding(mesh, partition_spec(axes, leaf.shape, mesh, table))

    return jax.tree.map(one, batch)


def process_shard(batch: Any, mesh: Mesh) -> tuple[int, int]:
    """(index, count): which of count equal runs of rows of a global batch, given as ShapeDtypeStructs, this process's
    devices hold. (0, 1), all of it, where they hold rows that are no such run, or where a leaf does not divide and so
    lies whole on every device."""
    groups = int(np.prod([mesh.shape[axis] for axis in BATCH]))
    if any(leaf.ndim == 0 or leaf.shape[0] % groups for leaf in jax.tree.leaves(batch)):
        return 0, 1
    places = NamedSharding(mesh, PartitionSpec(BATCH)).addressable_devices_indices_map((groups,))
    own = sorted({where[0].indices(groups)[0] for where in places.values() if where is not None})
    first, count = own[0], len(own)
    if own != list(range(first, first + count)) or first % count or groups % count:
        return 0, 1
    return first // count, groups // count


def place_batch(batch: Any, mesh: Mesh, parts: int = 1) -> Any:
    """A host batch on the mesh. parts: of how many equal runs of rows of the global batch this is the one that this
    process's devices hold; 1: it is all of it, and the same on every process."""
    if jax.process_count() == 1:
        return jax.device_put(batch, batch_shardings(batch, mesh))
    batch = jax.tree.map(np.asarray, batch)

    def whole(leaf: Any) -> jax.ShapeDtypeStruct:
        shape = (parts * leaf.shape[0], *leaf.shape[1:]) if leaf.ndim else ()
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    like = jax.tree.map(whole, batch)
    return jax.tree.map(
        lambda leaf, spec, sharding: jax.make_array_from_process_local_data(sharding, leaf, spec.shape),
        batch,
        like,
        batch_shardings(like, mesh),
    )


# What may lie in the place of a weight with axes (.., in, out), by the name of the part: an adapter's two factors, and
# the values and scales of a quantized weight.
_PARTS: Mapping[str, Any] = {
    "a": lambda axes: (*axes[:-1], None),
    "b": lambda axes: (*axes[:-2], None, axes[-1]),
    "values": lambda axes: axes,
    "scales": lambda axes: axes,
}


def _axes_of(path: tuple[str, ...], known: Mapping[tuple[str, ...], Any]) -> Any:
    """The logical axes of a leaf whose path ends in that of a weight, or of a part of one; None for another."""
    for first in range(len(path)):
        if path[first:] in known:
            return known[path[first:]]
        if path[first:-1] in known and path[-1] in _PARTS:
            return _PARTS[path[-1]](known[path[first:-1]])
    return None


def state_shardings(algorithm: Any, state: Any, mesh: Mesh) -> Any:
    """Shardings for an abstract TrainState: weights, and adapters and quantized values in their place, by the weights'
    logical axes; optimizer moments, and pools of past weights, like what they belong to; the rest whole."""
    whole = NamedSharding(mesh, PartitionSpec())

    def role(name: str, tree: Any) -> Any:
        model = algorithm.roles[name].model
        axes = None if model is None else model.axes
        named = jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda node: isinstance(node, tuple))
        known = {path_keys(path): of for path, of in named}

        def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            of = _axes_of(path_keys(path), known)
            if of is None or leaf.ndim < len(of):
                return whole
            return NamedSharding(mesh, partition_spec((*[None] * (leaf.ndim - len(of)), *of), leaf.shape, mesh))

        return jax.tree_util.tree_map_with_path(one, tree)

    return type(state)(
        {name: role(name, tree) for name, tree in state.roles.items()},
        {name: role(name, tree) for name, tree in state.optimizers.items()},
        whole,
        whole,
    )
