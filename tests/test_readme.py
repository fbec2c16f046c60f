"""Every command of the README runs, in the order in which it stands there, and so does the file that it shows. A config
is run in its tiny mode; installing is what has brought us here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.commands import ROOT, run

README = (ROOT / "README.md").read_text()
MODELESS = re.compile(r"train (quickstart|my_loss\.py)$")
AS_THEY_STAND = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
EXAMPLES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", README, re.S))  # path -> text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: the README's examples saved under the names it gives."""
    folder = tmp_path_factory.mktemp("readme")
    for name, text in EXAMPLES.items():
        (folder / name).write_text(text)
    return folder


def assert_quickstart(run_dir: Path) -> None:
    """Everybody has played everybody, and there is a report of it."""
    results = json.loads((run_dir / "results.json").read_text())
    trained, controls = {"offline_ipo", "online_ipo", "ipo_md"}, {"sft_cool", "sft_greedy", "sft_best_of_4"}
    players = {"sft", *trained, "ipo_md_mixture", *controls, "human"}
    assert set(results["win_rates"]) == players
    for a in players:
        for b in players - {a}:
            assert set(results["win_rates"][a][b]) == {"mean", "low", "high", "n"}
            assert results["ties"][a][b] == results["ties"][b][a]
    assert {name for name, row in results["players"].items() if row.get("control")} == controls
    assert trained <= set(results["against_best_control"])
    for name, row in results["players"].items():
        assert set(row["measures"]) == set(results["measures"]) == {"exact", "score"}
        assert 0 <= row["finished"]["mean"] <= 1
        assert ("kl" in row) == (name not in ("human", "sft_best_of_4"))
    assert results["players"]["human"]["finished"]["mean"] == 1
    assert results["players"]["sft_greedy"]["kl"]["mean"] > 1 > 1e-4 > abs(results["players"]["sft"]["kl"]["mean"])
    assert "drawn from it" in results["judges"]["held_out"]["shares"]["labels"]
    assert results["judges"]["training"]["accuracy"]["n"] > 0
    curves = results["over_optimization"]
    assert [len(points) for points in curves.values()] == [3, 3]
    assert all(set(point["win_rates"]) == {"held_out", "training"} for points in curves.values() for point in points)
    assert len(results["samples"][0]["outputs"]) == len(players)
    assert results["budgets"]["optimizer steps of each policy"] == 4
    page = (run_dir / "report.html").read_text()
    assert "Over-optimization" in page
    assert "exactly sorted (%)" in page
    assert (run_dir / "over_optimization.svg").is_file()


def commands() -> list[str]:
    return [line for line in AS_THEY_STAND if not line.startswith(("pip ", "pytest"))]


@pytest.mark.slow
def test_the_readme_commands_run(folder: Path, session_cache: Path) -> None:
    """The first is the quickstart: data, SFT, a preference model, three methods, a tournament and its report."""
    assert len(commands()) >= 8
    for command in commands():
        out = run(MODELESS.sub(r"train \1:tiny", command), folder, session_cache)
        assert out.strip(), command
    assert_quickstart(folder / "runs" / "quickstart-tiny")
    results = json.loads((folder / "runs" / "my_loss-tiny" / "results.json").read_text())
    assert "squared_hinge" in results["win_rates"]
    assert [*(folder / "runs" / "short").rglob("metrics.jsonl")]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120


def test_a_new_loss_takes_ten_lines_and_no_edit() -> None:
    code = [line for line in EXAMPLES["my_loss.py"].splitlines() if line.strip()]
    assert len(code) <= 10
    imports = "\n".join(line for line in code if line.startswith(("import", "from")))
    assert {root for _, root in re.findall(r"^(import|from) (\w+)", imports, re.M)} == {"alignjax", "jax"}


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("*/*.md"), *ROOT.glob("*/*/*.md")]:
        for target in re.findall(r"\]\((?!http|#|api/)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
