"""Batches written by an algorithm without losses (labelling, caching, sampling a fixed set), and read back as a source.

A stage folder holds `batches/000000.npz`, `000001.npz`, ...: one file per batch, each of which appears whole or not at
all.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import jax
import numpy as np

from alignjax.config import ConfigError
from alignjax.data.sources.source import Buckets, Opened, Source, bucket_shapes, endless
from alignjax.types import Batch
from alignjax.workspace import Workspace


def flattened(batch: Batch, at: str = "") -> Iterator[tuple[str, Any]]:
    """(name, leaf) of all that is filled: "prompt", "logps/reference", "views/judged/tokens"."""
    for entry in dataclasses.fields(batch):
        value = getattr(batch, entry.name)
        if isinstance(value, Mapping):
            for key, inner in value.items():
                name = f"{at}{entry.name}/{quote(key, safe=':')}"
                yield from flattened(inner, f"{name}/") if isinstance(inner, Batch) else [(name, inner)]
        elif value is not None:
            yield at + entry.name, value


def assembled(leaves: Mapping[str, Any]) -> Batch:
    """The batch that `flattened` took apart."""
    fields: dict[str, Any] = {}
    views: dict[str, dict[str, Any]] = {}
    for name, value in leaves.items():
        first, _, rest = name.partition("/")
        if first == "views":
            view, _, inside = rest.partition("/")
            views.setdefault(unquote(view), {})[inside] = value
        elif rest:
            fields.setdefault(first, {})[unquote(rest)] = value
        else:
            fields[first] = value
    if views:
        fields["views"] = {view: assembled(inner) for view, inner in views.items()}
    return Batch(**fields)


class BatchWriter:
    """Appends batches to a stage folder. `complete` says how many are there, so that an interrupted job goes on with
    batch number `complete`."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder) / "batches"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.complete = next(number for number in range(10**9) if not self._file(number).exists())

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def append(self, batch: Batch) -> int:
        """Writes a batch of arrays (of numpy or jax) and returns its number. bfloat16 is kept as float32, which holds
        it exactly and which numpy can write."""
        arrays = {name: np.asarray(leaf) for name, leaf in flattened(batch)}
        arrays = {name: a.astype(np.float32) if a.dtype.name == "bfloat16" else a for name, a in arrays.items()}
        fresh = self.folder / f".{self.complete:06d}.{os.getpid()}"
        with fresh.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._file(self.complete))
        self.complete += 1
        return self.complete - 1


def declare(folder: Path, spec: Batch) -> None:
    """Says what the batches of a stage folder will look like (jax.ShapeDtypeStructs), before there are any: what lets a
    later stage be dry-run."""
    place = Path(folder) / "batches"
    place.mkdir(parents=True, exist_ok=True)
    shapes = {name: [list(leaf.shape), np.dtype(leaf.dtype).name] for name, leaf in flattened(spec)}
    (place / "spec.json").write_text(json.dumps(shapes, indent=1))


def recorded(
    workspace: Workspace,
    seed: int,
    *,
    stage: str,
    batch_size: int,
    shuffle: bool = True,
    like: Callable[[], Batch] | None = None,
    buckets: Buckets = (),
    shard: tuple[int, int] = (0, 1),
) -> Source:
    """The rows of all batches that a stage has written, in a new order every epoch, `batch_size` at a time.

    stage: an earlier step of this pipeline, or another run's folder. A view with as many rows as its batch stays with
    its rows; a view with a B of its own is a stream of its own and keeps that B. All is held in memory. buckets: shapes
    of batches of short rows, as for other sources; for batches without views and further completion fields.

    The shapes come from the files or from what was declared for them. Before either exists, `like` must say them: a
    function that returns a Batch of jax.ShapeDtypeStructs; otherwise ConfigError.
    """
    place = workspace.find(stage) / "batches"
    spec = _spec(place, like, stage)
    rows = _rows(spec)
    streams = {name: view for name, view in spec.views.items() if _rows(view) != rows}
    whole = _resized(
        spec.replace(views={key: view for key, view in spec.views.items() if key not in streams}), batch_size
    )
    whole = whole.replace(views={**whole.views, **streams})
    shapes: Buckets = ()
    if buckets:
        if spec.views or spec.completions or spec.tokens is None or spec.prompt is None:
            raise ConfigError(
                "recorded: buckets are for batches of prompts and completions without views or more fields"
            )
        shapes = bucket_shapes(buckets, spec.prompt.shape[1], spec.tokens.shape[2])
    return Source(whole, lambda: _opened(place, seed, shuffle, tuple(streams), stage), shard, shapes, seed)


