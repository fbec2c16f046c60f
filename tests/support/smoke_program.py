"""Runs the smoke test of tpu/ on eight simulated devices, sound and broken, and prints the statuses as JSON.

A program of its own, because the number of devices is set before jax starts."""

from __future__ import annotations

import json
from typing import Any

import jax
import smoke_test

CASES: dict[str, list[str]] = {
    "default mesh": ["--topology", "v5e-8"],
    "three axes": ["--topology", "v5e-8", "--mesh", "2", "2", "2"],
    "two slices": ["--topology", "v5e-4", "--slices", "2"],
    "another slice": ["--topology", "v5e-16"],
    "a chip is two devices": ["--topology", "v7x-8"],
}


def broken(x: Any, axis_name: str, perm: Any) -> Any:
    """A ppermute that leaves everything where it is."""
    return x


statuses = {name: smoke_test.main(words) for name, words in CASES.items()}
jax.lax.ppermute = broken
statuses["broken ppermute"] = smoke_test.main(CASES["three axes"])
print(json.dumps(statuses))
