"""Files of rows, told by what they hold and cut into blocks that any process can take apart.

Whoever opens a file cuts it, one block after another; the work on rows (JSON, layouts, templates) is done on blocks,
here or in other processes. Where a file is cut depends on its contents alone.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import marshal
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from alignjax.config import ConfigError
from alignjax.content_hashes import content_hash
from alignjax.data.datasets import tables
from alignjax.data.datasets.parsing import Cell
from alignjax.outside import (
    ARROW_FILE,
    ARROW_STREAM,
    BLANK,
    PARQUET,
    ArrayPart,
    Unreadable,
    array_parts,
    cache_root,
    head_of,
    line_blocks,
    line_text,
    lines_of,
    parse_array,
    parse_json,
    reading,
    unpacked,
    unpacked_with_place,
    user_path,
    utf8_chunks,
)

FORMATS = "JSON lines, a JSON array, CSV, parquet or Arrow"
BLOCK = 8 << 20  # bytes of a block
CHUNK = 1 << 20  # of a text that are read at once
DELIMITERS = ",\t;|"
HEADER = "the first line of a CSV file is to hold names, different ones, with nothing around them"
LONGEST_CELL = 1 << 28  # characters; a quote without an end takes in all that follows
_OF_HUB = re.compile(r"(?:https?://[^/]+/datasets/)?[\w-]+/[\w.-]+/?")
_HUB = ", but for what a hub has: hub:OWNER/NAME"
_NAME = re.compile(r"\w[\w .-]*")


@dataclasses.dataclass(frozen=True)
class Block:
    """A run of rows of a file.

    Args:
        kind: What the file holds, a key of KINDS.
        first: The number of its first line or row, from 1.
        content: What is in it, as the reader of this kind cuts it.
        done: How many bytes of the file on disk were read when it was cut.
    """

    kind: str
    first: int
    content: Any
    done: int = 0


class Kind(NamedTuple):
    """How files of a kind are read.

    Args:
        unit: What numbers of rows count: "line" or "row".
        cut: Yields the blocks of a file, of which only some columns may be asked for.
        rows: Yields (number, row, or in its place the Unreadable) of a block.
        advice: What to do about a damaged one.
    """

    unit: str
    cut: Callable[[Path, Collection[str] | None], Iterator[Block]]
    rows: Callable[[Block], Iterator[tuple[int, Any]]]
    advice: str = "fetch or write the file again"


def existing_path(path: str, what: str) -> Path:
    """Returns what is at a path: a file or a folder.

    Args:
        path: The path, which may begin with ~.
        what: What it is, for the message.

    Raises:
        ConfigError: If there is nothing; it says where it was looked for and what to do.
    """
    if not path:
        raise ConfigError(f"the path is empty ({what}); give that of a file")
    place = user_path(path)
    with reading(f"{str(path)[:100]} ({what})", "give the path of a file"):  # a name may be longer than systems take
        exists = place.is_dir() or place.is_file()
    if not exists:
        hub = "" if path.startswith((".", "/", "~")) or not _OF_HUB.fullmatch(path) else _HUB
        raise ConfigError(
            f"there is no file {place.absolute()} ({what}); give the path of your own copy. Nothing is downloaded{hub}"
        )
    return place


def file_hash(path: Path) -> str:
    """Returns the hash of a file's content. Raises ReadError if it cannot be read."""
    with reading(path):
        return content_hash(path)


# --------------------------------------------------------------------------------------------------------------- kinds


