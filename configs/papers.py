"""Recipes of papers from existing parts, a mode each, on exact tasks; docs/papers.md says what was tested.

    alignjax train configs/papers.py:spo            # a few CPU minutes
    alignjax train configs/papers.py:spo-tiny       # a few steps, to see that it runs

Each goes from nothing to a tournament that gold decides, in which SFT's controls (greedy, T = 0.5, best of four) play,
and, where a paper claims something about a part, the policy without that part. For a paper of your own, add a function
to PAPERS.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from alignjax import algorithms, losses, stages
from alignjax.config import Experiment, Fn, Pipeline, fn
from alignjax.data import beside
from alignjax.evaluate.tournament import Player
from alignjax.exact_tasks import DISTINCT, SECOND_LOOK, SORTING, STYLES, ExactTask, exact_reward, letters, wrong_draft
from alignjax.exact_tasks.arithmetic import DIGITS
from alignjax.exact_tasks.styles import style_quality, style_share
from alignjax.models import TransformerConfig, transformer
from alignjax.pair_layout import all_pairs
from alignjax.pipelines import exact_study as parts
from alignjax.pipelines.judged_pairs import recorded_batches
from alignjax.roles import copy_of, restored
from alignjax.sampling import own
from alignjax.types import Algorithm, Model, Role

Made = tuple[Mapping[str, Any], tuple[Player, ...]]
SFT_POLICY = restored("sft", "policy")
GROUP = 8  # samples of a prompt where rewards are compared within a group


def with_outputs(sizes: parts.Sizes, *outputs: str) -> Model:
    """The policy's network with other outputs."""
    config = parts.policy_model(sizes).config
    assert isinstance(config, TransformerConfig)
    return transformer(dataclasses.replace(config, outputs=outputs))


def sampling(sizes: parts.Sizes, n: int, **more: Any) -> Fn:
    return fn(stages.generate, n=n, max_tokens=sizes.completion_length, **more)


def verifier(sizes: parts.Sizes) -> Fn:
    """The reward of the first measure of the task."""
    return fn(exact_reward, function=sizes.task.measures[0].function)


def on_policy(sizes: parts.Sizes) -> dict[str, Any]:
    """What a recipe from rewards takes."""
    options = {"n": GROUP, "max_tokens": sizes.completion_length, "start": SFT_POLICY}
    return {**options, "optimizer": parts.policy_optimizer(sizes)}


def taught_reward(sizes: parts.Sizes, labels: str, step: Experiment, start: Any, n: int | None = None) -> Experiment:
    """A Bradley-Terry reward model of n labeled samples a prompt that a step has written."""
    algorithm = algorithms.reward_model(
        with_outputs(sizes, "reward"),
        n=n or sizes.samples,
        optimizer=parts.optimizer(sizes.judge_rate, sizes.judge_steps),
        start=start,
    )
    return Experiment(algorithm, recorded_batches(labels, step, sizes.judge_batch_size), sizes.judge_steps, seed=1)


# -------------------------------------------------------------------------------------------------- flawed beginnings


def recap(sizes: parts.Sizes) -> Made:
    """RECAP (arXiv:2510.00938): half of the prompts of DAPO get a wrong draft, from which the policy has to recover;
    against DAPO without drafts, both with means per sample as the paper writes it."""
    draft = {"prefix": fn(stages.flawed_prefix, write=fn(wrong_draft), length=DIGITS + 1)}
    options = {"reward": verifier(sizes), "reduction": fn(losses.sequence_mean), "minibatches": 2}
    plain = algorithms.dapo(parts.policy_model(sizes), **options, **on_policy(sizes))
    sampled = {"generate": plain.experience["generate"], "whole": fn(stages.with_prefix)}
    begun = {**draft, **sampled, **plain.experience}  # what stands there already keeps its place
    flawed = dataclasses.replace(plain, experience=begun)
    steps = {"dapo": parts.online(sizes, plain), "recap": parts.online(sizes, flawed)}
    return steps, (Player("dapo", "dapo", label="DAPO"), Player("recap", "recap", label="RECAP"))


# ------------------------------------------------------------------------------------------------ references, outcomes


