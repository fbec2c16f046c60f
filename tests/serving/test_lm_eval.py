"""lm-eval, in an environment of its own, asks our server; its numbers are the scorer's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.serving.jobs import Wanted
from alignjax.types import Batch
from tests.serving.conftest import LENGTH, Asked
from tests.support.tiny import scorer

VERSION = "0.4.13"
CHOICES = """task: made_up_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
TEXTS = """task: made_up_texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "none"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 12}}
metric_list: [{{metric: exact_match}}]
"""
ROWS = [
    {"question": "What is two and two?", "choices": ["four", "five, or so", "é"], "answer": 0},
    {"question": "Where is it — here?", "choices": ["no", "yes", "who knows"], "answer": 2},
    {"question": "Why", "choices": ["a", "b b", "c"], "answer": 1},
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lm_eval(tmp_path_factory) -> Path:
    """The Python of an environment with lm-eval: that of LM_EVAL_PYTHON, or one made here and now."""
    if "LM_EVAL_PYTHON" in os.environ:
        return Path(os.environ["LM_EVAL_PYTHON"])
    folder = tmp_path_factory.mktemp("lm_eval") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    made = subprocess.run(
        [python, "-m", "pip", "install", "-q", f"lm-eval[api]=={VERSION}"], capture_output=True, text=True, timeout=900
    )
    if made.returncode:
        pytest.skip(f"pip could not install lm-eval: {made.stderr.strip().splitlines()[-1:]}")
    return python


def evaluated(python, folder, address, *tasks):
    """What lm-eval logged about each row of a task."""
    (folder / "rows.json").write_text(json.dumps(ROWS))
    for name, text in (("choices", CHOICES), ("texts", TEXTS)):
        (folder / f"{name}.yaml").write_text(text.format(rows=folder / "rows.json"))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    model = f"model=tiny,base_url={address}/v1/completions,num_concurrent=3,max_length={LENGTH}"
    words = ["--model", "local-completions", "--model_args", model, "--tasks", ",".join(tasks)]
    words += ["--include_path", folder, "--output_path", folder / "out", "--log_samples"]
    done = subprocess.run(
        [python, "-m", "lm_eval", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=600,
        env={"PATH": os.environ["PATH"], **offline},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Using remote tokenizer backend" in done.stderr
    return [
        [json.loads(line) for line in next((folder / "out").rglob(f"samples_{task}_*")).read_text().splitlines()]
        for task in tasks
    ]


def test_its_log_likelihoods_are_the_scorers(lm_eval, opened, worker, address, tmp_path):
    choices, texts = evaluated(lm_eval, tmp_path, address, "made_up_choices", "made_up_texts")
    score = scorer(opened.model)
    greedy = 0
    for sample in choices:
        row = sample["doc"]
        for choice, (logp, is_greedy) in zip(row["choices"], sample["filtered_resps"], strict=True):
            prompt, tokens = (jnp.array([opened.tokenizer.encode(text)]) for text in (row["question"], f" {choice}"))
            batch = Batch(prompt=prompt, prompt_valid=prompt >= 0, tokens=tokens[:, None], valid=tokens[:, None] >= 0)
            np.testing.assert_allclose(float(logp), np.sum(np.asarray(score(opened.params, batch))), atol=1e-4)
            greedy += is_greedy in (True, "True")
    assert len(choices) == 3
    assert greedy < 9  # random weights
    for sample in texts:
        ids = opened.tokenizer.encode(sample["doc"]["question"])
        asked = Asked(worker, (ids, Wanted(12, temperature=0, stop_ids=frozenset(opened.stops), continues=True)))
        assert sample["resps"][0][0] == asked.text().split("\n\n")[0]
