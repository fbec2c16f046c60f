"""Every mode of configs/decoding.py trains to its report, with its behaviors among the players."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignjax.cli.config_file import imported
from tests.support.commands import ROOT, run

pytestmark = pytest.mark.slow

TABLE = imported(ROOT / "configs" / "decoding.py")


@pytest.mark.parametrize("name", TABLE.STUDIES)
def test_trains_to_its_report(name: str, tmp_path: Path, session_cache: Path) -> None:
    run(f"alignjax train {ROOT / 'configs' / 'decoding.py'}:{name}-tiny --run-dir run", tmp_path, session_cache)
    players = json.loads((tmp_path / "run" / "results.json").read_text())["players"]
    task, made = TABLE.STUDIES[name]
    expected = {player.name for player in made(TABLE.parts.sizes_of(f"{name}-tiny", task))[1]}
    assert {"sft", "sft_best_of_4", *expected} <= players.keys()