def refalign(sizes: parts.Sizes) -> Made:
    """RefAlign (arXiv:2504.09895): REINFORCE on the likeness of samples to a reference answer, advantages cut at 0.5
    (the paper's constants are not known to us); against SFT on the same references."""
    references = fn(
        letters, batch_size=sizes.policy_batch_size, **parts.texts(sizes) | {"demonstrate": sizes.task.solve}
    )
    likeness = {
        "likeness": fn(stages.overlap, vocab=sizes.vocab),
        "reward": fn(stages.reference_reward),
    }
    algorithm = algorithms.policy_gradient(
        parts.policy_model(sizes),
        loss=fn(
            losses.surrogate,
            ratio=fn(losses.no_ratio),
            bound=fn(losses.no_bound),
            behaviour=None,
            reduction=fn(losses.constant_length, length=sizes.completion_length),
        ),
        reward=likeness,
        advantage={"advantage": fn(stages.group_advantage, scale="none", clip=0.5)},
        **on_policy(sizes),
    )
    imitated = algorithms.sft(parts.policy_model(sizes), optimizer=parts.policy_optimizer(sizes), start=SFT_POLICY)
    steps = {
        "refalign": Experiment(algorithm, references, sizes.policy_steps),
        "imitation": Experiment(imitated, references, sizes.policy_steps),
    }
    return steps, (
        Player("refalign", "refalign", label="RefAlign"),
        Player("imitation", "imitation", label="SFT on references"),
    )


def rlhs(sizes: parts.Sizes) -> Made:
    """RLHS (arXiv:2501.08617): online DPO from what people say at once, who like long answers, and from what they say
    once they have seen what an answer was worth."""
    said = {"foresight": sizes.task.annotator, "hindsight": sizes.task.gold}
    steps = {
        name: parts.online(
            sizes,
            algorithms.online_dpo(
                parts.policy_model(sizes),
                beta=0.2,
                optimizer=parts.policy_optimizer(sizes),
                **parts.judged(sizes) | {"judge": fn(stages.bernoulli, judge=judge), "judges": {}},
            ),
        )
        for name, judge in said.items()
    }
    return steps, tuple(Player(name, name, label=f"DPO from {name}") for name in said)


# ------------------------------------------------------------------------------------------------- several preferences


def two_dimensions(sizes: parts.Sizes) -> Mapping[str, Fn]:
    """Two wishes about styles: an answer without faults, then an ascending one."""
    return {"faults": fn(style_quality), "ascending": fn(style_share, style=0)}


def spo(sizes: parts.Sizes) -> Made:
    """SPO (arXiv:2405.12739): a round of DPO for answers without faults, then one for ascending answers in which the
    first is held by its implicit reward; against a second round that does not hold it."""
    wishes = two_dimensions(sizes)
    model, optimizer = parts.policy_model(sizes), parts.policy_optimizer(sizes)
    pairs = all_pairs(sizes.samples)

    def round_of(wish: str, start: Any, loss: Fn, roles: Mapping[str, Role]) -> Experiment:
        labeled = {
            "generate": sampling(sizes, sizes.samples),
            "reward": fn(exact_reward, function=wishes[wish]),
            "prefer": fn(stages.prefer_by_reward, scale=4.0),
        }
        first = {"policy": Role(model, start, optimizer), "reference": Role(model, copy_of("policy"))}
        return parts.online(sizes, Algorithm(labeled, {"loss": loss}, {**first, **roles}))

    begun = {"sft": Role(model, SFT_POLICY)}
    later = fn(losses.sequential_dpo, beta=0.2, earlier=("sft",), alphas=(1.0,), pairs=pairs)
    steps = {
        "round_1": round_of("faults", SFT_POLICY, fn(losses.dpo, beta=0.2, pairs=pairs), {}),
        "spo": round_of("ascending", restored("round_1", "policy"), later, begun),
        "one_after_another": round_of("ascending", restored("round_1", "policy"), later.replace(alphas=(0.0,)), begun),
    }
    names = {"round_1": "DPO, round 1", "spo": "SPO, round 2", "one_after_another": "DPO, round 2"}
    return steps, tuple(Player(name, name, label=label) for name, label in names.items())


