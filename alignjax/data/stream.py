"""A source: batches by number. Batch `step` is a pure function of (seed, step): to resume is to ask for a number.

Grain gives the order (shuffled anew in every epoch), the rows come from the prepared dataset, and nothing is opened or
prepared before the first batch is asked for: `spec` is known without any data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import grain
import numpy as np

from alignjax.config import ConfigError
from alignjax.data.layout import stacked
from alignjax.types import Batch

ENDLESS = 2**31 - 1  # batches: what a stream without an end says its length is


@dataclasses.dataclass(frozen=True)
class Opened:
    """What is known once the data is there: endless rows by position, rows per epoch, what was left out or cut, and
    endless rows of views that are streams of their own."""

    rows: Any  # grain.MapDataset of Batches without a batch axis
    size: int
    counts: Mapping[str, int]
    streams: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """`source[step] -> Batch` of numpy arrays, for any step, in any order.

    spec: the global batch, as jax.ShapeDtypeStructs, known without data; shard=(index, count): this process gets the
    index-th of count equal runs of rows of every batch, the spec stays that of the whole.
    """

    spec: Batch
    open: Callable[[], Opened]
    shard: tuple[int, int] = (0, 1)

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
        batch = self._part(self.opened.rows, self.batch_size, step)
        streams = {
            name: self._part(rows, self.spec.views[name].prompt.shape[0], step)  # type: ignore[union-attr]
            for name, rows in self.opened.streams.items()
        }
        return batch.replace(views={**batch.views, **streams}) if streams else batch

    def _part(self, rows: Any, batch_size: int, step: int) -> Batch:
        index, count = self.shard
        if batch_size % count:
            raise ConfigError(f"a view of {batch_size} rows cannot be shared by {count} processes; make it a multiple")
        own = batch_size // count
        first = int(step) * batch_size + index * own
        return stacked([rows[position] for position in range(first, first + own)])

    def __len__(self) -> int:
        return ENDLESS

    def prefetched(self, start: int = 0, buffer: int = 4, threads: int = 1) -> Iterator[Batch]:
        """Batches start, start + 1, ... made in the background, `buffer` ahead."""
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
        return iter(grain.MapDataset.source(cast(Any, self))[int(start) :].to_iter_dataset(options))


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
