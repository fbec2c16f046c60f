"""A source: batches by number. Batch `step` is a pure function of (seed, step): to resume is to ask for a number.

Grain gives the order (shuffled anew in every epoch), the rows come from the prepared dataset, and nothing is opened or
prepared before the first batch is asked for: `spec` is known without any data.

With buckets, rows of similar length share a batch: within each run of WINDOW batches of that order the rows are sorted
by bucket and the batches shuffled, so that every epoch still holds every row once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, cast

import grain
import numpy as np

from alignjax.config import ConfigError
from alignjax.data.sources.batch_layout import cut, stacked
from alignjax.ranges import Count, Natural
from alignjax.types import Batch

ENDLESS = 2**31 - 1  # batches: what a stream without an end says its length is
WINDOW = 32  # batches among which rows are sorted into buckets: how far a row may move in the order

# What random numbers are drawn for, after the seed and before the number: no two share a stream.
ROW, ORDER = 1, 2

Buckets = tuple[tuple[Count, Natural], ...]  # (prompt tokens, completion tokens), each pair at least the one before


@dataclasses.dataclass(frozen=True)
class OpenedSource:
    """What a source knows once its data is opened.

    Args:
        rows: A grain.MapDataset of Batches without a batch axis: endless rows by position.
        size: Rows per epoch.
        counts: How many rows were used, left out or cut.
        streams: Endless rows of the views that are streams of their own, by the name of the view.
        lengths: position -> (tokens of the prompt, tokens of the longest completion) of the row at a position, where
            rows can be sorted into buckets.
    """

    rows: Any
    size: int
    counts: Mapping[str, int]
    streams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lengths: Callable[[int], tuple[int, int]] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Batches by number: `source[step] -> Batch` of numpy arrays, for any step, in any order.

    Args:
        spec: The global batch as jax.ShapeDtypeStructs, known without data.
        open: Opens the data; called when the first batch is asked for.
        shard: (index, count): this process gets the index-th of count equal runs of rows of every batch; the spec stays
            that of the whole.
        buckets: The shapes that batches may have, the spec's, which is the largest, included; empty for one shape.
        seed: Decides the order of bucketed batches.

    Raises:
        ConfigError: The shard does not divide the batch.
    """

    spec: Batch
    open: Callable[[], OpenedSource]
    shard: tuple[int, int] = (0, 1)
    buckets: Buckets = ()
    seed: int = 0

    def __post_init__(self) -> None:
        index, count = self.shard
        if not 0 <= index < count or self.batch_size % count:
            raise ConfigError(
                f"shard is {self.shard!r} for batches of {self.batch_size}; it must be (index, count) with "
                "0 <= index < count and count dividing the batch size"
            )

    @property
    def batch_size(self) -> int:
        """Rows of the global batch, B."""
        assert self.spec.prompt is not None
        return self.spec.prompt.shape[0]

    @cached_property
    def opened(self) -> OpenedSource:
        """The data, opened at the first access."""
        return self.open()

    @property
    def size(self) -> int:
        """Rows of one epoch, after rows that do not fit were left out."""
        return self.opened.size

    @property
    def counts(self) -> Mapping[str, int]:
        """Rows used, skipped and cut."""
        return self.opened.counts

    def __getitem__(self, step: int) -> Batch:
        step = int(step)
        if self.buckets:
            number, offset = divmod(step, WINDOW)
            positions, shape = self._window(number)[offset]
            batch = cut(self._part(self.opened.rows, positions), *shape)
        else:
            batch = self._part(self.opened.rows, range(step * self.batch_size, (step + 1) * self.batch_size))
        views = dict(batch.views)
        for name, rows in self.opened.streams.items():
            size = self.spec.views[name].prompt.shape[0]  # type: ignore[union-attr]
            views[name] = self._part(rows, range(step * size, (step + 1) * size))
        return batch.replace(views=views)

    def positions(self, start: int, stop: int) -> range:
        """Returns the positions that hold the rows of batches start .. stop - 1: with buckets, those of whole
        windows."""
        if self.buckets:
            start, stop = start // WINDOW * WINDOW, -(-stop // WINDOW) * WINDOW
        return range(start * self.batch_size, stop * self.batch_size)

    def _part(self, rows: Any, positions: Sequence[int]) -> Batch:
        """The rows of this process's shard, stacked."""
        index, count = self.shard
        size = len(positions)
        if size % count:
            raise ConfigError(f"a view of {size} rows cannot be shared by {count} processes; make it a multiple")
        return stacked([rows[k] for k in positions[index * size // count : (index + 1) * size // count]])

    @cached_property
    def _window(self) -> Callable[[int], list[tuple[list[int], tuple[int, int]]]]:
        return lru_cache(maxsize=4)(self._bucketed)

    def _bucketed(self, number: int) -> list[tuple[list[int], tuple[int, int]]]:
        """The WINDOW batches of a window in order: the positions of their rows, and the shape that holds them."""
        assert self.opened.lengths is not None
        first = number * WINDOW * self.batch_size
        tokens = np.array([self.opened.lengths(first + offset) for offset in range(WINDOW * self.batch_size)])
        bucket = np.argmax(np.all(tokens[:, None] <= np.array(self.buckets), axis=-1), axis=-1)
        batches = np.argsort(bucket, kind="stable").reshape(WINDOW, self.batch_size)
        order = np.random.default_rng((self.seed % 2**32, ORDER, number)).permutation(WINDOW)
        return [((first + batches[k]).tolist(), self.buckets[bucket[batches[k]].max()]) for k in order]

    def __len__(self) -> int:
        return ENDLESS

    def prefetched(self, start: int = 0, buffer: int = 4, threads: int = 1) -> Iterator[Batch]:
        """Returns batches start, start + 1, ... made in the background.

        Args:
            start: The number of the first batch.
            buffer: How many batches are made ahead.
            threads: How many threads make them.
        """
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
        return iter(grain.MapDataset.source(cast(Any, self))[int(start) :].to_iter_dataset(options))


def bucket_shapes(buckets: Buckets, prompt_length: int, length: int) -> Buckets:
    """Returns `buckets` with the full shape behind them, or () if there are none.

    Args:
        buckets: Shapes (prompt tokens, completion tokens).
        prompt_length: Prompt tokens of the full shape.
        length: Completion tokens of the full shape.

    Raises:
        ConfigError: A shape is not at least the one before.
    """
    if not buckets:
        return ()
    shapes = (*buckets, (prompt_length, length))
    for small, large in itertools.pairwise(shapes):
        if small == large or any(a > b for a, b in zip(small, large, strict=True)):
            raise ConfigError(
                f"buckets={buckets}: {small} comes before {large}; shapes grow up to {(prompt_length, length)}, which "
                "is present without being named"
            )
    return shapes


class Subset(Sequence[Any]):
    """Some rows of a random-access collection, by their numbers [n]."""

    def __init__(self, rows: Any, numbers: np.ndarray) -> None:
        self.rows, self.numbers = rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: Any) -> Any:
        return self.rows[int(self.numbers[position])]


def endless(rows: Sequence[Any], seed: int, shuffle: bool) -> Any:
    """Returns rows by position, forever, as a grain.MapDataset: each epoch holds every row once, in an order of its own
    if shuffled.

    Args:
        rows: The rows of a dataset.
        seed: Decides the order of every epoch.
        shuffle: False keeps the order of `rows`.
    """
    ordered = grain.MapDataset.source(rows).seed(int(seed) % 2**32)
    return (ordered.shuffle() if shuffle else ordered).repeat()
