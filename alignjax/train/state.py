"""What lives from step to step, and how it is born."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from alignjax.config import ConfigError, nearest
from alignjax.models import huggingface
from alignjax.models.huggingface import Pretrained
from alignjax.numerics import fold_name, strong
from alignjax.parallel.mesh import partition_spec, state_shardings
from alignjax.roles import AdaptersOf, CopyOf, Fresh, PoolOf, Restored, Through, Value, unwrapped
from alignjax.scoring import params_of
from alignjax.train.checkpoint.steps import restore_role, role_shapes
from alignjax.types import Algorithm, Key, Model, Params, Role, frozen
from alignjax.workspace import Workspace


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Every role's own tree, an optimizer state per trained role, the number of finished iterations and the run's seed.
    Donated whole by `update`.

    The order of the data is a function of seed and step, so the source's cursor is `step`. pending: in checkpoints of
    an overlapped run, the experience that is made and not yet learned from (`train/overlap.py`); else None.
    """

    roles: dict[str, Any]
    optimizers: dict[str, Any]
    step: jax.Array  # int32
    seed: jax.Array  # uint32
    pending: Any = None

    def key(self) -> Key:
        """The key of the present iteration."""
        return jax.random.fold_in(jax.random.key(self.seed), self.step)


def trained(roles: Mapping[str, Role]) -> tuple[str, ...]:
    """Names of the roles that have an optimizer."""
    return tuple(name for name, role in roles.items() if role.optimizer is not None)


def unchanging(roles: Mapping[str, Role]) -> tuple[str, ...]:
    """Names of the roles whose own tree no step changes: neither an optimizer nor a rule moves them."""
    return tuple(name for name, role in roles.items() if role.optimizer is None and role.rule.function is frozen)


def _first_value(
    name: str, roles: Mapping[str, Role], loaded: Mapping[str, Any], key: Key, path: tuple[str, ...] = ()
) -> Any:
    if name not in roles:
        raise ConfigError(
            f"role {path[-1]!r} starts as a copy of {name!r}, which does not exist.{nearest(name, roles)}"
        )
    if name in path:
        raise ConfigError(f"roles start as copies of each other: {' -> '.join([*path, name])}")
    role = roles[name]
    match role.start:
        case Fresh() if role.model is not None:
            return role.model.init(fold_name(key, name))
        case CopyOf(other):
            return _first_value(other, roles, loaded, key, (*path, name))
        case PoolOf(other, size):
            one = _first_value(other, roles, loaded, key, (*path, name))
            ring = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], size, axis=0), one)
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


def _grown(made: Any, given: Any) -> Any:
    """`made`, with all that `given` has in its place."""
    if not isinstance(made, Mapping):
        return given
    return {name: _grown(part, given[name]) if name in given else part for name, part in made.items()}


def born(algorithm: Algorithm, seed: jax.Array, loaded: Mapping[str, Any]) -> TrainState:
    """The state at step 0 as a function to be traced; `loaded`: the trees of the roles that start from a checkpoint."""
    roles = algorithm.roles
    key = fold_name(jax.random.key(seed), "init")
    own = {name: strong(_first_value(name, roles, loaded, key)) for name in roles}
    optimizers = {
        name: strong(role.optimizer().init(own[name])) for name, role in roles.items() if role.optimizer is not None
    }
    return TrainState(own, optimizers, jnp.zeros((), jnp.int32), jnp.asarray(seed, jnp.uint32))


def _loaded(algorithm: Algorithm, read: Callable[[str, Any], Any]) -> dict[str, Any]:
    starts = {name: unwrapped(role.start) for name, role in algorithm.roles.items()}
    return {name: read(name, start) for name, start in starts.items() if isinstance(start, (Restored, Pretrained))}


def abstract_state(algorithm: Algorithm, seed: int = 0) -> TrainState:
    """Shapes and dtypes of the whole state, nothing allocated or read. A role to be restored is taken to look as its
    model makes it.

    Raises ConfigError for a restored role without a model, whose shape only its checkpoint knows.
    """

    def shape(name: str, start: Restored | Pretrained) -> Any:
        model = algorithm.roles[name].model
        if model is None:
            source = start.stage if isinstance(start, Restored) else start.folder
            raise ConfigError(f"role {name!r} is restored from {source!r} and has no model to say its shape")
        return jax.eval_shape(model.init, jax.random.key(0))

    return jax.eval_shape(lambda loaded: born(algorithm, jnp.uint32(seed), loaded), _loaded(algorithm, shape))


def with_shardings(algorithm: Algorithm, state: TrainState, mesh: Any) -> TrainState:
    """Adds to an abstract state the shardings in which it lies on a mesh, which may be abstract too."""

    def on_mesh(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_as_xla_spells_it(sharding))

    return jax.tree.map(on_mesh, state, state_shardings(algorithm, state, mesh))


