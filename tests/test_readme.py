"""Every command of the README runs, in the order in which it stands there. A config without a mode is run in its tiny
one, and installing and running these tests is what has brought us here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import ROOT, run

README = (ROOT / "README.md").read_text()
MODELESS = re.compile(r"(configs/\w+\.py)(?!:)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: the configs, and the README's example saved under the name it gives."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(ROOT / "configs")
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    (folder / "my_config.py").write_text(example)
    return folder


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    return [line for block in blocks for line in block.splitlines() if not line.startswith(("pip ", "pytest"))]


def test_the_readme_commands_run(folder: Path, session_cache: Path) -> None:
    assert len(commands()) >= 8
    for command in commands():
        out = run(MODELESS.sub(r"\1:tiny", command), folder, session_cache)
        assert out.strip(), command
    results = json.loads((folder / "runs" / "quickstart-tiny" / "results.json").read_text())
    players = {"sft", "offline_ipo", "online_ipo", "ipo_md", "human"}
    assert set(results["win_rates"]) == players
    for a in players:
        for b in players - {a}:
            assert set(results["win_rates"][a][b]) == {"mean", "low", "high", "n"}
    assert (folder / "runs" / "quickstart-tiny" / "report.html").is_file()


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("*/*.md"), *ROOT.glob("experiments/*/*.md")]:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
