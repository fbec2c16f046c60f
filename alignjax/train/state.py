"""The state of a training run: its shapes, its shardings, its first value."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from alignjax.config import ConfigError, check_known, nearest
from alignjax.models import huggingface
from alignjax.models.huggingface import Pretrained
from alignjax.numerics import fold_name, quick_options, strong
from alignjax.parallel.mesh import partition_spec, with_shardings
from alignjax.roles import (
    AdaptersOf,
    CopyOf,
    Fresh,
    PoolOf,
    Restored,
    Through,
    Value,
    unchanging as unchanging,
    unwrapped,
)
from alignjax.scoring import params_of
from alignjax.train.checkpoint.read_steps import restore_role, role_shapes
from alignjax.tree_names import leaves_by_name, nested
from alignjax.types import Algorithm, Key, Model, Params, Role
from alignjax.workspace import Workspace


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that lives from step to step; `update` is given it whole and reuses its buffers.

    The order of the data is a function of seed and step, so the source's cursor is `step`.

    Attributes:
        roles: The tree of every role.
        optimizers: The state of the optimizer of every trained role.
        step: The number of finished iterations, int32.
        seed: The run's seed, uint32.
        pending: In checkpoints of an overlapped run the experience that is made and not yet learned from
            (`train/overlap.py`); else None.
    """

    roles: dict[str, Any]
    optimizers: dict[str, Any]
    step: jax.Array
    seed: jax.Array
    pending: Any = None

    def key(self) -> Key:
        """Returns the key of the present iteration."""
        return jax.random.fold_in(jax.random.key(self.seed), self.step)


def trained(roles: Mapping[str, Role]) -> tuple[str, ...]:
    """Returns the names of the roles that have an optimizer."""
    return tuple(name for name, role in roles.items() if role.optimizer is not None)


def _first_value(
    name: str, roles: Mapping[str, Role], loaded: Mapping[str, Any], key: Key, path: tuple[str, ...] = ()
) -> Any:
    """The first value of a role. `path`: the roles whose first values are made from this one's."""
    # Starts refer to each other, so this recurses along them. Each draws from the key of the role that it is for: a
    # copy equals what it copies, and another role more or less changes nobody's numbers.
    if name not in roles:
        raise ConfigError(
            f"role {path[-1]!r} starts as a copy of {name!r}, which does not exist.{nearest(name, roles)}"
        )
    if name in path:
        raise ConfigError(f"roles start as copies of each other: {' -> '.join([*path, name])}")
    role = roles[name]
    match role.start:
        case Fresh() if role.model is not None:
            return loaded[name] if name in loaded else role.model.init(fold_name(key, name))
        case CopyOf(other):
            return _first_value(other, roles, loaded, key, (*path, name))
        case PoolOf(other, size):
            first = _first_value(other, roles, loaded, key, (*path, name))
            ring = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], size, axis=0), first)
            return {"ring": ring, "pushed": jnp.ones((), jnp.int32), "slot": jnp.zeros((), jnp.int32)}
        case Restored() if role.model is None:
            return loaded[name]
        case Restored() | Pretrained() if role.model is not None:
            return _grown(role.model.init(fold_name(key, name)), loaded[name])
        case Value(function):
            return function(fold_name(key, name))
        case AdaptersOf(other, function):
            return function(fold_name(key, name), _first_value(other, roles, loaded, key, (*path, name)))
        case Through(start, function):
            before = {**roles, name: dataclasses.replace(role, start=start)}
            return function(_first_value(name, before, loaded, key, path))
    raise ConfigError(
        f"role {name!r} cannot start as {role.start!r}; use roles.fresh() with a model, copy_of, restored, value or "
        "huggingface.pretrained"
    )


def _grown(fresh: Any, loaded: Any) -> Any:
    """A fresh tree in which all that is in the loaded one takes its place."""
    if not isinstance(fresh, Mapping):
        return loaded
    return {name: _grown(part, loaded[name]) if name in loaded else part for name, part in fresh.items()}


