"""Device meshes: one table from logical axis names to mesh axes, and where state and batches lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from alignjax.config import ConfigError, MeshConfig

# replica: across slices; fsdp: batch and weights; tensor: heads, mlp and vocabulary.
AXES = ("replica", "fsdp", "tensor")
TABLE: Mapping[str, str | tuple[str, ...] | None] = {
    "batch": ("replica", "fsdp"),
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
}


def make_mesh(config: MeshConfig, devices: Any = None) -> Mesh:
    """A mesh of all devices with axes (replica, fsdp, tensor); ConfigError if the sizes do not multiply to their
    number.

    Axes are of type Auto: jax's default, Explicit, refuses gathers over a sharded vocabulary.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(config, len(devices))
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def axis_sizes(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """The mesh's sizes on so many devices; ConfigError if they do not multiply to that number."""
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
    return tuple(sizes)


def spec(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The partition of an array by its logical axes. An axis that does not divide, or whose mesh axis is taken already,
    stays whole."""
    used: set[str] = set()
    parts = []
    for name, size in zip(axes, shape, strict=True):
        target = TABLE.get(name) if name else None
        names = (target,) if isinstance(target, str) else tuple(target or ())
        free = bool(names) and not used & set(names) and size % int(np.prod([mesh.shape[axis] for axis in names])) == 0
        used |= set(names) if free else set()
        parts.append(target if free else None)
    return PartitionSpec(*parts)


def batch_shardings(batch: Any, mesh: Mesh) -> Any:
    """Every leaf split along its leading axis, over replica and fsdp; whole where that does not divide."""

    def one(leaf: Any) -> NamedSharding:
        axes = ("batch", *[None] * (leaf.ndim - 1)) if leaf.ndim else ()
        return NamedSharding(mesh, spec(axes, leaf.shape, mesh))

    return jax.tree.map(one, batch)


def place(batch: Any, mesh: Mesh) -> Any:
    """A host batch on the mesh."""
    return jax.device_put(batch, batch_shardings(batch, mesh))


def state_shardings(algorithm: Any, state: Any, mesh: Mesh) -> Any:
    """Shardings for an abstract TrainState: weights by their logical axes, optimizer moments like the weights they
    belong to, the rest whole."""
    whole = NamedSharding(mesh, PartitionSpec())

    def like_params(tree: Any, axes: Any) -> Any:
        return jax.tree.map(lambda leaf, name: NamedSharding(mesh, spec(name, leaf.shape, mesh)), tree, axes)

    def role(name: str, tree: Any) -> Any:
        """A tree that contains the role's params structure, wherever it does, sharded as those."""
        model = algorithm.roles[name].model
        if model is None or model.axes is None:
            return jax.tree.map(lambda leaf: whole, tree)
        params = jax.tree.structure(jax.eval_shape(model.init, jax.random.key(0)))
        is_params = lambda node: jax.tree.structure(node) == params  # noqa: E731
        return jax.tree.map(
            lambda node: like_params(node, model.axes) if is_params(node) else jax.tree.map(lambda leaf: whole, node),
            tree,
            is_leaf=is_params,
        )

    return type(state)(
        {name: role(name, tree) for name, tree in state.roles.items()},
        {name: role(name, tree) for name, tree in state.optimizers.items()},
        whole,
        whole,
    )
