"""What the tests use of jax's private modules: this file, and no other. `test_smoke.py` holds it to exist."""

from __future__ import annotations

from types import SimpleNamespace

from jax._src import compiler as compiler_module

RELEASES = ("0.10", "0.11", "0.12")  # of jax, on which this has been tried


def let_every_process_keep_programs() -> None:
    """Makes each process of a run write what it compiled to jax's persistent cache. jax lets the first one alone do so,
    and a test's other processes would compile their own programs again in every run."""
    compiler_module.distributed = SimpleNamespace(global_state=SimpleNamespace(process_id=0, client=None))
