"""The boundary around what is read from outside: it words every failure.

What goes wrong within `reading` is the file's fault, whatever is raised, and ends as a `ReadError` that names the file,
the place and what to do. Code that works on what was read stays outside of it, where an unexpected exception is a bug
of ours and keeps its traceback.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from alignjax.outside.errors import ConfigError, DataError

FETCH_AGAIN = "fetch or write the file again"


class ReadError(DataError):
    """Says that a file cannot be read: which one, where in it, why, and what to do."""


class Unreadable(ValueError):
    """A part of a file that is not what it should be: why, in words that many parts may share, where in it, and advice
    that is better than the reader's."""

    def __init__(self, why: str, where: str = "", advice: str = "") -> None:
        super().__init__(f"{why} ({where})" if where else why)
        self.why, self.where, self.advice = why, where, advice


@contextlib.contextmanager
def reading(what: Path | str, advice: str = FETCH_AGAIN, *, kind: str = "") -> Iterator[None]:
    """Turns whatever is raised within into a ReadError about `what`; errors that alignjax has worded pass.

    Args:
        what: The file, or another name of what is read.
        advice: What to do about a damaged one.
        kind: What it is read as, " as parquet".

    Raises:
        ReadError: Anything else was raised.
    """
    try:
        yield
    except Unreadable as error:
        raise ReadError(f"{what} cannot be read{kind}: {error}; {error.advice or advice}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "alignjax":
            raise
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise ReadError(f"there is no file {what}; give the path of one that exists") from error
        if isinstance(error, PermissionError | IsADirectoryError):
            raise ReadError(f"{what} cannot be read: {reason(error)}; name a file that you may read") from error
        raise ReadError(f"{what} cannot be read{kind}: {reason(error)}; {advice}") from error


class WriteError(ConfigError):
    """Says that something cannot be written: where, why, and what to do."""


@contextlib.contextmanager
def writing(where: Path | str, advice: str) -> Iterator[None]:
    """Turns what the system says while files are written into a WriteError; anything else passes.

    Args:
        where: The file or folder.
        advice: What to do about it.

    Raises:
        WriteError: The disk is full, the folder is a file or not to be written, or the like.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(f"{where} cannot be written: {reason(error)}; {advice}") from error


def reason(error: BaseException) -> str:
    """Returns why something failed, in a line without the name of the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return f"{bad_byte(error)} is not {error.encoding.upper()}"
    if isinstance(error, MemoryError | RecursionError):
        return "it is too large or too deep"
    first = next(iter(str(error).strip().splitlines()), "")[:300]
    known = isinstance(error, ValueError | OSError)
    return first if known and first else f"{type(error).__name__}: {first}".rstrip(": ")


def bad_byte(error: UnicodeDecodeError, before: int = 0) -> str:
    """Returns the place of the byte that cannot be decoded, counted from 1 behind `before` others, and the byte."""
    return f"byte {before + error.start + 1:,} (0x{error.object[error.start]:02x})"
