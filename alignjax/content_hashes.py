"""Hashes of whole files, so that what is the same is known by its contents and not by its path.

A large file is read once: its hash is kept in the cache folder as long as size, times and inode stay what they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path
from typing import TypedDict

from alignjax.outside import cache_root
from alignjax.workspace import read_record, write_json

KEPT = "file_hashes.json"
SMALL = 1 << 20  # bytes; smaller files are read every time
SETTLED = 2_000_000_000  # nanoseconds; a file that changed just now may change again within one tick of its clock


class _Kept(TypedDict):
    stamp: list[int]
    sha256: str


def content_hash(path: Path) -> str:
    """Gives the SHA-256 of a file's bytes, as hexadecimal digits.

    Args:
        path: The file.
    """
    stamp = _stamp(path)
    kept = _read_kept() if stamp[0] >= SMALL else {}
    place = str(path.resolve())
    if place in kept and kept[place]["stamp"] == stamp:
        return kept[place]["sha256"]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stamp[0] >= SMALL and stamp == _stamp(path) and time.time_ns() - max(stamp[1:3]) > SETTLED:
        with contextlib.suppress(Exception):  # a cache that cannot be written costs time alone
            write_json(cache_root() / KEPT, {**_read_kept(), place: {"stamp": stamp, "sha256": digest}})
    return digest


def forget_hashes() -> None:
    """Forgets what is kept, so that every file is read again: `--verify`."""
    (cache_root() / KEPT).unlink(missing_ok=True)


def _stamp(path: Path) -> list[int]:
    """Size, times of the last changes of contents and of the entry, and inode."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read_kept() -> dict[str, _Kept]:
    try:
        return read_record(cache_root() / KEPT, dict[str, _Kept]) or {}
    except ValueError:  # damaged: made anew
        return {}
