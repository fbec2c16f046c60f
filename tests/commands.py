"""Commands as a user types them, in a folder of their own. Compiled programs and prepared data are shared by a
session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(shared: Path) -> dict[str, str]:
    """`shared` holds what commands of one session may reuse: it changes how long they take, not what they do."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ALIGNJAX_CACHE": str(shared / "data"),
        "JAX_COMPILATION_CACHE_DIR": str(shared / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # tiny runs wait for the compiler more than for its programs
        "COLUMNS": "100",
    }


def run(command: str, folder: Path, shared: Path, **extra: str) -> str:
    """Output of a command that is to succeed."""
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment(shared) | extra,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
