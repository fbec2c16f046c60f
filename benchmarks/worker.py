"""A side of the comparison in a process of its own: it prepares works and times single calls of them on request.

Processes, because two frameworks in one process fight for the cores with spinning thread pools, and because Tunix needs
an environment of its own. A side imports its packages once; every work then runs in a fork of that process, so that
its memory is its own and what kills it kills nothing else. One process works at a time; the others block on a pipe.
The protocol is a JSON object per line on the standard streams: {"prepare": work, "sizes": {..}}, {"time": work} as
often as wanted, {"finish": work}. An answer that holds "failed" ends the work.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.sizes import Sizes

ROOT = Path(__file__).resolve().parent.parent
THREADS = 2
LIMIT = 600  # seconds after which a work is killed


def _pin() -> None:
    """On a CPU every side gets the same two cores, which bounds the thread pools of all frameworks alike."""
    if os.environ["JAX_PLATFORMS"] == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])


def _work(module: Any, request: dict[str, Any], answer: Callable[..., None]) -> None:
    """The fork's life: one work, from its preparation to its peak memory."""
    signal.alarm(LIMIT)
    try:
        call = module.prepare(request["prepare"], Sizes(**request["sizes"]))
        compiled = getattr(module, "compiled", dict)
        compiled()  # forget what making weights took
        start = time.perf_counter()
        first = call() or {}
        answer(first=first, first_seconds=time.perf_counter() - start, compile_seconds=compiled())
        while "time" in json.loads(sys.stdin.readline()):
            start = time.perf_counter()
            facts = call() or {}
            answer(seconds=time.perf_counter() - start, **facts)
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
        answer(rss_bytes=rss, device_bytes=module.device_bytes())
    except Exception as error:
        traceback.print_exc()
        answer(failed=f"{type(error).__name__}: {error}".split("\n")[0][:300])


def serve(side: str) -> None:
    """The side's loop. `benchmarks.<side>.prepare(work, sizes)` returns a call that does the work once, waits for it
    and may return facts to check."""
    _pin()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log

    def answer(**facts: Any) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    try:
        module = importlib.import_module(f"benchmarks.{side}")
    except ModuleNotFoundError as error:
        answer(missing=error.name)
        return
    answer(versions=module.versions())
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "prepare" not in request:
            continue  # meant for a fork that has died: its end is the answer already
        child = os.fork()
        if child == 0:
            _work(module, request, answer)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            code = os.waitstatus_to_exitcode(status)
            late = f"took more than {LIMIT} s" if code == -signal.SIGALRM else f"its process ended with {code}"
            answer(failed=late)


class Missing(RuntimeError):
    """The packages of a side are not installed where it was to run."""


class Side:
    """The parent's end: `ready()`, then for each work `prepare`, `time` as often as wanted, `finish`."""

    def __init__(self, side: str, python: str, platform: str = "cpu", **environment: str) -> None:
        self.name, self.python = side, python
        self.log = tempfile.NamedTemporaryFile("w+", suffix=f".{side}.log")  # noqa: SIM115  (lives as long as the side)
        threads = {"OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)} if platform == "cpu" else {}
        settings = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "JAX_PLATFORMS": platform,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several sides share a device
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            **threads,
            **environment,
        }
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env=settings,
        )

    def ready(self) -> dict[str, str]:
        """Versions of what the side imported. Raises Missing if it is not installed or cannot be imported."""
        greeting = self._answer()
        if "missing" in greeting:
            raise Missing(f"{greeting['missing']} is not installed in {self.python}")
        if "failed" in greeting:
            raise Missing(greeting["failed"])
        return greeting["versions"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self.log.seek(0)
        said = self.log.read().strip().split("\n")[-1]
        return {"failed": f"the {self.name} side ended with {self._process.returncode}: {said[:300]}"}

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says how it ended
        return self._answer()

    def prepare(self, work: str, sizes: dict[str, Any]) -> dict[str, Any]:
        return self._ask(prepare=work, sizes=sizes)

    def time(self, work: str) -> dict[str, Any]:
        return self._ask(time=work)

    def finish(self, work: str) -> dict[str, Any]:
        return self._ask(finish=work)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.log.close()


if __name__ == "__main__":
    serve(sys.argv[1])
