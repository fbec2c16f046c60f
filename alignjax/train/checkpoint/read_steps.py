"""Reads checkpoints and verifies their checksums, without the code that wrote them (`write_steps.py`, beside the run).

A step is two items: `state`, the leaves of the state by name ("roles/policy/embed"), and `meta`, a small JSON with the
leaves' shapes, dtypes and checksums and whatever the loop adds (data cursor, config, versions). Orbax writes into a
temporary folder and renames it, in the background, and keeps the newest few. What it does not notice is a flipped bit
in the data, hence the checksums: computed on device, in integers, so they hold on any mesh.

Roles that no step changes (a reference, a judge, the weights below adapters) are written once, into a folder of
`frozen` that is named by its content and complete before the first step that refers to it. Where a leaf lies, the
step's JSON says; who reads by name need not know.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp

from alignjax.config import nearest
from alignjax.json_shapes import misfit, shown
from alignjax.parallel.processes import all_gather_text, first_line
from alignjax.ranges import Natural
from alignjax.train.checkpoint.array_files import read_json, read_leaves, with_sharding
from alignjax.train.checkpoint.checksums import as_key, checksums, form, is_key, plain
from alignjax.tree_names import leaves_by_name, nested

FOLDER = "checkpoints"
FROZEN = "frozen"  # beside the steps: what none of them changes
COMPLETE = "_CHECKPOINT_METADATA"
FORMAT = "alignjax state 2"
DIGEST = "digest"


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; the message says why.

    previous: the newest earlier step that is complete, or None. damaged: whether the files are at fault, rather than
    the state that they are to fill.
    """

    def __init__(self, message: str, *, previous: int | None = None, damaged: bool = False) -> None:
        super().__init__(message)
        self.previous, self.damaged = previous, damaged


def steps(folder: Path) -> list[int]:
    """Lists the complete steps of a run folder, oldest first; what a crash left half-written does not count."""
    root = folder / FOLDER
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    numbers = [int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,17}", name)]
    return sorted(step for step in numbers if (root / str(step) / COMPLETE).exists())


def _meta(folder: Path, step: int | None) -> tuple[int, dict[str, Any]]:
    """A step, by default the newest, and its JSON. Raises CheckpointError for one that does not exist, is not ours, or
    is not readable."""
    root, present = folder / FOLDER, steps(folder)
    if step is None:
        if not present:
            raise CheckpointError(f"{root} holds no complete checkpoint")
        step = present[-1]
    if step not in present:
        offer = f"Complete steps: {', '.join(map(str, present))}." if present else "There is no complete step."
        raise CheckpointError(f"{root / str(step)} holds no checkpoint. {offer}", previous=_before(folder, step))
    try:
        meta = read_json(root / str(step))
    except Exception as error:
        raise _damage(folder, step, str(step), error) from error
    if isinstance(meta, dict) and meta.get("format") != FORMAT:
        raise CheckpointError(
            f"{root / str(step)} was not written by this version of alignjax (its format is not {FORMAT!r})"
        )
    if words := _misfit(meta):
        raise _damage(folder, step, str(step), words)
    return step, meta


class _Meta(TypedDict):
    format: str
    leaves: dict[str, list[Any]]
    checksums: dict[str, int]
    frozen: dict[str, list[str]]


