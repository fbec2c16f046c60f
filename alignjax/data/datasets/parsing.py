"""Rows of JSON lines, JSON arrays and parquet files, with an account of the bad ones: why, how many and where."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from alignjax.config import ConfigError, DataError
from alignjax.data.datasets.records import Record
from alignjax.outside import (
    Huge,
    Unreadable,
    decoded,
    head_of,
    line_text,
    lines_of,
    parse_array,
    parse_json,
    reading,
    unpacked,
    user_path,
)
from alignjax.outside.json_values import BLANK

SHOWN_LINES = 10
FORMATS = "JSON lines, a JSON array or parquet"
_LARGEST = float(np.finfo(np.float32).max)
_LEAST = float(np.finfo(np.float32).smallest_subnormal)


class BadRow(ValueError):
    """A reason why one row cannot be used. Raised by parsers, counted by `parse_file`.

    Args:
        why: The reason, in words that many rows may share.
        where: What is wrong with this one: the place, the value.
        fatal: Whether no row of the file can be trusted.
    """

    def __init__(self, why: str, where: str = "", fatal: bool = False) -> None:
        super().__init__(f"{why}: {where}" if where else why)
        self.why, self.where, self.fatal = why, where, fatal


@dataclasses.dataclass(frozen=True)
class ParsedFile:
    """The content of a file.

    Args:
        records: The good rows, with their line numbers in `meta`.
        bad: The line numbers of the bad rows, by the reason why they are bad.
        unit: What the numbers count: "line" or "row".
        wheres: What is wrong with the first row of each reason, where there is more to say.
        layouts: How many rows have each layout.
    """

    records: Sequence[Record]
    bad: Mapping[str, Sequence[int]]
    unit: str = "line"
    wheres: Mapping[str, str] = dataclasses.field(default_factory=dict)
    layouts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def account(self) -> dict[str, Any]:
        """Returns how many rows were read, and how many bad ones there are by reason, with the first of their lines."""
        bad = {
            why: {"count": len(lines), "first": list(lines[:SHOWN_LINES]), "where": self.wheres.get(why, "")}
            for why, lines in self.bad.items()
        }
        read = len(self.records) + sum(map(len, self.bad.values()))
        return {"read": read, "bad_rows": bad, "layouts": dict(self.layouts)}

    def sentence(self) -> str:
        """Returns '3 bad rows: empty field 'chosen' (2; lines 4, 9); not JSON (1; line 7): column 2', or nothing."""
        total = sum(map(len, self.bad.values()))
        parts = []
        for why, lines in sorted(self.bad.items(), key=lambda item: -len(item[1])):
            shown = ", ".join(map(str, lines[:SHOWN_LINES])) + (", ..." if len(lines) > SHOWN_LINES else "")
            where = f": {self.wheres[why]}" if why in self.wheres else ""
            parts.append(f"{why} ({len(lines)}; {self.unit}{'s' if len(lines) > 1 else ''} {shown}){where}")
        return f"{total:,} bad row{'s' if total > 1 else ''}: {'; '.join(parts)}" if total else ""


def is_text(value: Any) -> bool:
    """Says whether a value is a string that UTF-8 can write (JSON escapes can smuggle in half a surrogate pair)."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def field(row: Mapping[str, Any], name: str) -> Any:
    """Returns a field of a row.

    Args:
        row: The row of a file.
        name: The name of the field.

    Raises:
        BadRow: If it is missing or null.
    """
    if row.get(name) is None:
        raise BadRow(f"missing field {name!r}")
    return row[name]


def text_field(row: Mapping[str, Any], name: str) -> str:
    """Returns a field that must be text with something in it.

    Args:
        row: The row of a file.
        name: The name of the field.

    Raises:
        BadRow: If it is missing, or not such a text.
    """
    return checked_text(field(row, name), name)


def checked_text(value: Any, name: str) -> str:
    """Returns a value that must be text with something in it.

    Args:
        value: Any value.
        name: The field that messages call it.

    Raises:
        BadRow: If it is not text, not UTF-8, or blank.
    """
    if not isinstance(value, str):
        raise BadRow(f"field {name!r} is {type(value).__name__}, must be text")
    if not is_text(value):
        raise BadRow(f"field {name!r} is not UTF-8")
    if not value.strip():
        raise BadRow(f"empty field {name!r}")
    return value


