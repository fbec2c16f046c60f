"""The folders in which a run keeps its files, and files that appear whole."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from alignjax.config import ConfigError

DOWNLOAD_AGAIN = "it may be cut short: download it again"


@dataclasses.dataclass(frozen=True)
class Workspace:
    """A run folder and the pipeline step at work in it.

    Attributes:
        root: The run folder.
        stage: The name of the step; None for a single experiment, which works in the root itself.
    """

    root: Path
    stage: str | None = None

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
        return step if step.is_dir() else Path(stage_or_path).expanduser()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to be written so that a reader, or a crash, sees the old one or the new one and never half of it.

    Args:
        path: The file; its folder is made if missing.

    Yields:
        The file to write in, which takes its name at the end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as a `whole_file`.

    Args:
        path: The file; its folder is made if missing.
        value: What JSON can hold.
    """
    with whole_file(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


def read_json(path: Path, advice: str = "restore it, or use another --run-dir") -> Any:
    """Reads the value in `path`; None if there is no such file.

    Args:
        path: The file.
        advice: What to do about a damaged one, for the message.

    Raises:
        ConfigError: The file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); {advice}") from None