def _first_key(seed: Any) -> Key:
    return fold_name(jax.random.key(seed), "init")


def init_state(algorithm: Algorithm, seed: jax.Array, loaded: Mapping[str, Any]) -> TrainState:
    """Makes the state at step 0: a function to be traced.

    Args:
        algorithm: The algorithm.
        seed: The run's seed.
        loaded: The trees of the roles that start from a checkpoint or from published weights, and of fresh ones if
            they were drawn before.
    """
    roles, key = algorithm.roles, _first_key(seed)
    trees = {name: strong(_first_value(name, roles, loaded, key)) for name in roles}
    optimizers = {
        name: strong(role.optimizer().init(trees[name])) for name, role in roles.items() if role.optimizer is not None
    }
    return TrainState(trees, optimizers, jnp.zeros((), jnp.int32), jnp.asarray(seed, jnp.uint32))


def _loaded(algorithm: Algorithm, read: Callable[[str, Any], Any]) -> dict[str, Any]:
    """What `read` gives for every role that starts from files."""
    starts = {name: unwrapped(role.start) for name, role in algorithm.roles.items()}
    return {name: read(name, start) for name, start in starts.items() if isinstance(start, (Restored, Pretrained))}


def shapes_of(model: Model) -> Any:
    """Shapes and dtypes of a model's params."""
    return jax.eval_shape(model.init, jax.random.key(0))


def abstract_state(algorithm: Algorithm, seed: int = 0) -> TrainState:
    """Returns the shapes and dtypes of the whole state; nothing is allocated or read.

    A role to be restored is taken to look as its model makes it.

    Args:
        algorithm: Whose state it is.
        seed: The seed of the run.

    Returns:
        The state of shapes.

    Raises:
        ConfigError: A restored role has no model, so that only its checkpoint knows its shape, or a role cannot start.
    """

    def shapes(name: str, start: Restored | Pretrained) -> Any:
        model = algorithm.roles[name].model
        if model is None:
            source = start.stage if isinstance(start, Restored) else start.folder
            raise ConfigError(f"role {name!r} is restored from {source!r} and has no model to say its shape")
        return shapes_of(model)

    return jax.eval_shape(lambda loaded: init_state(algorithm, jnp.uint32(seed), loaded), _loaded(algorithm, shapes))


def check_shapes(who: str, role: Role, saved: Any, whence: str, advice: str = "") -> None:
    """Checks that a restored tree has the shapes that the role's model expects: before anything is read, by name, and
    not by XLA.

    Args:
        who: The role, as the message calls it.
        role: The role; one without a model is restored as it is.
        saved: The tree, or its shapes.
        whence: What it is restored from, as the message calls it.
        advice: The end of the message.

    Raises:
        ConfigError: A leaf has another shape or, unless the role's start may grow, is missing.
    """
    if role.model is None:
        return
    have, want = (
        {name: leaf.shape for name, leaf in leaves_by_name(tree, ".").items()}
        for tree in (saved, shapes_of(role.model))
    )
    paths = have if unwrapped(role.start).grow else {**want, **have}
    wrong = [path for path in paths if have.get(path) != want.get(path)]
    if wrong:
        path, more = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ConfigError(
            f"{who} does not have the shapes of {whence}, from which it starts: {path} is {want.get(path, 'missing')} "
            f"here and {have.get(path, 'missing')} there{more}{advice}"
        )


def _sharded(shapes: Any, shardings: Any) -> Any:
    """Shapes in nested dicts with the sharding of the leaf of the same name; whole on every device where there is none
    (a role that grows starts from another tree than it has)."""
    by_name = leaves_by_name(shardings)
    whole = NamedSharding(next(iter(by_name.values())).mesh, PartitionSpec())
    return with_shardings(shapes, nested({name: by_name.get(name, whole) for name in leaves_by_name(shapes)}))


