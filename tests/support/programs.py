"""Programs of `tests.support` as processes of their own, forked from one that has imported everything: a process of
ours takes seconds to import what it needs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.commands import ROOT


class Ended(NamedTuple):
    """Exit status and output of a process."""

    status: int
    out: str

    @property
    def rows(self) -> list[int]:
        """Ids of the rows that a process of a run says it made."""
        return self._line("rows ")

    @property
    def last(self) -> dict[str, Any]:
        """What it says of its last state."""
        assert self.status == 0, self.out[-3000:]
        return self._line("final ")

    def _line(self, name: str) -> Any:
        return json.loads(next(line for line in self.out.splitlines() if line.startswith(name)).removeprefix(name))


# start(program, arguments of each process, devices of each, variables of all): they run at the same time.
Programs = Callable[..., list[Ended]]


@contextlib.contextmanager
def programs(folder: Path, **variables: str) -> Iterator[Programs]:
    """What starts programs, with their output kept in `folder`."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | variables
    command, pipe = [sys.executable, "-m", "tests.support.forked_programs"], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as server:
        stdin, stdout = server.stdin, server.stdout
        assert stdin is not None
        assert stdout is not None

        def start(
            program: str,
            arguments: Sequence[Sequence[str]],
            devices: int = 1,
            environment: dict[str, str] | None = None,
        ) -> list[Ended]:
            files = [folder / f"{number}.log" for number in range(len(arguments))]
            request = {"program": program, "arguments": [*map(list, arguments)], "devices": devices}
            request |= {"environment": environment or {}, "out": [*map(str, files)]}
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            statuses = json.loads(stdout.readline())
            return [Ended(status, file.read_text()) for status, file in zip(statuses, files, strict=True)]

        yield start
        stdin.close()
