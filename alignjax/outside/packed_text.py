"""Bytes as they come from outside: packed or not, in any encoding, told by what they hold and never by a name."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from alignjax.outside.boundary import FETCH_AGAIN, Unreadable, bad_byte, reading, reason
from alignjax.outside.errors import ConfigError

LONGEST_LINE = 1 << 29  # bytes: a packed file of a few megabytes can hold one of any length
CHUNK = 1 << 20  # bytes that are read at once
# How tables of other programs begin: parquet, and Arrow as a file or as a stream.
PARQUET, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"

_BOMS = (  # the longer ones first: UTF-32's begins like UTF-16's
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)
# (place, how such a file begins, what it is, what to do)
_FOREIGN = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch that with `git lfs pull`"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it and name the file inside"),
    (257, b"ustar", "a tar archive", "unpack it and name the file inside"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and name the file inside"),
    (0, b"Rar!\x1a\x07", "a rar archive", "unpack it and name the file inside"),
    (0, b"\x04\x22\x4d\x18", "packed with lz4", "unpack it first"),
    (0, b"Obj\x01", "an Avro file", "write it as parquet"),
    (0, b"\x89HDF", "an HDF5 file", "write it as parquet or JSON lines"),
    (0, b"SQLite format 3", "an SQLite database", "write its table as JSON lines"),
    (0, b"\x93NUMPY", "a NumPy array", "write it as JSON lines"),
    (0, b"\x80\x04", "a Python pickle, which is never read", "write it as JSON lines"),
    (0, b"\x80\x05", "a Python pickle, which is never read", "write it as JSON lines"),
    (0, b"%PDF-", "a PDF document", "write it as JSON lines"),
    (0, b"<!DOCTYPE", "a web page, perhaps that of a failed download", "fetch the file again"),
    (0, b"<!doctype", "a web page, perhaps that of a failed download", "fetch the file again"),
    (0, b"<html", "a web page, perhaps that of a failed download", "fetch the file again"),
    (0, b"<?xml", "XML, perhaps the answer of a failed download", "fetch the file again"),
)


def _zstd(file: BinaryIO) -> Any:
    try:
        import pyarrow  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ConfigError(
            "it is packed with zstd, which needs pyarrow: pip install 'alignjax[parquet]', or unpack it first"
        ) from error
    return pyarrow.CompressedInputStream(file, "zstd")


_PACKINGS: tuple[tuple[re.Pattern[bytes], str, Callable[[BinaryIO], Any]], ...] = (
    (re.compile(rb"\x1f\x8b"), "gzip", gzip.open),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), "bz2", bz2.open),  # "BZh" alone may begin a text
    (re.compile(rb"\xfd7zXZ\0"), "xz", lzma.open),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd", _zstd),
)
_NOT_WHOLE = (OSError, EOFError, zlib.error, lzma.LZMAError)  # what unpackers raise


_HANDED = re.compile(r"/dev/(?:stdin|fd/\d+)|/proc/self/fd/\d+")


def opened_file(path: Path) -> io.BufferedReader:
    """Opens a file to be read. A pipe or a device, of which nobody knows the end, is read only where the caller's shell
    has handed it over: `<(command)`, /dev/stdin.

    Args:
        path: The file.

    Raises:
        Unreadable: It is a pipe or a device.
        OSError: It cannot be opened.
    """
    if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode) and not _HANDED.fullmatch(str(path)):
        raise Unreadable("it is a pipe, a socket or a device", advice="name a file")
    return path.open("rb")


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """Opens a file and what it is packed with, as `unpacked_with_place` does, and yields its bytes."""
    with unpacked_with_place(path) as (file, _):
        yield file


@contextlib.contextmanager
def unpacked_with_place(path: Path) -> Iterator[tuple[io.BufferedReader, Callable[[], int]]]:
    """Opens a file and what it is packed with (gzip, bz2, xz, zstd), told by how it begins, never by its name.

    Args:
        path: The file.

    Yields:
        (its bytes, what says how many bytes of the file as it lies on disk have been read).

    Raises:
        Unreadable: It is of a known kind that holds no text and no table, or is packed twice.
        ConfigError: A package that unpacks it is not installed.
    """
    with opened_file(path) as on_disk, _unpacked(path, on_disk) as file:
        yield file, on_disk.tell


@contextlib.contextmanager
def _unpacked(path: Path, on_disk: io.BufferedReader) -> Iterator[io.BufferedReader]:
    """What an open file is packed with, open; a file that a shell hands over can be opened no second time."""
    with contextlib.ExitStack() as stack:
        file, packing = on_disk, _packing(head_of(on_disk))
        if packing:
            name, unpack = packing
            try:
                file = stack.enter_context(io.BufferedReader(unpack(file)))
            except ConfigError as error:
                raise ConfigError(f"{path} cannot be read: {error}") from error
            with _not_whole(name):
                if inner := _packing(head_of(file)):
                    raise Unreadable(f"packed twice, with {name} around {inner[0]}", advice="unpack it once")
        _refuse_foreign(head_of(file))
        with _not_whole(packing[0]) if packing else contextlib.nullcontext():
            yield file


@contextlib.contextmanager
def _not_whole(name: str) -> Iterator[None]:
    """Says of whatever an unpacker raises that the file is not whole."""
    try:
        yield
    except _NOT_WHOLE as error:
        raise Unreadable(f"not a whole {name} file ({reason(error)})") from error


def head_of(file: io.BufferedReader) -> bytes:
    """Returns how a file begins, without reading on."""
    return file.peek(512)[:512]


def _packing(head: bytes) -> tuple[str, Callable[[BinaryIO], Any]] | None:
    return next(((name, unpack) for magic, name, unpack in _PACKINGS if magic.match(head)), None)


def _refuse_foreign(head: bytes) -> None:
    if not head:
        raise Unreadable("it is empty")
    for place, magic, what, advice in _FOREIGN:
        if head[place:].startswith(magic):
            raise Unreadable(f"it is {what}", advice=advice)
    if head.startswith((PARQUET, ARROW_FILE, ARROW_STREAM)):
        return
    if b"\0" in head[:4] and encoding_of(head) not in ("utf-16", "utf-32"):
        raise Unreadable(
            "byte 0x00 near its start: neither UTF-8 nor UTF-16 with a byte order mark", advice="save it as UTF-8"
        )


def encoding_of(head: bytes) -> str:
    """Returns the encoding that the byte order mark of a text names, or "utf-8"."""
    return next((name for mark, name in _BOMS if head.startswith(mark)), "utf-8")


def decoded(content: bytes) -> str:
    """Returns bytes as text: UTF-8, or what their byte order mark says. Raises Unreadable with its bad byte."""
    encoding = encoding_of(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise Unreadable(f"not {name}", bad_byte(error)) from error


def line_text(line: bytes, before: int = 0) -> str:
    """Returns bytes of UTF-8 as text.

    Args:
        line: The bytes, of a line of `lines_of` for example.
        before: The number of bytes in front of them that count for the place of a bad one.

    Raises:
        Unreadable: A byte is not UTF-8; its place is said.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise Unreadable("not UTF-8", bad_byte(error, before)) from error


