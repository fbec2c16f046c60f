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

from alignjax.config import ConfigError
from alignjax.data.datasets.records import Record

SHOWN_LINES = 10


class DataError(ValueError):
    """A file holds something that the settings say to refuse. The message names the file, the lines and the way out."""


class BadRow(ValueError):
    """Why one row cannot be used. Raised by parsers, counted by `parse_file`."""


@dataclasses.dataclass(frozen=True)
class Parsed:
    """Records with their line numbers in `meta`, and the bad rows: {why: line numbers}."""

    records: Sequence[Record]
    bad: Mapping[str, Sequence[int]]
    unit: str = "line"

    def account(self) -> dict[str, Any]:
        bad = {why: {"count": len(found), "first": list(found[:SHOWN_LINES])} for why, found in self.bad.items()}
        return {"read": len(self.records) + sum(map(len, self.bad.values())), "bad_rows": bad}

    def sentence(self) -> str:
        """'3 bad rows: empty field 'chosen' (2; lines 4, 9); not JSON (1; line 7)', or nothing."""
        total = sum(map(len, self.bad.values()))
        parts = []
        for why, found in sorted(self.bad.items(), key=lambda item: -len(item[1])):
            shown = ", ".join(map(str, found[:SHOWN_LINES])) + (", ..." if len(found) > SHOWN_LINES else "")
            parts.append(f"{why} ({len(found)}; {self.unit}{'s' if len(found) > 1 else ''} {shown})")
        return f"{total:,} bad row{'s' if total > 1 else ''}: {'; '.join(parts)}" if total else ""


def is_text(value: Any) -> bool:
    """Whether a value is a string that UTF-8 can write (JSON escapes can smuggle in half a surrogate pair)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def field(row: Mapping[str, Any], name: str) -> Any:
    """A field that must be there. Raises BadRow."""
    if row.get(name) is None:
        raise BadRow(f"missing field {name!r}")
    return row[name]


def text_field(row: Mapping[str, Any], name: str) -> str:
    """A field that must be text with something in it. Raises BadRow."""
    return checked_text(field(row, name), name)


def checked_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"field {name!r} is {type(value).__name__}, must be text")
    if not is_text(value):
        raise BadRow(f"field {name!r} is not UTF-8")
    if not value.strip():
        raise BadRow(f"empty field {name!r}")
    return value


def number_field(row: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """A field that must be a number (or a boolean) in [low, high]. Raises BadRow."""
    value = field(row, name)
    if not isinstance(value, (int, float)):
        raise BadRow(f"field {name!r} is {type(value).__name__}, must be a number")
    if not low <= value <= high:  # not true of NaN either
        raise BadRow(f"field {name!r} is outside [{low:g}, {high:g}]")
    return float(value)


def found_file(path: str, what: str) -> Path:
    """The file at `path`. Raises ConfigError that says where it was looked for and what to do."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(
            f"there is no file {file.absolute()} ({what}); give the path of your own copy there. Nothing is downloaded"
        )
    return file


@lru_cache(maxsize=32)
def _hash(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """Hash of a file's content; computed again only when its size or time changed."""
    stat = path.stat()
    return _hash(path.absolute(), stat.st_size, stat.st_mtime_ns)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, parsed row or the reason why it is none). Blank lines are not rows."""
    with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
        try:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8"))
                except UnicodeDecodeError:
                    row = BadRow("not UTF-8")
                except (json.JSONDecodeError, RecursionError):
                    row = BadRow("not JSON")
                yield number, row if isinstance(row, (dict, BadRow)) else BadRow("not a JSON object")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path} is not a whole gzip file ({error}); fetch it again") from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow.parquet as parquet  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ConfigError(f"reading {path} needs pyarrow: pip install 'alignjax[parquet]'") from error
    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except OSError as error:  # pyarrow's ArrowInvalid and friends
        raise DataError(f"{path} cannot be read as parquet: {error}") from error
    except ValueError as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from error


def parse_file(path: Path, parse: Callable[[Mapping[str, Any]], Record], bad_rows: str) -> Parsed:
    """Records of a .jsonl, .jsonl.gz or .parquet file. bad_rows: "skip" counts the rows that `parse` refuses, "refuse"
    raises DataError at the end of the file, with all of them."""
    is_parquet = path.suffix == ".parquet"
    records, bad = [], {}
    for number, row in _parquet(path) if is_parquet else _json_lines(path):
        try:
            if isinstance(row, BadRow):
                raise row
            record = parse(row)
        except BadRow as error:
            bad.setdefault(str(error), []).append(number)
        else:
            records.append(dataclasses.replace(record, meta={**record.meta, "line": number}))
    parsed = Parsed(records, bad, "row" if is_parquet else "line")
    if bad and bad_rows == "refuse":
        raise DataError(f"{path} has {parsed.sentence()}. Mend them, or set bad_rows='skip'")
    return parsed
