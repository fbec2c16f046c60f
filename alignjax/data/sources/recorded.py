"""Batches written by an algorithm without losses (labeling, caching, sampling a fixed set), and read back as a source.

A stage folder holds `batches/000000.npz`, `000001.npz`, ...: one file per batch, each of which appears whole or not at
all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alignjax.config import ConfigError
from alignjax.data.sources.source import Buckets, OpenedSource, Source, bucket_shapes, endless
from alignjax.ranges import Count, Natural
from alignjax.tree_names import leaves_by_name, nested
from alignjax.types import Batch
from alignjax.workspace import Workspace, whole_file


def assembled(leaves: Mapping[str, Any]) -> Batch:
    """Returns the batch that `leaves_by_name` took apart ("prompt", "logps/reference", "views/judged/tokens")."""
    return _batch(nested(leaves))


def _batch(fields: dict[str, Any]) -> Batch:
    views = {name: _batch(view) for name, view in fields.pop("views", {}).items()}
    return Batch(**fields, views=views)


class BatchWriter:
    """Appends batches to a stage folder. `complete` says how many it holds, so that an interrupted job goes on with
    batch number `complete`.

    Args:
        folder: The folder of a pipeline step; it is made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder) / "batches"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.complete = next(number for number in itertools.count() if not self._file(number).exists())

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def append(self, batch: Batch) -> int:
        """Writes a batch of arrays (of numpy or jax) and returns its number. bfloat16 is kept as float32, which holds
        it exactly and which numpy can write."""
        arrays = {name: np.asarray(leaf) for name, leaf in leaves_by_name(batch).items()}
        arrays = {name: a.astype(np.float32) if a.dtype.name == "bfloat16" else a for name, a in arrays.items()}
        with whole_file(self._file(self.complete)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        self.complete += 1
        return self.complete - 1


def recorded(
    workspace: Workspace,
    seed: int,
    *,
    stage: str,
    batch_size: Count,
    shuffle: bool = True,
    like: Callable[[], Batch] | None = None,
    buckets: Buckets = (),
    shard: tuple[Natural, Count] = (0, 1),
) -> Source:
    """Gives the rows of all batches that a stage has written, in a new order every epoch.

    A view with as many rows as its batch stays with its rows; a view with a B of its own is a stream of its own and
    keeps that B. All is held in memory.

    Args:
        workspace: The run whose stages are read.
        seed: Decides the order of the rows.
        stage: An earlier step of this pipeline, or another run's folder.
        batch_size: B of the batches that come out.
        shuffle: False gives the rows in the order they were written in.
        like: Returns a Batch of jax.ShapeDtypeStructs. It says the shapes while there are no files yet.
        buckets: Shapes of batches of short rows, as for other sources; for batches without views and further
            completion fields.
        shard: (index, count): this process makes the index-th of count equal runs of rows of every batch.

    Raises:
        ConfigError: The stage has written nothing and `like` is not given, or the buckets do not suit the batches.
    """
    # Shapes come from what was written, but with the batch size of this step: rows are stored one by one and stacked
    # anew. Views of another length keep theirs, for their rows do not pair with the batch's.
    folder = workspace.find(stage) / "batches"
    spec = _spec(folder, like, stage)
    streams = {name: view for name, view in spec.views.items() if _rows(view) != _rows(spec)}
    main = spec.replace(views={name: view for name, view in spec.views.items() if name not in streams})
    main = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype), main)
    main = main.replace(views={**main.views, **streams})
    shapes: Buckets = ()
    if buckets:
        if spec.views or spec.completions or spec.tokens is None or spec.prompt is None:
            raise ConfigError(
                "recorded: buckets are for batches of prompts and completions without views or more fields"
            )
        shapes = bucket_shapes(buckets, spec.prompt.shape[1], spec.tokens.shape[2])
    return Source(main, lambda: _opened(folder, seed, shuffle, streams, stage), shard, shapes, seed)


def _spec(folder: Path, like: Callable[[], Batch] | None, stage: str) -> Batch:
    first = folder / "000000.npz"
    if first.is_file():
        with np.load(first) as arrays:
            return assembled({name: jax.ShapeDtypeStruct(arrays[name].shape, arrays[name].dtype) for name in arrays})
    if like is not None:
        return like()
    raise ConfigError(
        f"recorded: the step {stage!r} has written no batches yet (looked in {folder}); run it first, or say what its "
        "batches look like with like=a function that returns a Batch of jax.ShapeDtypeStructs"
    )


def _rows(batch: Batch) -> int:
    return jax.tree.leaves(batch)[0].shape[0]


class _Rows(Sequence[Batch]):
    """The rows of a batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return _rows(self.batch)

    def __getitem__(self, position: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[position], self.batch)


def _opened(folder: Path, seed: int, shuffle: bool, streams: Collection[str], stage: str) -> OpenedSource:
    files = sorted(folder.glob("[0-9]*.npz"))
    if not files:
        raise ConfigError(f"recorded: the step {stage!r} has written no batches (looked in {folder}); run it first")
    batches = []
    for file in files:
        with np.load(file) as arrays:
            batches.append(dict(arrays))
    names = [set(each) for each in batches]
    uneven = set.union(*names) - set.intersection(*names)
    if uneven:
        raise ConfigError(
            f"recorded: {', '.join(sorted(uneven))} stand in some batches of {folder} only; write them again"
        )
    whole = assembled({name: np.concatenate([each[name] for each in batches]) for name in batches[0]})
    views = {name: endless(_Rows(whole.views[name]), seed, shuffle) for name in streams}
    table = _Rows(whole.replace(views={name: view for name, view in whole.views.items() if name not in streams}))
    lengths = None if whole.valid is None else _lengths(whole, seed, shuffle)
    counts = {"rows": len(table), "batches": len(files)}
    return OpenedSource(endless(table, seed, shuffle), len(table), counts, views, lengths)


def _lengths(batch: Batch, seed: int, shuffle: bool) -> Callable[[int], tuple[int, int]]:
    """position -> slots of the prompt from its first token on, and of the completions up to their last."""
    prompt, valid = np.asarray(batch.prompt_valid), np.any(batch.valid, axis=1)
    before = prompt.shape[1] - np.argmax(prompt, axis=1)
    after = valid.shape[1] - np.argmax(np.flip(valid, axis=1), axis=1)
    # argmax says 0 of a row without a token, which takes it for a full one: too much room, never too little
    order = endless(range(len(prompt)), seed, shuffle)
    return lambda position: (int(before[order[position]]), int(after[order[position]]))
