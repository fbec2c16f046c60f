"""Direct preference optimization (arXiv:2305.18290) on a fixed set of SFT samples labeled by a preference model.

The task is the sorting of configs/quickstart.py.

    alignjax train configs/dpo.py           # about 4 CPU minutes
    alignjax train configs/dpo.py:tiny

To train on your own pairs (prompt / chosen / rejected), replace the steps before "dpo" by a source:
fn(alignjax.data.preferences, dataset=alignjax.data.Preferences(path="pairs.jsonl"), ...).
"""

from __future__ import annotations

from alignjax import algorithms
from alignjax.config import Pipeline
from alignjax.evaluate.tournament import Player
from alignjax.pipelines import exact_study as parts
from alignjax.roles import restored

MODES = ("full", "tiny")
BETA = 0.2  # of the log-ratio: four times the quickstart's tau, for logits rise four times as steeply as win rates


def get_config(mode: str = "full") -> Pipeline:
    sizes = parts.sizes_of(mode)
    algorithm = algorithms.dpo(
        parts.policy_model(sizes),
        beta=BETA,
        start=restored("sft", "policy"),
        n=sizes.samples,
        optimizer=parts.policy_optimizer(sizes),
    )
    steps = {"pairs": parts.sampled_pairs(sizes), "dpo": parts.offline(sizes, algorithm)}
    return parts.compared(
        sizes, steps, Player("dpo", "dpo", label="DPO", note=f"beta = {BETA}"), title="DPO sorts letters"
    )