def utf8_chunks(file: io.BufferedReader, size: int = CHUNK) -> Iterator[bytes]:
    """Yields a text in UTF-8 without its byte order mark, some bytes at a time, whatever encoding the file has.

    Args:
        file: The file, unread.
        size: Bytes of the file that are read at once.

    Raises:
        Unreadable: A file with a byte order mark of UTF-16 or UTF-32 is not that.
    """
    encoding = encoding_of(head_of(file))
    if encoding == "utf-8-sig":
        file.read(3)
    decoder = codecs.getincrementaldecoder(encoding)() if encoding in ("utf-16", "utf-32") else None
    before, content = 0, b"first"
    while content:
        content = file.read(size)
        if decoder is None:
            yield content
            continue
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(content, final=not content).encode()
        except UnicodeDecodeError as error:
            raise Unreadable(f"not {encoding.upper()}", bad_byte(error, before - pending)) from error
        before += len(content)


def lines_of(file: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    r"""Yields (number, line) of a text in UTF-8 without its byte order mark, whatever encoding the file has.

    A line ends at \n alone, before which a \r is dropped; the last one may lack it. Lines may be other than UTF-8: of
    a file of lines one bad byte spoils one line.

    Args:
        file: The file, unread.

    Raises:
        Unreadable: A file with a byte order mark of UTF-16 or UTF-32 is not that, or a line has no end.
    """
    for first, block in line_blocks(utf8_chunks(file)):
        for number, line in enumerate(block.split(b"\n"), first):
            yield number, line.removesuffix(b"\r")


def line_blocks(chunks: Iterator[bytes], size: int = 1) -> Iterator[tuple[int, bytes]]:
    r"""Yields (number of the first line, whole lines) of a text in chunks; blocks lack their last \n.

    Args:
        chunks: The text, cut anywhere.
        size: The least number of bytes of a block but the last.

    Raises:
        Unreadable: A line is longer than LONGEST_LINE.
    """
    first, parts, length = 1, [], 0
    for chunk in chunks:
        cut = chunk.rfind(b"\n") if length + len(chunk) >= size else -1
        if cut < 0:
            parts.append(chunk)
            length += len(chunk)
            if length > LONGEST_LINE + size:
                raise Unreadable(
                    f"line {first + sum(part.count(10) for part in parts)} is longer than {LONGEST_LINE >> 20} MiB"
                )
            continue
        block = b"".join([*parts, chunk[:cut]])
        yield first, block
        first += block.count(b"\n") + 1
        parts, length = [chunk[cut + 1 :]], len(chunk) - cut - 1
    if block := b"".join(parts):
        yield first, block


def read_text(path: Path, advice: str = FETCH_AGAIN) -> str:
    """Returns a file's text, in UTF-8 or what its byte order mark says, unpacked.

    Args:
        path: The file.
        advice: What to do about a damaged one.

    Raises:
        ReadError: It cannot be read.
    """
    with reading(path, advice), opened_file(path) as whole:
        if not whole.peek(1):
            return ""
        with _unpacked(path, whole) as file:
            return decoded(file.read())
