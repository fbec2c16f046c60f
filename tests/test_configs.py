"""Every config trains in its tiny mode; decoding.py, exact_tasks.py, losses.py, lora.py, online.py, papers.py and
smollm2.py do in tests of their own, quickstart.py and ipo_md.py as commands of the README."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import ROOT, run

pytestmark = pytest.mark.slow
# Configs that other tests train.
ELSEWHERE = {
    "quickstart.py",
    "ipo_md.py",
    "decoding.py",
    "exact_tasks.py",
    "losses.py",
    "lora.py",
    "online.py",
    "papers.py",
    "smollm2.py",
}
OWN_DATA = {"aeslc_ipo_md.py": ("AESLC", "aeslc_train.jsonl.gz")}
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.name not in ELSEWHERE)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_trains(config: Path, tmp_path: Path, session_cache: Path, shared_data: Path | None) -> None:
    extra = {}
    if config.name in OWN_DATA:
        variable, file = OWN_DATA[config.name]
        if shared_data is None or not (shared_data / file).is_file():
            pytest.skip(f"{config.name} trains on {file}, which is not on this machine")
        extra = {variable: str(shared_data)}
    run(f"alignjax train {config}:tiny --run-dir run", tmp_path, session_cache, **extra)
    lines = [json.loads(line) for path in tmp_path.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    assert lines
    assert all("step" in line for line in lines)


@pytest.mark.parametrize("config", [*CONFIGS, ROOT / "configs" / "ipo_md.py"], ids=lambda path: path.stem)
def test_its_docstring_says_how_to_run_it(config: Path) -> None:
    assert f"alignjax train configs/{config.name}" in config.read_text().split('"""')[1]