def _as_xla_spells_it(sharding: NamedSharding) -> NamedSharding:
    """The same sharding without mesh axes of size 1, as it comes back from a jitted function. Spelled otherwise it
    would be taken for a new one, and everything compiled a second time."""
    sizes = sharding.mesh.shape
    parts: list[Any] = []
    for part in sharding.spec:
        axes = part if isinstance(part, tuple) else (part,)
        names = [name for name in axes if name is not None and sizes[name] > 1]
        parts.append(tuple(names) if len(names) > 1 else next(iter(names), None))
    while parts and parts[-1] is None:
        parts.pop()
    return NamedSharding(sharding.mesh, PartitionSpec(*parts))


def _checked(name: str, role: Role, value: Any) -> Any:
    """The shapes of a restored tree, which must be what the role's model expects: said here, with names, before
    anything is read, and not by XLA."""
    if role.model is None:
        return value
    wanted = jax.eval_shape(role.model.init, jax.random.key(0))
    have = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(value)}
    want = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
    paths = sorted(have if unwrapped(role.start).grow else {*have, *want})
    wrong = [
        f"{path}: checkpoint {have.get(path)}, model {want.get(path)}"
        for path in paths
        if have.get(path) != want.get(path)
    ]
    if wrong:
        raise ConfigError(
            f"role {name!r}: the checkpoint does not fit its model ({len(wrong)} differences): {'; '.join(wrong[:4])}"
        )
    return value


def _sharded(like: Any, shardings: Any) -> Any:
    """Shapes with the sharding of the leaf of the same path; whole on every device where there is none (a role that
    grows starts from another tree than it has)."""
    places = {jax.tree_util.keystr(path): place for path, place in jax.tree_util.tree_leaves_with_path(shardings)}
    whole = NamedSharding(next(iter(places.values())).mesh, PartitionSpec())

    def one(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = places.get(jax.tree_util.keystr(path), whole)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(one, like)


def _places(model: Model, shardings: Any) -> Any:
    """Where a model's params lie by their logical axes, on the mesh of a state's shardings."""
    if shardings is None:
        return None
    mesh = jax.tree.leaves(shardings)[0].mesh
    like = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, axes: NamedSharding(mesh, partition_spec(axes, leaf.shape, mesh)), like, model.axes
    )


def create_state(algorithm: Algorithm, seed: int, workspace: Workspace, shardings: Any = None) -> TrainState:
    """The state at step 0, born in one jitted function, so that every leaf has a buffer of its own and a definite
    dtype.

    Raises ConfigError if a start cannot be resolved or a restored tree does not fit its model.
    """

    def read(name: str, start: Restored | Pretrained) -> Any:
        if isinstance(start, Pretrained):
            model = algorithm.roles[name].model
            assert model is not None
            return huggingface.load(start.folder, model, _places(model, shardings))
        folder = workspace.find(start.stage)
        like = _checked(name, algorithm.roles[name], role_shapes(folder, start.role))
        if shardings is not None:
            # What goes through a function has another tree in the state than in the checkpoint.
            role = algorithm.roles[name]
            model = role.model if isinstance(role.start, Through) else None
            like = _sharded(like, shardings.roles[name] if model is None else _places(model, shardings))
        return restore_role(folder, start.role, like=like)

    loaded = _loaded(algorithm, read)
    # This program runs once, so on CPU, where compiling it fully takes seconds, it is compiled quickly instead.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    # Published weights are large: they become the state, where a start takes them as they are, and are not copied.
    given = {name: loaded.pop(name) for name in [*loaded] if isinstance(algorithm.roles[name].start, Pretrained)}
    first = jax.jit(
        lambda seed, loaded, given: born(algorithm, seed, {**loaded, **given}),
        out_shardings=shardings,
        compiler_options=quick,
        donate_argnums=2,
    )
    return first(jnp.uint32(seed), loaded, given)


def restored_params(folder: Path, algorithm: Algorithm, role: str, step: int | None = None) -> Params:
    """What a role's model ran on in a checkpoint (the newest unless a step is given) of a run folder, or of a step's
    folder in one, which `algorithm` trained: the role's `build` applied, adapters and quantized weights left as they
    are.

    Raises ConfigError if the algorithm has no such role and CheckpointError if there is no good checkpoint.
    """
    roles = algorithm.roles
    if role not in roles:
        raise ConfigError(f"{folder} has no role {role!r}.{nearest(role, roles)}")
    like = abstract_state(algorithm).roles
    needed = roles if roles[role].build is not None else (role,)  # a build may read any other role
    own = {name: restore_role(folder, name, step, like=like[name]) for name in needed}
    return params_of(roles, own)(role)
