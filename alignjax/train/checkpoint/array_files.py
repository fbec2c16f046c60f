"""Writes and reads named arrays in folders, by Orbax. `write_steps.py` and `read_steps.py` make checkpoints of them."""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from alignjax.parallel.processes import is_multi_process


def by_itself(name: str) -> ocp.options.MultiprocessingOptions:
    """Lets this process, of several, write or read without waiting for the others. `name` tells barriers apart."""
    this = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"{name}_{this}"
    )


def as_saved(leaves: Mapping[str, Any]) -> ocp.args.PyTreeSave:
    """Makes leaves the item `state` of what Orbax is to save."""

    def accepted(leaf: Any) -> Any:
        """Orbax refuses jax arrays that one of several processes has for itself, but takes NumPy's."""
        alone = isinstance(leaf, jax.Array) and leaf.is_fully_addressable
        return jax.device_get(leaf) if is_multi_process() and alone else leaf

    return ocp.args.PyTreeSave({name: accepted(leaf) for name, leaf in leaves.items()})


def write_leaves(folder: Path, leaves: Mapping[str, Any]) -> None:
    """Writes the leaves, in all processes together; complete when it returns, and before that not in `folder`.

    Args:
        folder: Where they go.
        leaves: Arrays by name.
    """
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        writer.save(folder, args=ocp.args.Composite(state=as_saved(leaves)))


@functools.cache
def _reader() -> ocp.Checkpointer:
    """Reads without waiting for other processes: each reads its own parts, and a job reads on one process alone."""
    alone = by_itself("reader")
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def read_json(folder: Path) -> Any:
    """Reads the item `meta` of a step."""
    with _quiet():
        return _reader().restore(folder.resolve(), args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta


def read_leaves(folder: Path, like: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """Reads leaves by name out of the item `state`, in the shapes, dtypes and shardings of `like`.

    Args:
        folder: Where they are.
        like: Shapes, dtypes and shardings by name.

    Returns:
        Arrays by name.
    """
    if not like:
        return {}
    args = ocp.args.PyTreeRestore(
        dict(like), restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True
    )
    with _quiet():
        return _reader().restore(folder.resolve(), args=ocp.args.Composite(state=args)).state


def with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    """Gives the shape, dtype and sharding of a leaf; the sharding is the first device's if it has none."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax leaves coroutines behind when a read fails, each of which would print a page when it is collected."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    except Exception:
        gc.collect()
        raise
    finally:
        sys.unraisablehook = hook
