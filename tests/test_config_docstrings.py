"""configs/docstrings.py: what its held-out judge shares with the training judge, before anything is trained."""

from __future__ import annotations

from alignjax.cli.config_file import imported
from alignjax.config import Experiment
from alignjax.train.run_record import config_json
from tests.support.commands import ROOT

STEPS = imported(ROOT / "configs" / "docstrings.py").get_config("tiny").steps


def starts(step: str) -> dict[str, str]:
    """The step whose weights each role of a judge starts from."""
    judge = STEPS[step]
    assert isinstance(judge, Experiment)
    return {name: config_json(role.start)["stage"] for name, role in judge.algorithm.roles.items() if role.start}


def test_the_judge_that_decides_starts_from_and_rejects_another_sft_policy() -> None:
    assert set(starts("preference").values()) == {"sft"}
    assert set(starts("held_out").values()) == {"other_sft"}
    assert starts("held_out").keys() == starts("preference").keys()
    seeds = [STEPS[name].seed for name in ("sft", "other_sft", "preference", "held_out")]
    assert len(set(seeds)) == len(seeds)
    assert list(STEPS).index("other_sft") < list(STEPS).index("held_out")
