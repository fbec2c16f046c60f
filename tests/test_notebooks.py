"""Every notebook runs from its first cell to its last, in a folder of its own, and is the pair of its .py file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import ROOT, environment

pytestmark = pytest.mark.slow
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
LIMIT = 300  # seconds of a cell, on a busy machine; alone they take seconds


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    notebook = jupytext.read(path)
    again = f"write it anew: jupytext --to ipynb notebooks/{path.name}"
    assert cells(jupytext.read(path.with_suffix(".ipynb"))) == cells(notebook), again
    for name, value in {**environment(session_cache), "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=LIMIT, kernel_name="python3", resources=resources).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "error:" not in said  # of a command, whose status a notebook does not look at
    assert "command not found" not in said
