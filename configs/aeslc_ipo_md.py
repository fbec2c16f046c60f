"""IPO-MD (arXiv:2403.08635) on e-mail -> subject line: the AESLC corpus (arXiv:1906.03497), whose files you bring.

    AESLC=/path/to/folder alignjax train configs/aeslc_ipo_md.py            # about 5 minutes on 2 CPU cores
    AESLC=/path/to/folder alignjax train configs/aeslc_ipo_md.py:tiny

The folder holds aeslc_train.jsonl.gz and aeslc_dev.jsonl.gz: JSON lines with `email_body` and `subject_line`.
"""

from __future__ import annotations

import os
from pathlib import Path

from alignjax import algorithms
from alignjax.config import Pipeline
from alignjax.data import Aeslc
from alignjax.evaluate.tournament import Player
from alignjax.pipelines import summarization as parts

MODES = ("full", "tiny")
TAU = 0.05
BETA = 0.125  # weight of the reference in the mixture


def get_config(mode: str = "full") -> Pipeline:
    folder = Path(os.environ.get("AESLC", "aeslc"))
    dataset = Aeslc(path=str(folder / "aeslc_train.jsonl.gz"), test=str(folder / "aeslc_dev.jsonl.gz"))
    sizes = parts.tiny(dataset) if mode == "tiny" else parts.Sizes(dataset)
    algorithm = algorithms.ipo_md(
        parts.policy_model(sizes), tau=TAU, beta=BETA, optimizer=parts.policy_optimizer(sizes), **parts.judged(sizes)
    )
    steps = {"ipo_md": parts.online(sizes, algorithm)}
    return parts.compared(
        sizes, steps, Player("ipo_md", "ipo_md", label="IPO-MD"), title="IPO-MD on e-mail subject lines"
    )
