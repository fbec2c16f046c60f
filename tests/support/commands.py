"""Commands as a user types them, in a folder of their own. Prepared data are shared by a session, compiled programs by
all (tests/__init__.py)."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(shared: Path) -> dict[str, str]:
    """`shared` holds what commands of one session may reuse: it changes how long they take, not what they do."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ALIGNJAX_CACHE": str(shared / "data"),
        "COLUMNS": "100",
    }


def run(command: str, folder: Path, shared: Path, **extra: str) -> str:
    """Output of a command that is to succeed. A process of ours takes seconds to import what it needs, so an `alignjax`
    command is a fork of one that has done so; anything else is given to the shell."""
    words = shlex.split(command)
    if words[0] == "alignjax" and not set(command) & set("|&;<>$`*?"):
        status, out, error = _forked(words, folder, shared, extra)
    else:
        environ = environment(shared) | extra
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environ, capture_output=True, text=True, timeout=900, check=False
        )
        status, out, error = done.returncode, done.stdout, done.stderr
    assert status == 0, f"{command}\n{out[-3000:]}\n{error[-3000:]}"
    return out


def _forked(words: list[str], folder: Path, shared: Path, extra: dict[str, str]) -> tuple[int, str, str]:
    """(exit status, output, errors) of a command."""
    server = _server(shared)
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as kept:
        out, error = Path(kept, "out"), Path(kept, "error")
        request = {"words": words, "folder": str(folder), "environment": extra, "out": str(out), "error": str(error)}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return status, out.read_text(), error.read_text()


@functools.cache
def _server(shared: Path) -> subprocess.Popen[str]:
    """The process that is forked, until this one ends."""
    program = [sys.executable, "-m", "tests.support.forked_commands"]
    pipe = subprocess.PIPE
    server = subprocess.Popen(program, cwd=ROOT, env=environment(shared), stdin=pipe, stdout=pipe, text=True)
    atexit.register(server.communicate)  # closes its input, which ends it
    return server