USERS = ((3,), (3, 3), (3, 3, 3))  # separators in front of a prompt: whose it is


def dpa(sizes: parts.Sizes) -> Made:
    """DPA (arXiv:2402.18571): prompts carry a direction, and SFT on the best of n by direction . scores, iterated on
    the policy's own samples; scores are the absence of faults and an ascending answer."""
    directions = ((1.0, 0.0), (0.8, 0.6), (0.8, -0.6))
    experience = {
        "goal": fn(stages.draw_goal, goals=USERS),
        "generate": sampling(sizes, GROUP),
        "scores": fn(stages.scores_by, functions=tuple(two_dimensions(sizes).values())),
        "reward": fn(stages.directed_reward, directions=directions),
        "ranked": fn(stages.ranked),
        "best": fn(stages.into_view, view="best", completions=(0,)),
    }
    role = Role(parts.policy_model(sizes), SFT_POLICY, parts.policy_optimizer(sizes))
    algorithm = Algorithm(experience, {"sft": losses.on("best", fn(losses.sft))}, {"policy": role})
    return {"dpa": parts.online(sizes, algorithm)}, (Player("dpa", "dpa", label="DPA, no direction"),)


def rlhi(sizes: parts.Sizes) -> Made:
    """RLHI from personas (arXiv:2509.25137): DPO with a user's persona in the context, on the pairs of samples that
    this user ranks; users want answers ascending, descending or as they stand, without faults. The paper's best and
    worst under a reward model are all pairs here, and its rewrites are left out."""
    wants = tuple(fn(wanted, style=style) for style in range(3))
    model, pairs = parts.policy_model(sizes), all_pairs(sizes.samples)
    experience = {
        "generate": sampling(sizes, sizes.samples),
        "scores": fn(stages.scores_by, functions=wants),
        "personas": fn(stages.configured_pairs, goals=USERS),
        "reference": fn(stages.logprobs, role="reference"),
    }
    roles = {"policy": Role(model, SFT_POLICY, parts.policy_optimizer(sizes)), "reference": Role(model, SFT_POLICY)}
    algorithm = Algorithm(experience, {"dpo": fn(losses.dpo, beta=0.2, pairs=pairs)}, roles)
    return {"rlhi": parts.online(sizes, algorithm)}, (Player("rlhi", "rlhi", label="RLHI, no persona"),)


def wanted(batch: Any, *, style: int) -> Any:
    """How much of an answer [B,N] is what a user wants: its quality where it is of the user's style, else 0."""
    return style_quality(batch) * style_share(batch, style=style)


# ------------------------------------------------------------------------------------------------------ stages of RLHF


def critic_of_reward(sizes: parts.Sizes, reward: str) -> dict[str, Any]:
    """PPO's reward model and a critic that starts from it."""
    return {
        "reward": fn(stages.reward),
        "judges": {"reward": Role(with_outputs(sizes, "reward"), restored(reward, "reward"))},
        "critic": with_outputs(sizes, "reward", "value"),
        "critic_start": restored(reward, "reward", grow=True),
        "critic_optimizer": parts.optimizer(sizes.judge_rate, sizes.policy_steps),
        "minibatches": 2,
        "epochs": 1,
    }


def instructgpt(sizes: parts.Sizes) -> Made:
    """InstructGPT's three stages (arXiv:2203.02155): SFT, a reward model of all pairs of the samples of a prompt, and
    PPO on it, with the log-likelihood of demonstrations (PPO-ptx) and without (PPO)."""
    demonstrations = fn(letters, batch_size=sizes.policy_batch_size, split="pretrain", **parts.texts(sizes))
    options = on_policy(sizes) | critic_of_reward(sizes, "reward")
    plain = parts.online(sizes, algorithms.ppo(parts.policy_model(sizes), **options))
    mixed = parts.online(sizes, algorithms.ppo_ptx(parts.policy_model(sizes), gamma=0.5, **options))
    steps = {
        "reward": taught_reward(sizes, "labels", parts.labels(sizes), restored("sft", "policy", grow=True)),
        "ppo": plain,
        "ppo_ptx": dataclasses.replace(mixed, source=fn(beside, source=mixed.source, stream=demonstrations)),
    }
    return steps, (Player("ppo", "ppo", label="PPO"), Player("ppo_ptx", "ppo_ptx", label="PPO-ptx"))


