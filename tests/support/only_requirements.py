"""A process that finds only what some distributions require, as in an environment into which nothing else was
installed.

    python -c "from tests.support.only_requirements import refuse_others; refuse_others('jax'); import alignjax.losses"
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = {"alignjax", "tests"}


def closure(names: Iterable[str]) -> set[str]:
    """The distributions of these names and all that they require, without extras."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for requirement in map(Requirement, metadata.requires(name) or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


class _Refuse(importlib.abc.MetaPathFinder):
    def __init__(self, modules: set[str]) -> None:
        self.modules = modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in self.modules:
            raise ModuleNotFoundError(f"{name} belongs to nothing that is required", name=name)


def refuse_others(*names: str) -> None:
    """From here on, modules of distributions that these do not require cannot be imported."""
    allowed = closure(names)
    modules = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & allowed
    }
    sys.meta_path.insert(0, _Refuse(modules - OURS))
