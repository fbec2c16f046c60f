"""Files of rows as records, with an account of the bad rows: why, how many and where."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignjax.config import DataError
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.datasets.records import Record
from alignjax.data.datasets.row_files import array_rows, kind_of, line_rows, parquet_rows
from alignjax.data.datasets.row_groups import in_groups
from alignjax.outside import Unreadable

SHOWN_LINES = 10


@dataclasses.dataclass(frozen=True)
class ParsedFile:
    """The content of a file.

    Args:
        records: The good rows, with their line numbers in `meta`.
        bad: The line numbers of the bad rows, by the reason why they are bad.
        unit: What the numbers count: "line" or "row".
        wheres: What is wrong with the first row of each reason, where there is more to say.
        layouts: How many records have each layout.
        read: How many rows there are.
    """

    records: Sequence[Record]
    bad: Mapping[str, Sequence[int]]
    unit: str = "line"
    wheres: Mapping[str, str] = dataclasses.field(default_factory=dict)
    layouts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    read: int = 0

    @property
    def since(self) -> dict[str, int]:
        """The number of the first row of each layout."""
        numbers: dict[str, int] = {}
        for record in self.records:
            numbers.setdefault(record.layout, record.meta["line"])
        return numbers

    def account(self) -> dict[str, Any]:
        """Returns how many rows were read, and how many bad ones there are by reason, with the first of their lines."""
        bad = {
            why: {"count": len(lines), "first": list(lines[:SHOWN_LINES]), "where": self.wheres.get(why, "")}
            for why, lines in self.bad.items()
        }
        return {"read": self.read, "bad_rows": bad, "layouts": dict(self.layouts)}

    def sentence(self) -> str:
        """Returns '3 bad rows: empty field 'chosen' (2; lines 4, 9); not JSON (1; line 7): column 2', or nothing."""
        total = sum(map(len, self.bad.values()))
        parts = []
        for why, lines in sorted(self.bad.items(), key=lambda item: -len(item[1])):
            shown = ", ".join(map(str, lines[:SHOWN_LINES])) + (", ..." if len(lines) > SHOWN_LINES else "")
            where = f": {self.wheres[why]}" if why in self.wheres else ""
            parts.append(f"{why} ({len(lines)}; {self.unit}{'s' if len(lines) > 1 else ''} {shown}){where}")
        return f"{total:,} bad row{'s' if total > 1 else ''}: {'; '.join(parts)}" if total else ""


def _usable(row: Any) -> Any:
    if isinstance(row, Unreadable):
        raise BadRow(row.why, row.where)
    if not isinstance(row, dict | tuple):
        raise BadRow("not a JSON object")
    return row


def parse_file(
    path: Path,
    parse: Callable[[Any], Record | Sequence[Record]],
    bad_rows: str,
    columns: Collection[str] | None = None,
    finish: Callable[[Iterator[Record]], Iterator[tuple[Record, BadRow | None]]] | None = None,
    together: Callable[[Mapping[str, Any]], Hashable] | None = None,
) -> ParsedFile:
    """Reads a file of JSON lines, a JSON array or parquet, packed or not; its content tells which. A null is not there.

    Args:
        path: The file.
        parse: Makes a record or several of a row, or of a tuple of rows that are read together, or raises BadRow.
        bad_rows: "skip" counts the rows that `parse` refuses; "refuse" makes them an error.
        columns: The columns of a parquet file that are read; None for all.
        finish: Does the rest of the work on records, many at a time, in their order; with each it gives the reason why
            it cannot be used, or None.
        together: Says what a row has in common with those beside it that are read together with it; see `in_groups`.

    Raises:
        DataError: The file is damaged, or holds bad rows that are refused; all of them are named.
        ConfigError: A parquet file cannot be read without pyarrow.
    """
    # Reading has its own boundary, inside the generators; what `parse` raises beside BadRow is a bug and passes.
    kind, read, records, bad, wheres = kind_of(path), 0, [], {}, {}
    unit = "line" if kind == "lines" else "row"
    rows = parquet_rows(path, columns) if kind == "parquet" else {"lines": line_rows, "array": array_rows}[kind](path)

    def refuse(number: int, error: BadRow) -> None:
        if error.fatal:
            raise DataError(f"{path}, {unit} {number}: {error}") from error
        bad.setdefault(error.why, []).append(number)
        if error.where:
            wheres.setdefault(error.why, error.where)

    def records_of_rows() -> Iterator[Record]:
        nonlocal read
        for number, row in in_groups(rows, together):
            read += len(row) if isinstance(row, tuple) else 1
            try:
                made = parse(_usable(row))
            except BadRow as error:
                refuse(number, error)
            else:
                for record in [made] if isinstance(made, Record) else made:
                    yield dataclasses.replace(record, meta={**record.meta, "line": number})

    parsed = records_of_rows()
    for record, error in finish(parsed) if finish else ((record, None) for record in parsed):
        if error is not None:
            refuse(record.meta["line"], error)
        else:
            records.append(record)
    layouts = dict(collections.Counter(record.layout for record in records if record.layout))
    file = ParsedFile(records, bad, unit, wheres, layouts, read)
    if bad and bad_rows == "refuse":
        raise DataError(f"{path} has {file.sentence()}. Mend them, or set bad_rows='skip'")
    return file
