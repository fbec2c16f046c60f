"""The folder that an experiment writes into is made, or refused, before any work."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from alignjax.cli.config_file import imported
from alignjax.outside import made_folder
from tests.support.commands import ROOT

RUNS = [each for each in sorted((ROOT / "experiments").glob("*/run.py")) if "argparse" in each.read_text()]


def test_a_folder_is_made_with_those_above_it_and_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    assert made_folder(str(folder)) == folder
    assert not [*folder.iterdir()]
    assert made_folder(str(folder)) == folder, "one that is there is taken"


def test_what_cannot_be_a_folder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(argparse.ArgumentTypeError, match=r"file/below: .*; name a folder that can be written"):
        made_folder(str(tmp_path / "file" / "below"))
    with pytest.raises(argparse.ArgumentTypeError, match="no such home folder"):
        made_folder("~nobody-of-that-name/results")


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.parent.name)
def test_every_experiment_refuses_its_folder_before_any_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    work = ["--folder", str(tmp_path / "work")] if '"--folder"' in run.read_text() else []
    with pytest.raises(SystemExit, match="2"):
        imported(run).main([*work, "--out", str(tmp_path / "file")])
    assert "name a folder that can be written" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
