"""alignjax is a research framework for alignment algorithms in JAX.

An algorithm is data: stages that make experience, losses that read it, roles beside them. `algorithms` has the known
ones; `losses`, `stages`, `sampling` and `models` have their parts; `games` has preference games with exact equilibria;
`evaluate` tells policies apart. A config made of these trains with `alignjax train`. Importing this package loads none
of its parts.
"""

import importlib.metadata

try:
    __version__ = importlib.metadata.version("alignjax")
except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "unknown"
