"""Online IPO (arXiv:2403.08635) against a trained preference model, on the sorting task of configs/quickstart.py.

    alignjax train configs/online_ipo.py            # about 4 CPU minutes
    alignjax train configs/online_ipo.py:tiny

Self-play: four samples of the policy per prompt, whose pairs the preference model labels, one IPO step. Its equilibrium
is the Nash policy of the preference model, regularized towards the SFT policy by tau. The gold judge, from which nobody
learns, says what it was worth.
"""

from __future__ import annotations

from alignjax import algorithms
from alignjax.config import Pipeline
from alignjax.evaluate.tournament import Player
from alignjax.pipelines import exact_study as parts

MODES = ("full", "tiny")
TAU = 0.05


def get_config(mode: str = "full") -> Pipeline:
    sizes = parts.sizes_of(mode)
    algorithm = algorithms.online_ipo(
        parts.policy_model(sizes), tau=TAU, optimizer=parts.policy_optimizer(sizes), **parts.judged(sizes)
    )
    steps = {"online_ipo": parts.online(sizes, algorithm)}
    return parts.compared(
        sizes, steps, Player("online_ipo", "online_ipo", label="online IPO"), title="Online IPO sorts letters"
    )
