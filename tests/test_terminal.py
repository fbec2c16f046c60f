"""What reaches a terminal: texts of data as they are, and nothing in them that would steer it."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from alignjax.cli import main
from alignjax.outside import console, visible, visible_json
from alignjax.outside.terminal import ready_streams

STEERING = "a\x1b[31m\x07\r\x9b\u202e\u2066\u2028\ud800z"
SHOWN = "a\\x1b[31m\\x07\\r\\x9b\\u202e\\u2066\\u2028\\ud800z"


def test_what_steers_a_terminal_is_written_out() -> None:
    assert visible(STEERING) == SHOWN
    assert visible("tab\tline\n\u6211 caf\u00e9 _x_ [bold] \U0001f469\u200d\U0001f680") == (
        "tab\tline\n\u6211 caf\u00e9 _x_ [bold] \U0001f469\u200d\U0001f680"
    )
    text = json.dumps(STEERING, ensure_ascii=False)
    assert json.loads(visible_json(text)) == STEERING
    assert visible_json(text).isprintable()


def test_a_console_shows_data_as_it_is() -> None:
    stream = io.StringIO()
    shown = console(file=stream, width=200, force_terminal=True, color_system=None)
    table = Table(title="[red]t[/red]")
    table.add_row("[bold]b_a_s_e[/bold] \x1b[2J", "\u202eturned")
    shown.print(Text("\x1b[0m"))
    shown.print(table)
    shown.print("[link=x]y[/link] :smile: \x9b1m")
    said = stream.getvalue()
    assert "[red]t[/red]" in said
    assert "[bold]b_a_s_e[/bold] \\x1b[2J" in said
    assert "\\u202eturned" in said
    assert "\\x1b[0m" in said
    assert "[link=x]y[/link] :smile: \\x9b1m" in said
    assert not {"\x1b", "\x9b", "\u202e"} & set(said)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_takes_any_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", None)
    ready_streams()
    print("\u6211 \ud800")
    print("lost", file=sys.stderr)
    sys.stdout.flush()
    assert raw.getvalue().decode(encoding) in ("\\u6211 \\ud800\n", "\u6211 \\ud800\n")
    sys.stderr.close()


def test_errors_show_words_of_data_and_bugs_ask_for_a_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "no\x1b[31m_such_.py"]) == 2
    said = capsys.readouterr().err
    assert "no\\x1b[31m_such_.py" in said
    assert "\x1b" not in said
    (tmp_path / "bug.py").write_text("raise ZeroDivisionError('\\x1b')\n")
    assert main(["train", "bug.py"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "please report it" in said
    assert "\x1b" not in said
    (tmp_path / "full.py").write_text("raise OSError(28, 'No space left on device')\n")
    monkeypatch.setattr("alignjax.cli.silence", lambda name: None)
    assert main(["train", "full.py"]) == 2
    assert capsys.readouterr().err == "error: No space left on device; make room and run the command again\n"
    for words in (["train", "a" * 300], ["generate", "a" * 300], ["data", "inspect", "a" * 300], ["import", "a" * 300]):
        assert main([*words, *(["--to", "b"] if words[0] == "import" else [])]) == 2
        assert re.fullmatch(r"error: File name too long for .*; give a shorter one\n", capsys.readouterr().err)
    (tmp_path / "closed.py").write_text("raise PermissionError(13, 'Permission denied', 'closed')\n")
    assert main(["train", "closed.py"]) == 2
    said = capsys.readouterr().err
    assert said == "error: Permission denied for closed; name one that you may read and write\n"
    (tmp_path / "null.py").write_bytes(b"x = 1\0")
    assert main(["train", "null.py"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_home_is_written_out_in_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignjax.cli import parsed  # noqa: PLC0415
    from alignjax.workspace import Workspace  # noqa: PLC0415

    monkeypatch.setenv("HOME", str(tmp_path))
    flags, _ = parsed("train", ["a.py", "--run-dir", "~/runs/a"])
    assert flags.run_dir == tmp_path / "runs" / "a"
    assert Workspace(Path("~/b")).root == tmp_path / "b"
