"""docs/moved.md leads to names that are there."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from tests.support.commands import ROOT

ROW = re.compile(r"\| `[\w.]+` \| `([\w.]+)` \| (.*) \|")
ROWS = [match.groups() for line in (ROOT / "docs" / "moved.md").read_text().splitlines() if (match := ROW.match(line))]


def member(value: Any, name: str) -> Any:
    """An attribute, or the annotation of a field without a default."""
    found = getattr(value, name, None)
    return found if found is not None else getattr(value, "__annotations__", {})[name]


def found(path: str) -> Any:
    """The module, class or function of a path."""
    names = path.split(".")
    for count in range(len(names), 0, -1):
        try:
            value = importlib.import_module(".".join(names[:count]))
        except ModuleNotFoundError:
            continue
        for name in names[count:]:
            value = member(value, name)
        return value
    pytest.fail(f"{path} cannot be imported")


def test_every_name_is_where_it_is_said_to_be() -> None:
    assert len(ROWS) > 100
    for place, names in ROWS:
        for item in re.split(r", (?=`)", names):
            new = re.findall(r"`([\w.]+)`", item)[-1]  # the name, or what stands behind its arrow
            found(new if new.startswith("alignjax.") else f"{place}.{new}")
