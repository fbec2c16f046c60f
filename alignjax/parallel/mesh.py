"""Device meshes: tables from logical axis names to mesh axes, and the shardings of state and batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
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
    "experts": "tensor",
    "vocab": "tensor",
}
# The layout while a layer, an embedding or a head is at work: its weights are gathered over fsdp (ZeRO-3).
COMPUTE_LAYOUT: Mapping[str, str | tuple[str, ...] | None] = {**STORAGE_LAYOUT, "embed": None}
# The layout while completions are sampled: rows over all devices, weights whole on each.
DECODE_LAYOUT: Mapping[str, str | tuple[str, ...] | None] = {**dict.fromkeys(STORAGE_LAYOUT), "batch": AXES}


def make_mesh(config: MeshConfig, devices: Any = None) -> Mesh:
    """Makes a mesh with axes (replica, fsdp, tensor).

    Axes are of type Auto: jax's default, Explicit, refuses gathers over a sharded vocabulary.

    Args:
        config: The size of each axis.
        devices: The devices; all of them if None.

    Raises:
        ConfigError: The sizes do not multiply to the number of devices, or replica does not cross their TPU slices.
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
    """Counts the TPU slices of devices; 1 for any other kind. On GPUs `slice_index` tells which share a fast link, and
    fsdp over several of those is common."""
    return len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"} or {0})


def axis_sizes(config: MeshConfig, devices: int, slices: int = 1) -> tuple[int, ...]:
    """Returns the sizes of a mesh's axes on a number of devices.

    Args:
        config: The size of each axis, at most one of them -1 for what is left.
        devices: The number of devices.
        slices: The number of TPU slices that they are on.

    Raises:
        ConfigError: The sizes do not multiply to the number of devices, or replica does not cross the slices.
    """
    sizes = [config.replica, config.fsdp, config.tensor]

    def wrong(what: str) -> ConfigError:
        return ConfigError(f"mesh {dict(zip(AXES, sizes, strict=True))}{what}")

    if sizes.count(-1) > 1:
        raise wrong(": at most one size is -1, for what is left")
    known = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes:
        sizes[sizes.index(-1)] = devices // known
    if int(np.prod(sizes)) != devices:
        raise wrong(f" needs {int(np.prod(sizes))} devices; there are {devices}")
    if sizes[0] % slices:
        raise wrong(
            f" lies on {slices} slices: replica, the axis that crosses the slow network between them, must be {slices} "
            "or a multiple of it"
        )
    return tuple(sizes)


def partition_spec(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Any, table: Mapping[str, Any] = STORAGE_LAYOUT
) -> PartitionSpec:
    """Returns the partition of an array by its logical axes.

    An array axis is sharded over the longest prefix of its mesh axes that divides it; if one of them is already in
    use, the array axis is replicated. Mesh axes of size 1 and trailing axes that are whole are left out, as they are
    when an array comes back from a jitted function: spelled otherwise it would be taken for a new one, and everything
    compiled a second time.

    Args:
        axes: The logical name of each array axis, or None.
        shape: The array's shape.
        mesh: A mesh, which may be abstract.
        table: The mesh axes of each logical one.
    """
    used: set[str] = set()
    parts: list[str | tuple[str, ...] | None] = []
    for name, size in zip(axes, shape, strict=True):
        target = table.get(name) if name else None
        names = (target,) if isinstance(target, str) else tuple(target or ())
        names = () if used & set(names) else names
        while names and size % int(np.prod([mesh.shape[axis] for axis in names])):
            names = names[:-1]
        used |= set(names)
        names = tuple(axis for axis in names if mesh.shape[axis] > 1)
        parts.append(names[0] if len(names) == 1 else names or None)
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def constrain(tree: Any, axes: Any, table: Mapping[str, Any]) -> Any:
    """Constrains the layout of arrays inside a jitted function whose arguments are on a mesh; elsewhere does nothing.

    Args:
        tree: An array or nested dicts of arrays.
        axes: The logical axes of an array, or nested dicts of them. Parts of the tree that they do not describe
            (adapters, weights in few bits) are left to the compiler.
        table: The mesh axes of each logical one.
    """
    if isinstance(axes, Mapping) and isinstance(tree, Mapping):
        return {name: constrain(part, axes.get(name), table) for name, part in tree.items()}
    if not isinstance(axes, tuple) or getattr(tree, "ndim", None) != len(axes):
        return tree
    mesh = mesh_of(tree)
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, partition_spec(axes, tree.shape, mesh, table)))


def replicate(tree: Any) -> Any:
    """Replicates every array of a tree on every device of its mesh, inside a jitted function."""
    return jax.tree.map(lambda leaf: constrain(leaf, (None,) * jnp.ndim(leaf), {}), tree)


def shard_rows(tree: Any, beside: Any = (), table: Mapping[str, Any] = STORAGE_LAYOUT) -> Any:
    """Shards every array of a tree along its leading axis, inside a jitted function.

    Args:
        tree: The arrays.
        beside: Arrays that know the mesh, where those of the tree, made in a loop from nothing, may not.
        table: The mesh axes of each logical one, of which "batch" is used.
    """
    meshes = [mesh for leaf in jax.tree.leaves((tree, beside)) if (mesh := mesh_of(leaf)) is not None]
    if not meshes:
        return tree
    return jax.lax.with_sharding_constraint(tree, batch_shardings(tree, meshes[0], table))


