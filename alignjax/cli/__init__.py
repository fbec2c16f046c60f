"""The command line: `alignjax init|train|explain|configs|evaluate|report|list|generate|chat|serve|sweep|..`.

Only the words are taken apart here and in `flags.py`. What a command does is in the file of its name, imported when it
runs, so that `alignjax --help` answers before jax could be imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import importlib
import itertools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from alignjax.cli.compile_cache import compile_quickly, keep_compiled_programs
from alignjax.cli.config_flags import Configs, ConfigsCopy
from alignjax.cli.explain_flags import Explain
from alignjax.cli.flags import (
    Chat,
    Evaluate,
    Export,
    Generate,
    Import,
    Init,
    Inspect,
    List,
    ModelsFetch,
    ModelsList,
    Prepare,
    Report,
    Sweep,
    Train,
)
from alignjax.cli.merge_flags import Merge
from alignjax.cli.number_words import plain_numbers
from alignjax.cli.report_flags import Compare, Watch
from alignjax.cli.serve_flags import Serve
from alignjax.outside import user_path, visible
from alignjax.outside.terminal import ready_streams, silence

USER_ERROR = 2
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What the system says of disks and names, wherever it is met, with what to do about it.
SYSTEM_SAYS = {
    **dict.fromkeys(DISK_FULL, "make room and run the command again"),
    errno.ENAMETOOLONG: "give a shorter one",
    errno.EACCES: "name one that you may read and write",
}
REPORT = "If the traceback ends in alignjax, please report it with these lines."
INTERRUPTED = 130

COMMANDS: dict[str, Any] = {
    "init": Init,
    "explain": Explain,
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "compare": Compare,
    "watch": Watch,
    "list": List,
    "generate": Generate,
    "chat": Chat,
    "serve": Serve,
    "sweep": Sweep,
    "configs": Configs,
    "configs copy": ConfigsCopy,
    "import": Import,
    "export": Export,
    "merge": Merge,
    "models list": ModelsList,
    "models fetch": ModelsFetch,
    "models import": Import,
    "data prepare": Prepare,
    "data inspect": Inspect,
}
SIMULATED_DEVICES = "--xla_force_host_platform_device_count"
COMPILING = ("train", "evaluate", "generate", "chat", "serve", "sweep")
# Their further flags are overrides of a config or a data set, or options of a behavior.
OPEN_ENDED = (Explain, Train, Evaluate, Generate, Serve, Prepare, Inspect)
DESCRIPTION = """Preference learning and self-play in JAX: run a config, look at what it made.
Errors end as a message and status 2; --traceback (or ALIGNJAX_TRACEBACK=1) shows where they arose."""


def parsed(name: str, words: Sequence[str]) -> tuple[Any, list[str]]:
    """Parses the words after the name of a command.

    Of a command that takes overrides, a flag that it does not have begins one, and the words up to the next flag are
    its value; so CONFIG stands before the first override.

    Args:
        name: A key of COMMANDS.
        words: The words.

    Returns:
        (flags of the command, words that override a config or a data set), the latter in order.

    Raises:
        ConfigError: A number is not in its flag's range.
    """
    # One command at a time, so that the hint at a misspelled flag is about this command.
    made: Any = tyro.cli(
        COMMANDS[name],
        registry=plain_numbers,
        prog=f"alignjax {name}",
        args=words,
        config=(tyro.conf.FlagCreatePairsOff,),
        return_unknown_args=COMMANDS[name] in OPEN_ENDED,
    )
    from alignjax.config import check_ranges  # noqa: PLC0415

    flags, overrides = made if COMMANDS[name] in OPEN_ENDED else (made, [])
    check_ranges(flags, lambda field: f"--{field.replace('_', '-')}")
    paths = {field: user_path(value) for field, value in vars(flags).items() if isinstance(value, Path)}
    return dataclasses.replace(flags, **paths), overrides


def _overview() -> None:
    """`alignjax --help`: every command with the first sentence of its help."""
    width = max(map(len, COMMANDS))
    print(f"usage: alignjax COMMAND ...\n\n{DESCRIPTION}\n\ncommands (alignjax COMMAND --help says more):")
    for name, command in COMMANDS.items():
        print(f"  {name:<{width}}  {' '.join((command.__doc__ or '').split()).partition('. ')[0].rstrip('.')}.")


def _groups() -> set[str]:
    return {name.partition(" ")[0] for name in COMMANDS if " " in name}


def _no_command(words: Sequence[str]) -> int:
    """Say that there is no such command, and which one was meant."""
    groups = _groups()
    name = " ".join(words[:2]) if words[0] in groups else words[0]
    close = difflib.get_close_matches(name, {*COMMANDS, *groups}, n=1, cutoff=0.5)
    meant = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(COMMANDS)}."
    print(f"error: there is no command {name!r}. {meant}", file=sys.stderr)
    return USER_ERROR


def run(argv: Sequence[str]) -> int:
    """Carries out one command line and returns its exit status."""
    group = argv[:1] and argv[0] in _groups() - {*COMMANDS} and set(argv[1:]) <= {"-h", "--help"}
    if not argv or argv[0] in ("-h", "--help") or group:
        _overview()
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version  # noqa: PLC0415

        print(f"alignjax {version('alignjax')}")
        return 0
    name = next((name for name in (" ".join(argv[:2]), argv[0]) if name in COMMANDS), None)
    if name is None:
        return _no_command(argv)
    command, words = COMMANDS[name], argv[name.count(" ") + 1 :]
    if hasattr(command, "describes") and {"-h", "--help"} & set(words) and not words[0].startswith("-"):
        return _function(command.describes)(words[0])
    _check_places(words)
    flags, overrides = parsed(name, words)
    return _function(command.runs)(*((flags, overrides) if command in OPEN_ENDED else (flags,)))


def _check_places(words: Sequence[str]) -> None:
    """Refuses an empty place to write to: an unset variable of the shell, which would mean this folder."""
    for flag in ("--run-dir", "--to", "--out"):
        if f"{flag}=" in words or (flag, "") in itertools.pairwise(words):
            from alignjax.config import ConfigError  # noqa: PLC0415

            raise ConfigError(f'{flag} is empty; name a folder or a file, "." for this folder')


def _function(place: str) -> Callable[..., int]:
    """Imports the function that `flags.py` names, "train.describe"."""
    file, _, name = place.partition(".")
    return getattr(importlib.import_module(f"alignjax.cli.{file}"), name)


def _plain_messages() -> None:
    """What alignjax logs goes to stderr as sentences, whatever other packages do to the root logger. A message is let
    through the first time: each step of a pipeline says again what it thinks of the same data."""
    logger, said = logging.getLogger("alignjax"), set()

    def once(record: logging.LogRecord) -> bool:
        message, before = record.getMessage(), len(said)
        said.add(message)
        return len(said) > before

    handler = logging.StreamHandler()
    handler.format = lambda record: visible(record.getMessage())  # which may hold words of data
    handler.addFilter(once)
    logger.handlers, logger.propagate = [handler], False


def is_users(error: BaseException) -> bool:
    """Tells whether an error's message alone says what to do: those that alignjax words itself, to which the boundary
    around all reading and writing turns the others. What is left is a bug, of ours or of the person's own function."""
    return isinstance(error, Exception) and type(error).__module__.partition(".")[0] == "alignjax"


