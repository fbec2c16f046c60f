"""configs/smollm2.py on a random model: its steps have the shapes of a run, its FLOPs are those of the benchmarks, and
its report is written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("vaderSentiment")

from alignjax.cli.config_file import imported
from alignjax.pipelines import language_model as parts
from alignjax.train.state import abstract_state
from benchmarks.sizes import SIZES
from tests.support.commands import ROOT, run

CONFIG = imported(ROOT / "configs" / "smollm2.py")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
def test_policies_have_equal_budgets_and_adapters_over_one_copy_of_the_weights() -> None:
    steps = CONFIG.get_config("tiny").steps
    assert [*steps] == ["work", "data", "start", "labels", "preference", "judge", "pairs", "offline_ipo",
                        "online_ipo", "ipo_md", "evaluate", "report"]  # fmt: skip
    policies = [steps[name] for name in ("offline_ipo", "online_ipo", "ipo_md")]
    assert len({each.steps for each in (*policies, steps["pairs"])}) == 1
    for each in policies:
        trees = abstract_state(each.algorithm).roles
        assert not trees["reference"]
        assert "embed" in trees["base"]
        assert "embed" not in trees["policy"]


@pytest.mark.usefixtures("cache")
def test_topics_of_training_and_of_evaluation_differ() -> None:
    train, test = ({*topics.split("; ")} for topics in (CONFIG.TRAIN, CONFIG.TEST))
    assert not train & test
    assert len(test) * len(CONFIG.KINDS) == 256


@pytest.mark.usefixtures("cache")
def test_a_judge_of_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(CONFIG.ConfigError, match="judge_layers=3: the model has 2 layers"):
        dataclasses.replace(CONFIG.sizes_of("tiny"), judge_layers=3)


@pytest.mark.usefixtures("cache")
def test_flops_are_those_of_the_benchmarks() -> None:
    small = SIZES["small"]
    shape = {"vocab": small.vocabulary, "width": small.width, "layers": small.layers, "heads": small.heads}
    sizes = CONFIG.sizes_of("tiny")
    network = dataclasses.replace(sizes.network, **shape, kv_heads=small.heads, head_dim=0, mlp=small.mlp)
    lengths = {"prompt_length": small.prompt, "completion_length": small.completion, "label_samples": 3}
    sizes = dataclasses.replace(
        sizes, network=network, **lengths, label_steps=5, judge_batch_size=7, judge_steps=11, judge_layers=small.layers
    )
    counted = parts.model_flops(sizes, 2)
    assert counted["samples with gold's labels"] == 5 * 7 * small.forward_flops(3, shared=True)
    assert counted["learned judge"] == 3 * 11 * 7 * small.trunk_flops(3, shared=True)


def test_without_an_index_a_sentence_names_the_mode_that_needs_none(
    cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CONFIG.ConfigError, match=r"smollm2\.py:tiny needs no download"):
        CONFIG.get_config("full")


@pytest.mark.slow
def test_the_report_opens_with_what_gold_says(tmp_path: Path, session_cache: Path) -> None:
    out = run(f"alignjax train {ROOT}/configs/smollm2.py:tiny --run-dir run", tmp_path, session_cache)
    assert "T model FLOPs" in out
    assert "a judge that knows gold agrees with" in out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [results["players"][name]["label"] for name in results["policies"]] == [
        "offline IPO",
        "online IPO",
        "IPO-MD",
    ]
    assert results["players"]["start"]["kl"]["mean"] == pytest.approx(0, abs=1e-3)
    page = (tmp_path / "run" / "report.md").read_text()
    assert page.index("By gold, on 4 held-out prompts") < page.index("## The same prompts, before and after")
