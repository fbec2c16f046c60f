"""Shapes of the values of a row, by which layouts are told, and messages in the one form that all else reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from alignjax.data.datasets.parsing import BadRow, checked_text
from alignjax.data.text.chat import ASSISTANT, HUMAN
from alignjax.outside import Huge, Unreadable, parse_json

# What a value may be, by name, in the words of messages.
SHAPES = {
    "text": "text",
    "transcript": "a transcript of Human: and Assistant:",
    "truth": "true or false",
    "number": "a number",
    "texts": "a list of texts",
    "numbers": "a list of numbers",
    "talk": "a whole conversation",
    "reply": "one message of the assistant",
    "from_talk": "a conversation of {from, value}",
    "from_reply": "one message of {from, value}",
    "talks": "a list of conversations",
    "objects": "a list of objects",
    "object": "an object",
    "list": "a list",
    "other": "no text, number, list or object",
}
ANY: frozenset[str] = frozenset()  # a column that may hold whatever it does: what is wrong with it is said of the field


def shapes(*names: str, but: str = "") -> frozenset[str]:
    """Returns a set of shapes: those that are named, or all but some.

    Args:
        names: Keys of SHAPES; none for all.
        but: Those that are not among them, with spaces between.
    """
    chosen = frozenset(names or SHAPES) - set(but.split())
    if unknown := (chosen | set(but.split())) - set(SHAPES):
        raise ValueError(f"no such shapes: {sorted(unknown)}")
    return chosen


def shape_of(value: Any) -> str:
    """Returns the shape of a value, a key of SHAPES.

    Args:
        value: The value of a column, after `plain`.
    """
    if isinstance(value, str):
        return "transcript" if ASSISTANT in value and value.lstrip().startswith(HUMAN.strip()) else "text"
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float | Decimal | Huge):
        return "number"
    if isinstance(value, Mapping):
        return "from_reply" if {"from", "value"} <= value.keys() else "object"
    return _shape_of_list(value) if isinstance(value, list) else "other"


def _shape_of_list(value: list[Any]) -> str:
    if not value:
        return "list"
    if all(isinstance(each, str) for each in value):
        return "texts"
    if all(isinstance(each, int | float | Decimal | Huge) for each in value):
        return "numbers"
    if all(isinstance(each, list) for each in value):
        return "talks"
    if not all(isinstance(each, Mapping) for each in value):
        return "list"
    if "role" in value[0]:
        return "talk" if len(value) > 1 or value[0]["role"] != "assistant" else "reply"
    if {"from", "value"} <= value[0].keys():
        return "from_talk"
    return "objects"


# What some sets write of a message to say whether it is learned, and the value that says nothing new.
LEARNS = {"weight": 1, "train": True, "training": True}


def plain(value: Any) -> Any:
    """Returns messages with their content as text where it is in parts of type text, and one message as a list of it.

    Args:
        value: The value of a column; what are no messages is returned as it is.

    Raises:
        BadRow: A part is of another type.
    """
    if isinstance(value, Mapping) and "role" in value and {"content", "tool_calls", "function_call"} & value.keys():
        return plain([value])
    if not isinstance(value, list) or not any(isinstance(turn, Mapping) for turn in value):
        return value
    return [_plain_turn(turn) for turn in value]


def _plain_turn(turn: Any) -> Any:
    if isinstance(turn, Mapping) and "role" in turn:
        flag = next((name for name, value in LEARNS.items() if turn.get(name, value) != value), "")
        if flag:
            raise BadRow(
                f"a message has a {flag}, which is not read: leave the row out, or the {flag}", str(turn[flag])[:40]
            )
    turn = _named_as_templates_do(turn) if isinstance(turn, Mapping) else turn
    parts = turn.get("content") if isinstance(turn, Mapping) else None
    if not isinstance(parts, list):
        return turn
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise BadRow("a message has a part that is not text", f"of type {str(kind)[:40]!r}")
    return {**turn, "content": "".join(part["text"] for part in parts)}


def _named_as_templates_do(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message whose speaker is called as templates call him (user for Human, assistant for model or AI), with a call
    of OpenAI's older form, of which templates write nothing, in the newer."""
    role, call = turn.get("role"), turn.get("function_call")
    known = SPEAKERS.get(role.lower()) if isinstance(role, str) else None
    if known in ("user", "assistant", "system") and role != known:
        turn = {**turn, "role": known}
    if isinstance(call, Mapping) and turn.get("role") == "assistant":
        rest = {name: value for name, value in turn.items() if name != "function_call"}
        calls = [*(turn.get("tool_calls") or ()), {"type": "function", "function": dict(call)}]
        turn = {**rest, "tool_calls": calls}
    return turn


def from_text(value: Any, column: str) -> Any:
    """Returns messages that are written as JSON in a text, as cells of tables hold them; any other value as it is.

    Args:
        value: The value of a column.
        column: Its name, for messages.

    Raises:
        BadRow: They are written as Python does, in single quotes.
    """
    opening = (
        re.match(r"\s*\[\s*\{\s*(['\"])(?:role|content|from|value)\1\s*:", value) if isinstance(value, str) else None
    )
    if opening is None:
        return value
    if opening[1] == "'":
        raise BadRow(f"field {column!r} holds messages as Python writes them: write JSON, or the rows as JSON lines")
    return json_value(value, f"field {column!r}")


