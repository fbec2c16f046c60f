"""The examples of docs/rl.md train, the last with the choices of its own in the place of the recipe."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

from tests.support.commands import ROOT, run

pytestmark = pytest.mark.slow
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "rl.md").read_text(), re.S)


def test_the_examples_of_the_document_train(tmp_path: Path, session_cache: Path) -> None:
    rows = [{"prompt": f"the word {word}"} for word in ("fig", "nut", "pear", "plum", "lime", "kiwi", "date", "apple")]
    (tmp_path / "my_prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judged.py").write_text(BLOCKS[0])
    run("alignjax train judged.py --steps 2", tmp_path, session_cache)
    reward = "def brief(completions):\n    return [-len(text) / 100 for text in completions]\n"
    function, rest = BLOCKS[-1].split("\n\n\n", 1)
    learn = f"    reward = fn(stages.text_reward, function=brief)\n{textwrap.indent(rest, '    ')}"
    line = next(line for line in BLOCKS[0].splitlines() if "algorithms.grpo" in line)
    config = (
        BLOCKS[0].replace(line, learn).replace("\n\ndef get_config", f"\n\n{reward}\n\n{function}\n\n\ndef get_config")
    )
    (tmp_path / "own.py").write_text(config)
    run("alignjax train own.py --steps 2", tmp_path, session_cache)
    logged = [json.loads(each) for each in (tmp_path / "runs/own/metrics.jsonl").read_text().splitlines()]
    assert {"surrogate/ratio", "surrogate/held", "surrogate/kl", "advantage/pass_at_k"} <= logged[-1].keys()
