"""Writes checkpoints: their steps in the background, and what no step changes once."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from alignjax.parallel.processes import Unreachable, all_gather_text, first_line, translate_lost_peer
from alignjax.train.checkpoint.array_files import as_saved, by_itself, write_leaves
from alignjax.train.checkpoint.checksums import checksums, form, in_units, plain, tree_bytes
from alignjax.train.checkpoint.read_steps import (
    COMPLETE,
    DIGEST,
    FOLDER,
    FORMAT,
    FROZEN,
    CheckpointError,
    digest_of,
    of_roles,
    steps,
)
from alignjax.tree_names import leaves_by_name

Writer = ocp.CheckpointManager


def check_room(folder: Path, like: Any, *, keep: int, once: Collection[str] = ()) -> None:
    """Checks, before expensive work, that checkpoints can be written.

    Args:
        folder: The run folder.
        like: A state, or its shapes.
        keep: How many steps are kept; one more is being written.
        once: Roles that no step changes, see `save`.

    Raises:
        CheckpointError: The folder cannot be written, or its disk has no room.
    """
    # A probe file is written, because permission bits say nothing of read-only mounts and quotas. Steps on disk already
    # take their room, so only those still missing up to keep + 1 count.
    root = folder / FOLDER
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / ".writable"
        probe.write_bytes(b"?")
        probe.unlink()
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoints to {root}: {error.strerror}. Use another --run-dir.") from None
    present, named = steps(folder), leaves_by_name(like)
    missing = max(1, keep + 1 - len(present))
    first = tree_bytes([named[name] for name in of_roles(named, once)])
    each = tree_bytes(like) - first
    need = each * missing + (0 if present else first)
    if free < need:
        beside = f", and {in_units(first)} once" if first and not present else ""
        raise CheckpointError(
            f"{root} has {in_units(free)} free and the next {missing} checkpoints take {in_units(need)} "
            f"({in_units(each)} each, keep={keep}{beside}): free some space, lower keep, or use another --run-dir"
        )


def save(writer: Writer, step: int, state: Any, extra: Mapping[str, Any], *, once: Collection[str] = ()) -> None:
    """Writes a state in the background; when it returns, its buffers may be donated. `wait` waits until it is complete.

    Args:
        writer: See `writing`.
        step: Its number, newer than all others.
        state: What is written.
        extra: What goes into the step's JSON beside it.
        once: Roles that no step of the run changes. The first save writes them and waits for it, later ones refer to
            them as long as they are bitwise the same. Not for a writer that is `alone`.

    Raises:
        CheckpointError: This step, or the one before it that was written in the background, could not be written.
    """
    # Orbax renames a step's folder when all of it is on disk. The frozen roles are complete before that, so that a step
    # never refers to a folder that a crash left half-written.
    named = {name: plain(leaf) for name, leaf in leaves_by_name(state).items()}
    meta = {
        "format": FORMAT,
        "leaves": {name: form(leaf) for name, leaf in named.items()},
        "checksums": checksums(named),
        **extra,
    }
    full = {name: leaf for name, leaf in named.items() if leaf.size}  # Orbax refuses arrays without elements
    apart = {name: full.pop(name) for name in of_roles([*full], once)}
    with _write_errors(writer):
        meta["frozen"] = {_write_once(Path(writer.directory), apart, meta): [*apart]} if apart else {}
        meta[DIGEST] = digest_of(meta)
        items = ocp.args.Composite(state=as_saved(full), meta=ocp.args.JsonSave(meta))
        if not writer.save(step, args=items):  # what Orbax does with a step that is not newer than all others
            raise FileExistsError(f"step {step} or a later one is already there")


def _write_once(root: Path, leaves: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """Writes leaves into a folder below `root` named by their content, unless it is complete -> the folder."""
    content = [[name, *meta["leaves"][name], meta["checksums"][name]] for name in sorted(leaves)]
    name = f"{FROZEN}/{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"
    if all_gather_text("" if (root / name / COMPLETE).exists() else "absent")[0]:  # as process 0 sees it
        write_leaves(root / name, leaves)
    return name


@contextlib.contextmanager
def _write_errors(writer: Writer) -> Iterator[None]:
    """Turns whatever goes wrong while writing into one message that says what is still there."""
    try:
        yield
    except Exception as error:
        newest = max(steps(Path(writer.directory).parent), default=None)
        offer = "there is no complete one yet"
        if newest is not None:
            offer = f"step {newest} is complete: --resume goes on from there"
        raise CheckpointError(
            f"could not write a checkpoint to {writer.directory}: {first_line(error)}. {offer}.", previous=newest
        ) from error


def check(writer: Writer) -> None:
    """Checks, without waiting, the write that goes on in the background. Raises CheckpointError if it has failed."""
    with _write_errors(writer):
        writer.check_for_errors()


def wait(writer: Writer) -> None:
    """Waits until the write in the background is complete. Raises CheckpointError if it failed."""
    with _write_errors(writer):
        writer.wait_until_finished()


@contextlib.contextmanager
def writing(folder: Path, *, keep: int, alone: bool = False) -> Iterator[Writer]:
    """Opens a writer of checkpoints, which works in the background, and closes it when the last write is complete.

    Args:
        folder: The run folder.
        keep: How many steps are kept: the newest.
        alone: Whether one of several processes writes by itself (a job) and waits for no other. Without it all must
            open the writer and save together.

    Yields:
        The writer.

    Raises:
        CheckpointError: The last write failed.
        Unreachable: Another process has died; at once, not waiting for a write that waits for that one.
    """
    root = (folder / FOLDER).resolve()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
    )
    if alone:
        root.mkdir(parents=True, exist_ok=True)  # Orbax makes it only for all processes at once
        options = dataclasses.replace(options, create=False, multiprocessing_options=by_itself("writer"))
    writer, reachable = Writer(root, options=options), True
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
    """Renames a damaged step, so that it may be written again.

    Args:
        folder: The run folder.
        step: The number of the step.
    """
    root = folder / FOLDER
    number = sum(path.name.startswith(f"damaged-{step}") for path in root.iterdir())
    (root / str(step)).rename(root / (f"damaged-{step}" + (f"-{number}" if number else "")))