def mesh_of(leaf: Any) -> Any:
    """Returns the mesh of the traced function that made an array, if it has our axes and more than one device."""
    if not isinstance(leaf, Tracer):
        return None
    mesh = jax.typeof(leaf).sharding.mesh
    return mesh if tuple(mesh.axis_names) == AXES and mesh.size > 1 else None


def batch_shardings(batch: Any, mesh: Any, table: Mapping[str, Any] = STORAGE_LAYOUT) -> Any:
    """Returns shardings along the leading axis, by default over replica and fsdp, over as many of
    them as divide it (`partition_spec`).

    Args:
        batch: A tree of arrays or shapes.
        mesh: The mesh.
        table: Logical axes to mesh axes.

    Returns:
        A tree of shardings like the batch.
    """

    def sharding(leaf: Any) -> NamedSharding:
        axes = ("batch", *[None] * (leaf.ndim - 1)) if leaf.ndim else ()
        return NamedSharding(mesh, partition_spec(axes, leaf.shape, mesh, table))

    return jax.tree.map(sharding, batch)


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Adds shardings to shapes.

    Args:
        shapes: A tree of arrays or shapes.
        shardings: A tree of shardings like it.

    Returns:
        A tree of ShapeDtypeStructs.
    """
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )


def process_shard(batch: Any, mesh: Mesh) -> tuple[int, int]:
    """Finds the rows of a global batch that this process's devices hold.

    Args:
        batch: The global batch, as ShapeDtypeStructs.
        mesh: The mesh of all processes.

    Returns:
        (index, count): the rows are number `index` of `count` equal runs. (0, 1), all rows, where they are no such
        run, or where replica times fsdp does not divide a leaf, whose rows then lie on several processes.
    """
    groups = int(np.prod([mesh.shape[axis] for axis in BATCH]))
    if any(leaf.ndim == 0 or leaf.shape[0] % groups for leaf in jax.tree.leaves(batch)):
        return 0, 1
    slices = NamedSharding(mesh, PartitionSpec(BATCH)).addressable_devices_indices_map((groups,))
    held = sorted({index[0].indices(groups)[0] for index in slices.values() if index is not None})
    first, count = held[0], len(held)
    if held != list(range(first, first + count)) or first % count or groups % count:
        return 0, 1
    return first // count, groups // count


def place_batch(batch: Any, mesh: Mesh, parts: int = 1) -> Any:
    """Puts a host batch on the mesh.

    Args:
        batch: The rows that this process has.
        mesh: The mesh of all processes.
        parts: The number of equal runs of rows of which this process has one; 1 if it has the whole batch, as every
            other process then has too.
    """
    if jax.process_count() == 1:
        return jax.device_put(batch, batch_shardings(batch, mesh))

    def placed(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        shape = (parts * leaf.shape[0], *leaf.shape[1:]) if leaf.ndim else ()
        sharding = batch_shardings(jax.ShapeDtypeStruct(shape, leaf.dtype), mesh)
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return jax.tree.map(placed, batch)


# What may lie in the place of a weight with axes (.., in, out), by the name of the part: an adapter's two factors, and
# the values and scales of a quantized weight.
_PARTS: Mapping[str, Any] = {
    "a": lambda axes: (*axes[:-1], None),
    "b": lambda axes: (*axes[:-2], None, axes[-1]),
    "values": lambda axes: axes,
    "scales": lambda axes: axes,
}


def axes_of_part(axes: tuple[str | None, ...], part: str) -> tuple[str | None, ...]:
    """Returns the logical axes of a part of what lies in the place of a weight: those of the weight itself for one that
    is no factor, value or scale."""
    return _PARTS[part](axes) if part in _PARTS else axes


def _axes_of(path: tuple[str, ...], known: Mapping[tuple[str, ...], Any]) -> Any:
    """Returns the logical axes of a leaf whose path ends in that of a weight, or of a part of one; None for another."""
    for first in range(len(path)):
        if path[first:] in known:
            return known[path[first:]]
        if path[first:-1] in known and path[-1] in _PARTS:
            return _PARTS[path[-1]](known[path[first:-1]])
    return None


def state_shardings(algorithm: Any, state: Any, mesh: Mesh) -> Any:
    """Makes shardings for an abstract TrainState: weights, and adapters and quantized values in their place, by the
    weights' logical axes; optimizer moments, and pools of past weights, like what they belong to; the rest whole.

    Args:
        algorithm: Its models know the logical axes.
        state: The shapes of a TrainState.
        mesh: The mesh.

    Returns:
        A tree of shardings like the state.
    """
    # Moments, pools and adapters repeat the paths of the weights at the end of theirs, so a leaf is known by the end of
    # its path and needs no table of its own; axes in front of a weight's, as a pool's slots, are not split.
    whole = NamedSharding(mesh, PartitionSpec())

    known: dict[str, dict[tuple[str, ...], Any]] = {}
    for name, role in algorithm.roles.items():
        axes = None if role.model is None else role.model.axes
        named = jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda node: isinstance(node, tuple))
        known[name] = {path_keys(path): of for path, of in named}

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        _, *inside = path_keys(path)  # roles or optimizers, then the name of a role
        axes = _axes_of(tuple(inside[1:]), known.get(inside[0], {})) if inside else None
        if axes is None or leaf.ndim < len(axes):
            return whole
        return NamedSharding(mesh, partition_spec((*[None] * (leaf.ndim - len(axes)), *axes), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, state)