def number_field(row: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """Returns a field that must be a number (or a boolean) in [low, high].

    Args:
        row: The row of a file.
        name: The name of the field.
        low: The least that it may be.
        high: The most that it may be.

    Raises:
        BadRow: If it is missing, no number, or outside (NaN is).
    """
    value = field(row, name)
    if not isinstance(value, (int, float, Decimal, Huge)):
        raise BadRow(f"field {name!r} is {type(value).__name__}, must be a number")
    if isinstance(value, Huge) or not abs(value) <= _LARGEST:  # not true of NaN either
        raise BadRow(f"field {name!r} is no number that float32 holds", shown_number(value))
    if not low <= value <= high:
        raise BadRow(f"field {name!r} is outside [{low:g}, {high:g}]", shown_number(value))
    if value and abs(value) < _LEAST:
        raise BadRow(f"field {name!r} is too near 0 for float32", shown_number(value))
    return float(value)


def shown_number(value: Any) -> str:
    """Writes a number for a message, a very long one by its first digits."""
    if isinstance(value, int) and abs(value).bit_length() > 14_000:  # Python refuses to write it
        return f"a whole number of {value.bit_length():,} bits"
    return str(value if isinstance(value, Huge) else Huge(str(value)))


def existing_file(path: str, what: str) -> Path:
    """Returns the file at a path.

    Args:
        path: The path, which may begin with ~.
        what: What the file is, for the message.

    Raises:
        ConfigError: If there is none; it says where it was looked for and what to do.
    """
    if not path:
        raise ConfigError(f"the path is empty ({what}); give that of a file")
    file = user_path(path)
    with reading(f"{str(path)[:100]} ({what})", "give the path of a file"):  # a name may be longer than systems take
        is_folder, is_file = file.is_dir(), file.is_file()
    if is_folder:
        raise ConfigError(f"{file.absolute()} is a folder ({what}); give the path of one file in it")
    if not is_file:
        raise ConfigError(
            f"there is no file {file.absolute()} ({what}); give the path of your own copy. Nothing is downloaded"
        )
    return file


@lru_cache(maxsize=32)
def _hash(path: Path, size: int, changed: int, inode: int) -> str:
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hash(path: Path) -> str:
    """Returns the hash of a file's content, computed again only when its size, time or inode changed."""
    stat = path.stat()
    return _hash(path.absolute(), stat.st_size, stat.st_mtime_ns, stat.st_ino)


# ---------------------------------------------------------------------------------------------------------------- rows


def kind_of(path: Path) -> str:
    """Returns what a file holds: "parquet", "array" (of JSON) or "lines" (of JSON), told by its content alone.

    Args:
        path: The file.

    Raises:
        ReadError: It is none of them; what it looks like is said.
    """
    with reading(path), unpacked(path) as file:
        if head_of(file).startswith(b"PAR1"):
            with path.open("rb") as whole:
                if head_of(whole).startswith(b"PAR1"):
                    return "parquet"
            raise Unreadable("a packed parquet file", advice="unpack it: parquet is packed inside already")
        lines = (line.strip(BLANK) for _, line in lines_of(file))
        first = next(filter(None, lines), b"")
        if first.startswith(b"["):
            return "lines" if _is_json(first) and any(lines) else "array"
        # A bad first line is one bad row; a file without any line that begins an object is of another kind.
        if first.startswith(b"{") or any(line.startswith(b"{") for line, _ in zip(lines, range(1000), strict=False)):
            return "lines"
        looks = "CSV or TSV" if {b",", b"\t", b";"} & {first[k : k + 1] for k in range(len(first))} else "no rows"
        shown = first[:60].decode(errors="replace")
        raise Unreadable(
            f"it is not {FORMATS}, but looks like {looks} (it begins {shown!r})", advice="write it as JSON lines"
        )


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line_text(line))
    except Unreadable:
        return False
    return True


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value, or in its place the Unreadable). Blank lines are not rows."""
    with reading(path), unpacked(path) as file:
        for number, line in lines_of(file):
            if line.strip(BLANK):
                try:
                    value = _row(parse_json(line_text(line)))
                except Unreadable as error:
                    value = error
                yield number, value


def _array(path: Path) -> Iterator[tuple[int, Any]]:
    """(row number from 1, value, or in its place the Unreadable) of a file that is one JSON array."""
    with reading(path, "mend it there: of an array no row can be skipped"), unpacked(path) as file:
        yield from enumerate(map(_row, parse_array(decoded(file.read()))), 1)


def _row(value: Any) -> Any:
    """A row without nulls: one is a column, or a field of a message, that is not there. Within tools, documents and
    the arguments of calls it is a value, which templates write."""
    if not isinstance(value, dict):
        return value
    return {name: _without_null_fields(each) for name, each in value.items() if each is not None}


def _without_null_fields(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_null_fields(each) for each in value]
    if isinstance(value, dict) and "role" in value:
        return {name: each for name, each in value.items() if each is not None}
    return value


def _parquet(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Any]]:
    """(row number from 1, row) of a parquet file, of which only these columns are read."""
    try:
        import pyarrow.parquet as parquet  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ConfigError(f"reading {path} needs pyarrow: pip install 'alignjax[parquet]'") from error
    with reading(path, kind=" as parquet"):
        file = parquet.ParquetFile(path, page_checksum_verification=True)
        names = file.schema_arrow.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Unreadable(f"column {twice[0]!r} stands twice")
        used = None if columns is None else [name for name in names if name in columns]
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=used):
            for row in batch.to_pylist():
                number += 1
                yield number, _without_nulls(row)


def _without_nulls(value: Any) -> Any:
    """Arrow gives every row every key that any row has, at every depth: one that is null is not there."""
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def parse_file(
    path: Path,
    parse: Callable[[Mapping[str, Any]], Record],
    bad_rows: str,
    columns: Collection[str] | None = None,
    finish: Callable[[Iterator[Record]], Iterator[tuple[Record, BadRow | None]]] | None = None,
) -> ParsedFile:
    """Reads a file of JSON lines, a JSON array or parquet, packed or not; its content tells which. A null is not there.

    Args:
        path: The file.
        parse: Makes a record of a row, or raises BadRow.
        bad_rows: "skip" counts the rows that `parse` refuses; "refuse" makes them an error.
        columns: The columns of a parquet file that are read; None for all.
        finish: Does the rest of the work on records, many at a time, in their order; with each it gives the reason why
            it cannot be used, or None.

    Raises:
        DataError: The file is damaged, or holds bad rows that are refused; all of them are named.
        ConfigError: A parquet file cannot be read without pyarrow.
    """
    # Reading has its own boundary, inside the generators; what `parse` raises beside BadRow is a bug and passes.
    kind = kind_of(path)
    unit = "line" if kind == "lines" else "row"
    rows = _parquet(path, columns) if kind == "parquet" else _lines(path) if kind == "lines" else _array(path)
    records, bad, wheres, layouts = [], {}, {}, {}

    def refuse(number: int, error: BadRow) -> None:
        if error.fatal:
            raise DataError(f"{path}, {unit} {number}: {error}") from error
        bad.setdefault(error.why, []).append(number)
        if error.where:
            wheres.setdefault(error.why, error.where)

    def read() -> Iterator[Record]:
        for number, row in rows:
            try:
                if isinstance(row, Unreadable):
                    raise BadRow(row.why, row.where)
                if not isinstance(row, dict):
                    raise BadRow("not a JSON object")
                record = parse(row)
            except BadRow as error:
                refuse(number, error)
            else:
                yield dataclasses.replace(record, meta={**record.meta, "line": number})

    for record, error in finish(read()) if finish else ((record, None) for record in read()):
        if error is not None:
            refuse(record.meta["line"], error)
            continue
        if record.layout:
            layouts[record.layout] = layouts.get(record.layout, 0) + 1
        records.append(record)
    parsed = ParsedFile(records, bad, unit, wheres, layouts)
    if bad and bad_rows == "refuse":
        raise DataError(f"{path} has {parsed.sentence()}. Mend them, or set bad_rows='skip'")
    return parsed
