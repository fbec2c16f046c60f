"""Prompts as people write them down: lines of text, JSON lines or a JSON array of texts and conversations."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from alignjax.config import ConfigError
from alignjax.data.datasets import layouts
from alignjax.data.datasets.layout_fields import alpaca
from alignjax.data.datasets.parsing import BadRow, is_text
from alignjax.outside import Unreadable, decoded, parse_json, read_text, reading

Prompt: TypeAlias = str | list[dict[str, Any]]  # text, or messages

FIELDS = ("prompt", "messages", "instruction")  # of a row, one of which holds the prompt
ADVICE = 'write a JSON object with a "prompt", text or a list of messages'


class Row(NamedTuple):
    """A prompt, and the other columns that its row has."""

    prompt: Prompt
    beside: dict[str, Any]


def read_prompts(file: Path, system: str | None = None) -> list[Row]:
    """Reads the prompts of a file, all of them before the first is answered.

    A file is one of JSON lines if its name says so or its first line is an object with one of FIELDS, and a JSON array
    if it begins as one of objects does; else each line is a prompt.

    Args:
        file: The file; - is standard input.
        system: A system message in front of every prompt.

    Raises:
        ReadError: It cannot be read, or a row is no prompt; its number is said.
        ConfigError: There is no such file, or a conversation has a system message beside `system`.
    """
    text = _text_of(file)
    values = _rows_of(file, text)
    rows = [Row(*value) for value in values] if values is not None else [Row(line, {}) for _, line in _lines(text)]
    if system is None:
        return rows
    return [row._replace(prompt=with_system(row.prompt, system)) for row in rows]


def with_system(prompt: Prompt, system: str) -> list[dict[str, Any]]:
    """Returns a prompt as messages behind a system message.

    Args:
        prompt: A text, which becomes the user's message, or messages.
        system: The content of the system message.

    Raises:
        ConfigError: The messages begin with a system message of their own.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if messages and messages[0].get("role") == "system":
        raise ConfigError("a prompt has a system message of its own; leave out --system, or take it out there")
    return [{"role": "system", "content": system}, *messages]


def _text_of(file: Path) -> str:
    if str(file) == "-":
        with reading("standard input", "give it text in UTF-8"):
            return decoded(sys.stdin.buffer.read()) if hasattr(sys.stdin, "buffer") else sys.stdin.read()
    if not file.exists():
        raise ConfigError(f"no such prompt file: {file}")
    return read_text(file, "save it as UTF-8, one prompt a line")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1 on."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _rows_of(file: Path, text: str) -> list[tuple[Prompt, dict[str, Any]]] | None:
    """The rows of JSON in a file; None for a file of plain lines."""
    if text.lstrip().startswith("[") and text.lstrip()[1:].lstrip().startswith("{"):
        with reading(file, "write a JSON array of objects, each with a prompt"):
            values = parse_json(text)
        return [_row(value, f"element {number} of {file}") for number, value in enumerate(values, start=1)]
    if ".jsonl" not in file.suffixes and not _looks_like_rows(text):
        return None
    rows = []
    for number, line in _lines(text):
        with reading(f"{file}:{number}", ADVICE):
            value = parse_json(line)
        rows.append(_row(value, f"{file}:{number}"))
    return rows


def _looks_like_rows(text: str) -> bool:
    """Tells whether the first line is an object that has a prompt."""
    first = next((line for _, line in _lines(text)), "")
    try:
        value = parse_json(first) if first.lstrip().startswith("{") else None
    except Unreadable:
        return False
    return isinstance(value, dict) and any(name in value for name in FIELDS)


def _row(value: Any, place: str) -> tuple[Prompt, dict[str, Any]]:
    """(prompt, other columns) of a row."""
    with reading(place, ADVICE):
        names = [name for name in FIELDS if isinstance(value, dict) and value.get(name) is not None]
        if len(names) > 1:
            raise Unreadable(f"it has {' and '.join(names)}, and which is the prompt is not known")
        prompt = value[names[0]] if names else None
        if prompt is None or not (isinstance(prompt, list) or is_text(prompt)):
            raise Unreadable('not a JSON object with a text "prompt", or one of messages')
        last = prompt[-1] if isinstance(prompt, list) and prompt else None
        if isinstance(last, dict) and last.get("role") == "assistant":
            raise Unreadable("its last message is the assistant's, so nothing is left to answer; take that out")
        prompt = _whole_prompt(value, names[0], prompt)
        try:
            json.dumps(value)
        except TypeError:
            raise Unreadable("it holds a number that is too large for any float") from None
    return prompt, {name: each for name, each in value.items() if name not in names}


def _whole_prompt(row: dict[str, Any], name: str, prompt: Any) -> Any:
    """A prompt with what other columns say of it, as data sets read them: the input of an instruction behind it, a
    system message before. Raises Unreadable for columns that would change it and are not read."""
    parts = [part for part in layouts.PARTS if isinstance(row.get(part), str) and row[part].strip()]
    if name == "instruction":
        try:
            prompt, parts = alpaca(row)["prompt"], []
        except BadRow as error:
            raise Unreadable(str(error)) from None
    for column in (*layouts.CHANGING, "tools", *(parts if isinstance(prompt, str) else ())):
        if row.get(column):
            raise Unreadable(f"column {column!r} would change the prompt and is not read: write it into the prompt")
    systems = [row[column] for column in layouts.SYSTEM if row.get(column)]
    for said in systems[:1]:
        if len(systems) > 1 or not is_text(said):
            raise Unreadable("its system column is no text, or there are two")
        try:
            prompt = with_system(prompt, said)
        except ConfigError:
            raise Unreadable("its messages have a system message beside that of its system column") from None
    return prompt
