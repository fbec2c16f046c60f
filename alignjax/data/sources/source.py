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
from alignjax.types import Batch

ENDLESS = 2**31 - 1  # batches: what a stream without an end says its length is
WINDOW = 32  # batches among which rows are sorted into buckets: how far a row may move in the order

# What random numbers are drawn for, after the seed and before the number: no two share a stream.
ROW, ORDER = 1, 2

Buckets = tuple[tuple[int, int], ...]  # (prompt tokens, completion tokens), each pair at least the one before


@dataclasses.dataclass(frozen=True)
class Opened:
    """What is known once the data is there: endless rows by position, rows per epoch, what was left out or cut, endless
    rows of views that are streams of their own, and, where rows can be sorted into buckets, the tokens of prompt and
    longest completion of the row at a position."""

    rows: Any  # grain.MapDataset of Batches without a batch axis
    size: int
    counts: Mapping[str, int]
    streams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lengths: Callable[[int], tuple[int, int]] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """`source[step] -> Batch` of numpy arrays, for any step, in any order.

    spec: the global batch, as jax.ShapeDtypeStructs, known without data; shard=(index, count): this process gets the
    index-th of count equal runs of rows of every batch, the spec stays that of the whole; buckets: the shapes that
    batches may have beside the spec's, which is the largest; seed: what the order of bucketed batches is drawn with.
    """

    spec: Batch
    open: Callable[[], Opened]
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
        assert self.spec.prompt is not None
        return self.spec.prompt.shape[0]

    @cached_property
    def opened(self) -> Opened:
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
        first = int(step) * self.batch_size
        places, shape = range(first, first + self.batch_size), None
        if self.buckets:
            number, place = divmod(int(step), WINDOW)
            places, shape = self._windows(number)[place]
        batch = self._part(self.opened.rows, places)
        if shape is not None:
            batch = cut(batch, *shape)
        views = {}
        for name, rows in self.opened.streams.items():
            size = self.spec.views[name].prompt.shape[0]  # type: ignore[union-attr]
            views[name] = self._part(rows, range(int(step) * size, (int(step) + 1) * size))
        return batch.replace(views={**batch.views, **views}) if views else batch

    def positions(self, start: int, stop: int) -> range:
        """Positions that hold the rows of batches start .. stop - 1: with buckets, those of whole windows."""
        if self.buckets:
            start, stop = start // WINDOW * WINDOW, -(-stop // WINDOW) * WINDOW
        return range(start * self.batch_size, stop * self.batch_size)

    def _part(self, rows: Any, places: Sequence[int]) -> Batch:
        index, count = self.shard
        if len(places) % count:
            raise ConfigError(f"a view of {len(places)} rows cannot be shared by {count} processes; make it a multiple")
        own = len(places) // count
        return stacked([rows[place] for place in places[index * own : (index + 1) * own]])

    @cached_property
    def _windows(self) -> Callable[[int], list[tuple[Sequence[int], tuple[int, int]]]]:
        """number of a window -> its batches in order: positions of their rows in the stream, and their shape."""
        lengths, shapes, size = self.opened.lengths, np.array(self.buckets), self.batch_size
        assert lengths is not None

        @lru_cache(maxsize=4)
        def window(number: int) -> list[tuple[Sequence[int], tuple[int, int]]]:
            first = number * WINDOW * size
            found = np.array([lengths(first + place) for place in range(WINDOW * size)])
            bucket = np.argmax(np.all(found[:, None] <= shapes, axis=-1), axis=-1)
            batches = np.argsort(bucket, kind="stable").reshape(WINDOW, size)
            order = np.random.default_rng((self.seed % 2**32, ORDER, number)).permutation(WINDOW)
            shape = [self.buckets[bucket[rows].max()] for rows in batches]
            return [((first + batches[place]).tolist(), shape[place]) for place in order]

        return window

    def __len__(self) -> int:
        return ENDLESS

    def prefetched(self, start: int = 0, buffer: int = 4, threads: int = 1) -> Iterator[Batch]:
        """Batches start, start + 1, ... made in the background, `buffer` ahead."""
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
        return iter(grain.MapDataset.source(cast(Any, self))[int(start) :].to_iter_dataset(options))


def bucket_shapes(buckets: Buckets, prompt_length: int, length: int) -> Buckets:
    """`buckets` with the full shape behind them. Raises ConfigError unless each is at least the one before."""
    if not buckets:
        return ()
    shapes = (*buckets, (prompt_length, length))
    for small, large in itertools.pairwise(shapes):
        if small == large or small[0] < 1 or any(a > b for a, b in zip(small, large, strict=True)):
            raise ConfigError(
                f"buckets={buckets}: {small} comes before {large}; shapes grow up to {(prompt_length, length)}, which "
                "is there without being named"
            )
    return shapes


class Chosen(Sequence[Any]):
    """Some rows of a random-access collection, by their numbers."""

    def __init__(self, rows: Any, places: np.ndarray) -> None:
        self.rows, self.places = rows, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[int(self.places[place])]


def endless(rows: Sequence[Any], seed: int, shuffle: bool) -> Any:
    """Rows by position, for ever: each epoch holds every row once, in an order of its own if shuffled."""
    ordered = grain.MapDataset.source(rows).seed(int(seed) % 2**32)
    return (ordered.shuffle() if shuffle else ordered).repeat()
