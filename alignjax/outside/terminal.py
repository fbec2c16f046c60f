"""Texts on a terminal: nothing from data steers it, is read as markup, or fails because it cannot be encoded."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but line feeds and tabs, escape sequences with them; marks that turn the direction of text around;
# line ends that only some programs know; halves of surrogate pairs.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Returns a text with what would steer a terminal written out, such as \x1b; line feeds and tabs stay."""
    return _STEERING.sub(lambda found: ascii(found.group())[1:-1], text)


def visible_json(text: str) -> str:
    r"""Returns a JSON text that means the same and cannot steer a terminal: \u009b for what JSON leaves as it is."""
    return _STEERING.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def console(*, stderr: bool = False, **settings: Any) -> Console:
    """Returns a console that shows what it is given as it is: without markup, and `visible`.

    Args:
        stderr: Whether it writes to standard error.
        settings: Further settings of rich's Console.
    """
    from rich.console import Console  # noqa: PLC0415 (a loss needs none)

    made = Console(**{"stderr": stderr, "markup": False, "highlight": False, "emoji": False, **settings})
    # All that is printed passes through `render` as segments: text of data on its own, rich's codes for colors apart.
    # Strings are changed before that already, so that columns are as wide as what is shown.
    render, made_text = made.render, made.render_str
    made.render_str = lambda text, **named: made_text(visible(text), **named)  # type: ignore[method-assign]

    def rendered(*arguments: Any, **named: Any) -> Any:
        for segment in render(*arguments, **named):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    made.render = rendered  # type: ignore[method-assign]
    made.on_broken_pipe = _reader_gone  # type: ignore[method-assign]
    return made


@contextlib.contextmanager
def progress_bar(title: str, total: int, unit: str = "bytes") -> Iterator[Callable[[int, int], None]]:
    """Yields show(done, rows), which draws on standard error how far long work on rows is: after a second, and nothing
    where that is no terminal.

    Args:
        title: The work.
        total: All there is to do.
        unit: What `done` and `total` count: "bytes", which are shown as MB, or "rows".
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    shown = console(stderr=True)
    if not shown.is_terminal:
        yield lambda done, rows: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown, transient=True) as bar:
        task, begun = bar.add_task(visible(title), total=total, visible=False, counts=""), time.monotonic()

        def show(done: int, rows: int) -> None:
            counts = f"{rows:,} rows" + (f", {done / 1e6:,.0f} MB of {total / 1e6:,.0f} MB" if unit == "bytes" else "")
            bar.update(task, completed=done, counts=counts, visible=time.monotonic() - begun > 1)

        yield show


def _reader_gone() -> None:
    """What rich takes for a failure is a reader that has seen enough: `alignjax list | head`."""
    raise BrokenPipeError


def ready_streams() -> None:
    """Makes this process's standard output and error take any text: what their encoding lacks is written as escapes,
    and a stream that was closed swallows what it is sent."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def silence(name: str) -> None:
    """Points a standard stream at nothing: its reader has gone, and Python would say so once more at the end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), getattr(sys, name).fileno())
