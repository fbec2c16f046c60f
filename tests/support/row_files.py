"""Files of rows as a dataset parses them."""

from __future__ import annotations

from pathlib import Path

from alignjax.data import Preferences
from alignjax.data.datasets.parsed_files import ParsedFile, parse_file
from alignjax.data.prepared import Dataset


def parsed(path: Path, content: bytes | str, dataset: Dataset | None = None, rows: str = "skip") -> ParsedFile:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    dataset = dataset or Preferences(path=str(path))
    return parse_file(path, dataset.parse_all, rows, dataset.columns(), None, dataset.together)


def prompts_of(file: ParsedFile) -> list[str]:
    return [record.prompt for record in file.records]
