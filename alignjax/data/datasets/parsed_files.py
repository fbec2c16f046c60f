"""Files of rows as records, with an account of the bad rows: why, how many and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignjax.config import DataError
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.datasets.records import Record
from alignjax.data.datasets.row_files import Block, rows_of_block
from alignjax.data.datasets.row_groups import in_groups
from alignjax.outside import Unreadable

SHOWN_LINES = 10
MOST_REASONS = 200  # that are told apart; a file of texts that are no rows may have one for each
MOST_COLUMNS = 100  # whose names are noted, for messages


@dataclasses.dataclass
class Tally:
    """A count of the rows of files that grows as they are read.

    Args:
        read: How many rows there are, good and bad.
        records: How many records the good ones make.
        counts: How many are bad, by the reason why.
        bad: The numbers of the first SHOWN_LINES + 1 of them, behind the name of the file where there are several.
        wheres: What is wrong with the first row of each reason, where there is more to say.
        layouts: How many records have each layout.
        since: The number of the first row of each layout.
        columns: The names of the first MOST_COLUMNS columns that rows have.
        kept: The columns that records keep beside their texts.
        unit: What the numbers count: "line" or "row".
    """

    read: int = 0
    records: int = 0
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    bad: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    wheres: dict[str, str] = dataclasses.field(default_factory=dict)
    layouts: dict[str, int] = dataclasses.field(default_factory=dict)
    since: dict[str, Any] = dataclasses.field(default_factory=dict)
    columns: list[str] = dataclasses.field(default_factory=list)
    kept: list[str] = dataclasses.field(default_factory=list)
    unit: str = "line"

    def see(self, row: Any) -> None:
        """Counts a row, or rows that are read together, and notes its columns."""
        self.read += len(row) if isinstance(row, tuple) else 1
        for each in row if isinstance(row, tuple) else (row,):
            if isinstance(each, dict):
                self._note(self.columns, each)

    @staticmethod
    def _note(names: list[str], more: Iterable[str]) -> None:
        names += [name for name in more if name not in names][: MOST_COLUMNS - len(names)]

    def refuse(self, number: int, error: BadRow) -> None:
        """Counts a row, which is among those read, as bad."""
        where = {error.why: error.where} if error.where else {}
        self.add(Tally(counts={error.why: 1}, bad={error.why: [number]}, wheres=where))

    def accept(self, record: Record) -> None:
        """Counts a record."""
        self.records += 1
        self._note(self.kept, record.meta.get("columns", ()))
        if record.layout:
            self.layouts[record.layout] = self.layouts.get(record.layout, 0) + 1
            self.since.setdefault(record.layout, record.meta["line"])

    def add(self, other: Tally, name: str = "") -> None:
        """Adds the count of rows that come behind those of this one.

        Args:
            other: Their count.
            name: The name of their file, if there are several.
        """
        self.read += other.read
        self.records += other.records
        self._note(self.columns, other.columns)
        self._note(self.kept, other.kept)
        for why, count in other.counts.items():
            reason = why if why in self.counts or len(self.counts) < MOST_REASONS else "other reasons"
            numbers = [f"{name}:{number}" if name else number for number in other.bad[why]]
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.bad[reason] = [*self.bad.get(reason, ()), *numbers][: SHOWN_LINES + 1]
            if reason == why and why in other.wheres:
                self.wheres.setdefault(why, other.wheres[why])
        for layout, count in other.layouts.items():
            first = other.since[layout]
            self.since.setdefault(layout, f"{name}:{first}" if name else first)
            self.layouts[layout] = self.layouts.get(layout, 0) + count

    def account(self) -> dict[str, Any]:
        """Returns how many rows were read, and how many bad ones there are by reason, with the first of their lines."""
        bad = {
            why: {"count": count, "first": self.bad[why][:SHOWN_LINES], "where": self.wheres.get(why, "")}
            for why, count in self.counts.items()
        }
        return {"read": self.read, "bad_rows": bad, "layouts": dict(self.layouts)}

    def sentence(self) -> str:
        """Returns '3 bad rows: empty field 'chosen' (2; lines 4, 9); not JSON (1; line 7): column 2', or nothing."""
        total, parts = sum(self.counts.values()), []
        for why, count in sorted(self.counts.items(), key=lambda item: -item[1]):
            lines = self.bad[why]
            shown = ", ".join(map(str, lines[:SHOWN_LINES])) + (", ..." if len(lines) > SHOWN_LINES else "")
            where = f": {self.wheres[why]}" if why in self.wheres else ""
            parts.append(f"{why} ({count}; {self.unit}{'s' if count > 1 else ''} {shown}){where}")
        return f"{total:,} bad row{'s' if total > 1 else ''}: {'; '.join(parts)}" if total else ""


class RowParser(NamedTuple):
    """What makes records of rows.

    Args:
        parse: Makes a record or several of a row, or of a tuple of rows that are read together, or raises BadRow.
        finish: Does the rest of the work on records, many at a time, in their order; with each it gives the reason why
            it cannot be used, or None.
        together: Says what a row has in common with those beside it that are read together with it; see `in_groups`.
    """

    parse: Callable[[Any], Record | Sequence[Record]]
    finish: Callable[[Iterator[Record]], Iterator[tuple[Record, BadRow | None]]] | None = None
    together: Callable[[Mapping[str, Any]], Hashable] | None = None


def refuse_bad(path: Path | str, tally: Tally, bad_rows: str) -> None:
    """Raises DataError if there are bad rows and the setting `bad_rows` refuses them."""
    if tally.counts and bad_rows == "refuse":
        raise DataError(f"{path} has {tally.sentence()}. Mend them, or set bad_rows='skip'")


def records_of(
    path: Path, blocks: Iterable[Block], parser: RowParser, tally: Tally, name: str = ""
) -> Iterator[Record]:
    """Yields the records of blocks of a file, which a tally counts with the bad rows.

    Args:
        path: The file.
        blocks: The blocks, one behind another.
        parser: Makes records of rows.
        tally: Counts the rows.
        name: The name of the file that its records get, where there are several.

    Raises:
        DataError: A row says that none of the file can be trusted, or a block is damaged.
    """

    # Reading has its own boundary, inside `rows_of_block`; what `parse` raises beside BadRow is a bug and passes.
    origin = {"file": name} if name else {}

    def refuse(number: int, error: BadRow) -> None:
        if error.fatal:
            raise DataError(f"{path}, {tally.unit} {number}: {error}") from error
        tally.refuse(number, error)

    def read() -> Iterator[Record]:
        rows = (pair for block in blocks for pair in rows_of_block(path, block))
        for number, row in in_groups(rows, parser.together):
            tally.see(row)
            try:
                made = parser.parse(_usable(row))
            except BadRow as error:
                refuse(number, error)
            else:
                for record in [made] if isinstance(made, Record) else made:
                    yield dataclasses.replace(record, meta={**record.meta, **origin, "line": number})

    finished = parser.finish(read()) if parser.finish else ((record, None) for record in read())
    for record, error in finished:
        if error is None:
            tally.accept(record)
            yield record
        else:
            refuse(record.meta["line"], error)


def _usable(row: Any) -> Any:
    if isinstance(row, Unreadable):
        raise BadRow(row.why, row.where)
    if not isinstance(row, dict | tuple):
        raise BadRow("not a JSON object")
    return row
