"""Online IPO (arXiv:2403.08635) against a trained preference model, on docstring summaries.

    alignjax train configs/online_ipo.py            # about 4 minutes on 2 CPU cores
    alignjax train configs/online_ipo.py:tiny

Self-play: two samples of the policy per post, labelled by the preference model, one IPO step. Its equilibrium is the
Nash policy of the preference model, regularised towards the SFT policy by tau.
"""

from __future__ import annotations

import summarisation as parts

from alignjax import algorithms
from alignjax.config import Pipeline, fn
from alignjax.data import Docstrings, prepare
from alignjax.evaluate.tournament import Player, write

MODES = ("full", "tiny")
TAU = 0.05


def get_config(mode: str = "full") -> Pipeline:
    sizes = parts.tiny(Docstrings()) if mode == "tiny" else parts.Sizes()
    algorithm = algorithms.online_ipo(
        parts.policy_model(sizes), tau=TAU, optimizer=parts.policy_optimizer(sizes), **parts.judged(sizes)
    )
    return Pipeline(
        {
            "data": fn(prepare, dataset=sizes.dataset),
            "sft": parts.sft(sizes),
            "preference": parts.judge(sizes, seed=1),
            "held_out": parts.judge(sizes, seed=2),
            "online_ipo": parts.online(sizes, algorithm),
            "evaluate": parts.tournament(sizes, Player("online_ipo", "online_ipo", label="online IPO")),
            "report": fn(write, title="Online IPO on docstring summaries", dataset=sizes.dataset),
        }
    )
