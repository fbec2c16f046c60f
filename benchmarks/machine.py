"""What this machine can do, measured with jax: the peaks that the table is held against."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

CACHED = 8 * 2**20  # bytes: the size of a mid-sized working set


def device() -> str:
    """The accelerator's name, or the processor's with the number of cores that this process may use."""
    kind = jax.devices()[0].device_kind
    if jax.default_backend() != "cpu":
        return kind
    about = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", about.read_text()) if about.exists() else None
    return f"{named[1].strip() if named else kind}, {len(os.sched_getaffinity(0))} cores"


def _best(call: Callable[[], Any], repeats: int) -> float:
    """The best time: a peak is what the machine can do, not what it does on average."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_peak(dtype: str, size: int, repeats: int = 10) -> float:
    """FLOP/s of one square matmul."""
    left = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(lambda a, b: a @ b)
    return 2 * size**3 / _best(lambda: multiply(left, left), repeats)


def bandwidth(size: int, repeats: int = 10) -> float:
    """Bytes per second read and written by y = 2x + y in place, float32, `size` bytes each."""
    step = jax.jit(lambda x, y: 2.0 * x + y, donate_argnums=1)
    x = jnp.ones(size // 4)
    y = [jnp.ones(size // 4)]

    def call() -> jax.Array:
        y[0] = step(x, y[0])
        return y[0]

    return 3 * size / _best(call, repeats)


def peaks(dtype: str = "float32") -> dict[str, Any]:
    """On an accelerator larger arrays, without which it measures how a program is started."""
    cpu = jax.default_backend() == "cpu"
    return {
        "device": device(),
        "matmul_gflops": matmul_peak(dtype, 2048 if cpu else 8192) / 1e9,
        "memory_gb_per_s": bandwidth(2**28 if cpu else 2**32) / 1e9,  # far beyond any cache
        "cached_gb_per_s": bandwidth(CACHED, 50) / 1e9,
    }
