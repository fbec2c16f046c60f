"""GGUF files of llama.cpp: what one says of itself, checked against its own length before anything is made of it, and
its tensors as numbers.

The header is parsed here and not by the reader of the `gguf` package, which believes every length that a file names
and makes an array of each element (3 s for a vocabulary of 49 thousand). What the bytes of a weight in few bits mean
is the package's.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import mmap
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.config import ConfigError
from alignjax.outside import Unreadable, reading, user_path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DAMAGED = "download it again"
MOST_ENTRIES = 10_000_000  # elements of a list; the largest published vocabularies have a fortieth of that
MOST_TEXT = 100_000_000  # bytes of a text
PLAIN = ("F32", "F16", "BF16")  # kinds of numbers that nothing was rounded off for but to 16 bits
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST, _FLOAT32, _BOOL = 8, 9, 6, 7
_PARTS = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_POINTER = b"version https://git-lfs"


class Tensor(NamedTuple):
    """A tensor of a file: what kind of numbers it holds ("Q4_1"), its shape as NumPy has it, its first and last byte,
    and the bytes of a row."""

    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int
    row: int


@dataclasses.dataclass(frozen=True)
class Header:
    """All of a GGUF file but its numbers.

    Attributes:
        path: The file.
        metadata: Its settings by key; float32 numbers are the shortest decimals that mean them.
        tensors: Its tensors by name.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def is_gguf(path: Path | str) -> bool:
    """Tells whether a path is that of a GGUF file: by its first bytes, or by its name if it has none of its own."""
    path = user_path(path)
    if not path.is_file():
        return path.suffix.lower() == ".gguf" and not path.is_dir()
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_header(path: Path | str) -> Header:
    """Reads what a GGUF file says of itself.

    Args:
        path: The file.

    Returns:
        The header. All of its tensors lie within the file, none over another.

    Raises:
        ReadError: There is no such file, or it is not whole: the message says why, and where.
        ConfigError: It is one of several parts, or the `gguf` package is missing.
    """
    path = user_path(path)
    with reading(path, DAMAGED, kind=" as GGUF"):
        stat = path.stat()
        return _parsed(path, stat.st_size, stat.st_mtime_ns)


@dataclasses.dataclass
class _Cursor:
    """A place in the bytes of a file, which moves past what is taken; nothing is taken from behind the end."""

    data: Any
    at: int = 0

    def take(self, size: int, what: str) -> int:
        """Moves past `size` bytes and returns where they begin."""
        if size > len(self.data) - self.at:
            raise Unreadable(
                f"{what} needs {size:,} bytes and {len(self.data) - self.at:,} are left: it is cut short or damaged",
                f"byte {self.at:,}",
            )
        self.at += size
        return self.at - size

    def number(self, form: str, what: str) -> Any:
        return struct.unpack_from("<" + form, self.data, self.take(struct.calcsize("<" + form), what))[0]

    def text(self, what: str) -> str:
        size = self.number("Q", what)
        start = self.take(size, what)
        if size > MOST_TEXT:
            raise Unreadable(f"{what} is a text of {size:,} bytes, and at most {MOST_TEXT:,} are read")
        return self.data[start : start + size].decode("utf-8")

    def value(self, kind: int, what: str) -> Any:
        if kind == _TEXT:
            return self.text(what)
        if kind in _SCALARS:
            value = self.number(_SCALARS[kind], what)
            return _decimal(value) if kind == _FLOAT32 else bool(value) if kind == _BOOL else value
        if kind != _LIST:
            raise Unreadable(f"{what} is of type {kind}, which GGUF does not have", f"byte {self.at:,}")
        inner, count = self.number("I", what), self.number("Q", what)
        if inner not in _SCALARS and inner != _TEXT:
            raise Unreadable(f"{what} is a list of type {inner}, which is not read", f"byte {self.at:,}")
        if count > MOST_ENTRIES:
            raise Unreadable(f"{what} is a list of {count:,} entries, and at most {MOST_ENTRIES:,} are read")
        if inner == _TEXT:
            return [self.text(what) for _ in range(count)]
        form = np.dtype(_SCALARS[inner]).newbyteorder("<")
        return np.frombuffer(self.data, form, count, self.take(count * form.itemsize, what)).tolist()


