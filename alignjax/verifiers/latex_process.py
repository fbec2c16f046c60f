"""The process in which formulas are compared: `math-verify` over SymPy, with limits on time and memory.

`formulas.py` runs this file by its path, so that it imports no jax. It reads a line of JSON a question, {"right",
"said", "seconds"}, and writes a line with true, false, null (what is right cannot be read) or "late" for each.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
from typing import Any


class Late(Exception):
    """The time of a question is over."""


def _alarm(number: int, frame: Any) -> None:
    raise Late


def _compared(library: Any, right: str, said: str) -> bool | None:
    # Their own limits on time are the same signal, and are left to ours, which is over both steps.
    marked = any(mark in right for mark in ("$", "\\boxed", "\\(", "\\["))
    wanted = library.parse(right if marked else f"${right}$", parsing_timeout=None)
    if not wanted:
        return None
    return bool(library.verify(wanted, library.parse(said, parsing_timeout=None), timeout_seconds=None))


def main() -> None:
    """Answers the questions of the input, then ends."""
    source, target = sys.stdin, sys.stdout
    sys.stdin = sys.stdout = None
    memory = int(sys.argv[1])
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    import math_verify  # noqa: PLC0415

    logging.disable()  # it logs what it cannot parse
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process ends it
    signal.signal(signal.SIGALRM, _alarm)
    print("ready", file=target, flush=True)
    for line in source:
        question = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, question["seconds"])
        try:
            answer: Any = _compared(math_verify, question["right"], question["said"])
        except (Late, MemoryError, RecursionError):
            answer = "late"
        except Exception:  # what a stranger wrote may make a parser raise anything
            answer = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(answer), file=target, flush=True)


if __name__ == "__main__":
    main()
