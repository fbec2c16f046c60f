"""The examples of docs/data.md run, and print what stands below them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from alignjax.cli import main
from alignjax.data.datasets.known_layouts import LAYOUTS, TEXT
from alignjax.data.datasets.layout_fields import columns
from alignjax.data.datasets.row_layout import Layout, serves
from tests.support.chat_families import Family, write_tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
TEMPLATE = """{%- for m in messages %}{{- '<|' + m.role + '|>' + (m.content or '') }}
{%- for call in m.tool_calls or [] %}{{- call.function | tojson }}{%- endfor %}{{- '<|end|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    commands = re.findall(r"^    alignjax (.*)$", PAGE, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        assert main(shlex.split(command)) == 0
        assert "prompt, chosen and rejected" in capsys.readouterr().out


def test_the_layout_of_ones_own_reads() -> None:
    (code,) = (text for kind, text in BLOCKS if kind == "python" and "Layout(" in text)
    (layout,) = eval(code, {"Layout": Layout, "TEXT": TEXT, "serves": serves, "columns": columns})
    row = {"question": "q", "good_reply": "a", "bad_reply": "b"}
    assert layout.reads["Preferences"](row) == {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert layout.name not in {each.name for each in LAYOUTS}


def test_the_conversation_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (text for kind, text in BLOCKS if kind == "python" and "talks.jsonl" in text)
    (row,) = (text for kind, text in BLOCKS if kind == "json")
    (printed,) = (text for kind, text in BLOCKS if kind == "" and text.startswith("prompt: <|user|>"))
    marks = ("<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
    write_tokenizer(tmp_path / "model", Family(TEMPLATE, marks, None, "<|end|>", "<|end|>"))
    (tmp_path / "talks.jsonl").write_text(row.replace("\n", ""))
    exec(code, {})
    assert capsys.readouterr().out.endswith(printed)
