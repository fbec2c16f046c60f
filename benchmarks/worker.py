"""A side of the comparison in a process of its own: it prepares rows and times single calls of them on request.

Processes, because two frameworks in one process fight for the cores with spinning thread pools, and because Tunix needs
an environment of its own. One process works at a time; the others block on a pipe.
The protocol is a JSON object per line on the standard streams: {"prepare": row} then {"time": row}.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
THREADS = "2"


class Missing(RuntimeError):
    """The packages of a side are not installed where it was to run."""


def serve(side: str) -> None:
    """The child's loop. `benchmarks.<side>.prepare(row)` returns a call that does the row's work once, waits for it and
    may return facts to check."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    calls: dict[str, Any] = {}

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    try:
        module = importlib.import_module(f"benchmarks.{side}")
    except ModuleNotFoundError as error:
        answer(missing=error.name)
        return
    answer(versions=module.versions())
    for line in sys.stdin:
        request = json.loads(line)
        if "prepare" in request:
            call = calls[request["prepare"]] = module.prepare(request["prepare"])
            first = call()  # compiles
            answer(first=first or {}, compile_seconds=module.compiled() if hasattr(module, "compiled") else {})
        else:
            start = time.perf_counter()
            facts = calls[request["time"]]()
            answer(seconds=time.perf_counter() - start, **(facts or {}))


class Side:
    """The parent's end: `prepare(row)` and `time(row)`."""

    def __init__(self, side: str, python: str) -> None:
        self.name = side
        self._log = tempfile.NamedTemporaryFile("w+", suffix=f".{side}.log")  # noqa: SIM115  (lives as long as the side)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "OMP_NUM_THREADS": THREADS,
            "MKL_NUM_THREADS": THREADS,
            "JAX_PLATFORMS": "cpu",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        greeting = self._read()
        if "missing" in greeting:
            raise Missing(f"{greeting['missing']} is not installed in {python}")
        self.versions: dict[str, str] = greeting["versions"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise RuntimeError(f"the {self.name} side ended early:\n{self._log.read()[-4000:]}")
        return json.loads(line)

    def _ask(self, **request: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def prepare(self, row: str) -> dict[str, Any]:
        return self._ask(prepare=row)

    def time(self, row: str) -> dict[str, Any]:
        return self._ask(time=row)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


if __name__ == "__main__":
    serve(sys.argv[1])
