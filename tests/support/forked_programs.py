"""Starts processes quickly: a process that has imported everything, and forks itself for each that is asked for.

Reads a line {"program", "arguments": [[..], ..], "devices", "out": [path, ..], "environment"} and runs that program
once per list of arguments, all at the same time, with so many simulated devices each; answers with their exit statuses.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from tests.support import multihost_jobs, multihost_program, multihost_texts, toy_online, toy_run

PROGRAMS = {
    "program": multihost_program.main,
    "jobs": multihost_jobs.main,
    "texts": multihost_texts.main,
    "toy_run": toy_run.main,
    "toy_online": toy_online.main,
}
LIMIT = 600  # seconds after which a process is ended


def started(request: dict[str, Any], number: int) -> int:
    """The process id of a fork; the fork itself never returns."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    signal.alarm(LIMIT)
    out = os.open(request["out"][number], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # Read when jax makes its devices, which it has not done yet.
    os.environ.update(request["environment"])
    if request["devices"] > 1:
        devices = f"--xla_force_host_platform_device_count={request['devices']}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}"
    sys.argv = [request["program"], *request["arguments"][number]]
    sys.exit(PROGRAMS[request["program"]]())


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        children = [started(request, number) for number in range(len(request["arguments"]))]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(statuses), flush=True)


if __name__ == "__main__":
    main()
