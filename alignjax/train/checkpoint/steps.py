"""Checkpoints on Orbax: written beside the run, complete or not at all, and read without the code that wrote them.

A step is two items: `state`, the leaves of the state by name ("roles/policy/embed"), and `meta`, a small JSON with the
leaves' shapes, dtypes and checksums and whatever the loop adds (data cursor, config, versions). Orbax writes into a
temporary folder and renames it, in the background, and keeps the newest few. What it does not notice is a flipped bit
in the data, hence the checksums: computed on device, in integers, so they hold on any mesh.

Roles that no step changes (a reference, a judge, the weights below adapters) are written once, into a folder of
`frozen` that is named by its content and complete before the first step that refers to it. Where a leaf lies, the
step's JSON says; who reads by name need not know.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from alignjax.config import nearest
from alignjax.parallel.processes import Unreachable, all_gather_text, translate_lost_peer
from alignjax.train.checkpoint.leaf_files import as_saved, by_itself, placed, read_json, read_leaves, write_leaves
from alignjax.train.checkpoint.leaves import as_key, checksums_of, form, is_key, leaves_by_name, plain, tree_bytes

FOLDER = "checkpoints"
FROZEN = "frozen"  # beside the steps: what none of them changes
COMPLETE = "_CHECKPOINT_METADATA"
FORMAT = "alignjax state 2"
Writer = ocp.CheckpointManager


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read, and why. `previous`: the newest earlier step there is, or None;
    `damaged`: whether the files are at fault, rather than what they are asked to fit."""

    def __init__(self, message: str, *, previous: int | None = None, damaged: bool = False) -> None:
        super().__init__(message)
        self.previous, self.damaged = previous, damaged


# -------------------------------------------------------------------------------------------------------------- writing


def _names(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _of_roles(names: Iterable[str], roles: Collection[str]) -> list[str]:
    """Those of the leaves' names that belong to one of the roles."""
    return [name for name in names if name.startswith("roles/") and name.split("/")[1] in roles]


def check_room(folder: Path, like: Any, *, keep: int, once: Collection[str] = ()) -> None:
    """Raises CheckpointError if `folder` cannot be written, or its disk has no room for `keep` states like `like` and
    the one being written, and for the roles `once`, see `save`: to be called before expensive work."""
    root = folder / FOLDER
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / ".writable"
        probe.write_bytes(b"?")
        probe.unlink()
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoints to {root}: {error.strerror}. Use another --run-dir.") from None
    there, named = steps(folder), leaves_by_name(like)
    missing = max(1, keep + 1 - len(there))
    first = tree_bytes([named[name] for name in _of_roles(named, once)])
    each = tree_bytes(like) - first
    need = each * missing + (0 if there else first)
    if free < need:
        beside = f", and {_names(first)} once" if first and not there else ""
        raise CheckpointError(
            f"{root} has {_names(free)} free and the next {missing} checkpoints take {_names(need)} "
            f"({_names(each)} each, keep={keep}{beside}): free some space, lower keep, or use another --run-dir"
        )


def open_writer(folder: Path, *, keep: int, alone: bool = False) -> Writer:
    """What writes checkpoints below `folder`, in the background, keeping the newest `keep`. Of several processes all
    must open it and save together; `alone`: for what one of them does (a job), which then waits for no other."""
    root = (folder / FOLDER).resolve()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
    )
    if alone:
        root.mkdir(parents=True, exist_ok=True)  # Orbax makes it only for all processes at once
        options = dataclasses.replace(options, create=False, multiprocessing_options=by_itself("writer"))
    return Writer(root, options=options)


def save(
    writer: Writer,
    step: int,
    state: Any,
    extra: Mapping[str, Any],
    *,
    once: Collection[str] = (),
    wait: bool = False,
) -> None:
    """Writes `state` and the JSON-able `extra` as `step`, in the background; when it returns, buffers may be donated.

    once: roles that no step of the run changes. The first save writes them and waits for it, later ones refer to them
    as long as they are bitwise the same. Not for a writer that is `alone`.

    Raises CheckpointError when this, or the one before it that was written in the background, could not be written.
    """
    named = {name: plain(leaf) for name, leaf in leaves_by_name(state).items()}
    meta = {
        "format": FORMAT,
        "leaves": {name: form(leaf) for name, leaf in named.items()},
        "checksums": checksums_of(named),
        **extra,
    }
    full = {name: leaf for name, leaf in named.items() if leaf.size}  # Orbax refuses arrays without elements
    apart = {name: full.pop(name) for name in _of_roles([*full], once)}
    with _told(writer):
        meta["frozen"] = {_write_once(Path(writer.directory), apart, meta): [*apart]} if apart else {}
        items = ocp.args.Composite(state=as_saved(full), meta=ocp.args.JsonSave(meta))
        if not writer.save(step, args=items):  # what Orbax does with a step that is not newer than all others
            raise FileExistsError(f"step {step} or a later one is already there")
        if wait:
            writer.wait_until_finished()