def hh_iterated(sizes: parts.Sizes) -> Made:
    """Iterated online RLHF (arXiv:2204.05862): labels of the newest policy's samples refresh the reward model, and PPO
    starts again from SFT on it; against the same on the first reward model. The paper's second reward model learns from
    all labels; this one goes on from the first with the new ones."""
    newer = parts.labels(sizes)
    policy = dataclasses.replace(newer.algorithm.roles["policy"], start=restored("ppo_1", "policy"))
    newer = dataclasses.replace(
        newer, algorithm=dataclasses.replace(newer.algorithm, roles={**newer.algorithm.roles, "policy": policy}), seed=2
    )

    def ppo(reward: str, seed: int) -> Experiment:
        options = on_policy(sizes) | critic_of_reward(sizes, reward)
        return dataclasses.replace(parts.online(sizes, algorithms.ppo(parts.policy_model(sizes), **options)), seed=seed)

    steps = {
        "reward_1": taught_reward(sizes, "labels", parts.labels(sizes), restored("sft", "policy", grow=True)),
        "ppo_1": ppo("reward_1", 1),
        "labels_2": newer,
        "reward_2": taught_reward(sizes, "labels_2", newer, restored("reward_1", "reward")),
        "ppo_2": ppo("reward_2", 1),
    }
    return steps, (Player("ppo_1", "ppo_1", label="PPO, first"), Player("ppo_2", "ppo_2", label="PPO, refreshed"))


def almost(sizes: parts.Sizes) -> Made:
    """ALMoST (arXiv:2305.13735): comparisons without people, by the assumption that a better trained generator answers
    better; a reward model of them, and RLOO on it. The paper's order is by size, prompts and demonstrations, with a
    filter that is not known to us; here one of two generators had a sixth of the training."""
    model = parts.policy_model(sizes)
    weaker = parts.sft(dataclasses.replace(sizes, sft_steps=max(2, sizes.sft_steps // 6)))
    experience = {
        "strong": sampling(sizes, 1, behaviour=fn(own, stream="strong")),
        "weak": sampling(sizes, 1, behaviour=fn(own, stream="weak")),
        "prefer": fn(stages.prefer_first),
    }
    roles = {"strong": Role(model, SFT_POLICY), "weak": Role(model, restored("weaker", "policy"))}
    source = fn(letters, batch_size=sizes.judge_batch_size, split="generators", **parts.posts(sizes))
    compared = Experiment(Algorithm(experience, {}, roles), source, sizes.label_steps)
    judges = {"reward": Role(with_outputs(sizes, "reward"), restored("reward", "reward"))}
    learned = algorithms.rloo(model, reward=fn(stages.reward), judges=judges, tau=0.2, **on_policy(sizes))
    steps = {
        "weaker": weaker,
        "generators": compared,
        "reward": taught_reward(sizes, "generators", compared, restored("sft", "policy", grow=True), n=2),
        "almost": parts.online(sizes, learned),
    }
    return steps, (
        Player("weaker", "weaker", label="SFT, a sixth of the steps"),
        Player("almost", "almost", label="ALMoST"),
    )


PAPERS: dict[str, tuple[ExactTask, Callable[[parts.Sizes], Made]]] = {
    "recap": (SECOND_LOOK, recap),
    "refalign": (DISTINCT, refalign),
    "rlhs": (DISTINCT, rlhs),
    "spo": (STYLES, spo),
    "dpa": (STYLES, dpa),
    "rlhi": (STYLES, rlhi),
    "instructgpt": (SORTING, instructgpt),
    "hh_iterated": (DISTINCT, hh_iterated),
    "almost": (SORTING, almost),
}
TINY = "-tiny"
MODES = (*PAPERS, *(name + TINY for name in PAPERS))


def get_config(mode: str = "spo") -> Pipeline:
    name = mode.removesuffix(TINY)
    task, made = PAPERS[name]
    sizes = parts.sizes_of(mode, task)
    steps, players = made(sizes)
    return parts.compared(sizes, steps, *players, title=f"{name}: {sizes.task.title}")
