"""Seconds that jax spends on making programs in this process: our side, and a peer that is built on jax."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import jax

_seconds: dict[str, float] = defaultdict(float)


def _note(event: str, seconds: float, **about: Any) -> None:
    if event.startswith("/jax/core/compile/"):
        _seconds[str(about.get("fun_name", "?")).removeprefix("jit(").removesuffix(")").lstrip("_")] += seconds


jax.monitoring.register_event_duration_secs_listener(_note)


def compiled() -> dict[str, float]:
    """Seconds of tracing, lowering and compiling since the last call: "total", and those functions that are worth a
    line."""
    found = {"total": sum(_seconds.values())} | {name: spent for name, spent in _seconds.items() if spent > 0.2}
    _seconds.clear()
    return found


def device_bytes() -> int | None:
    """The most that was ever allocated on the accelerator; None on a CPU, which keeps no such count."""
    statistics = jax.devices()[0].memory_stats()
    return statistics["peak_bytes_in_use"] if statistics else None
