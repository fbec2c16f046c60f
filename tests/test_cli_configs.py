"""Configs by name: what a name means, how they are listed, and copies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignjax.cli import main
from alignjax.cli.config_file import load
from alignjax.cli.configs import _modes
from alignjax.cli.packaged_configs import by_name, packaged
from tests.support.commands import ROOT


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_are_those_of_the_configs() -> None:
    assert packaged() == {path.stem: path for path in sorted((ROOT / "configs").glob("*.py"))}


def test_a_name_is_a_config_unless_the_folder_has_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert by_name(Path("quickstart")) == ROOT / "configs" / "quickstart.py"
    assert by_name(Path("nothing")) is None
    for path in ("quickstart.py", "configs/quickstart", "./x/quickstart", "/quickstart"):
        assert by_name(Path(path)) is None
    assert capsys.readouterr().err == ""
    (folder / "quickstart.py").write_text("")
    assert by_name(Path("quickstart")) == Path("quickstart.py")
    (said,) = capsys.readouterr().err.splitlines()
    assert "quickstart.py of this folder" in said
    (folder / "mine.py").write_text("")
    assert by_name(Path("mine")) == Path("mine.py")
    assert capsys.readouterr().err == ""


def test_modes_of_a_name() -> None:
    for where, mode in (("games", "full"), ("games:tiny", "tiny"), ("games:", "full")):
        loaded = load(where)
        assert (loaded.path, loaded.mode) == (ROOT / "configs" / "games.py", mode)
    assert load("games:tiny").default_run_dir == Path("runs/games-tiny")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("quickstrat", "Did you mean 'quickstart'?"),
        ("games:tinny", "Did you mean 'tiny'?"),
        ("configs/games.py", "the one that comes with alignjax is 'games'"),
        ("games.py:tiny", "the one that comes with alignjax is 'games'"),
    ],
)
def test_what_a_wrong_name_may_have_meant(where: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", where, "--dry-run"]) == 2
    assert said in capsys.readouterr().err


def test_copies_are_used_and_never_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "copy", "games"]) == 0
    assert (folder / "games.py").read_bytes() == (ROOT / "configs" / "games.py").read_bytes()
    assert load("games:tiny").path == Path("games.py")
    (folder / "games.py").write_text("mine")
    assert main(["configs", "copy", "games"]) == 2
    assert "exists and stays as it is" in capsys.readouterr().err
    assert (folder / "games.py").read_text() == "mine"
    assert main(["configs", "copy", "games", "--to", "other.py"]) == 0
    assert (folder / "other.py").read_bytes() == (ROOT / "configs" / "games.py").read_bytes()
    assert main(["configs", "copy", "gmaes"]) == 2
    assert "Did you mean 'games'?" in capsys.readouterr().err
    assert main(["configs", "copy", "games", "--to", "no/folder.py"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["configs", "copy", "games", "--to", "mine"]) == 2
    assert "name one that ends in .py" in capsys.readouterr().err


def test_every_config_is_listed_with_what_it_is_and_its_modes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "--format", "json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(packaged())
    assert all(row["summary"].endswith(".") and row["modes"] for row in listed.values())
    assert listed["quickstart"]["modes"] == ["full", "tiny"]
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f"{name}: ") for line in lines) for name in packaged())


def test_short_modes_are_said_once() -> None:
    assert _modes(["a", "b", "a-tiny", "b-tiny"]) == "modes: a, b; each also as MODE-tiny, a few steps"
    assert _modes(["full", "tiny"]) == "modes: full, tiny"
    assert _modes(["a", "b", "a-tiny"]) == "modes: a, b, a-tiny"
