"""One wrong edit."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One wrong edit: `text` of alignjax/`file` replaced, and the tests that must fail for it."""

    name: str
    file: str
    text: str
    replacement: str
    killers: tuple[str, ...]
