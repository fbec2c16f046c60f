"""Where a run keeps its files."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Workspace:
    """A run folder and the pipeline step at work in it. A single experiment works in the root itself, a pipeline's
    steps in folders of their names."""

    root: Path
    stage: str | None = None

    @property
    def folder(self) -> Path:
        return self.root / self.stage if self.stage else self.root

    def of(self, stage: str | None) -> Workspace:
        return dataclasses.replace(self, stage=stage)

    def find(self, stage_or_path: str) -> Path:
        """The folder of an earlier step of this pipeline or, if there is none of that name, another run's folder given
        as a path."""
        inside = self.root / stage_or_path
        return inside if inside.is_dir() else Path(stage_or_path).expanduser()