def kind_of(path: Path) -> str:
    """Returns what a file holds, a key of KINDS, told by its content; the name decides where that fits two.

    Args:
        path: The file.

    Raises:
        ReadError: It is none of them; what it looks like is said.
    """
    with reading(path), unpacked(path) as file:
        head = head_of(file)
        for magic, kind in ((PARQUET, "parquet"), (ARROW_FILE, "arrow"), (ARROW_STREAM, "arrow stream")):
            if head.startswith(magic):
                return kind
        lines = (line for _, line in lines_of(file) if line.strip(BLANK))
        first = next(lines, b"")
        start = first.strip(BLANK)
        if start.startswith(b"["):
            return "lines" if _is_json(start) and any(lines) else "array"
        if start == b"{":
            raise Unreadable("it is one JSON object over many lines", advice="write its rows as JSON lines")
        named = any(suffix in (".csv", ".tsv") for suffix in path.suffixes[-2:])
        second = b"" if start.startswith(b"{") else next(lines, b"")
        if second and not second.lstrip(BLANK).startswith(b"{") and delimiter_of(first, named):
            return "csv"
        # A bad first line is one bad row; a file without any line that begins an object is of another kind.
        some = itertools.chain([first, second], itertools.islice(lines, 1000))
        if any(line.lstrip(BLANK).startswith(b"{") for line in some):
            return "lines"
        shown = first[:60].decode(errors="replace")
        if named:
            why = "no row follows its line of names" if not second and delimiter_of(first, named) else HEADER
            raise Unreadable(f"{why} (it begins {shown!r})", advice="write its columns' names in the first line")
        words = f"it is not {FORMATS}, but looks like no rows (it begins {shown!r})"
        raise Unreadable(words, advice="write it as JSON lines")


def delimiter_of(header: bytes, named: bool) -> str:
    """Returns what stands between the columns of a CSV file: the one of DELIMITERS that cuts its first line into the
    most different names; "" if it is no line of names.

    Args:
        header: The line.
        named: Whether the file is called CSV, which may have one column.
    """
    line = header.decode("utf-8", "replace").rstrip("\r\n ")
    try:
        cut = {mark: next(csv.reader([line], delimiter=mark), [""]) for mark in DELIMITERS}
    except csv.Error:
        return ""
    mark = max(DELIMITERS, key=lambda mark: len(cut[mark]))
    names = cut[mark] or [""]
    # An index that pandas writes has no name. A line of prose with a comma in it has other marks too.
    plain = all(_NAME.fullmatch(name) for name in (names[1:] if not names[0] else names))
    return mark if plain and len(names) >= 2 - named and len(set(names)) == len(names) else ""


def blocks_of(path: Path, kind: str, columns: Collection[str] | None = None) -> Iterator[Block]:
    """Yields the blocks of a file, in its order.

    Args:
        path: The file.
        kind: What it holds, as `kind_of` says.
        columns: The columns of a table that are read; None for all.

    Raises:
        ReadError: The file is damaged.
        ConfigError: A package that reads it is not installed.
    """
    with reading(path, KINDS[kind].advice, kind=f" as {kind}" if kind not in ("lines", "array") else ""):
        yield from KINDS[kind].cut(path, columns)


def rows_of_block(path: Path, block: Block) -> Iterator[tuple[int, Any]]:
    """Yields (number, row, or in its place the Unreadable) of a block.

    Args:
        path: The file that it is of, for messages.
        block: The block.

    Raises:
        ReadError: It is damaged where no single row can be left out.
    """
    with reading(path, KINDS[block.kind].advice):
        yield from KINDS[block.kind].rows(block)


def _is_json(line: bytes) -> bool:
    try:
        parse_json(line_text(line))
    except Unreadable:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------- JSON


def _cut_lines(path: Path, columns: Collection[str] | None) -> Iterator[Block]:
    with unpacked_with_place(path) as (file, place):
        for first, content in line_blocks(utf8_chunks(file, min(CHUNK, BLOCK)), BLOCK):
            yield Block("lines", first, content, place())


def _line_rows(block: Block) -> Iterator[tuple[int, Any]]:
    """(line number, value, or in its place the Unreadable). Blank lines are not rows."""
    for number, line in enumerate(block.content.split(b"\n"), block.first):
        if line.strip(BLANK):
            try:
                value = _row(parse_json(line_text(line.removesuffix(b"\r"))))
            except Unreadable as error:
                value = error
            yield number, value