def _decimal(value: float) -> float:
    return float(str(np.float32(value)))


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, size: int, changed: int) -> Header:
    # First what the file is at all, from its first bytes; then settings and the table of tensors, whose lengths are
    # compared with what is left of the file before anything is made of them; then where the tensors lie.
    with path.open("rb") as file:
        head = file.read(24)
        _check_head(path, head)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(data, 8)
            count, settings = cursor.number("Q", "the number of tensors"), cursor.number("Q", "the number of settings")
            if max(count, settings) > size // 12:
                raise Unreadable(f"it is said to have {count:,} tensors and {settings:,} settings, in {size:,} bytes")
            metadata: dict[str, Any] = {}
            for number in range(settings):
                key = cursor.text(f"the name of setting {number + 1}")
                if key in metadata:
                    raise Unreadable(f"the setting {key!r} stands in it twice")
                metadata[key] = cursor.value(cursor.number("I", key), key)
            table = [_entry(cursor, number) for number in range(count)]
            end = cursor.at
    _check_parts(path, metadata)
    return Header(path, metadata, _placed(path, table, metadata, end, size))


def _check_head(path: Path, head: bytes) -> None:
    if not head.startswith(MAGIC):
        if _POINTER.startswith(head[: len(_POINTER)]) and head:
            raise Unreadable("it is a Git LFS pointer, not the file itself", advice="fetch that with `git lfs pull`")
        begins = f"begins with {head[:4]!r}" if head else "is empty"
        raise Unreadable(f"it {begins}, and a GGUF file with {MAGIC!r}")
    if len(head) < 24:
        raise Unreadable("it ends within its first 24 bytes")
    (version,) = struct.unpack_from("<I", head, 4)
    if version and version % 65536 == 0:
        raise Unreadable(
            "its numbers are big-endian", advice="take the file for little-endian machines, which all others are"
        )
    if version not in VERSIONS:
        raise Unreadable(
            f"it is of GGUF version {version}, and {' and '.join(map(str, VERSIONS))} are read",
            advice="make it anew with a recent llama.cpp",
        )


def _check_parts(path: Path, metadata: Mapping[str, Any]) -> None:
    named = _PARTS.search(path.name)
    parts = metadata.get("split.count") or (int(named.group(1)) if named else 1)
    if isinstance(parts, int) and parts > 1:
        raise ConfigError(
            f"{path} is one of {parts} parts of a model, and parts are not read; join them with "
            "`llama-gguf-split --merge FIRST_PART WHOLE.gguf` of llama.cpp"
        )


def _entry(cursor: _Cursor, number: int) -> tuple[str, tuple[int, ...], int, int]:
    """A line of the table of tensors: name, shape, number of the kind, offset."""
    name = cursor.text(f"the name of tensor {number + 1}")
    axes = cursor.number("I", name)
    if not 1 <= axes <= 4:
        raise Unreadable(f"the tensor {name!r} is said to have {axes} axes, and tensors have 1 to 4")
    shape = tuple(cursor.number("Q", name) for _ in range(axes))[::-1]
    return name, shape, cursor.number("I", name), cursor.number("Q", name)


