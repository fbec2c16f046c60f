"""How tests and the programs that they start compile. It stands here because this file is run before jax is imported,
in every worker and in every `python -m tests.support...`; what is set already stays."""

import importlib.metadata
import os
from pathlib import Path

# What is compiled, not what is computed, is the cost of these tests: programs are kept between runs and shared by all
# processes. Another program, jax or set of flags is another key, so nothing is tested less.
SETTINGS = {
    "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "xla"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # half the time to compile; the fixture `full_compile` is the exception
    "JAX_NUMPY_RANK_PROMOTION": "raise",  # [B,N] and [N] meet by a broadcast that is written
}


def _flags() -> str:
    """Flags of XLA that halve the time to compile. XLA ends the process at a flag that it does not know, and newer ones
    have no other emitters."""
    release = tuple(int(part) for part in importlib.metadata.version("jax").split(".")[:2])
    split = "--xla_cpu_parallel_codegen_split_count=1"  # in one piece and not in up to 32
    return f"{split} --xla_cpu_use_fusion_emitters=false" if release < (0, 11) else split


for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)
if _flags() not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flags()}".strip()
