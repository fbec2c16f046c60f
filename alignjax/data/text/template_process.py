"""Chat templates rendered in a process of their own: one for all templates of this process, started when it is first
needed and again after a template has ended it.

A template comes with a data set or a model, from strangers. What it may do in the sandbox it may do without an end; in
a process with limits that ends in a sentence.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import logging
import marshal
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alignjax.config import ConfigError
from alignjax.data.text import template_worker
from alignjax.data.text.template_worker import receive, send

BLOCK = 128  # rows that are sent at once

# What the process gets of this one's environment: where its libraries and the time zone are, and no secrets.
_PASSED = ("TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")

_log = logging.getLogger("alignjax.data")


class TemplateProcess:
    """A process that renders templates, for any number of threads; see `template_worker` for what it is asked."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def rendered(
        self, template: str, words: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Returns the answer to each row: its texts, or {"bad": a sentence}. Rows are taken a block ahead, so that they
        are read while those before are rendered.

        Args:
            template: The text of the template.
            words: What else it reads in every row.
            rows: See `template_worker.Renderer.row`; values as JSON has them.

        Raises:
            ConfigError: The template does not compile, or takes more time or memory than a template may.
        """
        # The answer to a block is taken apart while the next one is rendered.
        rows, before = iter(rows), None
        block = list(itertools.islice(rows, BLOCK))
        while block:
            with self.lock:
                process = self._sent({"template": template, "words": dict(words), "rows": block})
                try:
                    block = list(itertools.islice(rows, BLOCK))
                    answers = [] if before is None else _taken_apart(*before)
                except BaseException:  # the answer that is now under way would be taken for the next one
                    self.close()
                    raise
                before = self._received(process)
            yield from answers
            if b'"stop"' in before[0] and (why := _stop(before[0])):
                raise ConfigError(f"{why}; use another one")
        if before is not None:
            yield from _taken_apart(*before)

    def close(self) -> None:
        """Ends the process, by the end of its input."""
        process, self.process = self.process, None
        if process is not None:
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=3)
            process.kill()

    def _sent(self, request: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        process = self.process if self.process is not None and self.process.poll() is None else self._started()
        with self._in_words(process):
            send(process.stdin, marshal.dumps(dict(request)))
        return process

    def _received(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        with self._in_words(process):
            return receive(process.stdout), receive(process.stdout)

    @contextlib.contextmanager
    def _in_words(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        try:
            yield
        except (EOFError, BrokenPipeError):
            raise ConfigError(f"the chat template {self._end_of(process)}; use another one") from None
        except BaseException:  # an interrupt: what is still to be said would be taken for the next answer
            self.close()
            raise

    def _started(self) -> subprocess.Popen[bytes]:
        # By the path of the file: `python -m` would import alignjax.data and with it jax. No fork of this process, in
        # which jax has threads; no site and no folder of the caller on the path of modules, and the file's own comes
        # last, so that nothing in it stands in for a library; pipes alone are shared.
        self.close()
        paths = [
            str(Path(path).absolute()) for path in (*filter(None, sys.path), Path(template_worker.__file__).parent)
        ]
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        self.process = process = subprocess.Popen(
            [sys.executable, "-S", "-P", "-B", template_worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pipesize=2**20,  # a block passes in one piece; ignored where a system has no such setting
            env={**passed, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert process.stdout is not None
        try:
            hello = json.loads(receive(process.stdout))
        except EOFError:
            raise ConfigError(f"the process that renders chat templates {self._end_of(process)}") from None
        if not hello["memory_limited"]:
            _log.warning("chat templates are rendered without a limit on memory, which this system does not set")
        return process

    def _end_of(self, process: subprocess.Popen[bytes]) -> str:
        """How a process ended, in words."""
        assert process.stderr is not None
        status, said = process.wait(), process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        self.close()
        if status == -getattr(signal, "SIGXCPU", 0):
            return f"takes more than {template_worker.SECONDS:g} s of computing for one row"
        return f"ended its process with status {status}" + (f" ({said[-1]})" if said else "")


def _stop(numbers: bytes) -> str:
    """The sentence of an answer that nothing further is rendered after; "" if it only looks like one."""
    answer = json.loads(numbers)
    return next((row["stop"] for row in (answer, *answer["rows"]) if isinstance(row, dict) and "stop" in row), "")


def _taken_apart(numbers: bytes, texts: bytes) -> list[dict[str, Any]]:
    """The answers to a block out of their numbers, in which a text is its length, and all texts."""
    text, place, answers = texts.decode("utf-8", "surrogatepass"), 0, []
    for row in json.loads(numbers)["rows"]:
        if isinstance(row, dict):
            answers.append(row)
            continue
        size, slots, ends, learned = row
        answer = {"prompt": text[place : place + size], "slots": slots, "ends": [], "learned": learned}
        place += size
        for length, stop in ends:
            answer["ends"].append((text[place : place + length], stop))
            place += length
        answers.append(answer)
    return answers


@functools.lru_cache(maxsize=1)
def _of_process(number: int) -> TemplateProcess:
    """The one of this process: a fork must not read its parent's pipes."""
    return TemplateProcess()


def rendered(template: str, words: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Renders rows in the process that this one has for it; see `TemplateProcess.rendered`."""
    return _of_process(os.getpid()).rendered(template, words, rows)