# ---------------------------------------------------------------------------------------------- other forms of messages

SPEAKERS = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bot", "bing", "bard", "ai"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
    **{name: name for name in ("system", "developer")},
}


def messages_from(turns: Any, column: str) -> list[dict[str, Any]]:
    """Returns the turns of ShareGPT, {from, value} each, as messages; a call of functions becomes the assistant's.

    Args:
        turns: The list of turns, or one of them.
        column: The column that holds them, for messages.

    Raises:
        BadRow: A turn is from nobody who is known, or is no text, or a call is not JSON.
    """
    turns = [turns] if isinstance(turns, Mapping) else turns
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise BadRow(f"field {column!r} is not a list of {{from, value}} turns")
    return [_message(turn, column) for turn in turns]


def _message(turn: Mapping[str, Any], column: str) -> dict[str, Any]:
    speaker, value = turn.get("from"), turn.get("value")
    role = SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise BadRow(f"field {column!r} has a turn from nobody who is known", str(speaker)[:40])
    if not isinstance(value, str):
        raise BadRow(f"field {column!r} has a turn whose value is {type(value).__name__}, must be text")
    if role == "assistant" and turn.get("weight") not in (None, 1):
        raise BadRow(
            "a message has a weight, which is not read: leave the row out, or the weight", str(turn["weight"])[:40]
        )
    if role != "call":
        return {"role": role, "content": value}
    calls = json_value(value, f"a call in {column!r}")
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise BadRow(f"field {column!r} has a call without the name of a function")
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": c} for c in calls]}


def json_value(text: str, what: str) -> Any:
    """Returns what a text says in JSON.

    Args:
        text: The text.
        what: What it is, for messages.

    Raises:
        BadRow: It is not JSON.
    """
    try:
        return parse_json(text)
    except Unreadable as error:
        raise BadRow(f"{what} is not JSON", error.where or text[:40]) from None


def messages_in(text: str, column: str) -> list[dict[str, str]]:
    """Returns the turns of a transcript with "Human:" and "Assistant:" as messages.

    Args:
        text: The transcript; turns begin after a blank line.
        column: The column that holds it, for messages.

    Raises:
        BadRow: It does not begin with one of them.
    """
    return _split(rf"(?:^|\n\n)({HUMAN.strip()}|{ASSISTANT.strip()})", text.lstrip("\n"), column, "")


def marked_messages(text: Any, column: str) -> list[dict[str, str]]:
    """Returns a prompt of HelpSteer as messages; from the second turn on they begin with <extra_id_1>User or Assistant.

    The first may begin so too, behind the system's after <extra_id_0>System; the last may be a mark of the assistant's
    turn, which is to be filled.

    Args:
        text: The prompt.
        column: The column that holds it, for messages.

    Raises:
        BadRow: It is no text, or blank, or a mark is of nobody who is known.
    """
    marks = r"(?:^|\s*?\n)[ \t]*<extra_id_[01]>(User|Assistant|System)[ \t\r]*(?:\n|$)"
    turns = _split(marks, checked_text(text, column), column, "User")
    if not turns[0]["content"] and len(turns) > 1:
        turns = turns[1:]
    if turns[-1] == {"role": "assistant", "content": ""} and len(turns) > 1:
        turns = turns[:-1]
    return [{**turn, "content": unmarked(turn["content"], column)} for turn in turns]


def unmarked(text: str, column: str) -> str:
    """Returns a text of HelpSteer that holds no mark of a turn. Raises BadRow for another one.

    Args:
        text: The text.
        column: The column that holds it, for messages.
    """
    if mark := re.search(r"<extra_id_\d+>\w*", text):
        raise BadRow(f"field {column!r} has the mark of a turn where none begins", mark[0][:40])
    return text


def _split(mark: str, text: str, column: str, first: str) -> list[dict[str, str]]:
    """The turns of a text between marks whose first group says who speaks; `first` does before any mark."""
    opening, *rest = re.split(mark, text)
    if not first and opening.strip():
        raise BadRow(f"field {column!r} does not begin with Human: or Assistant:")
    turns = [(first, opening), *zip(rest[::2], rest[1::2], strict=True)]
    roles = {"Human:": "user", "User": "user", "System": "system"}
    return [{"role": roles.get(who, "assistant"), "content": said.strip()} for who, said in turns[0 if first else 1 :]]


def with_system(turns: Sequence[Mapping[str, Any]], system: Any) -> list[Mapping[str, Any]]:
    """Returns messages behind the system's, which stands in a column of its own.

    Args:
        turns: The messages.
        system: What the column holds; nothing where it is blank or there is none.

    Raises:
        BadRow: It is no text, or the messages begin with another one of the system.
    """
    if system is None or (isinstance(system, str) and not system.strip()):
        return list(turns)
    said = checked_text(system, "system")
    if turns and turns[0].get("role") == "system":
        if turns[0].get("content") != said:
            raise BadRow("column 'system' and the first message are two prompts of the system")
        return list(turns)
    return [{"role": "system", "content": said}, *turns]
