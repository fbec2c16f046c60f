"""Every published layout with what each dataset reads of it, and rows read by the file reader alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alignjax import data
from tests.support.published_lists import LISTS
from tests.support.published_rows import CASES
from tests.support.row_files import ParsedFile, parsed

FIVE = ("Prompts", "Instructions", "Preferences", "Thumbs", "Rankings")
SERVED = [(name, rows, kind, wanted) for name, rows, served in (*CASES, *LISTS) for kind, wanted in served.items()]
IDS = [f"{name}-{kind}" for name, _, kind, _ in SERVED]


def lines(rows: list[dict[str, Any]]) -> str:
    return "\n".join(map(json.dumps, rows))


def read(path: Path, kind: str, rows: list[dict[str, Any]], **named: Any) -> ParsedFile:
    return parsed(path / "rows", lines(rows), getattr(data, kind)(path=str(path / "rows"), **named), "refuse")
