"""Records on disk, between the reading of files and the writing of rows: as many as memory does not hold.

Each part of the files becomes a spool of its own, which is whole or not there, so that a preparation that was killed
goes on behind the last one.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import marshal
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alignjax.config import DataError
from alignjax.data.datasets.framing import Framed
from alignjax.data.datasets.parsed_files import RowParser, Tally, records_of
from alignjax.data.datasets.records import Record, is_aside
from alignjax.data.datasets.row_files import Block
from alignjax.data.text.words import nfc
from alignjax.workspace import read_json, write_json

CHUNK = 1 << 20  # characters of the records that are written and read at once


@dataclasses.dataclass(frozen=True)
class Part:
    """The records of a split in one spool.

    Args:
        spool: The file.
        split: The split.
        count: How many there are.
        talks: How many of them are conversations.
        size: The characters of their texts.
    """

    spool: Path
    split: str
    count: int
    talks: int
    size: int

    def __iter__(self) -> Iterator[Record]:
        """Yields the records. Raises DataError if the spool is damaged."""
        with self.spool.open("rb") as file:
            while head := file.read(12):
                content = file.read(int.from_bytes(head[:8], "little"))
                if zlib.crc32(content) != int.from_bytes(head[8:], "little"):
                    raise DataError(f"{self.spool} is damaged; it has been removed: run the command again")
                split, records = marshal.loads(content)
                if split == self.split:
                    yield from map(_unpacked, records)

    def __len__(self) -> int:
        return self.count


@dataclasses.dataclass(frozen=True)
class SplitRecords:
    """The records of a split, in order, in memory or in spools.

    Args:
        parts: Runs of them.
    """

    parts: Sequence[Part | Sequence[Record]]

    def __iter__(self) -> Iterator[Record]:
        return itertools.chain.from_iterable(self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def talks(self) -> int:
        """The number of conversations."""
        counts = (
            part.talks if isinstance(part, Part) else sum(bool(each.framed) for each in part) for part in self.parts
        )
        return sum(counts)

    def sample(self, most: int) -> tuple[SplitRecords, int]:
        """Returns every n-th part, and n: the least with which no more than `most` characters are expected.

        Args:
            most: How many characters; what lies in memory counts nothing.
        """
        size = sum(part.size for part in self.parts if isinstance(part, Part))
        share = -(-size // most) or 1
        return SplitRecords(self.parts[::share]), share


@dataclasses.dataclass(frozen=True)
class Origin:
    """A file that rows come from, and where they go.

    Args:
        path: The file.
        unit: What the numbers of its rows count.
        aside: The share of the prompts that is put into the split "test", or the split that all are of.
        name: The name of the file that its records get, where there are several.
    """

    path: Path
    unit: str
    aside: float | str
    name: str = ""


def spool_rows(parser: RowParser, origin: Origin, blocks: Iterable[Block], spool: Path) -> None:
    """Writes the records of blocks of a file, and beside them what was counted.

    Args:
        parser: Makes records of rows.
        origin: The file.
        blocks: The blocks.
        spool: The file that is written.

    Raises:
        DataError: See `records_of`.
    """
    # The account comes last: where it is, the spool is whole.
    tally, aside, beside = Tally(unit=origin.unit), origin.aside, spool.with_suffix(f".{os.getpid()}.part")
    counts: dict[str, list[int]] = {}
    pending: dict[str, list[Any]] = {}
    sizes: dict[str, int] = {}
    with beside.open("wb") as file:

        def flush(split: str) -> None:
            content = marshal.dumps((split, pending.pop(split, [])))
            file.write(len(content).to_bytes(8, "little") + zlib.crc32(content).to_bytes(4, "little") + content)
            sizes[split] = 0

        for record in records_of(origin.path, blocks, parser, tally, origin.name):
            # A prompt in either form of its accents is one prompt, and on one side; a text learned whole has none.
            asked = nfc(record.grouped_by or record.prompt or record.completions[0])
            split = aside if isinstance(aside, str) else "test" if is_aside(asked, aside) else "train"
            size = len(record.prompt) + sum(map(len, record.completions))
            count = counts.setdefault(split, [0, 0, 0])
            count[:] = count[0] + 1, count[1] + bool(record.framed), count[2] + size
            pending.setdefault(split, []).append(_packed(record))
            sizes[split] = sizes.get(split, 0) + size + 64
            if sizes[split] > CHUNK:
                flush(split)
        for split in list(pending):
            flush(split)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, spool)
    write_json(_account_of(spool), {"tally": dataclasses.asdict(tally), "splits": counts})


def is_spooled(spool: Path) -> bool:
    """Says whether a spool is whole."""
    return spool.is_file() and _account_of(spool).is_file()


def read_spool(spool: Path) -> tuple[Tally, dict[str, Part]]:
    """Returns what was counted of a spool, and its records by split."""
    account = read_json(_account_of(spool))
    return Tally(**account["tally"]), {
        split: Part(spool, split, *counts) for split, counts in account["splits"].items()
    }


def _account_of(spool: Path) -> Path:
    return spool.with_suffix(".json")


def _packed(record: Record) -> tuple[Any, ...]:
    """A record as plain values; texts of CSV files are of a kind of their own."""
    framed = [dataclasses.astuple(each) for each in record.framed]
    texts = tuple(map(str, record.completions))
    numbers = (tuple(map(float, record.scores)), *map(float, (record.preference, record.weight, record.answer)))
    return str(record.prompt), texts, *numbers, json.dumps(dict(record.meta)), record.layout, framed


def _unpacked(values: tuple[Any, ...]) -> Record:
    prompt, texts, scores, preference, weight, answer, notes, layout, framed = values
    talks = tuple(Framed(*each) for each in framed)
    return Record(prompt, texts, scores, preference, weight, answer, json.loads(notes), layout, (), talks)
