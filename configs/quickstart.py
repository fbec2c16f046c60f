"""Online preference optimization (arXiv:2403.08635) on a task whose answers can be checked, from nothing: no download.

    alignjax train configs/quickstart.py            # 3 to 6 CPU minutes
    alignjax train configs/quickstart.py:tiny       # the same pipeline in a few steps, for tests

The task is to write eight letters in order. People demonstrate it lazily (most make a pass or two of bubble sort), and
a transformer learns to write as they do. They judge better than they demonstrate: a pairwise preference model
p(y > y' | x) learns from labels that are drawn from the gold score. Then offline IPO, online IPO and IPO-MD start from
the same weights and ask that model for equally many labels, and the gold judge, which is exact and which nobody was
trained on, decides who won. Runs with other TAU show over-optimization: what the learned judge says, and what is true.

TAU and RATE were chosen on seed 100, which is not reported, from as many trials of offline as of online
IPO, by gold on 1,024 prompts of a split of their own (win rate against SFT, exactly sorted, KL):

    tau, rate       offline IPO                  online IPO
    0.05, 5e-4      32.2 %, 13.0 %, 8.1 nats     70.6 %, 41.5 %, 2.8 nats
    0.15, 5e-4      61.3 %, 23.3 %, 0.6 nats     66.3 %, 33.6 %, 0.7 nats
    0.05, 2e-4      61.2 %, 28.0 %, 2.8 nats     70.4 %, 41.8 %, 2.2 nats

Each takes the best, and of those that noise (1.2 points) does not tell apart the one with fewer nats: offline IPO the
second line, online IPO the third. IPO-MD takes online IPO's; it and BETA were not tuned.
"""

from __future__ import annotations

from alignjax import algorithms
from alignjax.config import Experiment, Fn, Pipeline, fn
from alignjax.evaluate.over_optimization import Point
from alignjax.evaluate.tournament import Player
from alignjax.pipelines import exact_study as parts
from alignjax.sampling import mixture

MODES = ("full", "tiny")
TAU = {"offline_ipo": 0.15, "online_ipo": 0.05, "ipo_md": 0.05}  # strength of the regularization towards SFT
RATE = {"offline_ipo": 5e-4, "online_ipo": 2e-4, "ipo_md": 2e-4}  # learning rate
TAUS = (0.15, 0.05, 0.015)  # of the curve of over-optimization
BETA = 0.25  # weight of the reference in IPO-MD's mixture


def optimizer(sizes: parts.Sizes, name: str) -> Fn:
    return parts.optimizer(RATE[name], sizes.policy_steps)


def offline_ipo(sizes: parts.Sizes, tau: float) -> Experiment:
    start, n = parts.judged(sizes)["start"], sizes.samples
    given = {"tau": tau, "start": start, "n": n, "optimizer": optimizer(sizes, "offline_ipo")}
    return parts.offline(sizes, algorithms.ipo(parts.policy_model(sizes), **given))


def online_ipo(sizes: parts.Sizes, tau: float) -> Experiment:
    given = {"tau": tau, "optimizer": optimizer(sizes, "online_ipo"), **parts.judged(sizes)}
    return parts.online(sizes, algorithms.online_ipo(parts.policy_model(sizes), **given))


def ipo_md(sizes: parts.Sizes, tau: float) -> Experiment:
    given = {"tau": tau, "beta": BETA, "optimizer": optimizer(sizes, "ipo_md"), **parts.judged(sizes)}
    return parts.online(sizes, algorithms.ipo_md(parts.policy_model(sizes), **given))


PLAYERS = (
    Player("offline_ipo", "offline_ipo", label="offline IPO", note="IPO on labeled pairs of SFT samples"),
    Player("online_ipo", "online_ipo", label="online IPO", note="self-play on its own samples"),
    Player("ipo_md", "ipo_md", label="IPO-MD", note=f"self-play on the mixture, beta = {BETA}"),
    Player(
        "ipo_md_mixture",
        "ipo_md",
        label="IPO-MD, mixture",
        note="what IPO-MD samples from, and whose equilibrium it is",
        behaviour=fn(mixture, beta=BETA),
    ),
)


CURVES = {"offline_ipo": offline_ipo, "online_ipo": online_ipo}


def stage(name: str, tau: float) -> str:
    """The step that trains a method's policy: of its name, or with a tau behind it for the others of its curve."""
    return name if tau == TAU[name] else f"{name}_{tau}"


def further(sizes: parts.Sizes) -> dict[str, Experiment]:
    """The policies that are points of a curve and no players."""
    others = {stage(name, tau): train(sizes, tau) for name, train in CURVES.items() for tau in TAUS}
    return {name: step for name, step in others.items() if name not in CURVES}


def points() -> list[Point]:
    """All policies of the curves, from the strongest regularization to the weakest."""
    label = {player.name: player.label for player in PLAYERS}
    stages = {(name, tau): stage(name, tau) for name in CURVES for tau in TAUS}
    return [Point(label[name], f"tau = {tau}", Player(step, step)) for (name, tau), step in stages.items()]


def get_config(mode: str = "full") -> Pipeline:
    sizes = parts.sizes_of(mode)
    steps = {
        "pairs": parts.sampled_pairs(sizes),
        "offline_ipo": offline_ipo(sizes, TAU["offline_ipo"]),
        "online_ipo": online_ipo(sizes, TAU["online_ipo"]),
        "ipo_md": ipo_md(sizes, TAU["ipo_md"]),
        **further(sizes),
        "along_kl": parts.along_kl(sizes, *points()),
    }
    return parts.compared(sizes, steps, *PLAYERS, title="Online IPO and IPO-MD sort letters")
