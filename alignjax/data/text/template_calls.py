"""Tool calls that a chat template leaves out of the text. It stands alone, for the process that renders templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

CALLED = "calledqzj"  # begins the name that a function is given to see whether calls of it are written


def unwritten_call(
    messages: Sequence[dict[str, Any]], text: str, written: Callable[[Sequence[dict[str, Any]]], str]
) -> tuple[int, str] | None:
    """Finds a tool call of which a template writes nothing.

    Args:
        messages: The messages.
        text: What the template writes for them.
        written: Writes other messages.

    Returns:
        (the number of the message, the name of the function that is called); None where all calls are written.
    """
    # The functions are called otherwise, and the template must write that: their names may stand in a list of tools as
    # well. A template that looks names up refuses strange ones; then the names themselves are looked for.
    marks: dict[str, tuple[int, str]] = {}
    marked = list(messages)
    for k, message in enumerate(messages):
        calls = [each for each in message.get("tool_calls") or () if _function_of(each)]
        names = [f"{CALLED}{k}x{number}z" for number in range(len(calls))]
        marks |= {name: (k, _function_of(each)["name"]) for name, each in zip(names, calls, strict=True)}
        if calls:
            renamed = [_renamed(each, name) for each, name in zip(calls, names, strict=True)]
            marked[k] = message | {"tool_calls": renamed}
    if not marks:
        return None
    try:
        text, sought = written(marked), {mark: mark for mark in marks}
    except Exception:  # a template may well refuse functions that no tool has
        sought = {mark: name for mark, (_, name) in marks.items()}
    return next((place for mark, place in marks.items() if sought[mark] not in text), None)


def _function_of(call: Any) -> Mapping[str, Any]:
    """The function of a tool call, which stands in it or is the call; {} where it has no name that is text."""
    function = call.get("function", call) if isinstance(call, dict) else {}
    return function if isinstance(function, dict) and isinstance(function.get("name"), str) else {}


def _renamed(call: dict[str, Any], name: str) -> dict[str, Any]:
    function = {**_function_of(call), "name": name}
    return {**call, "function": function} if "function" in call else {**call, "name": name}
