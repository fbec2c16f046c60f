"""Direct preference optimisation (arXiv:2305.18290) on a fixed set of SFT samples labelled by a preference model.

    alignjax train configs/dpo.py           # about 4 minutes on 2 CPU cores
    alignjax train configs/dpo.py:tiny

To train on your own pairs (prompt / chosen / rejected), replace the steps before "dpo" by a source:
fn(alignjax.data.preferences, dataset=alignjax.data.Preferences(path="pairs.jsonl"), ...).
"""

from __future__ import annotations

import summarisation as parts

from alignjax import algorithms
from alignjax.config import Pipeline, fn
from alignjax.data import Docstrings, prepare
from alignjax.evaluate.tournament import Player, write
from alignjax.roles import restored

MODES = ("full", "tiny")
BETA = 0.1  # inverse temperature of the log-ratio


def get_config(mode: str = "full") -> Pipeline:
    sizes = parts.tiny(Docstrings()) if mode == "tiny" else parts.Sizes()
    algorithm = algorithms.dpo(
        parts.policy_model(sizes),
        beta=BETA,
        start=restored("sft", "policy"),
        n=sizes.samples,
        optimizer=parts.policy_optimizer(sizes),
    )
    return Pipeline(
        {
            "data": fn(prepare, dataset=sizes.dataset),
            "sft": parts.sft(sizes),
            "preference": parts.judge(sizes, seed=1),
            "held_out": parts.judge(sizes, seed=2),
            "pairs": parts.sampled_pairs(sizes),
            "dpo": parts.offline(sizes, algorithm),
            "evaluate": parts.tournament(sizes, Player("dpo", "dpo", label="DPO", note=f"beta = {BETA}")),
            "report": fn(write, title="DPO on docstring summaries", dataset=sizes.dataset),
        }
    )
