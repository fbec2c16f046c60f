"""Rows that are read together: those beside each other that have something in common, such as the tree of a message."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

LARGEST = 10_000  # rows of a group, which are held in memory together


def in_groups(rows: Iterable[tuple[int, Any]], together: Callable[[Any], Hashable] | None) -> Iterator[tuple[int, Any]]:
    """Yields (number, row) of rows that are read alone, and of those read together (number of the first, a tuple).

    Rows have to stand one after another: nothing but the group that is read is in memory. Whoever reads a file in
    parts, in several processes, must not part such rows; `together` says of any row whether there are any.

    Args:
        rows: (number, row) each; what is no dict is read alone.
        together: Says what a row has in common with those beside it, or None; it never raises.
    """
    held: list[dict[str, Any]] = []
    first, key = 0, None
    for number, row in rows:
        common = together(row) if together and isinstance(row, dict) else None
        if held and (common is None or common != key or len(held) == LARGEST):
            yield first, tuple(held)
            held = []
        if common is None:
            yield number, row
            continue
        if not held:
            first, key = number, common
        held.append(row)
    if held:
        yield first, tuple(held)
