"""What decoding buys and what training buys, a mode each, on exact tasks.

    alignjax train configs/decoding.py:raft           # a few CPU minutes
    alignjax train configs/decoding.py:raft-tiny      # a few steps, to see that it runs

raft: the policy learns to say at once what the best of eight samples is (best-of-n distillation), by the verifier of
the task; against SFT and its best of four.

dera: online IPO on its own samples, and on those of its realignment with the SFT policy beyond itself (DeRa, lambda =
1.5); of the first also the realignments at lambda 0.5 and 1.5, which nobody trained.

blocks: the policy learns what a search by blocks finds (two of eight go on after every third letter), against the same
from best-of-eight: what a block costs is a reward of half an answer, which here only counts what stands there.

context: context distillation. A policy is trained to answer in ascending order behind a prefix; a student learns
without the prefix what it says with it: on the teacher's samples, and on its own.

distill: the policy of raft teaches the SFT policy, which learns its distributions at samples of its own, by GKD and by
MiniLLM; against SFT on as many samples of the teacher.

In all SFT's controls play (greedy, T = 0.5, best of four), and gold decides. Runs, claims not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from alignjax import algorithms, losses, stages
from alignjax.config import Fn, Pipeline, fn
from alignjax.evaluate.tournament import Player
from alignjax.exact_tasks import DISTINCT, SORTING, STYLES, ExactTask, exact_reward
from alignjax.exact_tasks.styles import style_share
from alignjax.models import prefixed_model
from alignjax.pipelines import exact_study as parts
from alignjax.roles import restored
from alignjax.sampling import dera
from alignjax.types import Algorithm, Role

Made = tuple[Mapping[str, Any], tuple[Player, ...]]
BEST_OF = 8
LAM = 1.5
PREFIX = (3, 3)  # separators, of which prompts have none in front


def verifier(sizes: parts.Sizes) -> Fn:
    """The reward of the first measure of the task."""
    return fn(exact_reward, function=sizes.task.measures[0].function)


def raft(sizes: parts.Sizes) -> Made:
    """Best-of-n distillation by the task's verifier."""
    algorithm = algorithms.raft(
        parts.policy_model(sizes),
        reward=verifier(sizes),
        n=BEST_OF,
        max_tokens=sizes.completion_length,
        start=restored("sft", "policy"),
        optimizer=parts.policy_optimizer(sizes),
    )
    return {"raft": parts.online(sizes, algorithm)}, (Player("raft", "raft", label=f"Best of {BEST_OF}, distilled"),)


def searched(sizes: parts.Sizes) -> Made:
    """Likelihood of what a search by blocks finds, by the task's verifier, and of the best of as many samples."""
    role = Role(parts.policy_model(sizes), restored("sft", "policy"), parts.policy_optimizer(sizes))
    samples = fn(stages.generate, n=BEST_OF, max_tokens=sizes.completion_length)
    search = fn(stages.block_search, generate=samples, reward=verifier(sizes), every=3, keep=2)
    algorithm = Algorithm({"search": search}, {"sft": fn(losses.sft)}, {"policy": role})
    steps, players = raft(sizes)
    return {**steps, "blocks": parts.online(sizes, algorithm)}, (*players, Player("blocks", "blocks", label="Blocks"))


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


def student(sizes: parts.Sizes, teacher: Role, loss: Fn, writer: Any) -> Algorithm:
    """Distillation of a teacher into the SFT policy, at samples of one of both."""
    return algorithms.distillation(
        parts.policy_model(sizes),
        teacher=teacher,
        loss=loss,
        samples=writer,
        n=2,
        max_tokens=sizes.completion_length,
        start=restored("sft", "policy"),
        optimizer=parts.policy_optimizer(sizes),
    )


def distilled_context(sizes: parts.Sizes) -> Made:
    """What a prefix does, learned by students that do not see it (`prefixed_model`)."""
    behind = prefixed_model(parts.policy_model(sizes), PREFIX)
    told = algorithms.raft(
        behind,
        reward=fn(exact_reward, function=fn(style_share, style=0)),
        n=BEST_OF,
        max_tokens=sizes.completion_length,
        start=restored("sft", "policy"),
        optimizer=parts.policy_optimizer(sizes),
    )
    teacher = Role(behind, restored("told", "policy"))
    forward, reverse = (fn(losses.gkd, divergence=divergence) for divergence in ("forward", "reverse"))
    steps = {
        "told": parts.online(sizes, told),
        "off_policy": parts.online(sizes, student(sizes, teacher, forward, "teacher")),
        "on_policy": parts.online(sizes, student(sizes, teacher, reverse, "policy")),
    }
    labels = ("teacher, without its prefix", "student of its samples", "student of its own samples")
    return steps, tuple(Player(name, name, label=label) for name, label in zip(steps, labels, strict=True))


def distilled(sizes: parts.Sizes) -> Made:
    """What `raft` learned, learned from its distributions at a student's own samples, and from its samples alone."""
    steps, players = raft(sizes)
    teacher = Role(parts.policy_model(sizes), restored("raft", "policy"))
    students = {
        "gkd": ("GKD, reverse KL at own samples", fn(losses.gkd, divergence="reverse"), "policy"),
        "minillm": ("MiniLLM", fn(losses.minillm), "policy"),
        "taught": ("SFT on the teacher's samples", fn(losses.sft), "teacher"),
    }
    learned = {
        name: parts.online(sizes, student(sizes, teacher, loss, writer)) for name, (_, loss, writer) in students.items()
    }
    taught = (Player(name, name, label=label) for name, (label, *_) in students.items())
    return {**steps, **learned}, (*players, *taught)


STUDIES: dict[str, tuple[ExactTask, Callable[[parts.Sizes], Made]]] = {
    "raft": (SORTING, raft),
    "dera": (STYLES, realigned),
    "blocks": (DISTINCT, searched),
    "context": (STYLES, distilled_context),
    "distill": (SORTING, distilled),
}
TINY = "-tiny"
MODES = (*STUDIES, *(name + TINY for name in STUDIES))


def get_config(mode: str = "raft") -> Pipeline:
    task, made = STUDIES[mode.removesuffix(TINY)]
    sizes = parts.sizes_of(mode, task)
    steps, players = made(sizes)
    return parts.compared(sizes, steps, *players, title=f"{mode}: {sizes.task.title}")
