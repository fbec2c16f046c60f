"""A verifier of programs: unit tests in a process without network, with limits on time, memory, processes and files."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.asking import declares
from alignjax.config import ConfigError
from alignjax.ranges import Count, Positive
from alignjax.verifiers import contained_process
from alignjax.verifiers.extraction import text_of

_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
STARTING = 10.0  # seconds beyond those of the programs


class Ended(NamedTuple):
    """How a program ended: its exit status, negative the signal that ended it, "late", or "processes" where it started
    too many; and what it wrote."""

    status: int | str
    output: str


class NotContained(RuntimeError):
    """The system does not let a program run without network and with files that it can only read."""


def contained(
    programs: Sequence[tuple[str, str]],
    *,
    seconds: Positive = 10.0,
    mebibytes: Count = 1024,
    processes: Count = 16,
    file_mebibytes: Count = 16,
    required: bool = True,
    errors: bool = False,
) -> list[Ended]:
    """Runs programs of strangers in Python, one after another, in one container.

    Args:
        programs: (source, input) of each.
        seconds: Time of each program.
        mebibytes: Address space of each process.
        processes: Processes and threads at a time.
        file_mebibytes: The largest file; four times as much is all that can be written.
        required: Raises where the system has no containment; else programs run with limits alone.
        errors: Reads the beginning of what programs write to stderr too.

    Raises:
        NotContained: The system cannot contain programs.
        RuntimeError: The container itself ended.
    """
    # One process sets the container up, from a file that imports nothing of alignjax, and says how each program ended.
    # The folder is the only place that programs can write to, and what they wrote there is on no disk.
    with tempfile.TemporaryDirectory(prefix="alignjax-tests-", ignore_cleanup_errors=True) as folder:
        request = {
            "folder": folder, "programs": [{"source": source, "input": given} for source, given in programs],
            "seconds": seconds, "mebibytes": mebibytes, "processes": processes, "file_bytes": file_mebibytes * 2**20,
            "required": required, "errors": errors,
        }  # fmt: skip
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-B", contained_process.__file__],
                input=json.dumps(request).encode(),
                capture_output=True,
                timeout=seconds * len(programs) + STARTING,
                env={},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return [Ended("late", "")] * len(programs)
    if not done.stdout:
        raise RuntimeError(f"the container of programs ended with status {done.returncode}: {done.stderr[-300:]!r}")
    answer = json.loads(done.stdout)
    if answer["missing"] and required:
        raise NotContained(f"this system does not give a program {', '.join(answer['missing'])}")
    if answer["ended"] is None:
        return [Ended("processes", "")] * len(programs)
    return [Ended(each["status"], each["output"]) for each in answer["ended"]]


@functools.cache
def _refusal() -> str:
    """Why programs cannot be contained here; "" if they can."""
    try:
        (ended,) = contained([("print(1)", "")])
    except NotContained as error:
        return str(error)
    return "" if ended == Ended(0, "1\n") else f"a program in a container ended with {ended.status}"


def _check_contained(containment: bool, **settings: Any) -> None:
    if containment and (refusal := _refusal()):
        raise ConfigError(
            f"verifiers.unit_tests runs what a model writes, and {refusal}; run where namespaces of users are allowed, "
            "or say containment=False, by which it has the network, the files and the rights of this process"
        )


def _sources(code: str, tests: Any, setup: str) -> list[tuple[str, str, str | None]]:
    """(source, input, expected output) of each test of a row."""
    if isinstance(tests, Mapping) and "inputs" in tests and "outputs" in tests:
        pairs = zip(tests["inputs"], tests["outputs"], strict=True)
        return [(f"{setup}\n{code}\n", str(given), str(wanted)) for given, wanted in pairs]
    if isinstance(tests, str) or (isinstance(tests, Sequence) and all(isinstance(each, str) for each in tests)):
        every = [tests] if isinstance(tests, str) else list(tests)
        return [(f"{setup}\n{code}\n{test}\n{_LAST}", "", _DONE) for test in every]
    raise ValueError("tests are a text of Python, a list of such, or {inputs: [..], outputs: [..]}")


# A program that ends early, `sys.exit(0)` in the middle, has not passed what follows.
_DONE = "alignjax: all of the test was run\n"
_LAST = f"import os as _os; _os.write(1, {_DONE.encode()!r})\n"


@declares(check=_check_contained, columns=["column"])
def unit_tests(
    completions: Sequence[Any],
    *,
    column: str = "tests",
    setup: str = "",
    share: bool = False,
    seconds: Positive = 10.0,
    mebibytes: Count = 1024,
    processes: Count = 16,
    file_mebibytes: Count = 16,
    containment: bool = True,
    **columns: Sequence[Any],
) -> list[float | None]:
    """Runs the Python in a completion's last block ``` (without one, all of it) against the tests of its row.

    A test sees no network, no other processes, and files that it can only read but those of its own folder, which is
    gone afterwards. What is written for a test's own process can read the test: a reward of this kind holds for models
    that are not trained to search for that.

    Args:
        completions: Texts or messages.
        column: The column of the tests: Python that raises where the code is wrong, a list of such, each a test, or
            {"inputs": [..], "outputs": [..]} of a program that reads and prints.
        setup: Python in front of each program.
        share: The share of tests that pass; else 1.0 if all do and 0.0 if not.
        seconds: Time of each test.
        mebibytes: Address space of each process.
        processes: Processes and threads at a time.
        file_mebibytes: The largest file that a test can write.
        containment: Refuses to run where the system cannot keep programs off the network and from files.
        **columns: The columns.

    Returns:
        A number in [0, 1] for each completion, None where the row has no tests.
    """
    marks: list[float | None] = []
    for completion, tests in zip(completions, columns[column], strict=True):
        if not tests:
            marks.append(None)
            continue
        blocks = _FENCED.findall(text := text_of(completion))
        every = _sources(blocks[-1] if blocks else text, tests, setup)
        limits = {"seconds": seconds, "mebibytes": mebibytes, "processes": processes, "file_mebibytes": file_mebibytes}
        ended = contained([(source, given) for source, given, _ in every], required=containment, **limits)
        passed = [_passed(each, wanted) for each, (_, _, wanted) in zip(ended, every, strict=True)]
        marks.append(sum(passed) / len(passed) if share else float(all(passed)))
    return marks


def _passed(ended: Ended, wanted: str | None) -> bool:
    """Whether a program ended well and printed what it should, but for spaces at the ends of lines."""
    if ended.status != 0 or wanted is None:
        return False
    if wanted is _DONE:
        return ended.output.endswith(_DONE)
    return [line.rstrip() for line in ended.output.rstrip().splitlines()] == [
        line.rstrip() for line in wanted.rstrip().splitlines()
    ]
