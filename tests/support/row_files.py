"""Files of rows as a dataset parses them, read into memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax.data import Preferences
from alignjax.data.datasets.parsed_files import RowParser, Tally, records_of, refuse_bad
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.datasets.records import Record
from alignjax.data.datasets.row_files import KINDS, blocks_of, kind_of
from alignjax.data.prepared import Dataset


@dataclasses.dataclass(frozen=True)
class ParsedFile:
    """The content of a file.

    Args:
        records: The good rows, with their line numbers in `meta`.
        tally: What was counted on the way.
    """

    records: Sequence[Record]
    tally: Tally

    @property
    def bad(self) -> Mapping[str, Sequence[int]]:
        """The numbers of the first bad rows, by the reason why they are bad."""
        return self.tally.bad

    @property
    def wheres(self) -> Mapping[str, str]:
        """What is wrong with the first row of each reason, where there is more to say."""
        return self.tally.wheres

    @property
    def layouts(self) -> Mapping[str, int]:
        """How many records have each layout."""
        return self.tally.layouts

    @property
    def since(self) -> Mapping[str, Any]:
        """The number of the first row of each layout."""
        return self.tally.since

    @property
    def unit(self) -> str:
        """What the numbers count: "line" or "row"."""
        return self.tally.unit

    def account(self) -> dict[str, Any]:
        """Returns the account of the rows; see `Tally.account`."""
        return self.tally.account()

    def sentence(self) -> str:
        """Returns the bad rows in words; see `Tally.sentence`."""
        return self.tally.sentence()


def parse_file(
    path: Path,
    parse: Callable[[Any], Record | Sequence[Record]],
    bad_rows: str,
    columns: Collection[str] | None = None,
    finish: Callable[[Iterator[Record]], Iterator[tuple[Record, BadRow | None]]] | None = None,
    together: Callable[[Mapping[str, Any]], Hashable] | None = None,
) -> ParsedFile:
    """Reads a file of rows into memory, packed or not; its content tells what it holds. A null is not there.

    Args:
        path: The file.
        parse: See `RowParser`.
        bad_rows: "skip" counts the rows that `parse` refuses; "refuse" makes them an error.
        columns: The columns of a table that are read; None for all.
        finish: See `RowParser`.
        together: See `RowParser`.

    Raises:
        DataError: The file is damaged, or holds bad rows that are refused; all of them are named.
        ConfigError: A table cannot be read without pyarrow.
    """
    kind = kind_of(path)
    tally, parser = Tally(unit=KINDS[kind].unit), RowParser(parse, finish, together)
    parsed = ParsedFile(list(records_of(path, blocks_of(path, kind, columns), parser, tally)), tally)
    refuse_bad(path, tally, bad_rows)
    return parsed


def parsed(path: Path, content: bytes | str, dataset: Dataset | None = None, rows: str = "skip") -> ParsedFile:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    dataset = dataset or Preferences(path=str(path))
    return parse_file(path, dataset.parse_all, rows, dataset.columns(), None, dataset.together)


def prompts_of(file: ParsedFile) -> list[str]:
    return [record.prompt for record in file.records]