def digest_of(meta: Mapping[str, Any]) -> str:
    """Computes a hash of a step's JSON without its own entry, so that no changed byte of it is taken for a number."""
    rest = {key: value for key, value in meta.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _misfit(meta: Any) -> str | None:
    """Says where a step's JSON is not one that `write_steps.save` can have written."""
    if words := misfit(meta, _Meta):
        return f"in its JSON {words}"
    for name, described in meta["leaves"].items():
        words = "it must be a dtype and a shape" if len(described) != 2 else misfit(described[1], list[Natural])
        words = words or misfit(described[0], str)
        try:
            if words or jnp.dtype(described[0]).itemsize < 0:
                return f"in its JSON leaves.{name} is {shown(described)}; {words}"
        except TypeError:
            return f"in its JSON leaves.{name} is of dtype {shown(described[0])}, which does not exist"
    if meta["checksums"].keys() != meta["leaves"].keys():
        return "its JSON has not a checksum for each leaf"
    for part, names in meta["frozen"].items():
        if not re.fullmatch(rf"{FROZEN}/[0-9a-f]{{16}}", part) or not meta["leaves"].keys() >= set(names):
            return f"its JSON names a folder {shown(part)} with leaves that it has not"
    if DIGEST in meta and meta[DIGEST] != digest_of(meta):  # steps of before had none
        return "its JSON is not what was written"
    return None


def _before(folder: Path, step: int) -> int | None:
    return max((other for other in steps(folder) if other < step), default=None)


def _damage(folder: Path, step: int, part: str, reason: Any) -> CheckpointError:
    """The error that says which folder of a step is damaged, and what may be read instead."""
    damaged = f"{folder / FOLDER / part} is damaged: {first_line(reason)[:160]}"
    if part.startswith(FROZEN):  # another step would not help
        return CheckpointError(
            f"{damaged}. It holds the roles that never change, which every checkpoint beside it needs: put back a copy "
            "of it, or start again in another --run-dir."
        )
    previous = _before(folder, step)
    offer = f"Step {previous} is there too" if previous is not None else "There is no earlier one"
    return CheckpointError(f"checkpoint {damaged}. {offer}.", previous=previous, damaged=True)


def _read(folder: Path, step: int, targets: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The named leaves, checked against their checksums. Raises CheckpointError naming the leaf that is damaged."""
    frozen = {name: part for part, names in meta["frozen"].items() for name in names}
    by_folder: dict[str, dict[str, Any]] = {}  # the step's own, and those of what no step changes
    for name, leaf in targets.items():
        by_folder.setdefault(frozen.get(name, str(step)), {})[name] = leaf
    leaves: dict[str, jax.Array] = {}
    for part, like in sorted(by_folder.items()):
        arrays = _read_folder(folder, step, part, like)
        if wrong := [name for name, value in checksums(arrays).items() if value != meta["checksums"][name]]:
            names = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            raise _damage(folder, step, part, f"the numbers of {names} are not those that were written")
        leaves |= arrays
    return {name: leaves[name] for name in targets}


def _read_folder(folder: Path, step: int, part: str, targets: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The named leaves in one folder of a step."""
    stored = {name: with_sharding(leaf) for name, leaf in targets.items() if math.prod(leaf.shape)}
    shared = any(not leaf.sharding.is_fully_addressable for leaf in stored.values())
    arrays, failure = {}, None
    try:
        arrays = read_leaves(folder / FOLDER / part, stored)
    except Exception as error:
        failure = error
    # What one process cannot read is damaged for all: they must agree before they sum it up together.
    reason = "" if failure is None else str(failure).strip() or type(failure).__name__
    if reasons := [line for line in (all_gather_text(reason) if shared else [reason]) if line]:
        raise _damage(folder, step, part, reasons[0]) from failure
    # An array that still stands in memory of NumPy's cannot be donated: give each leaf a buffer of its own, one by one.
    return {
        name: jnp.copy(arrays.pop(name))
        if name in arrays
        else jnp.zeros(leaf.shape, leaf.dtype, device=with_sharding(leaf).sharding)
        for name, leaf in targets.items()
    }


def _compare(folder: Path, step: int, saved: Mapping[str, list[Any]], targets: Mapping[str, Any]) -> None:
    """Raises CheckpointError naming the leaves in which the checkpoint and the state to be filled differ."""
    lines = [f"{name} is only in the checkpoint" for name in saved if name not in targets]
    lines += [f"{name} is only in this config" for name in targets if name not in saved]
    for name in targets:
        if name in saved and saved[name] != form(targets[name]):
            (old_type, old), (new_type, new) = saved[name], form(targets[name])
            lines.append(f"{name} is {old_type}{old} in the checkpoint and {new_type}{new} in this config")
    if lines:
        shown = "\n  ".join(lines[:6] + ([f"... and {len(lines) - 6} more"] if len(lines) > 6 else []))
        raise CheckpointError(
            f"checkpoint {folder / FOLDER / str(step)} was written by another config:\n  {shown}\n"
            "Use the config it was written with, or another --run-dir."
        )


def restore(folder: Path, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
    """Reads a step. Every leaf has a buffer of its own, so the state can be donated.

    Args:
        folder: The run folder.
        like: A state, or its ShapeDtypeStructs: the tree, dtypes and shardings of what is read.
        step: Which step; by default the newest.

    Returns:
        (the state, the step's JSON).

    Raises:
        CheckpointError: No checkpoint exists, it is damaged, or it was written by a config whose state has other
            leaves, shapes or dtypes. The message says what is wrong and names the previous step.
    """
    step, meta = _meta(folder, step)
    return _restored(folder, step, meta, like, meta["leaves"]), meta


def _restored(folder: Path, step: int, meta: Mapping[str, Any], like: Any, saved: Iterable[str]) -> Any:
    """The tree `like`, which must hold just the leaves `saved` of a step."""
    named = leaves_by_name(like)
    targets = {name: plain(leaf) for name, leaf in named.items()}
    _compare(folder, step, {name: meta["leaves"][name] for name in saved}, targets)
    read = _read(folder, step, targets, meta)
    leaves = [as_key(read[name], leaf) if is_key(leaf) else read[name] for name, leaf in named.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def of_roles(names: Iterable[str], roles: Collection[str]) -> list[str]:
    """Returns the names of leaves of a state that belong to one of the roles."""
    return [name for name in names if name.startswith("roles/") and name.split("/")[1] in roles]


def role_shapes(folder: Path, role: str) -> Any:
    """Tells the shapes of one role's tree in the newest checkpoint. No numbers are read.

    Args:
        folder: The run folder.
        role: The role.

    Returns:
        Nested dicts of ShapeDtypeStructs.

    Raises:
        CheckpointError: No such folder, checkpoint or role.
    """
    return _of_role(folder, role, None)[2]


def _of_role(folder: Path, role: str, step: int | None) -> tuple[int, dict[str, Any], Any]:
    """A step, its JSON, and the shapes of one role's tree in it."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no run folder {folder} to restore {role!r} from; has that step been run?")
    step, meta = _meta(folder, step)
    forms = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (dtype, shape) in meta["leaves"].items()}
    roles = nested(forms).get("roles", {})
    if role not in roles:
        raise CheckpointError(f"the checkpoint in {folder} has no role {role!r}.{nearest(role, roles)}")
    return step, meta, roles[role]


def restore_role(folder: Path, role: str, step: int | None = None, like: Any = None) -> Any:
    """Reads one role's tree from a checkpoint. Neither the algorithm that wrote it nor its other roles are needed.

    Args:
        folder: The run folder.
        role: The role.
        step: Which step; by default the newest.
        like: The tree, dtypes and shardings of what is read; by default nested dicts, as they were written.

    Returns:
        The tree.

    Raises:
        CheckpointError: No such folder, checkpoint or role, or it is damaged or does not fit `like`.
    """
    if like is not None and not jax.tree.leaves(like):
        return like  # a role whose build only reads others: nothing of it was written
    step, meta, shapes = _of_role(folder, role, step)
    tree = {"roles": {role: shapes if like is None else like}}
    return _restored(folder, step, meta, tree, of_roles(meta["leaves"], [role]))["roles"][role]
