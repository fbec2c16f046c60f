"""`alignjax init` writes configs that run: tried on a folder and a file that are made here."""

from __future__ import annotations

import json
import os
import re

import pytest

from alignjax.cli import flags, main
from alignjax.cli.config_file import load
from tests.support.toy_configs import in_a_folder
from tests.test_open_model import folder_of

KINDS = ("dpo", "online", "reward", "sft")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    with in_a_folder(tmp_path, monkeypatch):
        folder_of(tmp_path / "my model")
        rows = [{"prompt": f"Why {i}?", "chosen": "It is.", "rejected": f"No {i}, no."} for i in range(24)]
        (tmp_path / 'my "rows".jsonl').write_text("\n".join(map(json.dumps, rows)))
        answers = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
        (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
        yield


def made(kind, *more):
    rows = "answers.jsonl" if kind == "sft" else 'my "rows".jsonl'
    return main(["init", kind, "--model", "my model", "--data", rows, *more])


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_is_written_that_can_be_resolved(kind, capsys, tmp_path):
    assert made(kind) == 0
    file = tmp_path / f"{kind}_config.py"
    assert max(map(len, file.read_text().splitlines())) <= 120 + len(str(tmp_path))
    assert main(["train", file.name, "--dry-run", "--steps", "3"]) == 0
    shown = capsys.readouterr().out
    assert "3 iterations, seed 0" in shown
    assert f"alignjax train {file.name} --dry-run" in shown


def test_nothing_is_written_over_or_for_what_is_not_there(capsys, tmp_path):
    assert made("dpo", "--to", "mine.py") == 0
    before = (tmp_path / "mine.py").read_text()
    for words, message in (
        (("dpo", "--to", "mine.py"), "mine.py is there already"),
        (("dpo", "--to", "mine.txt"), "a config is a .py file"),
        (("dpo", "--data", "none.jsonl"), "none.jsonl; name the file"),
        (("dpo", "--model", "none"), "none with a checkpoint"),
        (("ppo",), "ppo"),
        (("dpo", "--to", 'a"""b.py'), "without quotes, backslashes"),
        (("dpo", "--to", "\\N.py"), "without quotes, backslashes"),
        (("dpo", "--to", "a\0.py"), "without quotes, backslashes"),
        (("dpo", "--to", "a" * 300 + ".py"), "File name too long"),
        (("dpo", "--data", "a" * 300), "name the file or folder of your rows"),
    ):
        assert made(*words) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "mine.py").read_text() == before
    assert [path.name for path in tmp_path.glob("*.py")] == ["mine.py"]


def test_rows_in_a_file_whose_name_is_not_utf8(tmp_path):
    odd = os.fsdecode(b"rows\xff.jsonl")
    (tmp_path / odd).write_bytes((tmp_path / 'my "rows".jsonl').read_bytes())
    assert made("dpo", "--data", odd) == 0
    assert load("dpo_config.py").config.source.kwargs["dataset"].path == str(tmp_path / odd)


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
LISTED = {"prompt": "p", "completions": ["a", "b", "c"], "scores": [1, 2, 3]}


@pytest.mark.parametrize(
    ("kind", "rows", "words"),
    [
        ("sft", [PAIR], r"the prompt, chosen and rejected layout .*which Preferences reads and Instructions does not"),
        ("sft", [PAIR], r"alignjax init (dpo or reward or online|online or dpo or reward|dpo or reward)"),
        ("dpo", [{"prompt": "p", "completion": "a"}], r"which Instructions reads and Preferences does not: .*init sft"),
        ("reward", [{"prompt": "p"}] * 3 + [PAIR], r"the prompt layout .*and Preferences does not: .*init online"),
        ("dpo", [PAIR | {"completion": "a", "label": True}], None),
        ("dpo", [{"prompt": "p", "completion": "a", "label": True}], r"which Thumbs reads and Preferences does not"),
        ("online", [{"text": "all of it"}], r"Prompts does not: .*alignjax init sft fits them"),
        ("sft", [{"apples": 1}], r"apples"),
        ("sft", ["no object"], r"odd.jsonl cannot be read: .*looks like no rows"),
        ("dpo", [PAIR] * 5 + [{"prompt": "p"}], None),
        ("dpo", [LISTED], None),
        ("online", [PAIR], None),
    ],
)
def test_rows_of_another_kind_are_refused_with_the_kind_that_fits(kind, rows, words, capsys, tmp_path):
    """Most of the first rows decide, by what they hold."""
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status = made(kind, "--data", "odd.jsonl")
    said = " ".join(capsys.readouterr().err.split())
    if words is None:
        assert status == 0, said
    else:
        assert status == 2
        assert re.search(words, said), said
        assert not list(tmp_path.glob("*_config.py"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_and_the_policy_answers(kind, capsys, tmp_path):
    assert made(kind) == 0
    assert main(["train", f"{kind}_config.py", "--run-dir", "run", "--steps", "2", "--source.batch_size", "4"]) == 0
    if kind != "reward":
        (tmp_path / "p.txt").write_text("Why 3?\n")
        assert main(["generate", "run", "--prompt-file", "p.txt", "--max-tokens", "3"]) == 0
        assert "policy of run, step 2" in capsys.readouterr().err


def test_help_of_train_names_what_most_people_want_first():
    first = " ".join((flags.Train.__doc__ or "").split("Attributes:")[0].split())
    assert all(flag in first for flag in ("--run-dir", "--resume", "--dry-run", "--steps", "--seed"))
