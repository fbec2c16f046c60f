"""What an entry of a known layout of rows says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from alignjax.data.datasets.row_shapes import ANY

Row = Mapping[str, Any]
Reading = Callable[..., Any]  # a row (or the rows of a group) -> its fields, or a list of fields


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """A layout of rows.

    Args:
        name: What messages and the setting `layout` call it.
        columns: The columns that tell it, each with the shapes that its values may have (`row_shapes.SHAPES`).
        reads: The datasets that it serves, that first which it fits best, each with the function to its fields.
        said: What is read from which column, in words.
        absent: Columns whose presence tells that it is another.
        more: Columns that are read where a row has them.
        group: Of rows that are read together, as they stand one after another: what they have in common.
        score: Of several scores that a row has, the name of that which is read unless `score_field` names another.
    """

    name: str
    columns: Mapping[str, frozenset[str]]
    reads: Mapping[str, Reading]
    said: str
    absent: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    group: Callable[[Row], Hashable] | None = None
    score: str = ""


def any_of(names: str) -> dict[str, frozenset[str]]:
    """Returns columns, named with spaces between them, that may hold whatever they do."""
    return dict.fromkeys(names.split(), ANY)


def serves(read: Reading, *datasets: str) -> dict[str, Reading]:
    """Returns one function to the fields for each of some datasets."""
    return dict.fromkeys(datasets, read)
