"""Every recipe that learns while it samples, a mode each, on docstring summaries.

    alignjax train configs/online.py:online_ipo            # about 4 minutes on 2 CPU cores
    alignjax train configs/online.py:online_ipo-tiny       # a few steps, to see that it runs

All start from the same SFT policy, and those with a judge ask the same preference model. For a recipe of your own, add
a line to RECIPES. Temperatures are matched to online IPO's TAU where a method has one; other numbers are starting
points, not tuned ones.

On docstrings still, and not on the exact task of configs/quickstart.py: SPIN and RIVAL play against human texts that
are right, where the demonstrations of the exact task are lazy by design, and OPTune and cOFS-DPO need posts that come
again or that split into two domains. So the win rates here are by a judge of form, and what configs/docstrings.py says
of them holds: they compare nothing by themselves. Experiments on exact tasks do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from alignjax import algorithms, losses, stages
from alignjax.config import Experiment, Fn, Pipeline, fn
from alignjax.data import beside, instructions, prompts
from alignjax.data.sources.source import OpenedSource, Source
from alignjax.evaluate.tournament import Player
from alignjax.models import TransformerConfig, transformer
from alignjax.pipelines import summarization as parts
from alignjax.pipelines.loss_families import nothing
from alignjax.roles import fresh, restored
from alignjax.train.samples import decoded
from alignjax.types import Algorithm, Batch, Context, Key, Model, Role
from alignjax.workspace import Workspace

TAU = 0.05  # strength of the pull towards the SFT policy, in units of win rate per nat
BETA = 4 * TAU  # of a logistic loss or of a reward in logits: these rise four times as steeply as win rates near 1/2
HINGE = 2 * TAU  # SLiC's: its target margin 1 / beta is then IPO's for a sure label
STEPS = {"minibatches": 2}  # of the optimizer on one batch of samples, where ratios are bounded
ROUND = 10  # iterations that a round lasts, where a method has rounds

Recipe = Callable[[parts.Sizes], Algorithm]
Given = Callable[[parts.Sizes], Fn]
Steps = Callable[[parts.Sizes], Mapping[str, Experiment]]


# ------------------------------------------------------------------------------------------------------ sources, steps


def posts(sizes: parts.Sizes) -> Fn:
    """Source: posts alone, as many at a time as a policy's batch has."""
    return fn(prompts, batch_size=sizes.policy_batch_size, **parts.posts(sizes))