def _cut_array(path: Path, columns: Collection[str] | None) -> Iterator[Block]:
    with unpacked_with_place(path) as (file, place):
        for part in array_parts(utf8_chunks(file, min(CHUNK, BLOCK)), BLOCK):
            yield Block("array", part.number, dataclasses.astuple(part), place())


def _array_rows(block: Block) -> Iterator[tuple[int, Any]]:
    yield from enumerate(map(_row, parse_array(ArrayPart(*block.content))), block.first)


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


# -------------------------------------------------------------------------------------------------------------- tables


def _cut_csv(path: Path, columns: Collection[str] | None) -> Iterator[Block]:
    """Blocks of (line that a row begins in, its cells), with the names of the columns."""
    # Where a row ends only its quotes tell, so one reader goes through all of the file; bytes that are not UTF-8 are
    # carried on, and spoil the one row.
    with unpacked_with_place(path) as (file, place):
        lines = (line for _, block in line_blocks(utf8_chunks(file)) for line in block.split(b"\n"))
        blank, header = next(((n, line) for n, line in enumerate(lines) if line.strip(BLANK)), (0, b""))
        texts = (line.decode("utf-8", "surrogateescape") + "\n" for line in itertools.chain([header], lines))
        csv.field_size_limit(LONGEST_CELL)
        reader = csv.reader(texts, delimiter=delimiter_of(header, named=True), strict=True)
        names, rows, size, begins = [], [], 0, blank + 1
        try:
            for cells in reader:
                begins, number = blank + reader.line_num + 1, begins
                if not names:
                    names = cells
                    continue
                rows.append((number, cells))
                size += sum(map(len, cells)) + 64
                if size >= BLOCK:
                    yield Block("csv", rows[0][0], marshal.dumps((names, rows)), place())
                    rows, size = [], 0
        except csv.Error as error:
            raise Unreadable(f"line {begins}: {error}", advice="write its quotes as CSV does, doubled") from error
        if rows:
            yield Block("csv", rows[0][0], marshal.dumps((names, rows)), place())


def _csv_rows(block: Block) -> Iterator[tuple[int, Any]]:
    names, rows = marshal.loads(block.content)
    for number, cells in rows:
        if len(cells) == len(names):
            yield number, {name: Cell(cell) for name, cell in zip(names, cells, strict=True)}
        elif cells:  # a line with nothing in it is not a row
            yield number, Unreadable("not as many cells as columns", f"{len(cells)} of {len(names)}")


def _cut_table(kind: str) -> Callable[[Path, Collection[str] | None], Iterator[Block]]:
    """How a file of tables is cut: its own part of the work is done in `tables`, on a file that can be gone through in
    any order; what is packed is unpacked beside the prepared files first."""

    def cut(path: Path, columns: Collection[str] | None) -> Iterator[Block]:
        with contextlib.ExitStack() as stack:
            file: Any = stack.enter_context(path.open("rb"))
            if file.peek(8)[:8][:4] not in (PARQUET, ARROW_FILE[:4], ARROW_STREAM):
                packed = stack.enter_context(unpacked(path))
                cache_root().mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(tempfile.TemporaryFile(dir=cache_root()))
                while chunk := packed.read(BLOCK):
                    file.write(chunk)
                file.seek(0)
            size = path.stat().st_size
            for first, content, share in tables.CUTS[kind](file, columns, BLOCK):
                yield Block(kind, first, content, int(share * size))

    return cut


def _table_rows(block: Block) -> Iterator[tuple[int, Any]]:
    for number, row in enumerate(tables.rows_of_content(block.content), block.first):
        yield number, _without_nulls(row)


def _without_nulls(value: Any) -> Any:
    """Arrow gives every row every key that any row has, at every depth: one that is null is not there."""
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


KINDS = {
    "lines": Kind("line", _cut_lines, _line_rows),
    "array": Kind("row", _cut_array, _array_rows, "mend it there: of an array no row can be skipped"),
    "csv": Kind("line", _cut_csv, _csv_rows),
    **{kind: Kind("row", _cut_table(kind), _table_rows) for kind in tables.CUTS},
}
