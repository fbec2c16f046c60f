"""What trained policies are worth: win rates, KL, text metrics, and the report that shows them to people.

The modules are loaded when they are first named, so that `import alignjax` does not wait for matplotlib.
"""

from __future__ import annotations

import importlib
from types import ModuleType

MODULES = ("best_of_n", "diagnostics", "intervals", "report", "text_metrics", "tournament", "win_rate")


def __getattr__(name: str) -> ModuleType:
    if name in MODULES:
        return importlib.import_module(f"alignjax.evaluate.{name}")
    raise AttributeError(f"module 'alignjax.evaluate' has no attribute {name!r}")
