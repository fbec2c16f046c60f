"""Preparing a dataset in bounded memory: files into spools of records, spools into shards of rows, each step done in
processes where there is much to do, and gone on with where it was killed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import shutil
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np

from alignjax.data.datasets.parsed_files import RowParser, Tally
from alignjax.data.datasets.records import Record, describe_shards, write_shard
from alignjax.data.datasets.row_files import KINDS, Block, blocks_of, kind_of, rows_of_block
from alignjax.data.datasets.row_workers import Job, row_workers, usable_cores
from alignjax.data.datasets.spooled import Origin, Part, SplitRecords, is_spooled, read_spool, spool_rows
from alignjax.data.text.tokenizers import Tokenizer, read_tokenizer
from alignjax.outside import progress_bar, writing
from alignjax.workspace import read_json, whole_file, write_json

FEW = 32 << 20  # bytes: files that are smaller together are read in one process, which starts no other
LEFT_OVER = 24 * 3600.0  # seconds, after which what a killed preparation has left is removed
WRITABLE = "make room there, or name another folder in ALIGNJAX_CACHE"
SPOOL = "rows-{:06}.spool"
SPECIAL = "special.json"  # beside the tokenizer, while rows are written


@dataclasses.dataclass(frozen=True)
class Room:
    """A folder where a dataset is being prepared.

    Args:
        folder: The folder, which becomes the dataset's at the end.
        workers: The most processes; None for as many as there are cores.
    """

    folder: Path
    workers: int | None = None

    def keep(self, tokenizer: Tokenizer) -> None:
        """Writes the tokenizer that the rows get."""
        with writing(self.folder.parent, WRITABLE):
            tokenizer.save(self.folder / "tokenizer.json")
            write_json(self.folder / SPECIAL, tokenizer.settings)

    def tokenizer(self) -> Tokenizer | None:
        """Returns the tokenizer that was kept, by a start that was killed perhaps."""
        is_kept = (self.folder / SPECIAL).is_file()
        return read_tokenizer(self.folder, read_json(self.folder / SPECIAL)) if is_kept else None

    @property
    def begun(self) -> bool:
        """Whether there is something in it that is worth going on with: more than one spool."""
        return is_spooled(self.folder / SPOOL.format(1))

    def processes(self, size: int, dataset: Any = None) -> int:
        """Returns how many processes work on `size` bytes; a dataset of the caller's own other ones cannot import."""
        if dataset is not None and not type(dataset).__module__.startswith("alignjax."):
            return 1
        return self.workers or (1 if size < FEW else usable_cores())


