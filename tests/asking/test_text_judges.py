"""Text judges that compare players: of a tournament's tables, and of a whole pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import stages
from alignjax.asking import Calls, RowTexts
from alignjax.config import ConfigError, fn
from alignjax.evaluate import verdicts, win_rate
from alignjax.train.text_host import TextHost
from alignjax.workspace import Workspace
from tests.support.asked import TOKENIZER, batch, hits, longer, row
from tests.support.commands import run

ASKED: list[int] = []


def by_color(completions: Any, color: list[str]) -> list[float | None]:
    """Likes the text that names the color of the row; none of a pair where both do, or neither."""
    ASKED.append(len(completions))
    named = [[right in text.split() for text in pair] for pair, right in zip(completions, color, strict=True)]
    return [None if first == second else float(first) for first, second in named]


def test_a_tournament_asks_a_function_of_texts(caller: Calls, tmp_path: Path) -> None:
    """Columns come by the row of the prompt, no opinion is a tie, another order of the players gives the same, and
    what was answered is not asked again."""
    texts = RowTexts(TOKENIZER, ((), ()), [row(k) for k in range(3)], 7)  # type: ignore[arg-type]
    whole = batch()
    parts = [whole.pick(jnp.full((3, 1), k)) for k in (0, 1, 0)]
    judges = {"held_out": fn(stages.text_judge, function=by_color), "other": fn(stages.text_judge, function=longer)}

    def said(order: list[int], folder: Path | None) -> dict[str, Any]:
        host = TextHost(texts, caller, folder)
        asked = verdicts.judges_of(Workspace(tmp_path), None, judges, host)
        table = verdicts.side_by_side([parts[k] for k in order])
        names = ["abc"[k] for k in order]
        return {name: verdicts.verdicts(judge, [table, table], names) for name, judge in asked.items()}

    ASKED.clear()
    first = said([0, 1, 2], tmp_path)["held_out"]
    np.testing.assert_array_equal(first["a", "b"], [1, 1, 0] * 2)
    assert np.isnan(first["a", "c"]).all()
    known, share = verdicts.without_opinion(first)
    assert share == pytest.approx(1 / 3)
    assert win_rate.win_rate_matrix(known)["a"]["b"]["mean"] == pytest.approx(2 / 3)
    assert win_rate.win_rate_matrix(known)["a"]["c"]["mean"] == 0.5
    turned = said([1, 0, 2], None)["held_out"]
    np.testing.assert_array_equal(turned["b", "a"], 1 - first["a", "b"])
    assert ASKED == [9] * 4
    again = said([0, 1, 2], tmp_path)
    assert ASKED == [9] * 4
    assert all(np.array_equal(again["held_out"][pair], first[pair], equal_nan=True) for pair in first)
    assert sorted(file.name for file in tmp_path.iterdir())[:2] == [
        "held_out-00000001.jsonl",
        "held_out-00000002.jsonl",
    ]
    two = verdicts.open_judges(
        Workspace(tmp_path), None, {"held_out": fn(stages.text_judge, function=(hits, longer))}, []
    )
    with pytest.raises(ConfigError, match="text_judge asks one function"):
        two.__enter__()
    with pytest.raises(ConfigError, match="nothing here can ask it"):
        verdicts.judges_of(Workspace(tmp_path), None, judges)


PIPELINE = '''
from alignjax import algorithms, data, models, roles, stages
from alignjax.config import Experiment, Pipeline, fn
from alignjax.evaluate import tournament
from alignjax.train.optimizers import adamw


def shorter(prompts, completions, answer):
    """Likes the short one; none of the third word."""
    assert all(prompt.split()[-1] == word for prompt, word in zip(prompts, answer))
    return [None if word == "pear" else 1 - len(a) / max(len(a + b), 1) for (a, b), word in zip(completions, answer)]


def get_config():
    model = models.transformer(models.TransformerConfig(vocab=300, width=16, layers=1))
    rows = data.Instructions(path="rows.jsonl", vocab_size=300, test_fraction=0.0, keep=("answer",))
    lengths = {"dataset": rows, "batch_size": 4, "prompt_length": 24, "completion_length": 8}

    def step(rate):
        algorithm = algorithms.sft(model, optimizer=fn(adamw, learning_rate=rate), start=roles.fresh())
        return Experiment(algorithm, fn(data.instructions, **lengths), steps=2)

    players = (tournament.Player("sft", "sft"), tournament.Player("fast", "fast"))
    judges = (("held_out", fn(stages.text_judge, function=shorter, both_orders=True)),)
    played = fn(
        tournament.play, model=model, players=players, judges=judges, dataset=rows, batches=2, max_tokens=6,
        source=fn(data.instructions, **lengths), controls=(tournament.Player("best", "sft", best_of=2, by="held_out"),),
    )
    written = fn(tournament.write, title="Short words", dataset=rows)
    return Pipeline({"sft": step(1e-3), "fast": step(1e-1), "evaluate": played, "report": written})
'''


@pytest.mark.slow
def test_a_pipeline_ends_in_a_tournament_by_a_function_of_texts(tmp_path: Path, session_cache: Path) -> None:
    words = ("fig", "nut", "pear", "plum", "lime", "kiwi", "date", "apple")
    rows = [{"prompt": f"the word {word}", "completion": word, "answer": word} for word in words]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (tmp_path / "played.py").write_text(PIPELINE)
    run("alignjax train played.py --run-dir run", tmp_path, session_cache)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    judge = results["judges"]["held_out"]
    assert judge["label"] == "shorter"
    assert judge["note"] == "no opinion on 12.5% of the pairs, which count as ties"
    files = sorted((tmp_path / "run" / "evaluate" / "answers").iterdir())
    assert [file.name for file in files] == [f"held_out-{k:08d}.jsonl" for k in range(1, 5)]
    lines = [json.loads(line) for line in files[2].read_text().splitlines()]  # of all players and the human
    assert len(lines) == 4 * 10
    human = 1 - results["win_rates"]["sft"]["human"]["mean"]
    assert 0.0 < human < 1.0
