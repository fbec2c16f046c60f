"""What decoding buys and what training buys, a mode each, on exact tasks.

    alignjax train configs/decoding.py:raft           # a few CPU minutes
    alignjax train configs/decoding.py:raft-tiny      # a few steps, to see that it runs

raft: the policy learns to say at once what the best of eight samples is (best-of-n distillation), by the verifier of
the task; against SFT and its best of four.

dera: online IPO on its own samples, and on those of its realignment with the SFT policy beyond itself (DeRa, lambda =
1.5); of the first also the realignments at lambda 0.5 and 1.5, which nobody trained.

In both SFT's controls play (greedy, T = 0.5, best of four), and gold decides. Runs, claims not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from alignjax import algorithms
from alignjax.config import Pipeline, fn
from alignjax.evaluate.tournament import Player
from alignjax.exact_tasks import SORTING, STYLES, ExactTask, exact_reward
from alignjax.pipelines import exact_study as parts
from alignjax.roles import restored
from alignjax.sampling import dera

Made = tuple[Mapping[str, Any], tuple[Player, ...]]
BEST_OF = 8
LAM = 1.5


def raft(sizes: parts.Sizes) -> Made:
    """Best-of-n distillation by the task's verifier."""
    algorithm = algorithms.raft(
        parts.policy_model(sizes),
        reward=fn(exact_reward, function=sizes.task.measures[0].function),
        n=BEST_OF,
        max_tokens=sizes.completion_length,
        start=restored("sft", "policy"),
        optimizer=parts.policy_optimizer(sizes),
    )
    return {"raft": parts.online(sizes, algorithm)}, (Player("raft", "raft", label=f"Best of {BEST_OF}, distilled"),)


def realigned(sizes: parts.Sizes) -> Made:
    """Online IPO on samples of the policy, and on samples of its realignment."""
    options = {"tau": 0.05, "optimizer": parts.policy_optimizer(sizes), **parts.judged(sizes)}
    model, beyond = parts.policy_model(sizes), fn(dera, lam=LAM)
    steps = {
        "ipo": parts.online(sizes, algorithms.online_ipo(model, **options)),
        "ipo_beyond": parts.online(sizes, algorithms.online_ipo(model, behaviour=beyond, **options)),
    }
    players = [Player(name, name, label=label) for name, label in zip(steps, ("IPO", "IPO on DeRa"), strict=True)]
    for lam in (0.5, LAM):
        behaviour = beyond.replace(lam=lam)
        players.append(Player(f"dera_{lam:g}", "ipo", behaviour=behaviour, label=f"DeRa of IPO, lambda {lam:g}"))
    return steps, tuple(players)


STUDIES: dict[str, tuple[ExactTask, Callable[[parts.Sizes], Made]]] = {
    "raft": (SORTING, raft),
    "dera": (STYLES, realigned),
}
TINY = "-tiny"
MODES = (*STUDIES, *(name + TINY for name in STUDIES))


def get_config(mode: str = "raft") -> Pipeline:
    task, made = STUDIES[mode.removesuffix(TINY)]
    sizes = parts.sizes_of(mode, task)
    steps, players = made(sizes)
    return parts.compared(sizes, steps, *players, title=f"{mode}: {sizes.task.title}")
