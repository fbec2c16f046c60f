"""Rows that a config makes itself, as a file that datasets read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.outside import cache_root
from alignjax.workspace import whole_file


def written_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes rows into a file of the cache that is named by what it holds, for the `path` of a dataset.

    Args:
        rows: What JSON can hold.

    Returns:
        The path of the file: the same rows have the same, and are written once.
    """
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path = cache_root() / "rows" / f"{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    if not path.is_file():
        with whole_file(path) as file:
            file.write(content)
    return str(path)