def few_posts(sizes: parts.Sizes) -> Fn:
    """Source: so few posts that each comes about five times in a run, for a method that reuses what it has sampled."""
    return fn(again, source=posts(sizes), batches=max(1, sizes.policy_steps // 5))


def again(workspace: Workspace | None, seed: int, *, source: Fn, batches: int) -> Source:
    """Source: the first `batches` batches of another source, over and over."""
    whole = source(workspace, seed)
    count = batches * whole.batch_size

    def opened() -> OpenedSource:
        return dataclasses.replace(
            whole.opened, rows=whole.opened.rows[:count].repeat(reseed_each_epoch=False), size=count
        )

    return dataclasses.replace(whole, open=opened)


def human_summaries(sizes: parts.Sizes) -> Fn:
    """Source: posts with their human summary."""
    return fn(instructions, batch_size=sizes.policy_batch_size, **parts.texts(sizes))


def posts_and_summaries(sizes: parts.Sizes) -> Fn:
    """Source: posts, and other posts with their human summaries in the view "pretrain"."""
    return fn(beside, source=posts(sizes), stream=human_summaries(sizes))


def reward_model(sizes: parts.Sizes, *outputs: str) -> Model:
    config = parts.policy_model(sizes).config
    assert isinstance(config, TransformerConfig)
    return transformer(dataclasses.replace(config, outputs=outputs))


def reward(sizes: parts.Sizes) -> Mapping[str, Experiment]:
    """The step "reward": a Bradley-Terry reward model, trained as the preference model is, on the same labels in the
    same order."""
    judge = parts.judge(sizes, seed=1)
    (pair,) = judge.algorithm.losses.values()
    taught = judge.algorithm.roles["preference"]
    roles = {
        "reward": dataclasses.replace(taught, model=reward_model(sizes, "reward")),
        "policy": judge.algorithm.roles["policy"],
    }
    learn = {"pair": fn(losses.bradley_terry, pairs=pair.kwargs["pairs"])}
    return {"reward": dataclasses.replace(judge, algorithm=Algorithm(judge.algorithm.experience, learn, roles))}


def reward_and_cost(sizes: parts.Sizes) -> Mapping[str, Experiment]:
    """The steps "reward" and "cost": a cost model that learns on the same texts which summaries are too long."""
    judge = reward(sizes)["reward"]
    brief = fn(stages.constraint_rate, constraints=(fn(stages.length_within, most=sizes.completion_length // 2),))
    safety = {"brief": brief, "safe": fn(stages.keep_reward, name="safe"), "prefer": fn(stages.prefer_by_reward)}
    (pair,) = judge.algorithm.losses.values()
    learn = {"pair": fn(losses.cost_model, pairs=pair.kwargs["pairs"], safe="reward:safe")}
    taught = judge.algorithm.roles
    made = Algorithm(
        {**judge.algorithm.experience, **safety}, learn, {"cost": taught["reward"], "policy": taught["policy"]}
    )
    return {"reward": judge, "cost": dataclasses.replace(judge, algorithm=made)}


def trained_reward(sizes: parts.Sizes) -> Role:
    return Role(reward_model(sizes, "reward"), restored("reward", "reward"))


# ------------------------------------------------------------------------------------------------------------- recipes


def played(recipe: Callable[..., Algorithm], **hyper: Any) -> Recipe:
    """A recipe of self-play with its hyper-parameters, against the trained judge. n=None: the recipe knows how many
    samples it needs."""

    def made(sizes: parts.Sizes) -> Algorithm:
        options = {"optimizer": parts.policy_optimizer(sizes), **parts.judged(sizes), **hyper}
        return recipe(parts.policy_model(sizes), **{name: part for name, part in options.items() if part is not None})

    return made


def against(recipe: Callable[..., Algorithm], least: int = 1, **hyper: Any) -> Recipe:
    """The same where half of the completions are an opponent's, and at least so many the policy's."""

    def made(sizes: parts.Sizes) -> Algorithm:
        half = max(1, sizes.samples // 2)
        return played(recipe, n=max(least, half), opponents=half, **hyper)(sizes)

    return made


def rewarded(recipe: Callable[..., Algorithm], **hyper: Any) -> Recipe:
    """A recipe from rewards, on those of a Bradley-Terry model."""

    def made(sizes: parts.Sizes) -> Algorithm:
        options = {
            "reward": fn(stages.reward),
            "judges": {"reward": trained_reward(sizes)},
            "n": sizes.samples,
            "max_tokens": sizes.completion_length,
            "start": restored("sft", "policy"),
            "optimizer": parts.policy_optimizer(sizes),
        }
        return recipe(parts.policy_model(sizes), **{**options, **hyper})

    return made


def with_critic(recipe: Callable[..., Algorithm], **hyper: Any) -> Recipe:
    """The same with a critic that starts from the reward model."""

    def made(sizes: parts.Sizes) -> Algorithm:
        critic = {
            "critic": reward_model(sizes, "reward", "value"),
            "critic_start": restored("reward", "reward", grow=True),
            "critic_optimizer": parts.optimizer(sizes.judge_rate, sizes.policy_steps),
        }
        return rewarded(recipe, **critic, **hyper)(sizes)

    return made


def ppo_judged(sizes: parts.Sizes) -> Algorithm:
    """PPO on the judge's win rates against samples of the SFT policy, with a critic that starts from it."""
    half = max(1, sizes.samples // 2)
    critic = {"critic": reward_model(sizes, "value"), "critic_start": restored("sft", "policy", grow=True)}
    return played(algorithms.ppo, n=half, against=half, **critic, **STEPS)(sizes)


def distillation(sizes: parts.Sizes) -> Algorithm:
    """A fresh student of the SFT policy."""
    model = parts.policy_model(sizes)
    return algorithms.distillation(
        model,
        teacher=Role(model, restored("sft", "policy")),
        loss=fn(losses.gkd),
        start=fresh(),
        n=sizes.samples,
        max_tokens=sizes.completion_length,
        optimizer=parts.policy_optimizer(sizes),
    )


def safe_rlhf(sizes: parts.Sizes) -> Algorithm:
    """The reward of the model, while summaries are on average on the right side of what a cost model finds too long."""
    judges = {"reward": trained_reward(sizes), "cost": Role(reward_model(sizes, "reward"), restored("cost", "cost"))}
    costs = {"too_long": fn(stages.reward, role="cost")}
    return with_critic(algorithms.safe_rlhf, costs=costs, judges=judges, warm_up=ROUND, **STEPS)(sizes)


def gdpo(sizes: parts.Sizes) -> Algorithm:
    """Two rewards, each normalized by itself: that of the model, and the judge's win rate within the group."""
    judge = parts.judged(sizes)
    judges = {**judge["judges"], "reward": trained_reward(sizes)}
    options = {key: judge[key] for key in ("judge", "max_tokens", "start")}
    return algorithms.gdpo(
        parts.policy_model(sizes),
        rewards={"model": fn(stages.reward)},
        judges=judges,
        n=sizes.samples,
        optimizer=parts.policy_optimizer(sizes),
        **options,
    )


def optune(sizes: parts.Sizes) -> Algorithm:
    judges = {**parts.judged(sizes)["judges"], "reward": trained_reward(sizes)}
    return played(algorithms.optune, beta=BETA, count=sizes.policy_batch_size // 2, judges=judges)(sizes)


def dno(sizes: parts.Sizes) -> Algorithm:
    return played(algorithms.dno, sync_every=ROUND, n=max(3, sizes.samples))(sizes)  # a third rates two


def rival(sizes: parts.Sizes) -> Algorithm:
    return played(
        algorithms.rival,
        tau=BETA,
        n=sizes.samples,
        vocab=sizes.vocab,
        reward_model=reward_model(sizes, "reward", "value"),
        reward_optimizer=parts.optimizer(sizes.judge_rate, sizes.policy_steps),
        reward_start=restored("sft", "policy", grow=True),
    )(sizes)


def eva(sizes: parts.Sizes) -> Algorithm:
    loss, quarter = fn(losses.dpo, beta=BETA), max(1, sizes.policy_batch_size // 4)
    return played(algorithms.eva, loss=loss, count=quarter, prompt_tokens=sizes.prompt_length)(sizes)


def with_replay(sizes: parts.Sizes) -> Algorithm:
    """Online IPO that also learns from what it saw in the last ten iterations."""
    return algorithms.with_replay(
        played(algorithms.online_ipo, tau=TAU)(sizes),
        slots=4096,
        rows=sizes.policy_batch_size // 2,
        max_age=10,
        prompt_tokens=sizes.prompt_length,
        n=sizes.samples,
        max_tokens=sizes.completion_length,
    )


def by_length(context: Context, batch: Batch, key: Key, *, long: int) -> Batch:
    """Stage: prompts["domain"] is 1 for posts of more than `long` tokens and 0 for others."""
    assert batch.prompt_valid is not None
    domain = (jnp.sum(batch.prompt_valid, axis=1) > long).astype(jnp.int32)
    return batch.replace(prompts={**batch.prompts, "domain": domain})


def streamed(recipe: Callable[..., Algorithm], **hyper: Any) -> Recipe:
    """A recipe for a stream of labeled pairs, with a slow learner at a fifth of the policy's rate."""

    def made(sizes: parts.Sizes) -> Algorithm:
        slow = parts.optimizer(sizes.policy_rate / 5, sizes.policy_steps)
        speeds = {"optimizer": parts.policy_optimizer(sizes), "slow_optimizer": slow}
        start = restored("sft", "policy")
        return recipe(parts.policy_model(sizes), start=start, n=sizes.samples, beta=BETA, **speeds, **hyper)

    return made


def two_domains(sizes: parts.Sizes) -> Algorithm:
    algorithm = streamed(algorithms.cofs_dpo, domains=2)(sizes)
    domain = {"domain": fn(by_length, long=sizes.prompt_length // 2)}
    return dataclasses.replace(algorithm, experience={**domain, **algorithm.experience})


# name -> (algorithm, what it starts from, steps before it beside SFT and the judges)
RECIPES: dict[str, tuple[Recipe, Given, Steps]] = {
    # a loss on all pairs of samples
    "online_ipo": (played(algorithms.online_ipo, tau=TAU), posts, nothing),
    "online_dpo": (played(algorithms.online_dpo, beta=BETA), posts, nothing),
    "online_slic": (played(algorithms.online_slic, beta=HINGE), posts, nothing),
    "ipo_md": (played(algorithms.ipo_md, tau=TAU, beta=0.125), posts, nothing),
    "ipo_md_half": (played(algorithms.ipo_md, tau=TAU, beta=0.5), posts, nothing),
    "oaif": (played(algorithms.oaif, loss=fn(losses.dpo, beta=BETA)), posts, nothing),
    "osp": (played(algorithms.osp, beta=BETA), posts, nothing),  # the judge's strengths: this policy cannot judge
    "with_replay": (with_replay, posts, nothing),
    # policy gradient on a reward: Bradley-Terry's, or the judge's win rate within the group
    "rlhf": (rewarded(algorithms.rloo, tau=BETA), posts, reward),
    "rloo_judged": (played(algorithms.rloo, tau=TAU), posts, nothing),
    "grpo": (rewarded(algorithms.grpo, **STEPS), posts, reward),
    "grpo_judged": (played(algorithms.grpo, **STEPS), posts, nothing),
    "dr_grpo": (rewarded(algorithms.dr_grpo, **STEPS), posts, reward),
    "bnpo": (rewarded(algorithms.bnpo, **STEPS), posts, reward),
    "dapo": (rewarded(algorithms.dapo, **STEPS), posts, reward),
    "cispo": (rewarded(algorithms.cispo, **STEPS), posts, reward),
    "gspo": (rewarded(algorithms.gspo, **STEPS), posts, reward),
    "luspo": (rewarded(algorithms.luspo, **STEPS), posts, reward),
    "sapo": (rewarded(algorithms.sapo, **STEPS), posts, reward),
    "vespo": (rewarded(algorithms.vespo, **STEPS), posts, reward),
    "gdpo": (gdpo, posts, reward),
    "ppo": (with_critic(algorithms.ppo, **STEPS), posts, reward),
    "ppo_judged": (ppo_judged, posts, nothing),
    "ppo_max": (with_critic(algorithms.ppo_max, eta=TAU, warm_up=ROUND, **STEPS), posts, reward),
    "ppo_ptx": (with_critic(algorithms.ppo_ptx, gamma=0.5, **STEPS), posts_and_summaries, reward),
    "safe_rlhf": (safe_rlhf, posts, reward_and_cost),
    "distillation": (distillation, posts, nothing),
    "reinforce_pp": (rewarded(algorithms.reinforce_pp, tau=TAU, **STEPS), posts, reward),
    "raft": (rewarded(algorithms.raft), posts, reward),
    "remax": (rewarded(algorithms.remax, tau=BETA), posts, reward),
    "maxrl": (played(algorithms.maxrl), posts, nothing),  # rewards that are not negative: win rates
    # against oneself, or a past or mixed self
    "self_play_pg": (played(algorithms.self_play_pg, tau=TAU), posts, nothing),
    # past policies in the place of SPO's past trajectories
    "spo": (against(algorithms.self_play_pg, tau=TAU, pool=4, sync_every=ROUND), posts, nothing),
    "nash_md": (against(algorithms.nash_md, tau=TAU), posts, nothing),
    "nash_ema": (against(algorithms.nash_ema, tau=TAU, decay=0.95), posts, nothing),  # 20 iterations of memory
    # in rounds
    "iterated_dpo": (played(algorithms.iterated_dpo, beta=BETA, sync_every=ROUND), posts, nothing),
    "sppo": (played(algorithms.sppo, eta=1 / TAU, sync_every=ROUND), posts, nothing),
    "dno": (dno, posts, nothing),
    "inpo": (played(algorithms.inpo, eta=3 * TAU, c=1 / 3, sync_every=ROUND), posts, nothing),
    "mnpo": (played(algorithms.mnpo, eta=3 * TAU, c=1 / 3, sync_every=ROUND), posts, nothing),
    "onpo": (played(algorithms.onpo, eta=1 / TAU, sync_every=ROUND), posts, nothing),
    "comal": (played(algorithms.comal, eta=3 * TAU, c=1 / 3, sync_every=ROUND, outer=4), posts, nothing),
    "egpo": (against(algorithms.egpo, least=2, tau=TAU), posts, nothing),
    "spin": (played(algorithms.spin, loss=fn(losses.dpo, beta=BETA), sync_every=ROUND, n=1), human_summaries, nothing),
    # exploration
    "xpo": (played(algorithms.xpo, loss=fn(losses.dpo, beta=BETA), n=None), posts, nothing),
    "vpo": (played(algorithms.vpo, beta=BETA, n=None), posts, nothing),
    "selm": (played(algorithms.selm, beta=BETA, sync_every=ROUND), posts, nothing),
    "active_dpo": (played(algorithms.active_dpo, beta=BETA, count=4), posts, nothing),
    "optune": (optune, few_posts, reward),  # half of a batch anew, the rest as remembered
    # something beside the policy moves too
    "rival": (rival, human_summaries, nothing),
    "eva": (eva, posts, nothing),
    # streams of given pairs
    "ofs_dpo": (streamed(algorithms.ofs_dpo), parts.recorded_samples, parts.judged_samples),
    "cofs_dpo": (two_domains, parts.recorded_samples, parts.judged_samples),
}
TINY = "-tiny"
MODES = (*RECIPES, *(name + TINY for name in RECIPES))


def trained(sizes: parts.Sizes, name: str) -> Experiment:
    recipe, source, _ = RECIPES[name]
    sample = fn(decoded, dataset=sizes.dataset)
    return Experiment(recipe(sizes), source(sizes), sizes.policy_steps, sample=sample, sample_every=40)


def pipeline(sizes: parts.Sizes, name: str) -> Pipeline:
    """From nothing to the win rate of a policy trained by a recipe against the SFT policy."""
    _, _, before = RECIPES[name]
    steps = {**before(sizes), name: trained(sizes, name)}
    return parts.compared(sizes, steps, Player(name, name), title=f"{name} on docstring summaries")


def get_config(mode: str = "online_ipo") -> Pipeline:
    return pipeline(parts.sizes_of(mode), mode.removesuffix(TINY))
