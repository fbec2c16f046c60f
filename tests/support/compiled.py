"""How many programs functions under `jax.jit` have compiled since a moment of a test."""

from collections.abc import Callable
from typing import Any


def compilations(*jitted: Any) -> Callable[[], list[int]]:
    """Returns a function that counts the programs which each of these has compiled from now on. What they compiled for
    other tests of this process is dropped first, and a count is a difference: of the cache that all functions share
    (4,096 entries) those that were pushed out may stay in a function's own count, even when it is emptied."""
    for function in jitted:
        function.clear_cache()
    before = [function._cache_size() for function in jitted]
    return lambda: [function._cache_size() - count for function, count in zip(jitted, before, strict=True)]
