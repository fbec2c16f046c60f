"""`alignjax evaluate WHERE --data FILE --judge MODULE:FUNCTION`, and the examples of docs/rewards.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alignjax import verifiers
from alignjax.asking import check_named
from alignjax.cli import main
from alignjax.cli.judge_models import found_function
from alignjax.config import ConfigError
from tests.support.commands import ROOT, run

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "rewards.md").read_text(), re.S)


def test_a_judge_is_found_by_module_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_judge.py").write_text("def longer(completions):\n    return [0.5 for _ in completions]\n")
    for where in ("my_judge:longer", "my_judge.py:longer", f"{tmp_path}/my_judge.py:longer", "json:dumps"):
        assert callable(found_function(where))
    for where, words in (
        ("my_judge", r"--judge is 'my_judge'; write module:function"),
        ("my_judge:", r"write module:function"),
        ("my_judge:longre", r"my_judge has no function 'longre'. Did you mean 'longer'"),
        ("no_judge:longer", r"there is no module 'no_judge', nor a file no_judge.py"),
        ("no/judge.py:longer", r"there is no file .*no/judge.py"),
    ):
        with pytest.raises(ConfigError, match=words):
            found_function(where)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--judge", "json:dumps"], "a judge and prompts go together"),
        (["--data", "p.jsonl"], "a judge and prompts go together"),
        (["--data", "p.jsonl", "--judge", "json:dumps", "--steps", "3"], "takes no overrides, and got --steps 3"),
        (["--data", "p.jsonl", "--judge", "json:dumps", "--out", "p.jsonl"], "p.jsonl exists; name a new file"),
        (["--data", "q.jsonl", "--judge", "json:dumps"], "no such prompt file"),
        (["--data", "p.jsonl", "--judge", "j.py:wants"], "wants asks for 'solution'; .* the columns answer"),
        (["--data", "p.jsonl", "--judge", "j.py:shy"], "shy is a lambda, which config.json has no name for"),
        (["--data", "p.jsonl", "--judge", "j.py:fine", "--against-role", "policy"], "'policy' against itself"),
        (["--data", "p.jsonl", "--judge", "j.py:fine"], "no such run folder: here|there is no here"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_a_model_is_opened(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"prompt": "one", "answer": 1}\n')
    text = "def fine(completions):\n    return []\n\n\ndef wants(solution):\n    return []\n\n\nshy = lambda x: x\n"
    (tmp_path / "j.py").write_text(text)
    assert main(["evaluate", "here", *words]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_the_examples_of_the_document_run(tmp_path: Path, session_cache: Path) -> None:
    """A reward, then a judge of two policies: the policy against itself is level, and against its reference the win
    rate is that of the file of answers."""
    words = ("fig", "nut", "pear", "plum", "lime", "kiwi", "date", "apple")
    rows = [{"prompt": f"the word {word}", "answer": word} for word in words]
    (tmp_path / "my_prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config_with_a_reward.py").write_text(BLOCKS[0].partition("\n")[2])
    judge, recipe = BLOCKS[1].split("\n\n\n")
    (tmp_path / "my_judges.py").write_text(judge + "\n")
    with_judge = BLOCKS[0].replace("\n\ndef get_config", f"\n\n{judge}\n\n\ndef get_config")
    line = next(line for line in BLOCKS[0].splitlines() if "algorithms.rloo" in line)
    (tmp_path / "judged.py").write_text(with_judge.replace(line, f"    {recipe.strip()}"))
    data = "--data my_prompts.jsonl --judge my_judges:longer --max-tokens 6 --n 2"
    run("alignjax train config_with_a_reward.py --steps 4", tmp_path, session_cache)
    run("alignjax train judged.py --steps 2", tmp_path, session_cache)
    out = run(f"alignjax evaluate runs/config_with_a_reward {data} --out said.jsonl", tmp_path, session_cache)
    assert re.search(r"win rate [\d.]+ % \(95 % interval [\d.]+ to [\d.]+\) over 8 prompts, by my_judges:longer\n", out)
    said = [json.loads(each)["probability"]["longer"] for each in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert len(said) == 16
    assert f"win rate {100 * sum(said) / 16:.1f} %" in out
    level = f"alignjax evaluate runs/judged {data} --against runs/judged"
    assert "win rate 50.0 % (95 % interval 50.0 to 50.0)" in run(level, tmp_path, session_cache)
    said_in = (tmp_path / "runs/judged/answers/prefer-00000002.jsonl").read_text().splitlines()
    assert {*json.loads(said_in[0])} == {"step", "example_id", "prompt", "first", "second", "probability", "question"}


@pytest.mark.slow
def test_verified_answers_are_learned_from(tmp_path: Path, session_cache: Path) -> None:
    """Rows of GSM8K's form, to prompts, to answers, to rewards, as the document has it."""
    rows = [{"question": f"What is {k} and {k}?", "answer": f"Twice {k}.\n#### {2 * k}"} for k in range(8)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    block = next(block for block in BLOCKS if block.startswith("# rlvr.py"))
    (tmp_path / "rlvr.py").write_text(block)
    run("alignjax train rlvr.py --steps 5", tmp_path, session_cache)
    files = sorted((tmp_path / "runs/rlvr/answers").iterdir())
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(lines) == 5 * 4 * 4
    for line in lines:
        right = 2 * int(re.findall(r"\d+", line["prompt"])[0])
        assert line["scores"]["numeric"] == verifiers.numeric(completions=[line["completion"]], answer=[right])[0]
    metrics = [json.loads(line) for line in (tmp_path / "runs/rlvr/metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == 5
    assert metrics[-1]["reward/numeric/no_opinion"] == 0


def test_the_judges_of_the_document_can_be_built() -> None:
    block = next(block for block in BLOCKS if "language_judges.Endpoint" in block)
    exec(block, names := {})  # type: ignore[var-annotated]
    for stage in (names["judge"], names["reward"]):
        check_named(stage.kwargs["function"], "the document")
