"""What an exported folder says of itself: read out of the records of a run, and nothing that nobody wrote down."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alignjax.cli.config_file import COMMAND_FILE
from alignjax.cli.model_card import model_card
from alignjax.evaluate.report import schema, write_report
from alignjax.evaluate.report.wording import interval_text, player_rows
from alignjax.workspace import write_json

START = {"type": "x.Pretrained", "folder": "/models/base_q4.gguf", "fingerprint": "0123", "numbers": "Q4_1 dequantized"}


@pytest.fixture
def run(results: dict[str, Any], tmp_path: Path) -> Path:
    """A run folder with all that a card is made from."""
    dataset = {"type": "alignjax.data.datasets.Preferences", "path": "/private/pairs.jsonl", "vocab_size": 9}
    step = {
        "algorithm": {"losses": {"pair": {"function": "alignjax.losses.ipo", "tau": 0.25}}, "roles": {"policy": START}},
        "source": {"dataset": dataset},
        "steps": 1200,
        "seed": 3,
    }
    record = {"config": {"steps": {"tune": step}}, "versions": {"alignjax": "7.8"}}
    write_json(tmp_path / "config.json", record)
    command = {"config": "/private/one.py", "mode": "tiny", "overrides": ["--tune.steps", "1200"], "sha256": "0"}
    write_json(tmp_path / COMMAND_FILE, command)
    schema.save({**results, "config": record["config"]}, tmp_path / "results.json")
    return tmp_path


def test_a_card_says_what_the_records_say(run: Path, results: dict[str, Any]) -> None:
    card = model_card(run, "mine", "policy", "lm", step="tune")
    head, _, body = card.removeprefix("---\n").partition("---\n")
    assert [line.partition(":")[0] for line in head.splitlines()] == [
        "library_name", "pipeline_tag", "tags", "base_model", "license",
    ]  # fmt: skip
    for part in (
        "alignjax 7.8",
        "base\\_q4.gguf, Q4\\_1 dequantized (contents 0123)",
        "alignjax train one.py:tiny --tune.steps 1200",
        "loss `pair`: tau=0.25",
        "1,200 steps, seed 3",
        "- Preferences pairs.jsonl",
        "Weights of base",
    ):
        assert part in body, part
    assert "/private" not in card  # where files lay is nobody's business
    columns, rows = player_rows(results)
    table = [line for line in body.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + len(rows)
    assert all(len(line.split(" | ")) == len(columns) for line in table)
    spans = [interval_text(*cell) for row in rows for cell in row if not isinstance(cell, str) and cell[0]]
    assert len(spans) > len(rows)
    assert all(span in body for span in spans)


def test_a_card_of_nothing_claims_nothing(tmp_path: Path) -> None:
    card = model_card(tmp_path, "a*b", "policy", "reward")
    assert "# a\\*b" in card
    assert "names no published weights" in card
    assert [line for line in card.splitlines() if line.startswith("## ")] == ["## Made from", "## License"]
    assert 'pipeline_tag: "text-classification"' in card


def test_the_table_of_a_terminal_says_what_weights_were(results: dict[str, Any]) -> None:
    shown = io.StringIO()
    said = "Weights of a.gguf: Q4_1 dequantized."
    write_report.terminal_table({**results, "weights": said}, Console(file=shown, width=200))
    assert said in shown.getvalue()
    schema.validate({**results, "weights": said})
    with pytest.raises(schema.ResultsError, match="weights"):
        schema.validate({**results, "weights": 3})
