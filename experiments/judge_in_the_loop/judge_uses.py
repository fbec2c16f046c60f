"""One pairwise judge put to three uses: the label of online IPO, the group win rate of GRPO and RLOO, and what a
Bradley-Terry reward model is fitted to, on which GRPO and RLOO learn. A task is its sizes, its judge and its number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from alignjax import algorithms, stages
from alignjax.config import Experiment, Fn, fn
from alignjax.evaluate.players import Player
from alignjax.exact_tasks import SORTING, STYLES
from alignjax.models import TransformerConfig, transformer
from alignjax.pipelines import exact_study as parts
from alignjax.pipelines.judged_pairs import recorded_batches
from alignjax.roles import restored
from alignjax.types import Algorithm, Model, Role

# Strength of the regularization towards SFT in units of a win rate, the same for all and not tuned.
TAU = 0.05
# A unit of log-odds is a quarter of a win rate near 1/2, and so is about the spread of win rates within a group, by
# which GRPO divides: their KL counts 4 tau for the same bargain.
STEEP = 4
STYLES_OF = ("ascending", "descending", "as_they_stand")
RIVALS = tuple(f"beaten_by_{style}" for style in STYLES_OF)
LABELS = {
    "online_ipo": "online IPO, the judge's labels",
    "grpo_judge": "GRPO, win rate in the group",
    "rloo_judge": "RLOO, win rate in the group",
    "grpo_reward": "GRPO, Bradley-Terry reward",
    "rloo_reward": "RLOO, Bradley-Terry reward",
}


def gold_win_rate(row: Mapping[str, Any]) -> float:
    """How often a trial beats SFT by gold."""
    return row["win_rates"]["held_out"]["mean"]


def unbeaten(row: Mapping[str, Any]) -> float:
    """How often a trial is not beaten by its best rival of three, each of which keeps to one style without a fault."""
    return 1 - max(row["measures"][rival]["mean"] for rival in RIVALS)


@dataclasses.dataclass(frozen=True)
class Task:
    """A task with its judge.

    sizes: of the full runs. learned: whether the judge is a preference model that learns from labels drawn from gold;
    else it is gold itself. aim: the number of a trial by which the learning rate is chosen. measure: the exact number
    shown first. claims: (better, worse) methods that are compared, settled before the seeds were run.
    """

    sizes: parts.Sizes
    learned: bool
    aim: Callable[[Mapping[str, Any]], float]
    measure: str
    claims: tuple[tuple[str, str], ...]


JUDGE_ABOVE_REWARD = (("grpo_judge", "grpo_reward"), ("rloo_judge", "rloo_reward"))
LABEL_ABOVE_REWARD = (("online_ipo", "grpo_reward"), ("online_ipo", "rloo_reward"))
TASKS = {
    "sorting": Task(
        parts.Sizes(SORTING),
        True,
        gold_win_rate,
        "exact",
        (*JUDGE_ABOVE_REWARD, *LABEL_ABOVE_REWARD, ("online_ipo", "grpo_judge"), ("online_ipo", "rloo_judge")),
    ),
    # SFT until it writes nearly without faults: before that, faults decide more than styles do (online_preference).
    "styles": Task(
        parts.Sizes(STYLES, sft_steps=1200), False, unbeaten, "faultless", (*JUDGE_ABOVE_REWARD, *LABEL_ABOVE_REWARD)
    ),
}


def sizes_of(task: str, mode: str) -> parts.Sizes:
    """The sizes of a task in a mode, full or tiny."""
    sizes = TASKS[task].sizes
    return parts.tiny(sizes.task) if mode == "tiny" else sizes


def judges(task: str, sizes: parts.Sizes) -> dict[str, Any]:
    """The judges of evaluations: gold decides, "training" is the one in the loop, which picks the best of four too."""
    training = "preference" if TASKS[task].learned else sizes.task.gold
    return {"judges": (("held_out", sizes.task.gold), ("training", training))}


def judged(task: str, sizes: parts.Sizes) -> dict[str, Any]:
    """What a recipe takes that asks the judge."""
    given = parts.judged(sizes)
    return given if TASKS[task].learned else given | {"judge": sizes.task.gold, "judges": {}}


def reward_network(sizes: parts.Sizes) -> Model:
    """The policy's backbone with a reward as its output."""
    config = parts.policy_model(sizes).config
    assert isinstance(config, TransformerConfig)
    return transformer(dataclasses.replace(config, outputs=("reward",)))


def prepared(task: str, sizes: parts.Sizes) -> dict[str, Any]:
    """SFT, the judge, as many labels of the judge on SFT's samples as every policy asks of it, and the reward model
    that is fitted to them, from the weights of SFT."""
    steps = parts.prepared(sizes)
    if not TASKS[task].learned:
        steps = {name: steps[name] for name in ("data", "sft")}
    pairs = parts.online(sizes, algorithms.labelled_samples(parts.policy_model(sizes), **judged(task, sizes)))
    fitted = algorithms.reward_model(
        reward_network(sizes),
        n=sizes.samples,
        optimizer=parts.optimizer(sizes.judge_rate, sizes.judge_steps),
        start=restored("sft", "policy", grow=True),
    )
    source = recorded_batches("pairs", pairs, sizes.policy_batch_size)
    return {**steps, "pairs": pairs, "reward": Experiment(fitted, source, sizes.judge_steps, seed=1)}


def _from_reward(task: str, sizes: parts.Sizes) -> dict[str, Any]:
    """What a recipe takes that learns from the reward model and asks no judge."""
    roles = {"reward": Role(reward_network(sizes), restored("reward", "reward"))}
    given = judged(task, sizes)
    return {"start": given["start"], "max_tokens": given["max_tokens"], "n": given["n"]} | {
        "reward": fn(stages.reward),
        "judges": roles,
    }


def algorithm(task: str, sizes: parts.Sizes, method: str, optimizer: Fn) -> Algorithm:
    """A method as it learns from the judge or from the reward model."""
    recipe, _, use = method.partition("_")
    parts_of = _from_reward if use == "reward" else judged
    given = {"optimizer": optimizer, **parts_of(task, sizes)}
    model = parts.policy_model(sizes)
    if method == "online_ipo":
        return algorithms.online_ipo(model, tau=TAU, **given)
    if recipe == "grpo":
        return algorithms.grpo(model, tau=STEEP * TAU, **given)
    # Win rates within a group have the mean 1/2 whatever was sampled, so that leave-one-out stretches them.
    stretched = sizes.samples / (sizes.samples - 1)
    return algorithms.rloo(model, tau=TAU * (STEEP if use == "reward" else stretched), **given)


def policy(task: str, sizes: parts.Sizes, method: str, rate: float) -> Experiment:
    """The step of a method at a peak learning rate."""
    learned = algorithm(task, sizes, method, parts.optimizer(rate, sizes.policy_steps))
    return dataclasses.replace(parts.online(sizes, learned), sample=None)


def player(method: str, stage: str) -> Player:
    """A method's policy as a step has left it."""
    return Player(stage, stage, label=LABELS[method])