def _placed(
    path: Path, table: list[tuple[str, tuple[int, ...], int, int]], metadata: Mapping[str, Any], end: int, size: int
) -> dict[str, Tensor]:
    """The tensors with the bytes that they take. Raises Unreadable for one that does not lie whole in the file, or over
    another, or is of a kind that the package does not know."""
    # Offsets count from the first multiple of the alignment behind the table.
    package = _package(path)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise Unreadable(f"general.alignment is {alignment!r}, which is no power of two")
    begin = -(-end // alignment) * alignment
    kinds = {kind.value: kind for kind in package.GGMLQuantizationType}
    tensors: dict[str, Tensor] = {}
    for name, shape, number, offset in table:
        if name in tensors:
            raise Unreadable(f"the tensor {name!r} stands in it twice")
        if number not in kinds:
            raise Unreadable(
                f"the tensor {name!r} is of kind {number}, which the installed gguf package does not know",
                advice="install a newer one: pip install -U gguf",
            )
        block, width = package.GGML_QUANT_SIZES[kinds[number]]
        if min(shape) < 1 or shape[-1] % block:
            raise Unreadable(f"the tensor {name!r} has the shape {list(shape)}, which {kinds[number].name} cannot have")
        row, start = shape[-1] // block * width, begin + offset
        stop = start + math.prod(shape[:-1]) * row
        if offset % alignment or stop > size:
            raise Unreadable(f"the tensor {name!r} ends at byte {stop:,} of {size:,}: the file is cut short or damaged")
        tensors[name] = Tensor(kinds[number].name, shape, start, stop, row)
    for kind in {tensor.kind for tensor in tensors.values()}:
        _check_written_out(package, kind)
    in_order = sorted(tensors.items(), key=lambda entry: entry[1].start)
    for (one, before), (other, after) in itertools.pairwise(in_order):
        if after.start < before.stop:
            raise Unreadable(f"the tensors {one!r} and {other!r} lie over each other")
    return tensors


def _check_written_out(package: Any, kind: str) -> None:
    """Raises Unreadable for a kind of numbers that the package cannot write out: tried on one block of zeros."""
    known = package.GGMLQuantizationType[kind]
    try:
        package.quants.dequantize(np.zeros((1, package.GGML_QUANT_SIZES[known][1]), np.uint8), known)
    except NotImplementedError:
        raise Unreadable(
            f"it holds numbers of kind {kind}, which the installed gguf package cannot write out",
            advice="install a newer one (pip install -U gguf), or take a file of another kind",
        ) from None


def _package(path: Path) -> Any:
    try:
        import gguf  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ConfigError(f"reading {path} (GGUF) needs gguf: pip install 'alignjax[gguf]'") from error
    return gguf


def numbers(header: Header, name: str, rows: Any = slice(None)) -> np.ndarray:
    """Returns rows of a tensor as float32, written out where it is held in few bits.

    Args:
        header: That of its file.
        name: The tensor's name.
        rows: Which rows, as an index of the first axis; of a tensor with one axis it is an index of its elements.

    Raises:
        ReadError: The file cannot be read.
    """
    tensor = header.tensors[name]
    with reading(header.path, DAMAGED, kind=" as GGUF"):
        package = _package(header.path)
        data = np.memmap(header.path, np.uint8, "r", tensor.start, (tensor.stop - tensor.start,))
        lines = data.reshape(*tensor.shape[:-1], tensor.row) if len(tensor.shape) > 1 else data[None]
        kind = package.GGMLQuantizationType[tensor.kind]
        if len(tensor.shape) > 1:
            return package.quants.dequantize(np.ascontiguousarray(lines[rows]), kind).astype(np.float32, copy=False)
        return package.quants.dequantize(np.ascontiguousarray(lines), kind)[0][rows].astype(np.float32, copy=False)


def origin(header: Header) -> str:
    """Says what kinds of numbers a file holds, the one of most numbers first: "Q4_1, Q8_0 dequantized", or "F16".

    float32 numbers are left out beside others, since norms and biases are always kept so.
    """
    sizes: dict[str, int] = {}
    for tensor in header.tensors.values():
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + math.prod(tensor.shape)
    kinds = sorted(sizes, key=lambda kind: -sizes[kind])
    kinds = [kind for kind in kinds if kind != "F32"] or kinds
    return ", ".join(kinds) + ("" if set(kinds) <= {*PLAIN} else " dequantized")
