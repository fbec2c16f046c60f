"""The experiments on exact tasks run as a whole in their tiny modes, and what an online run has left are the data that
it learned from."""

from __future__ import annotations

import dataclasses
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

# Of two steps all policies are as good as their start, and lie on one point of a picture.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Attempting to set identical")]

PLACE = ROOT / "experiments"
COMPARISON, ABLATIONS, LOSSES, LOOP = (
    imported(PLACE / name / "run.py")
    for name in ("online_preference", "online_vs_offline", "offline_losses", "judge_in_the_loop")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, session_cache: Path) -> Path:
    """A folder whose seed 0 all experiments on the sorting task share; results of each in a folder of its name."""
    folder = tmp_path_factory.mktemp("exact")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNJAX_CACHE", str(session_cache / "data"))
        shared = ["--mode", "tiny", "--seeds", "0", "--folder", str(folder)]
        for name, module, more in (
            ("online_vs_offline", ABLATIONS, ["--groups", "data", "quality"]),
            ("offline_losses", LOSSES, ["--losses", "dpo", "ipo_soft", "simpo"]),
        ):
            (folder / name).mkdir()
            module.main([*shared, *more, "--out", str(folder / name)])
    return folder


def test_every_curve_has_a_point_for_every_tau(folder: Path) -> None:
    results = json.loads((folder / "online_vs_offline" / "results.json").read_text())
    (run,) = results["runs"]
    assert list(run["curves"]) == [*ABLATIONS.GROUPS["data"], *ABLATIONS.GROUPS["quality"]]
    for curve, points in run["curves"].items():
        assert [point["stage"] for point in points] == [f"{curve}-{tau}" for tau in ABLATIONS.taus(curve)]
        assert all({"exact", "score"} == set(point["measures"]) for point in points)
    assert len(results["claims"]) + len(results["not_reached"]) == 5


def test_a_group_that_follows_leaves_the_others_as_they_are(
    folder: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Longer runs start from what is there, in a folder of their own, and go through as many steps as they should."""
    monkeypatch.setenv("ALIGNJAX_CACHE", str(session_cache / "data"))
    monkeypatch.setattr(ABLATIONS, "TAUS_OF_LONGER", (0.3, ABLATIONS.KEPT))
    first = folder / "online_vs_offline" / "results.json"
    shared = ["--mode", "tiny", "--seeds", "0", "--folder", str(folder), "--out", str(tmp_path)]
    ABLATIONS.main([*shared, "--groups", "data", "quality", "longer", "--known", str(first)])
    before, after = (json.loads(file.read_text())["runs"][0] for file in (first, tmp_path / "results.json"))
    assert {curve: after["curves"][curve] for curve in before["curves"]} == before["curves"]
    assert list(after["curves"]) == [*before["curves"], *ABLATIONS.GROUPS["longer"]]
    steps = ABLATIONS.pipeline("tiny", ["data", "longer"]).steps
    short, *long = (steps[f"{curve}-{ABLATIONS.KEPT}"].steps for curve in ("offline_ipo", *ABLATIONS.GROUPS["longer"]))
    assert long == [4 * short] * 2


def test_replayed_in_order_the_data_make_the_online_policy(
    folder: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an online run has seen, learned from offline in the same order, gives the same bits, and shuffled others."""
    monkeypatch.setenv("ALIGNJAX_CACHE", str(session_cache / "data"))
    steps = ABLATIONS.pipeline("tiny", ["data"]).steps
    last = ABLATIONS.name("online_ipo", ABLATIONS.KEPT)
    shuffled = ABLATIONS.name("shuffled", ABLATIONS.KEPT)
    place = Workspace(folder / "seed-0")
    in_order = ABLATIONS.replayed(steps[shuffled], shuffle=False)
    run_pipeline(Pipeline({"in_order": in_order}), place, resume=True, console=Console(quiet=True))
    online, again, other = (restore_role(place.find(name), "policy") for name in (last, "in_order", shuffled))
    jax.tree.map(np.testing.assert_array_equal, online, again)
    assert max(float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (online, other)), strict=True)) > 0


def test_losses_are_measured_on_what_they_learned_from_and_on_other_prompts(folder: Path) -> None:
    results = json.loads((folder / "offline_losses" / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == ["dpo", "ipo_soft", "simpo"]
    for row in results["rows"]:
        assert set(row["over_seeds"]) == set(LOSSES.COLUMNS)
        assert all(0 <= row["by_seed"][0][key]["mean"] <= 1 for key in ("gold", "learned", "exact", "accuracy"))


def test_strengths_are_chosen_on_one_seed_and_played_on_another(
    tmp_path: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(session_cache / "data"))
    monkeypatch.setattr(COMPARISON, "STRENGTHS", (0.1,))
    monkeypatch.setattr(COMPARISON, "METHODS", {name: COMPARISON.METHODS[name] for name in ("rlhf", "nash_md")})
    monkeypatch.setattr(COMPARISON, "CLAIMS", (("rlhf", "nash_md_mixture"),))
    shared = ["--mode", "tiny", "--folder", str(tmp_path), "--out", str(tmp_path)]
    COMPARISON.main([*shared, "--tune"])
    COMPARISON.main([*shared, "--seeds", "0"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["tuning"]["chosen"] == {"rlhf": 0.1, "nash_md": 0.1}
    players = {"sft", "rlhf", "nash_md", "nash_md_mixture", "sft_cool", "sft_greedy", "sft_best_of_4", "human"}
    assert set(results["labels"]) == players
    for a in players:
        for b in players - {a}:
            assert results["win_rates"][a][b]["mean"] + results["win_rates"][b][a]["mean"] == pytest.approx(1)


def test_one_judge_is_a_label_a_win_rate_and_a_reward(
    tmp_path: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task at a time: what is reported of the other stays, and so do the rates that were chosen."""
    monkeypatch.setenv("ALIGNJAX_CACHE", str(session_cache / "data"))
    monkeypatch.setattr(LOOP, "RATES", (1e-3,))
    some = ("online_ipo", "rloo_judge", "grpo_reward")
    monkeypatch.setattr(LOOP.uses, "LABELS", {name: LOOP.uses.LABELS[name] for name in some})
    claims = {"claims": (("rloo_judge", "grpo_reward"), ("online_ipo", "grpo_reward"))}
    tasks = {name: dataclasses.replace(task, **claims) for name, task in LOOP.uses.TASKS.items()}
    monkeypatch.setattr(LOOP.uses, "TASKS", tasks)
    shared = ["--mode", "tiny", "--seeds", "0", "--folder", str(tmp_path), "--out", str(tmp_path)]
    LOOP.main([*shared, "--only", "styles"])
    first = json.loads((tmp_path / "results.json").read_text())
    LOOP.main([*shared, "--only", "sorting"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert json.dumps(results["styles"]) == json.dumps(first["styles"]), "but for NaN, of one seed, equal"
    assert list(results) == ["styles", "sorting"]
    for task, found in results.items():
        assert found["tuning"]["chosen"] == dict.fromkeys(some, 1e-3)
        (greedy,), (sft,) = found["by_seed"]["sft_greedy"], found["by_seed"]["sft"]
        assert greedy["distinct"] == 1 / LOOP.ANSWERS < sft["distinct"]
        assert abs(greedy["entropy"]) < 0.1 < sft["entropy"]
        assert (sft["rival"] is None) == (task == "sorting")
        assert {one["claim"].count("Bradley-Terry") for one in found["claims"]} == {1}
