"""A verifier of formulas: what `math-verify` takes for equal, in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alignjax.asking import declares
from alignjax.config import ConfigError
from alignjax.ranges import Count, Positive
from alignjax.verifiers import latex_process
from alignjax.verifiers.extraction import text_of

STARTING, GRACE = 120.0, 2.0  # seconds until SymPy is imported; beyond a question's own, until its process is ended
MEBIBYTE = 2**20


def _check_installed(**settings: Any) -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise ConfigError(
            "verifiers.latex compares with math-verify, which is not installed: pip install 'alignjax[math]'"
        )


@declares(check=_check_installed, columns=["column"])
def latex(
    completions: Sequence[Any],
    *,
    column: str = "answer",
    seconds: Positive = 5.0,
    mebibytes: Count = 2048,
    **columns: Sequence[Any],
) -> list[float | None]:
    r"""Compares formulas by `math-verify`: \frac{1}{2} = 0.5, intervals, sets, matrices, equations.

    Args:
        completions: Texts or messages, of which math-verify takes the answer out.
        column: The column of the right answer, with or without dollars around it.
        seconds: How long it may take for one answer, which else is wrong.
        mebibytes: The memory of the process.
        **columns: The columns.

    Returns:
        1.0 or 0.0 for each completion, None where the row has no answer that can be read.
    """
    marks: list[float | None] = [None] * len(completions)
    asked = [k for k, right in enumerate(columns[column]) if right is not None]
    answers: dict[int, Any] = {}
    while len(answers) < len(asked):  # a process that was ended is followed by one that takes the rest
        with _worker(mebibytes) as worker:
            for k in asked[len(answers) :]:
                answers[k] = worker(str(columns[column][k]), text_of(completions[k]), seconds)
                if answers[k] == "ended":
                    break
    return [marks[k] if answers.get(k) is None else float(answers[k] is True) for k in range(len(completions))]


@contextlib.contextmanager
def _worker(mebibytes: int) -> Iterator[Any]:
    """Yields ask(right, said, seconds) -> True, False, None, "late", or "ended" where the process is no more."""
    # Lines are read by a thread, since a pipe has no read with a timeout on every system. The process has no variables
    # of the environment but those that a Python needs.
    passed = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-S", "-P", "-B", latex_process.__file__, str(mebibytes * MEBIBYTE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**passed, "PYTHONPATH": paths},
        text=True,
    )
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    assert process.stdin is not None
    assert process.stdout is not None
    output = process.stdout

    def read() -> None:
        with contextlib.suppress(ValueError):  # closed while it was read
            for line in output:
                lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()

    def ask(right: str, said: str, seconds: float) -> Any:
        try:
            print(json.dumps({"right": right, "said": said, "seconds": seconds}), file=process.stdin, flush=True)
            line = lines.get(timeout=seconds + GRACE)
        except (BrokenPipeError, queue.Empty):
            return "ended"
        return json.loads(line) if line else "ended"

    try:
        try:
            ready = lines.get(timeout=STARTING)
        except queue.Empty:
            ready = ""
        if not ready:
            raise RuntimeError(f"the process that compares formulas did not start within {mebibytes} MiB")
        yield ask
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        output.close()
