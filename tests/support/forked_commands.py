"""Runs `alignjax` commands quickly: a process that has imported everything, and forks itself for each.

Reads a line {"words", "folder", "environment", "out", "error"}, runs the command in that folder with its output in
those two files, and answers with its exit status. What jax reads when it is imported is as this process was started.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import sys

import alignjax.algorithms
import alignjax.cli
import alignjax.evaluate
import alignjax.train
from alignjax.cli import main as command_line

LIMIT = 900  # seconds after which a command is ended


def started(request: dict) -> int:
    """The process id of a fork; the fork itself never returns."""
    if child := os.fork():
        return child
    signal.alarm(LIMIT)
    for stream, file in ((1, request["out"]), (2, request["error"])):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    sys.argv = request["words"]
    sys.exit(command_line())


def main() -> None:
    del sys.path[0]  # the tests' own modules, which a command does not see
    for package in (alignjax.cli, alignjax.evaluate, alignjax.train):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for line in sys.stdin:
        status = os.waitpid(started(json.loads(line)), 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
