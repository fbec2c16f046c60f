"""The experiments that train online methods on text: one runs as a whole in its tiny mode, the other's data are held to
the run they come from, and what both report follows from the numbers beside it."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from alignjax.cli.config_file import imported
from alignjax.config import Pipeline
from alignjax.train.checkpoint.read_steps import restore_role
from alignjax.train.pipeline import run_pipeline
from alignjax.workspace import Workspace
from tests.support.commands import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compile")]

PLACE = ROOT / "experiments"
COMPARISON = imported(PLACE / "online_preference" / "run.py")
ABLATIONS = imported(PLACE / "online_vs_offline" / "run.py")
MODULES = {"online_preference": COMPARISON, "online_vs_offline": ABLATIONS}
REPORTED = [name for name in MODULES if (PLACE / name / "results.json").is_file()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, session_cache: Path) -> Path:
    """A run folder of online_preference, with its results beside the seeds."""
    folder = tmp_path_factory.mktemp("online")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNJAX_CACHE", str(session_cache / "data"))
        arguments = ["--tiny", "--seeds", "0", "--recipes", "rlhf", "nash_md", "--folder", str(folder)]
        COMPARISON.main([*arguments, "--out", str(folder)])
    return folder


def test_every_pair_of_policies_is_judged(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    rates = results["win_rates"]
    players = {"sft", "rlhf", "nash_md", "human", "sft_cool", "sft_greedy", "sft_best_of_4"}
    assert {row["name"] for row in results["rows"]} == set(rates) == players
    for a in players:
        assert set(rates[a]) == players - {a}
        for b in rates[a]:
            assert rates[a][b]["mean"] + rates[b][a]["mean"] == pytest.approx(1)


def test_a_human_text_exploits_nobody(run: Path) -> None:
    """It is no policy; everybody's worst opponent is one of the pool."""
    results = json.loads((run / "results.json").read_text())
    (rates,) = results["win_rates_by_seed"]
    for row in results["rows"]:
        (seed,) = row["by_seed"]
        if row["name"] == "human":
            assert seed["exploitability"] is None
        else:
            against = [rates[name][row["name"]]["mean"] for name in {*rates} - {"human", row["name"]}]
            assert seed["exploitability"]["mean"] == pytest.approx(max(against))


def test_paths_go_through_every_checkpoint(run: Path) -> None:
    (along,) = json.loads((run / "results.json").read_text())["along"]
    for name in ("rlhf", "nash_md"):
        step = COMPARISON.pipeline("tiny", ("rlhf", "nash_md")).steps[name]
        assert int([*along[name]][-1]) == step.steps
        assert all(0 < point[judge]["mean"] < 1 for point in along[name].values() for judge, _ in COMPARISON.JUDGES)


def test_replayed_in_order_the_data_make_the_online_policy(
    run: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an online run has seen, learned from offline in the same order, gives the same bits, and shuffled others."""
    monkeypatch.setenv("ALIGNJAX_CACHE", str(session_cache / "data"))
    steps = ABLATIONS.pipeline("tiny").steps
    names = (ABLATIONS.ONLINE, "history", "in_order", "shuffled")
    place = Workspace(run / "seed-0")
    run_pipeline(Pipeline({name: steps[name] for name in names}), place, resume=True, console=Console(quiet=True))
    online, again, shuffled = (restore_role(place.find(name), "policy") for name in (names[0], *names[2:]))
    jax.tree.map(np.testing.assert_array_equal, online, again)
    assert max(float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (online, shuffled)), strict=True)) > 0


@pytest.mark.parametrize("name", REPORTED)
def test_what_is_reported_follows_from_the_numbers(name: str) -> None:
    place, module = PLACE / name, MODULES[name]
    results = json.loads((place / "results.json").read_text())
    assert (place / "results.md").read_text() == module.markdown(results)
    for figure, text in module.figures(results).items():
        assert text.startswith("<svg")
        assert f"{figure}.svg" in (place / "README.md").read_text(), "the README shows it"
