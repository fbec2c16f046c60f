"""IPO-MD (arXiv:2403.08635) against a trained preference model, on the sorting task of configs/quickstart.py.

    alignjax train configs/ipo_md.py            # about 4 CPU minutes
    alignjax train configs/ipo_md.py:tiny

Online IPO whose pairs are sampled from the geometric mixture policy^(1-beta) reference^beta, token by token. For
beta > 0 the mixture, not the policy, stops at an equilibrium, the one regularized by tau / (1 - beta): so both play in
the tournament.
"""

from __future__ import annotations

from alignjax import algorithms
from alignjax.config import Pipeline, fn
from alignjax.evaluate.tournament import Player
from alignjax.pipelines import exact_study as parts
from alignjax.sampling import mixture

MODES = ("full", "tiny")
TAU = 0.05
BETA = 0.25  # weight of the reference in the mixture


def get_config(mode: str = "full") -> Pipeline:
    sizes = parts.sizes_of(mode)
    algorithm = algorithms.ipo_md(
        parts.policy_model(sizes), tau=TAU, beta=BETA, optimizer=parts.policy_optimizer(sizes), **parts.judged(sizes)
    )
    players = (
        Player("ipo_md", "ipo_md", label="IPO-MD"),
        Player("ipo_md_mixture", "ipo_md", label="IPO-MD, mixture", behaviour=fn(mixture, beta=BETA)),
    )
    return parts.compared(sizes, {"ipo_md": parts.online(sizes, algorithm)}, *players, title="IPO-MD sorts letters")
