"""Supervised fine-tuning on the docstring summaries: post -> one-line summary.

    alignjax train configs/sft.py           # about 2 minutes on 2 CPU cores
    alignjax train configs/sft.py:tiny

On real text, unlike the configs of preferences, which stand on the exact task of configs/quickstart.py: imitation needs
no judge, and its loss on human text means something. Expected: about 5 nats per token after the first epoch and
falling; the metric is `sft/nats_per_token`.
"""

from __future__ import annotations

from alignjax.config import Experiment
from alignjax.pipelines import summarization as parts

MODES = ("full", "tiny")


def get_config(mode: str = "full") -> Experiment:
    return parts.sft(parts.sizes_of(mode))
