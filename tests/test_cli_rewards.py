"""`alignjax evaluate WHERE --rewards FILE`: a reward model of a run on rows of the shapes of RewardBench 1 and 2."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from alignjax.cli import main
from tests.support.commands import run

CONFIG = """
from alignjax import algorithms, data, models, roles
from alignjax.config import Experiment, fn
from alignjax.train.optimizers import adamw


def get_config():
    model = models.transformer(models.TransformerConfig(vocab=400, width=32, layers=1, outputs=("reward",)))
    algorithm = algorithms.reward_model(model, optimizer=fn(adamw, learning_rate=3e-3), start=roles.fresh())
    rows = data.Preferences(path="pairs.jsonl", vocab_size=400)
    source = fn(data.preferences, dataset=rows, batch_size=8, prompt_length=32, completion_length=32)
    return Experiment(algorithm, source, steps=20)
"""
WORDS = ("fig", "nut", "pear", "plum", "lime", "kiwi", "date", "apple")


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rewards", "r.jsonl", "--data", "p.jsonl"], "leave out --data, --judge and --against"),
        (["--rewards", "r.jsonl"], "no such run folder"),
        (["--format", "json"], "--format json goes with --rewards FILE"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "here", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_reward_model_is_measured_on_both_shapes_of_rows(
    tmp_path: Path, session_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It learns that "good" is good: right where that is the answer, and wrong in the subset that says the contrary."""
    rows = [
        {"prompt": f"name a {word} {n}", "chosen": f"{word} is good", "rejected": f"{word} is bad bad"}
        for n in range(8)
        for word in WORDS
    ]
    write(tmp_path / "pairs.jsonl", rows)
    (tmp_path / "learned.py").write_text(CONFIG)
    run("alignjax train learned.py", tmp_path, session_cache)
    sides = [(f"{word} is good", f"{word} is bad bad") for word in WORDS]
    pairs = [
        {"prompt": f"tell of {n}", "chosen": pair[n % 2], "rejected": pair[1 - n % 2], "subset": ("easy", "odd")[n % 2]}
        for n, pair in enumerate(sides)
    ]
    write(tmp_path / "one.jsonl", pairs)
    write(
        tmp_path / "two.jsonl",
        [
            {
                "prompt": f"tell of {word}",
                "chosen": [f"{word} is good"],
                "rejected": [f"{word} is bad bad", f"{word} bad"],
            }
            for word in WORDS
        ],
    )
    said = json.loads(run("alignjax evaluate runs/learned --rewards one.jsonl --format json", tmp_path, session_cache))
    (judge,) = said["judges"].values()
    assert {name: each["mean"] for name, each in judge["subsets"].items()} == {"easy": 1.0, "odd": 0.0}
    assert (judge["accuracy"]["mean"], judge["accuracy"]["n"]) == (0.5, 8)
    out = run("alignjax evaluate runs/learned --rewards two.jsonl", tmp_path, session_cache)
    assert "8 rows of 8 prompts in two.jsonl" in out
    assert "first place is right (lists)" in out
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "prompts.jsonl", [{"prompt": "one"}])
    for words, message in (
        (["--rewards", "prompts.jsonl"], "in which nothing is better than something else"),
        (["--rewards", "one.jsonl", "--role", "critic"], "role 'critic' of"),
    ):
        assert main(["evaluate", "runs/learned", *words]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