def is_tiny(words: Sequence[str]) -> bool:
    """Tells whether a command line trains a mode of a few steps, CONFIG:tiny or CONFIG:NAME-tiny, whose numbers mean
    nothing."""
    modes = [word.rpartition(":")[2] for word in words if ":" in word and not word.startswith("-")]
    return words[:1] == ["train"] and "--dry-run" not in words and any(mode.endswith("tiny") for mode in modes)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line: the console entry point.

    Args:
        argv: the words after `alignjax`; those of the process if None.

    Returns:
        The exit status: 0, 1 for a bug, 2 for an error with a message, 75 where another process of the run cannot be
        reached, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # the process is ours, and with it how messages look and what is kept of it
        ready_streams()
        _plain_messages()
        if words[:1] and words[0] in COMPILING and not {"-h", "--help"} & set(words):
            keep_compiled_programs()
            if is_tiny(words):
                compile_quickly()
            if SIMULATED_DEVICES in os.environ.get("XLA_FLAGS", ""):
                from alignjax.parallel.processes import let_simulated_devices_meet  # noqa: PLC0415

                let_simulated_devices_meet()
    show = "--traceback" in words or os.environ.get("ALIGNJAX_TRACEBACK", "0") not in ("", "0")
    try:
        status = run([word for word in words if word != "--traceback"])
        sys.stdout.flush()
        return status
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `alignjax list | head`
        silence("stdout")
        return 0
    except Exception as error:
        return _said(error, show)


def _said(error: Exception, show: bool) -> int:
    """Says on stderr what ended a command, and returns its exit status."""
    if isinstance(error, OSError) and error.errno in SYSTEM_SAYS:  # wherever it is met, it is nobody's bug
        if error.errno in DISK_FULL:
            silence("stdout")
        where = f" for {visible(str(error.filename))}" if error.filename else ""
        print(f"error: {error.strerror}{where}; {SYSTEM_SAYS[error.errno]}", file=sys.stderr)
        return USER_ERROR
    users = is_users(error)
    if show or not users:
        print(visible(traceback.format_exc()), end="", file=sys.stderr)
    print(f"error: {visible(str(error))}", file=sys.stderr)
    if not users:
        print(f"Nobody expected this {type(error).__name__}. {REPORT}", file=sys.stderr)
    return getattr(error, "exit_status", USER_ERROR) if users else 1
