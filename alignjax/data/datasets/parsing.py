"""Rows of JSON lines and parquet files, with an account of the bad ones: why, how many and on which lines."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from alignjax.config import ConfigError, DataError
from alignjax.data.datasets.records import Record

SHOWN_LINES = 10


class BadRow(ValueError):
    """A reason why one row cannot be used. Raised by parsers, counted by `parse_file`."""


@dataclasses.dataclass(frozen=True)
class ParsedFile:
    """The content of a file.

    Args:
        records: The good rows, with their line numbers in `meta`.
        bad: The line numbers of the bad rows, by the reason why they are bad.
        unit: What the numbers count: "line" or "row".
    """

    records: Sequence[Record]
    bad: Mapping[str, Sequence[int]]
    unit: str = "line"

    def account(self) -> dict[str, Any]:
        """Returns how many rows were read, and how many bad ones there are by reason, with the first of their lines."""
        bad = {why: {"count": len(lines), "first": list(lines[:SHOWN_LINES])} for why, lines in self.bad.items()}
        return {"read": len(self.records) + sum(map(len, self.bad.values())), "bad_rows": bad}

    def sentence(self) -> str:
        """Returns '3 bad rows: empty field 'chosen' (2; lines 4, 9); not JSON (1; line 7)', or nothing."""
        total = sum(map(len, self.bad.values()))
        parts = []
        for why, lines in sorted(self.bad.items(), key=lambda item: -len(item[1])):
            shown = ", ".join(map(str, lines[:SHOWN_LINES])) + (", ..." if len(lines) > SHOWN_LINES else "")
            parts.append(f"{why} ({len(lines)}; {self.unit}{'s' if len(lines) > 1 else ''} {shown})")
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
    if not isinstance(value, (int, float)):
        raise BadRow(f"field {name!r} is {type(value).__name__}, must be a number")
    if not low <= value <= high:  # not true of NaN either
        raise BadRow(f"field {name!r} is outside [{low:g}, {high:g}]")
    return float(value)


def existing_file(path: str, what: str) -> Path:
    """Returns the file at a path.

    Args:
        path: The path, which may begin with ~.
        what: What the file is, for the message.

    Raises:
        ConfigError: If there is none; it says where it was looked for and what to do.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(
            f"there is no file {file.absolute()} ({what}); give the path of your own copy. Nothing is downloaded"
        )
    return file


@lru_cache(maxsize=32)
def _hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hash(path: Path) -> str:
    """Returns the hash of a file's content, computed again only when its size or time changed."""
    stat = path.stat()
    return _hash(path.absolute(), stat.st_size, stat.st_mtime_ns)


def _json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of a file. Blank lines are not rows."""
    with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
        try:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path} is not a whole gzip file ({error}); fetch it again") from error


def _json_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadRow("not UTF-8") from None
    except (json.JSONDecodeError, RecursionError):
        raise BadRow("not JSON") from None
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return row


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    """(row number from 1, row) of a parquet file."""
    try:
        import pyarrow.parquet as parquet  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ConfigError(f"reading {path} needs pyarrow: pip install 'alignjax[parquet]'") from error
    try:
        batches = parquet.ParquetFile(path).iter_batches()
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid and friends
        raise DataError(f"{path} cannot be read as parquet: {error}") from error


def parse_file(path: Path, parse: Callable[[Mapping[str, Any]], Record], bad_rows: str) -> ParsedFile:
    """Reads a .jsonl, .jsonl.gz or .parquet file.

    Args:
        path: The file.
        parse: Makes a record of a row, or raises BadRow.
        bad_rows: "skip" counts the rows that `parse` refuses; "refuse" makes them an error.

    Raises:
        DataError: The file is damaged, or holds bad rows that are refused; all of them are named.
        ConfigError: A parquet file cannot be read without pyarrow.
    """
    is_parquet = path.suffix == ".parquet"
    records, bad = [], {}
    for number, row in _parquet(path) if is_parquet else _json_lines(path):
        try:
            record = parse(_json_row(row) if isinstance(row, bytes) else row)
        except BadRow as error:
            bad.setdefault(str(error), []).append(number)
        else:
            records.append(dataclasses.replace(record, meta={**record.meta, "line": number}))
    parsed = ParsedFile(records, bad, "row" if is_parquet else "line")
    if bad and bad_rows == "refuse":
        raise DataError(f"{path} has {parsed.sentence()}. Mend them, or set bad_rows='skip'")
    return parsed
