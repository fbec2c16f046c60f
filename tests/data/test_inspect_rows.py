"""`alignjax data inspect FILE`: the layout that is found, the dataset that is named, and what is counted and shown."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alignjax.cli import main
from alignjax.cli.inspect_rows import DATASETS, _panel, dataset_of_rows, inspect_rows, is_rows, look_at
from alignjax.config import ConfigError, DataError
from alignjax.data.datasets.framing import Framed
from alignjax.data.datasets.records import Record
from alignjax.data.datasets.row_summary import LEARNED, Piece, RowSummary, marked
from tests.support.chat_families import FAMILIES, write_tokenizer
from tests.support.published_lists import LISTS, help_steer
from tests.support.published_rows import CASES, talk

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
# Rows that two layouts of different datasets fit alike, and those that a set of several rows is mixed of.
ALSO = {"problem and solution": "problem and answer"}
CALLS = {"xlam"}  # whose answers are calls, which the plain template has no words for


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def said(path: Path, rows: list[dict[str, Any]], *options: str, shown: int = 3) -> str:
    console = Console(file=io.StringIO(), width=400, markup=False, highlight=False)
    inspect_rows(written(path / "rows", rows), shown, options, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "rows", "served"), [*CASES, *LISTS], ids=[case[0] for case in (*CASES, *LISTS)])
def test_the_layout_of_a_published_set_is_found(tmp_path: Path, name: str, rows: Any, served: dict[str, Any]) -> None:
    text = said(tmp_path, rows)
    layout = ALSO.get(name, name)
    assert text.startswith(f"{tmp_path / 'rows'}: {layout} layout: ")
    (kind,) = re.findall(r"^read as (\w+): alignjax data prepare", text, re.MULTILINE)
    assert kind in served or name in ALSO
    if name in CALLS:
        assert "the chat template does not write the call of 'f' in message 2" in text
        return
    assert "\u256d\u2500 line 1 " in text
    assert re.search(r"bad +\u2502 none ", text)


def test_why_no_row_can_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("{'prompt': 'p'}\n")
    with pytest.raises(ConfigError, match=r"holds no rows that are JSON objects: line 1, not JSON \(column 2"):
        inspect_rows(str(tmp_path / "rows"), 1, (), Console(file=io.StringIO()))


def test_a_file_in_the_place_of_a_dataset_is_told_where_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "rows", [PAIR])
    assert main(["data", "prepare", file]) == 2
    assert f"alignjax data prepare NAME --path {file}, where alignjax data inspect" in capsys.readouterr().err


def test_completions_that_repeat_the_prompt_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "two and two?", "chosen": f"{say} four", "rejected": "two and two? five"} for say in ("it is", "")
    ]
    assert "echoes" not in said(tmp_path, rows)
    rows += [{**rows[0], "chosen": "two and two? four"}, {"prompt": talk("hi"), "chosen": "hi a", "rejected": "hi b"}]
    assert re.search(r"echoes +\u2502 1 records whose completions begin with the prompt", said(tmp_path, rows))


def test_what_is_counted(tmp_path: Path) -> None:
    rows = [
        PAIR,
        {**PAIR, "score_chosen": 1, "score_rejected": 1, "prompt": "q"},
        {**PAIR, "rejected": "a"},
        PAIR,
        {**PAIR, "chosen": " "},
        PAIR,
        {"prompt": 5},
    ]
    text = said(tmp_path, rows, shown=1)
    for words in (
        "7 rows, 4 records",
        "both completions are the same (1; line 3)",
        "empty field 'chosen' (1; line 5)",
        "missing field 'chosen' (1; line 7)",
        "2 different; 0 of 4 records are conversations",
        "2 records (lines 4, 6)",
        "1 record ",
    ):
        assert words in text
    assert text.count("line 1 \u2500") == 1
    assert "answers" not in said(tmp_path, [{"prompt": "p"}])
    assert "1 numbers, 1 texts" in said(tmp_path, [{"prompt": "p", "answer": "4"}, {"prompt": "p", "answer": "x"}])


def test_a_folder_and_a_glob_are_read_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for name in ("a", "b"):
        written(tmp_path / "rows" / f"{name}.jsonl", [PAIR, {**PAIR, "chosen": name, "rejected": ""}])
    for what in ("rows", "rows/*.jsonl"):
        console = Console(file=io.StringIO(), width=400, markup=False, highlight=False)
        inspect_rows(str(tmp_path / what), 1, (), console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "4 rows, 2 records" in text
        assert "1 record (line b.jsonl:1)" in text
        assert "empty field 'rejected' (2; lines a.jsonl:2, b.jsonl:2)" in text


def test_rows_are_shown_as_the_model_sees_them(tmp_path: Path) -> None:
    rows = [{"messages": talk("hi", "oh", "more", "good")}]
    text = said(tmp_path, rows)
    assert "User: more" in text
    assert "[0] \u27e6 good\u27e7" in text
    text = said(tmp_path, rows, "--turns", "all")
    assert "[0] \u27e6 oh\u27e7" in text
    assert "Assistant:\u27e6 good\u27e7" in text
    text = said(tmp_path, [{"prompt": "p", "completion": "c"}], "--suffix", " ->")
    assert "p ->" in text
    assert "[0] \u27e6c\u27e7" in text


def test_tokens_are_counted_and_marked_with_a_tokenizer(tmp_path: Path) -> None:
    family = FAMILIES["chatml"]
    folder = write_tokenizer(tmp_path / "tokenizer", family)
    text = said(tmp_path, [{"messages": talk("hi", "good")}], "--tokenizer", str(folder))
    assert "tokens" in text
    (shown,) = re.findall(r"\[0\] (.*?) *\u2502", text)
    assert shown.startswith(LEARNED[0])
    assert shown.endswith(f"{family.end}{LEARNED[1]}")
    assert shown.strip("".join(LEARNED)).replace("|", "").removesuffix(family.end.replace("|", "")).strip() == "good"


def test_marks_stand_around_what_is_learned() -> None:
    pieces = [Piece("a", False), Piece("b", True), Piece("c", True), Piece("d", False), Piece("e", True)]
    assert marked(pieces, "|") == "a\u27e6b|c\u27e7d\u27e6e\u27e7"
    item = Framed("ask:", None, (("one#two#three!", 13),), ((0, 3), (8, 13)))
    record = Record("ask:", ("three",), framed=(item,), meta={"line": 1})
    prompt, (completion,) = RowSummary().pieces(record)
    assert (marked(prompt), marked(completion)) == ("ask:", "\u27e6one\u27e7#two#\u27e6three\u27e7")


def test_another_dataset_may_be_asked_for(tmp_path: Path) -> None:
    rows = [help_steer("a", 2, 4), help_steer("b", 3, 4)]
    text = said(tmp_path, rows)
    assert "read as Preferences" in text
    assert "--dataset prompts or rankings reads it too" in text
    assert "[1, score 3]" in said(tmp_path, rows, "--dataset", "rankings")
    assert "[1, score 4]" in said(tmp_path, rows, "--dataset", "rankings", "--score-field", "correctness")
    assert dataset_of_rows(written(tmp_path / "rows", rows)).name == "preferences"
    with pytest.raises(ConfigError, match=r"--dataset is 'ranking'.*Did you mean 'rankings'"):
        said(tmp_path, rows, "--dataset", "ranking")
    with pytest.raises(ConfigError, match=r"has no .no_such."):
        said(tmp_path, rows, "--no-such", "1")


def test_rows_of_no_layout_and_of_two_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing field .* it has a, b; .* needs "):
        said(tmp_path, [{"a": 1, "b": "x"}])
    with pytest.raises(DataError, match="fit two layouts, 'sharegpt' and 'alpaca': name one with layout"):
        said(tmp_path, [{"instruction": "p", "output": "c", "conversations": [{"from": "human", "value": "x"}]}])
    with pytest.raises(ConfigError, match="holds no rows that are JSON objects"):
        said(tmp_path, [[1]])  # type: ignore[list-item]


def test_a_file_is_no_dataset_and_no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert is_rows(written(tmp_path / "rows", [PAIR]))
    assert is_rows("gone.jsonl")
    assert is_rows("data/*")
    assert not is_rows("configs/one.py:tiny")
    assert not is_rows("preferences")
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["data", "inspect", str(tmp_path / "rows")]) == 0
    assert "prompt, chosen and rejected layout" in capsys.readouterr().out
    assert main(["data", "inspect", str(tmp_path / "gone.jsonl")]) != 0
    assert "there is no file" in capsys.readouterr().err
    assert main(["data", "inspect", str(tmp_path / "rows"), "--help"]) == 0
    assert "preferences: Rows with `prompt`" in capsys.readouterr().out
    assert {kind.__name__ for kind in DATASETS} == {"Prompts", "Instructions", "Preferences", "Thumbs", "Rankings"}


def test_every_figure_is_there_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each number of the tables, counted by hand, and rows in pieces which joined are what is shown."""
    rows = [PAIR, {**PAIR, "score_chosen": 1, "score_rejected": 1, "prompt": "qq"}, PAIR, {**PAIR, "chosen": " "}]
    file = written(tmp_path / "rows", rows)
    assert main(["data", "inspect", file, "--rows", "2", "--format", "json", "--suffix", " ->"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    lengths, shown = said.pop("lengths"), said.pop("shown")
    layout = "prompt, chosen and rejected"
    bad = {"count": 1, "first": [4], "where": ""}
    assert said == {
        "what": file, "layout": layout, "said": "prompt from `prompt`, answers from `chosen` and `rejected`",
        "dataset": "preferences", "read_too_by": [], "notes": [], "unit": "line", "rows": 4, "records": 3,
        "layouts": {layout: {"records": 3, "first": 1}}, "bad_rows": {"empty field 'chosen'": bad}, "prompts": 2,
        "conversations": 0, "repeated": {"records": 1, "first": ["3"]}, "echoes": 0, "ties": 1,
        "answers": {"numbers": 0, "texts": 0},
    }  # fmt: skip
    assert (lengths["unit"], lengths["prompt"]["5 %"], lengths["prompt"]["max"]) == ("bytes", 4, 5)
    assert lengths["completion"]["max"] == 1
    assert [(row["line"], row["preference"], row["weight"]) for row in shown] == [(1, 1.0, 1.0), (2, 0.5, 1.0)]
    assert shown[1]["prompt"] == [{"text": "qq ->", "learned": False}]
    assert shown[0]["completions"] == [[{"text": text, "learned": True}] for text in "ab"]
    ranked = written(tmp_path / "ranked", [{"prompt": "p", "completions": ["a", "b", "c"], "scores": [1, 2.5, 0]}])
    assert main(["data", "inspect", ranked, "--dataset", "rankings", "--format", "json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert said["shown"][0]["scores"] == [1, 2.5, 0]
    assert "preference" not in said["shown"][0]


def test_many_completions_are_shown_in_time_that_grows_with_them(tmp_path: Path) -> None:
    """A text that is joined anew at every completion takes 20 s for these."""
    row = {"prompt": "p", "completions": [f"{n} " + "a" * 900 for n in range(2000)], "scores": [*range(2000)]}
    (tmp_path / "rows").write_text(json.dumps(row))
    look = look_at(str(tmp_path / "rows"), 1, ("--dataset", "rankings"))
    began = time.process_time()
    _panel(look.shown[0], look.summary)
    assert time.process_time() - began < 2