def _spec(place: Path, like: Callable[[], Batch] | None, stage: str) -> Batch:
    first = place / "000000.npz"
    if first.is_file():
        with np.load(first) as found:
            return assembled({name: jax.ShapeDtypeStruct(found[name].shape, found[name].dtype) for name in found})
    if (place / "spec.json").is_file():
        shapes = json.loads((place / "spec.json").read_text())
        return assembled({name: jax.ShapeDtypeStruct(tuple(s), np.dtype(d)) for name, (s, d) in shapes.items()})
    if like is not None:
        return like()
    raise ConfigError(
        f"recorded: the step {stage!r} has written no batches yet (looked in {place}); run it first, or say what its "
        "batches look like with like=a function that returns a Batch of jax.ShapeDtypeStructs"
    )


def _rows(spec: Batch) -> int:
    return next(iter(leaf for _, leaf in flattened(spec))).shape[0]


def _resized(spec: Batch, rows: int) -> Batch:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), spec)


class _Table(Sequence[Batch]):
    """Rows of named arrays [rows, ..]."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, place: Any) -> Any:
        return assembled({name: array[place] for name, array in self.arrays.items()})


def _opened(place: Path, seed: int, shuffle: bool, streams: Sequence[str], stage: str) -> Opened:
    files = sorted(place.glob("[0-9]*.npz"))
    if not files:
        raise ConfigError(f"recorded: the step {stage!r} has written no batches (looked in {place}); run it first")
    columns: dict[str, list[np.ndarray]] = {}
    for file in files:
        with np.load(file) as found:
            for name in found:
                columns.setdefault(name, []).append(found[name])
    uneven = [name for name, parts in columns.items() if len(parts) != len(files)]
    if uneven:
        raise ConfigError(f"recorded: {', '.join(uneven)} stand in some batches of {place} only; write them again")
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    heads = {name: f"views/{quote(name, safe=':')}/" for name in streams}
    main = _Table({name: a for name, a in arrays.items() if not name.startswith(tuple(heads.values()))})
    tables = {
        view: _Table({name.removeprefix(head): a for name, a in arrays.items() if name.startswith(head)})
        for view, head in heads.items()
    }
    return Opened(
        endless(main, seed, shuffle),
        len(main),
        {"rows": len(main), "batches": len(files)},
        {view: endless(table, seed, shuffle) for view, table in tables.items()},
        _extents(main, seed, shuffle) if "valid" in main.arrays else None,
    )


def _extents(table: _Table, seed: int, shuffle: bool) -> Callable[[int], tuple[int, int]]:
    """position -> slots of the prompt from its first token on, and of the completions up to their last."""
    prompt, valid = table.arrays["prompt_valid"], np.any(table.arrays["valid"], axis=1)
    before = prompt.shape[1] - np.argmax(prompt, axis=1)
    after = valid.shape[1] - np.argmax(np.flip(valid, axis=1), axis=1)
    # argmax says 0 of a row without a token, which takes it for a full one: too much room, never too little
    numbers = endless(range(len(table)), seed, shuffle)
    return lambda position: (int(before[numbers[position]]), int(after[numbers[position]]))
