"""What this machine can do, measured with jax: the peaks that the table is held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

MATMUL = 2048
STREAM = 64 * 2**20  # floats: 256 MiB, far beyond any cache
CACHED = 2 * 2**20  # floats: 8 MiB, the size of a mid-sized working set


def _best(call: Callable[[], Any], repeats: int) -> float:
    """The best time: a peak is what the machine can do, not what it does on average."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_peak(repeats: int = 10) -> float:
    """float32 FLOP/s of one square matmul."""
    left = jax.random.normal(jax.random.key(0), (MATMUL, MATMUL))
    multiply = jax.jit(lambda a, b: a @ b)
    return 2 * MATMUL**3 / _best(lambda: multiply(left, left), repeats)


def bandwidth(floats: int = STREAM, repeats: int = 10) -> float:
    """Bytes per second read and written by y = 2x + y in place."""
    step = jax.jit(lambda x, y: 2.0 * x + y, donate_argnums=1)
    x = jnp.ones(floats)
    y = [jnp.ones(floats)]

    def call() -> jax.Array:
        y[0] = step(x, y[0])
        return y[0]

    return 3 * 4 * floats / _best(call, repeats)


def peaks() -> dict[str, float]:
    return {
        "matmul_gflops": matmul_peak() / 1e9,
        "memory_gb_per_s": bandwidth() / 1e9,
        "cached_gb_per_s": bandwidth(CACHED, 50) / 1e9,
    }