def _params_shardings(model: Model, shardings: Any) -> Any:
    """The shardings of a model's params by their logical axes, on the mesh of a state's shardings."""
    if shardings is None:
        return None
    mesh = jax.tree.leaves(shardings)[0].mesh
    return jax.tree.map(
        lambda leaf, axes: NamedSharding(mesh, partition_spec(axes, leaf.shape, mesh)), shapes_of(model), model.axes
    )


def create_state(algorithm: Algorithm, seed: int, workspace: Workspace, shardings: Any = None) -> TrainState:
    """Makes the state at step 0 in one jitted function, so that every leaf has a buffer of its own and a definite
    dtype.

    Args:
        algorithm: The algorithm.
        seed: The run's seed.
        workspace: The workspace in which earlier steps are found.
        shardings: The shardings of the state; None leaves it on the default device.

    Raises:
        ConfigError: A role cannot start, or a restored tree does not fit its model.
    """
    # Files are read first, each leaf straight into its sharding, and fresh weights drawn by a program of their model,
    # which takes long to compile and is the same for all roles and algorithms. Then all the rest is one program, which
    # also copies what was read, but for published and drawn weights: these become the state without a second copy.
    roles = algorithm.roles

    def read(name: str, start: Restored | Pretrained) -> Any:
        model = roles[name].model
        if isinstance(start, Pretrained):
            assert model is not None
            return huggingface.load(start.folder, model, _params_shardings(model, shardings))
        folder = workspace.find(start.stage)
        like = role_shapes(folder, start.role)
        check_shapes(f"role {name!r}", roles[name], like, f"role {start.role!r} in {folder}")
        if shardings is not None:
            # What goes through a function has another tree in the state than in the checkpoint.
            other = model if isinstance(roles[name].start, Through) else None
            like = _sharded(like, shardings.roles[name] if other is None else _params_shardings(other, shardings))
        return restore_role(folder, start.role, like=like)

    loaded = _loaded(algorithm, read)
    published = {name: loaded.pop(name) for name in [*loaded] if isinstance(roles[name].start, Pretrained)}
    seed = jnp.uint32(seed)
    for name, role in roles.items():
        if isinstance(role.start, Fresh) and role.model is not None:
            layout = None if shardings is None else tuple(jax.tree.leaves(_params_shardings(role.model, shardings)))
            published[name] = _drawing(role.model.init, layout)(seed, np.uint32(zlib.crc32(name.encode())))
    first = jax.jit(
        lambda seed, loaded, published: init_state(algorithm, seed, {**loaded, **published}),
        out_shardings=shardings,
        compiler_options=quick_options(),
        donate_argnums=2,
    )
    return first(seed, loaded, published)


@functools.lru_cache(maxsize=32)
def _drawing(init: Callable[[Key], Params], layout: tuple[NamedSharding, ...] | None) -> Any:
    """draw(seed, a role's name as a number) -> fresh params, jitted. layout: the sharding of every leaf."""
    draw = lambda seed, number: init(jax.random.fold_in(_first_key(seed), number))  # noqa: E731
    where = (
        None
        if layout is None
        else jax.tree.unflatten(jax.tree.structure(jax.eval_shape(draw, np.uint32(0), np.uint32(0))), layout)
    )
    return jax.jit(draw, out_shardings=where, compiler_options=quick_options())


def restored_params(folder: Path, algorithm: Algorithm, role: str) -> Params:
    """Restores what a role's model ran on, of the newest checkpoint: its `build` applied, adapters and quantized
    weights left as they are.

    Args:
        folder: A run folder, or the folder of a pipeline step in one.
        algorithm: The algorithm that was trained there.
        role: The role.

    Raises:
        ConfigError: The algorithm has no such role.
        CheckpointError: There is no good checkpoint.
    """
    roles = algorithm.roles
    check_known(role, roles, f"{folder} has no role {role!r}")
    like = abstract_state(algorithm).roles
    names = roles if roles[role].build is not None else (role,)  # a build may read any other role
    trees = {name: restore_role(folder, name, like=like[name]) for name in names}
    return params_of(roles, trees)(role)