@contextlib.contextmanager
def room_for(cache: Path, name: str, workers: int | None, report: Callable[[str], Any]) -> Iterator[Room]:
    """Yields the folder in which a dataset is prepared, for one process at a time.

    An interrupt or a killed process leaves it behind, to be gone on with; an error, and the end, remove it.

    Args:
        cache: The folder of all datasets.
        name: The name of the dataset's own.
        workers: The most processes; None for as many as there are cores.
        report: Is told where another process is waited for.
    """
    building, lock = cache / f".preparing-{name}", filelock.FileLock(cache / f".preparing-{name}.lock")
    with writing(cache, WRITABLE):
        cache.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(cache)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            report(f"another process prepares {name}; waiting for it")
            lock.acquire()
    room = Room(building, workers)
    try:
        with writing(cache, WRITABLE):
            building.mkdir(exist_ok=True)
        yield room
    except Exception:
        shutil.rmtree(building, ignore_errors=True)
        raise
    except BaseException:
        if not room.begun:
            shutil.rmtree(building, ignore_errors=True)
        raise
    else:
        shutil.rmtree(building, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


def _remove_leftovers(cache: Path) -> None:
    for leftover in cache.glob(".preparing-*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > LEFT_OVER:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


# -------------------------------------------------------------------------------------------------------- files: spools


@functools.lru_cache(maxsize=2)
def _parser(dataset: Any) -> RowParser:
    return dataset.row_parser()


def _spooled(dataset: Any, origin: Origin, blocks: Iterable[Block], spool: Path) -> Path:
    """The work on a block, in whichever process; one that is done is not done again."""
    if not is_spooled(spool):
        spool_rows(_parser(dataset), origin, blocks, spool)
    return spool


@dataclasses.dataclass(frozen=True)
class _Source:
    """A file that is read: what it holds, its size, and the bytes of those before it."""

    origin: Origin
    kind: str
    size: int
    before: int

    def runs(self, columns: Collection[str] | None, together: Callable[[Any], Hashable] | None) -> Iterator[_Run]:
        """Yields the runs of blocks that one process reads: each block by itself, but of a file whose rows belong
        together with those beside them all, since such rows may lie on both sides of a cut."""
        blocks = blocks_of(self.origin.path, self.kind, columns)
        first = next(blocks, None)
        if first is None:
            return
        rows = (row for _, row in rows_of_block(self.origin.path, first) if isinstance(row, dict))
        if together and any(together(row) is not None for row in itertools.islice(rows, 100)):
            yield _Run(itertools.chain([first], blocks), self.before + self.size, True)
            return
        for block in itertools.chain([first], blocks):
            yield _Run([block], self.before + block.done, False)


class _Run(NamedTuple):
    blocks: Iterable[Block]
    done: int  # bytes of all files that are read when it is
    here: bool  # whether it must be read in this process


def spool_files(
    dataset: Any, files: Sequence[tuple[Path, float | str, str]], room: Room
) -> tuple[list[Tally], dict[str, SplitRecords]]:
    """Reads files into spools of records.

    Args:
        dataset: A dataset that has `row_parser` and `columns_read`.
        files: (path, where its rows go, the name that its records get) of each, see `Origin`.
        room: Where the spools are written.

    Returns:
        (what was counted of each file, the records by split).

    Raises:
        DataError: A file is damaged, or holds a row that says that none can be trusted.
    """
    # This process cuts files into blocks, which is fast, and looks up which of them are done: their numbers and cuts
    # depend on the files alone. What is done is counted in the order of the blocks, whoever did it.
    sources, total = [], 0
    for path, aside, name in files:
        kind, size = kind_of(path), path.stat().st_size
        sources.append(_Source(Origin(path, KINDS[kind].unit, aside, name), kind, size, total))
        total += size
    tallies = [Tally(unit=source.origin.unit) for source in sources]
    parts: dict[str, list[Part | Sequence[Record]]] = {}
    _parser.cache_clear()  # the template or the tokenizer may have changed under its path
    columns, together, handed = dataset.columns_read, _parser(dataset).together, []

    def jobs() -> Iterator[Job]:
        for tally, source in zip(tallies, sources, strict=True):
            for run in source.runs(columns, together):
                spool = room.folder / SPOOL.format(len(handed))
                handed.append((tally, run.done))
                blocks = () if is_spooled(spool) else run.blocks
                yield Job(_spooled, (dataset, source.origin, blocks, spool), run.here)

    bar = progress_bar(f"{dataset.name}: reading", total)
    with _writing(room), row_workers(room.processes(total, dataset)) as mapped, bar as show:
        for number, spool in enumerate(mapped(jobs())):
            counted, splits = read_spool(spool)
            tally, done = handed[number]
            tally.add(counted)
            for split, part in splits.items():
                parts.setdefault(split, []).append(part)
            show(done, sum(each.read for each in tallies))
    return tallies, {split: SplitRecords(each) for split, each in parts.items()}


# ------------------------------------------------------------------------------------------------------- spools: shards


@functools.lru_cache(maxsize=2)
def _tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Room(folder).tokenizer()
    assert tokenizer is not None
    return tokenizer


def _written(records: Part | Sequence[Record], tokenizer: Tokenizer | Path, first_id: int, shard: Path) -> Path:
    """The work on a part, in whichever process: its shard, and last what is counted of it."""
    counted = shard.with_suffix(".npz")
    if not (counted.is_file() and shard.is_file()):
        with_it = _tokenizer(tokenizer) if isinstance(tokenizer, Path) else tokenizer
        lengths, straddling = write_shard(records, with_it, first_id, shard)
        with whole_file(counted) as file:
            np.savez(file, lengths=lengths, straddling=straddling)
    return counted


def write_splits(room: Room, splits: Mapping[str, SplitRecords], tokenizer: Tokenizer, name: str) -> int:
    """Tokenizes the records of splits and writes them: see `describe_shards`.

    Args:
        room: Where they are written, with the tokenizer.
        splits: The records by split.
        tokenizer: What they are tokenized with.
        name: The name of the dataset.

    Returns:
        The number of completions whose first characters share a token with the end of their prompt.
    """
    # Ids go on from part to part, and with them a part is written the same by whichever process; what is written stays
    # under names of its own until all is, for only then is it known how many shards a split has.
    parts = [(split, part) for split, records in splits.items() for part in records.parts if len(part)]
    total = sum(len(part) for _, part in parts)
    size = sum(part.size for _, part in parts if isinstance(part, Part))
    count = room.processes(size)
    told, first_id = [], 0

    def jobs() -> Iterator[Job]:
        nonlocal first_id
        for number, (_, part) in enumerate(parts):
            shard, first = room.folder / f"shard-{number:06}.records", first_id
            first_id += len(part)
            told.append((shard, first_id))
            yield Job(_written, (part, room.folder if count > 1 else tokenizer, first, shard))

    shards: dict[str, list[Path]] = {split: [] for split in splits}
    lengths: dict[str, list[np.ndarray]] = {split: [] for split in splits}
    straddling = 0
    with _writing(room), row_workers(count) as mapped, progress_bar(f"{name}: writing", total, "rows") as show:
        for number, counted in enumerate(mapped(jobs())):
            shard, done = told[number]
            with np.load(counted) as both:
                lengths[parts[number][0]].append(both["lengths"])
                straddling += int(both["straddling"])
            shards[parts[number][0]].append(shard)
            show(done, done)
    with _writing(room):
        describe_shards(room.folder, shards, lengths)
        for used in (*room.folder.glob("rows-*"), *room.folder.glob("shard-*.npz"), room.folder / SPECIAL):
            used.unlink()
    return straddling


def _writing(room: Room) -> contextlib.AbstractContextManager[None]:
    return writing(room.folder.parent, WRITABLE)
