"""The folders in which a run keeps its files."""

from __future__ import annotations

import dataclasses
from pathlib import Path


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