def _write_once(root: Path, leaves: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """The folder below `root` that holds these leaves, complete; written unless it is there."""
    content = [[name, *meta["leaves"][name], meta["checksums"][name]] for name in sorted(leaves)]
    place = f"{FROZEN}/{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"
    if all_gather_text("" if (root / place / COMPLETE).exists() else "absent")[0]:  # as process 0 sees it
        write_leaves(root / place, leaves)
    return place


@contextlib.contextmanager
def _told(writer: Writer) -> Iterator[None]:
    """Turns whatever goes wrong while writing into one message that says what is still there."""
    try:
        yield
    except Exception as error:
        there = steps(Path(writer.directory).parent)
        kept = f"step {there[-1]} is complete: --resume goes on from there" if there else "there is no complete one yet"
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"could not write a checkpoint to {writer.directory}: {reason}. {kept}.",
            previous=there[-1] if there else None,
        ) from error


def check(writer: Writer) -> None:
    """Raises CheckpointError if the write going on in the background has failed. Does not wait."""
    with _told(writer):
        writer.check_for_errors()


def wait(writer: Writer) -> None:
    """Until the write going on in the background is complete. Raises CheckpointError if it failed."""
    with _told(writer):
        writer.wait_until_finished()


@contextlib.contextmanager
def writing(folder: Path, *, keep: int, alone: bool = False) -> Iterator[Writer]:
    """`open_writer`, closed at the end, when the last write is complete. Raises CheckpointError if it failed, and
    Unreachable if another process has died: at once, not waiting for a write that waits for that one."""
    writer = open_writer(folder, keep=keep, alone=alone)
    reachable = True
    try:
        with translate_lost_peer():
            yield writer
            wait(writer)
    except Unreachable:
        reachable = False
        raise
    finally:
        if reachable:
            with contextlib.suppress(Exception):  # what went wrong first is what is worth telling
                writer.close()


def put_aside(folder: Path, step: int) -> None:
    """Renames a damaged step, so that it may be written again."""
    root = folder / FOLDER
    number = sum(path.name.startswith(f"damaged-{step}") for path in root.iterdir())
    (root / str(step)).rename(root / (f"damaged-{step}" + (f"-{number}" if number else "")))


# -------------------------------------------------------------------------------------------------------------- reading


def steps(folder: Path) -> list[int]:
    """Complete steps below `folder`, oldest first; what a crash left half-written does not count."""
    root = folder / FOLDER
    found = [int(path.name) for path in root.iterdir() if path.name.isdigit()] if root.is_dir() else []
    return sorted(step for step in found if (root / str(step) / COMPLETE).exists())


def _meta(folder: Path, step: int) -> dict[str, Any]:
    """The JSON of a step. Raises CheckpointError for one that is not there, not ours, or not readable."""
    path = folder / FOLDER / str(step)
    there = steps(folder)
    if step not in there:
        offer = f"Complete steps: {', '.join(map(str, there))}." if there else "There is no complete step."
        raise CheckpointError(f"{path} holds no checkpoint. {offer}", previous=_before(folder, step))
    try:
        meta = read_json(path)
    except Exception as error:
        raise _unreadable(folder, step, error) from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise CheckpointError(f"{path} was not written by this version of alignjax (its format is not {FORMAT!r})")
    return meta


def _before(folder: Path, step: int) -> int | None:
    return max((other for other in steps(folder) if other < step), default=None)


def _unreadable(folder: Path, step: int, reason: Any, place: str = "") -> CheckpointError:
    first = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
    if place.startswith(FROZEN):  # another step would not help
        return CheckpointError(
            f"{folder / FOLDER / place} is damaged: {first[:160]}. It holds the roles that never change, which every "
            "checkpoint beside it needs: put back a copy of it, or start again in another --run-dir."
        )
    previous = _before(folder, step)
    offer = f"Step {previous} is there too" if previous is not None else "There is no earlier one"
    return CheckpointError(
        f"checkpoint {folder / FOLDER / str(step)} is damaged: {first[:160]}. {offer}.", previous=previous, damaged=True
    )


