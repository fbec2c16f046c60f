"""Rows of JSON lines, JSON arrays and parquet files, told by what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from alignjax.config import ConfigError
from alignjax.outside import (
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

FORMATS = "JSON lines, a JSON array or parquet"


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


def line_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields (line number, value, or in its place the Unreadable). Blank lines are not rows."""
    with reading(path), unpacked(path) as file:
        for number, line in lines_of(file):
            if line.strip(BLANK):
                try:
                    value = _row(parse_json(line_text(line)))
                except Unreadable as error:
                    value = error
                yield number, value


def array_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields (row number from 1, value, or in its place the Unreadable) of a file that is one JSON array."""
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


def parquet_rows(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Any]]:
    """Yields (row number from 1, row) of a parquet file, of which only these columns are read."""
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
