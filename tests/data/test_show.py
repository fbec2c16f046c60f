from __future__ import annotations

import io
import json

from rich.console import Console

from alignjax.cli.data import show_account, show_rows
from alignjax.data import Docstrings, Preferences
from alignjax.data.prepared import rows_of


def said(action) -> str:
    console = Console(file=io.StringIO(), width=200, markup=False, highlight=False)
    action(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_inspect_shows_what_is_there(docstrings: Docstrings) -> None:
    text = said(lambda console: show_rows(docstrings, "test", 2, 0, console))
    rows, lengths = rows_of(docstrings, "test")
    assert f"{len(rows):,} test" in text
    assert f"{lengths[:, 0].max():,}" in text
    shown = [n for n in range(len(rows)) if rows[n]["completions"][0].decode() in text]
    assert len(shown) == 2


def test_marks_in_the_data_are_not_markup(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "[bold]not bold[/bold]", "chosen": "[/red]", "rejected": "[x]"}, {"prompt": "bad"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    dataset = Preferences(path=str(path), vocab_size=270, test_fraction=0.0)
    text = said(lambda console: (show_account(dataset, console), show_rows(dataset, "train", 3, 0, console)))
    assert "[bold]not bold[/bold]" in text
    assert "[/red]" in text
    assert "missing field 'chosen' (1; line 2)" in text
    assert "P([0] beats [1]) = 1.000" in text