def _read(folder: Path, step: int, targets: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The named leaves, checked against their checksums. Raises CheckpointError naming the leaf that is damaged."""
    places = dict.fromkeys(targets, str(step)) | {
        name: place for place, names in meta["frozen"].items() for name in names if name in targets
    }
    fresh: dict[str, jax.Array] = {}
    for place in sorted({*places.values()}):
        part = {name: leaf for name, leaf in targets.items() if places[name] == place}
        fresh |= _read_place(folder, step, place, part)
    wrong = [name for name, value in checksums_of(fresh).items() if value != meta["checksums"][name]]
    if wrong:
        raise _unreadable(
            folder, step, f"the numbers of {_some(wrong)} are not those that were written", places[wrong[0]]
        )
    return {name: fresh[name] for name in targets}


def _read_place(folder: Path, step: int, place: str, targets: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Leaves of a step that lie in one folder, its own or that of what no step changes."""
    wanted = {name: placed(leaf) for name, leaf in targets.items() if math.prod(leaf.shape)}
    shared = any(not leaf.sharding.is_fully_addressable for leaf in wanted.values())
    found: dict[str, Any] = {}
    failure: Exception | None = None
    try:
        found = read_leaves(folder / FOLDER / place, wanted)
    except Exception as error:
        failure = error
    # What one process cannot read is damaged for all: they must agree before they sum it up together.
    said = "" if failure is None else str(failure).strip() or type(failure).__name__
    if wrong := [line for line in (all_gather_text(said) if shared else [said]) if line]:
        raise _unreadable(folder, step, wrong[0], place) from failure
    # An array that still stands in memory of NumPy's cannot be donated: give each leaf a buffer of its own, one by one.
    return {
        name: jnp.copy(found.pop(name))
        if name in found
        else jnp.zeros(leaf.shape, leaf.dtype, device=placed(leaf).sharding)
        for name, leaf in targets.items()
    }


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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
    """(state, meta) of a step, by default the newest, in the tree, dtypes and shardings of `like`, whose leaves may be
    ShapeDtypeStructs. Every leaf has a buffer of its own, so the state can be donated.

    Raises CheckpointError, which says what is wrong and names the previous step, if there is no checkpoint, if it is
    damaged, or if it was written by a config whose state has other leaves, shapes or dtypes.
    """
    step = _newest(folder) if step is None else step
    meta = _meta(folder, step)
    named = leaves_by_name(like)
    targets = {name: plain(leaf) for name, leaf in named.items()}
    _compare(folder, step, meta["leaves"], targets)
    read = _read(folder, step, targets, meta)
    leaves = [as_key(read[name], leaf) if is_key(leaf) else read[name] for name, leaf in named.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), meta


def _newest(folder: Path) -> int:
    there = steps(folder)
    if not there:
        raise CheckpointError(f"{folder / FOLDER} holds no complete checkpoint")
    return there[-1]


def role_shapes(folder: Path, role: str, step: int | None = None) -> Any:
    """One role's own tree in the newest (or given) checkpoint of a run folder, as nested dicts of ShapeDtypeStructs.
    No numbers are read.

    Raises CheckpointError if there is no such folder, checkpoint or role.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no run folder {folder} to restore {role!r} from; has that step been run?")
    meta = _meta(folder, _newest(folder) if step is None else step)
    stem = f"roles/{role}"
    found = {
        name[len(stem) + 1 :]: jax.ShapeDtypeStruct(shape, dtype)
        for name, (dtype, shape) in meta["leaves"].items()
        if name == stem or name.startswith(f"{stem}/")
    }
    if not found:
        known = {name.split("/")[1] for name in meta["leaves"] if name.startswith("roles/")}
        raise CheckpointError(f"the checkpoint in {folder} has no role {role!r}.{nearest(role, known)}")
    return _nested(found)


def restore_role(folder: Path, role: str, step: int | None = None, like: Any = None) -> Any:
    """One role's own tree from the newest (or given) checkpoint of a run folder, as nested dicts of arrays; with `like`
    in that tree, dtypes and shardings. Neither the algorithm that wrote it nor its other roles are needed or read.

    Raises CheckpointError if there is no such folder, checkpoint or role, or if it is damaged.
    """
    if like is not None and not jax.tree.leaves(like):
        return like  # a role whose build only reads others: nothing of it was written
    shapes = role_shapes(folder, role, step)
    like = shapes if like is None else like
    step = _newest(folder) if step is None else step
    meta, stem = _meta(folder, step), f"roles/{role}"
    saved, targets = (
        {f"{stem}/{name}".rstrip("/"): plain(leaf) for name, leaf in leaves_by_name(tree).items()}
        for tree in (shapes, like)
    )
    _compare(folder, step, {name: meta["leaves"][name] for name in saved}, targets)
    read = _read(folder, step, targets, meta)
    return jax.tree.unflatten(jax.tree.structure(like), list(read.values()))


def _nested(flat: Mapping[str, Any]) -> Any:
    """Nested dicts from "a/b" names; a tree of one leaf is that leaf."""
    if list(flat) == [""]:
        return flat[""]
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = [part.replace("%2F", "/").replace("%25", "%") for part in name.split("/")]
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = leaf
    return tree
