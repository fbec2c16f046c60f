"""Losses that claim a closed form reach it, and some that claim none do not reach another's: the quick part of
experiments/closed_form, whose results.json holds all of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from alignjax.cli.config_file import imported
from tests.support.commands import ROOT
from tests.support.tiny import slow_but

FOLDER = ROOT / "experiments" / "closed_form"
TABLE = imported(FOLDER / "run.py")
BETA = TABLE.BETA

RESULTS = {row["loss"]: row for row in json.loads((FOLDER / "results.json").read_text())["rows"]}
QUICK = (
    "DPO",
    "LCPO of DPO on flipped labels, reliability known",
    "Plackett-Luce DPO",
    "reward-weighted regression",
    "SPPO",
    "KTO",
)
# One pair of these is held to its minimizer by default, in losses/test_margin.py.
OF_PAIRS = ("robust DPO on flipped labels", "H-DPO", "f-DPO, Jensen-Shannon", "EXO", "IPO")


def agrees(row: dict[str, Any]) -> None:
    """A loss ends at what it claims, to 1e-4; one that recovers nothing ends well away from pi*."""
    if row["expected"]:
        assert row["end"] == "minimum"
        assert row["to_claim"] < 1e-4
    else:
        assert row["to_optimum"] > 0.01
        assert row["to_claim"] is None or row["to_claim"] > 0.01


@pytest.mark.parametrize("name", [slow_but(*QUICK, name=name) for name in (*QUICK, *OF_PAIRS)])
def test_a_loss_ends_where_the_table_says(name: str, float64: None) -> None:
    (method,) = [method for method in TABLE.methods(BETA) if method.label == name]
    row = TABLE.solve(method, TABLE.world(beta=BETA))
    agrees(row)
    assert row["end"] == RESULTS[name]["end"]
    assert row["to_optimum"] == pytest.approx(RESULTS[name]["to_optimum"], abs=1e-5)


def test_the_table_is_complete_and_as_claimed() -> None:
    assert set(RESULTS) == {method.label for method in TABLE.methods(BETA)}
    for row in RESULTS.values():
        agrees(row)
