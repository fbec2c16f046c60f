"""The folders in which a run keeps its files, and files that appear whole."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from alignjax import outside
from alignjax.config import ConfigError
from alignjax.json_shapes import check_shape

DOWNLOAD_AGAIN = "it may be cut short: download it again"
PUT_BACK = "put a copy of it back, or use another --run-dir"
MOST_JSON = 256_000_000  # bytes; large published tokenizers have some 30 million


@dataclasses.dataclass(frozen=True)
class Workspace:
    """A run folder and the pipeline step at work in it.

    Attributes:
        root: The run folder; its ~ is written out.
        stage: The name of the step; None for a single experiment, which works in the root itself.
    """

    root: Path
    stage: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", outside.user_path(self.root))

    @property
    def folder(self) -> Path:
        """The folder of the step."""
        return self.root / self.stage if self.stage else self.root

    def of(self, stage: str | None) -> Workspace:
        """Returns the workspace of another step of the same run."""
        return dataclasses.replace(self, stage=stage)

    def find(self, stage_or_path: str) -> Path:
        """Returns the folder of an earlier step of this pipeline or, if none has that name, the folder of another run
        given as a path."""
        step = self.root / stage_or_path
        return step if step.is_dir() else outside.user_path(stage_or_path)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to be written so that a reader, or a crash, sees the old one or the new one and never half of it.

    Args:
        path: The file; its folder is made if missing.

    Yields:
        The file to write in, which takes its name at the end.

    Raises:
        WriteError: It cannot be written; nothing is left of it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with outside.writing(path, "make room there, or name another folder that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as a `whole_file`.

    Args:
        path: The file; its folder is made if missing.
        value: What JSON can hold.
    """
    with whole_file(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


def read_json(path: Path, advice: str = PUT_BACK) -> Any:
    """Reads the value in `path`; None if there is no such file.

    Args:
        path: The file.
        advice: What to do about a damaged one, for the message.

    Raises:
        ReadError: The file cannot be read or is not JSON.
        ConfigError: It is larger than MOST_JSON.
    """
    if not path.exists():
        return None
    if path.is_file() and (size := path.stat().st_size) > MOST_JSON:
        raise ConfigError(
            f"{path} has {size / 1e6:,.0f} MB, and at most {MOST_JSON / 1e6:,.0f} MB of JSON are read; {advice}"
        )
    return outside.read_json(path, advice)


def read_record(path: Path, kind: Any, advice: str = PUT_BACK) -> Any:
    """Reads a JSON file that must hold a value of a kind; None if there is no such file.

    Args:
        path: The file.
        kind: A `TypedDict`, or another kind that `json_shapes.misfit` knows.
        advice: What to do about a damaged file, for the message.

    Raises:
        ReadError: The file cannot be read or is not JSON.
        ConfigError: It holds something else.
    """
    return check_shape(read_json(path, advice), kind, path, advice) if path.exists() else None
