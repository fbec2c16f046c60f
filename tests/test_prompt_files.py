"""Odd rows of prompts: taken whole, or refused by line in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignjax.cli.generate import _last_words, _show_alpaca_eval
from alignjax.cli.prompt_files import Row, read_prompts
from alignjax.config import ConfigError, DataError

ASKED = [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ('{"prompt": "a", "messages": null}', "a"),
        ('{"instruction": "Translate.", "input": "Hund", "output": "dog"}', "Translate.\n\nHund"),
        ('{"instruction": "Sing.", "input": "", "context": " "}', "Sing."),
        ('{"prompt": "Why?", "system": "Brief."}', [{"role": "system", "content": "Brief."}, *ASKED]),
        ('{"messages": [{"role": "user", "content": "Why?"}], "tools": [], "images": null}', ASKED),
        ('{"prompt": "a\\u2028b", "id": 18446744073709551616}', "a\u2028b"),
    ],
)  # fmt: skip
def test_rows_are_taken_whole(line: str, prompt: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f"\n{line}\r\n", encoding="utf-8")
    (row,) = read_prompts(tmp_path / "rows.jsonl")
    assert row.prompt == prompt
    array = tmp_path / "rows.json"
    array.write_text(f"[{line}]", encoding="utf-8")
    assert [each.prompt for each in read_prompts(array)] == [prompt]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", "instruction": "b"}', "it has prompt and instruction, and which is the prompt is not known"),
        ('{"prompt": "a", "context": "read this"}', "column 'context' would change the prompt"),
        ('{"prompt": "a", "tools": [{"name": "f"}]}', "column 'tools' would change the prompt"),
        ('{"messages": [{"role": "user", "content": "b"}], "images": ["x.png"]}', "column 'images' would change"),
        ('{"prompt": "a", "system": ["b"]}', "its system column is no text"),
        ('{"prompt": [{"role": "system", "content": "b"}], "system": "c"}', "beside that of its system column"),
        ('{"instruction": "a", "input": {"b": 1}}', "input"),
        ('{"instruction": 3}', "text"),
        ('{"prompt": "a", "score": 1e999}', "too large for any float"),
        ('{"prompt": null}', 'not a JSON object with a text "prompt"'),
        ('{"prompt": "\\udc00"}', 'not a JSON object with a text "prompt"'),
        ('{"messages": [{"role": "assistant", "content": "b"}]}', "nothing is left to answer"),
        ('{"prompt": "a"', "rows.jsonl:2"),
        ("3", "rows.jsonl:2"),
    ],
)
def test_rows_that_would_lose_something_are_refused_by_line(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"prompt": "good"}}\n{line}\n')
    with pytest.raises((ConfigError, DataError)) as raised:
        read_prompts(tmp_path / "rows.jsonl")
    assert words in str(raised.value)
    assert "rows.jsonl:2" in str(raised.value)


def test_what_alpaca_eval_reads_holds_all_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Parts of text are joined; columns called as its own give way."""
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "\x1b[1mb"}]}]
    assert _last_words(parts) == "a\x1b[1mb"
    assert _last_words([{"role": "tool", "content": None}]) == ""
    opened: Any = type("Opened", (), {"name": "tiny"})
    _show_alpaca_eval(opened, Row(parts, {"dataset": "x", "output": "theirs"}), [{"text": "ours"}], 0)
    line = capsys.readouterr().out
    assert "\x1b" not in line
    assert json.loads(line) == {"dataset": "x", "instruction": "a\x1b[1mb", "output": "ours", "generator": "tiny"}
