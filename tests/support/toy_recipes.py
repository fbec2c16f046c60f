"""Algorithms that every promise of an update is tested on: all named recipes, and losses that couple the rows of a
batch, ask for reads of their own, or build a view themselves. A new recipe is a new line in RECIPES."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import algorithms, losses, roles, stages
from alignjax.config import fn
from alignjax.losses.decorators.sequences import sequence_logps
from alignjax.pair_layout import all_pairs
from alignjax.train.state import TrainState
from alignjax.train.step import make_experience, make_update
from alignjax.train.token_ids import fill_token_ids
from alignjax.types import Algorithm, Array, Batch, Context, Mean, Metrics, Model, Role
from tests.support.tiny import all_finite, model, sgd

OPTIMIZER = fn(sgd, learning_rate=1.0)


def sorted_margins(context: Context, batch: Batch, *, beta: float) -> tuple[Mean, Metrics]:
    """Couples all rows of a batch: chosen and rejected log-ratios sorted apart before they are compared (like AOT)."""
    (logps,) = context.score("policy", batch).values()
    ratio = sequence_logps(logps - batch.logps["reference"], batch.mask)
    ordered = jnp.sort(ratio, axis=0)
    return Mean.of(-jax.nn.log_sigmoid(beta * (ordered[:, 0] - ordered[:, 1]))), {}


def forward_kl(outputs: dict[str, Array], token: Array) -> dict[str, Array]:
    policy, reference = (jax.nn.log_softmax(outputs[name].astype(jnp.float32)) for name in ("policy", "reference"))
    return {"kl": jnp.sum(jnp.exp(reference) * (reference - policy), axis=-1)}


def kl(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
    """The full-vocabulary KL per token, from two roles' logits at once."""
    return Mean.of(context.score(("policy", "reference"), batch, read=forward_kl)["kl"], batch.mask), {}


def entropy_of(outputs: dict[str, Array], token: Array) -> dict[str, Array]:
    logp = jax.nn.log_softmax(outputs["policy"].astype(jnp.float32))
    return {"entropy": -jnp.sum(jnp.exp(logp) * logp, axis=-1)}


def entropy(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
    return Mean.of(-context.score("policy", batch, read=entropy_of)["entropy"], batch.mask), {}


def mismatched(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
    """Completions under the prompt of another row: a batch that the loss builds itself (like KTO's baseline)."""
    other = batch.replace(prompt=jnp.roll(batch.prompt, 1, 0), prompt_valid=jnp.roll(batch.prompt_valid, 1, 0))
    (logps,) = context.score("policy", other).values()
    return Mean.of(logps, batch.mask), {}


def value_error(context: Context, batch: Batch) -> tuple[Mean, Metrics]:
    (values,) = context.score("critic:value", batch).values()
    return Mean.of(jnp.square(values - 1), batch.mask), {}


def judged(build: Callable[..., Algorithm]) -> Callable[..., Algorithm]:
    """The recipe with a fresh preference model as its judge."""

    def algorithm(network: Model, **parts: Any) -> Algorithm:
        judge = {"judge": Role(network, roles.value(network.init))}
        ask = fn(stages.preference_model, role="judge")
        return build(network, judge=ask, judges=judge, start=roles.fresh(), max_tokens=5, **parts)

    return algorithm


def offline(build: Callable[..., Algorithm]) -> Callable[..., Algorithm]:
    return lambda network, **parts: build(network, start=roles.fresh(), **parts)


def with_losses(**entries: Any) -> Callable[..., Algorithm]:
    def algorithm(network: Model, *, microbatches: int = 1, **parts: Any) -> Algorithm:
        trained = {"policy": Role(network, roles.fresh(), OPTIMIZER), "critic": Role(network, roles.fresh(), OPTIMIZER)}
        state = {**trained, "reference": Role(network, roles.copy_of("policy"))}
        used = {name: role for name, role in state.items() if name != "critic" or "value" in entries}
        return Algorithm(losses=entries, roles=used, microbatches=microbatches)

    return algorithm


def self_judged(build: Callable[..., Algorithm], **judges: Role) -> Callable[..., Algorithm]:
    """A recipe that brings its own judge."""
    return lambda network, **parts: build(network, judges=judges, start=roles.fresh(), max_tokens=5, **parts)


def with_text(build: Callable[..., Algorithm]) -> Callable[..., Algorithm]:
    """A recipe that learns from texts of the source and asks no judge."""
    return lambda network, **parts: build(network, start=roles.fresh(), max_tokens=5, **parts)


def rival(network: Model, **parts: Any) -> Algorithm:
    reward = {"reward_model": network, "reward_start": roles.fresh(), "reward_optimizer": OPTIMIZER}
    return algorithms.rival(network, **reward, vocab=network.config.vocab, start=roles.fresh(), max_tokens=5, **parts)


def optune(network: Model, **parts: Any) -> Algorithm:
    judges = {name: Role(network, roles.value(network.init)) for name in ("judge", "reward")}
    ask = fn(stages.preference_model, role="judge")
    more = {"judge": ask, "judges": judges, "start": roles.fresh(), "max_tokens": 5}
    return algorithms.optune(network, count=2, slots=8, **more, **parts)


def rewarded(build: Callable[..., Algorithm]) -> Callable[..., Algorithm]:
    """The recipe with a fresh reward model, the reward head of the network."""

    def algorithm(network: Model, **parts: Any) -> Algorithm:
        judges = {"reward": Role(network, roles.value(network.init))}
        return build(network, reward=fn(stages.reward), judges=judges, start=roles.fresh(), max_tokens=5, **parts)

    return algorithm


def two_rewards(network: Model, **parts: Any) -> Algorithm:
    """Rewards of two heads, those of a fresh reward model and of the one that judges."""
    judges = {name: Role(network, roles.value(network.init)) for name in ("judge", "reward")}
    rewards = {"a": fn(stages.reward), "b": fn(stages.reward, role="judge")}
    more = {"judges": judges, "start": roles.fresh(), "max_tokens": 5}
    return algorithms.gdpo(network, rewards=rewards, n=3, weights=(1.0, 0.5), tau=0.1, **more, **parts)


def distillation(network: Model, **parts: Any) -> Algorithm:
    teacher = Role(network, roles.value(network.init))
    more = {"start": roles.fresh(), "max_tokens": 5}
    return algorithms.distillation(network, teacher=teacher, loss=fn(losses.gkd), n=3, **more, **parts)


def safe_rlhf(network: Model, **parts: Any) -> Algorithm:
    """The reward of a reward model, and another one's is the cost."""
    judges = {name: Role(network, roles.value(network.init)) for name in ("judge", "reward")}
    costs = {"harm": fn(stages.reward, role="judge")}
    more = {"judges": judges, "start": roles.fresh(), "max_tokens": 5}
    return algorithms.safe_rlhf(network, reward=fn(stages.reward), costs=costs, limits=(0.1,), n=2, **more, **parts)


def ppo_max(network: Model, **parts: Any) -> Algorithm:
    """Every switch on, and a critic of its own."""
    switches = {"advantage_norm": True, "advantage_clip": 2.0, "entropy": 0.1, "entropy_target": 1.0}
    return algorithms.ppo_max(network, critic=network, critic_optimizer=fn(sgd, learning_rate=0.1), **switches, **parts)


def filled(build: Callable[..., Algorithm]) -> Callable[..., Algorithm]:
    """The recipe with the token ids of a tokenizer that is trained here."""
    return lambda network, **parts: fill_token_ids(build(network, **parts), stop=(2,), separator=3)


RECIPES: dict[str, Callable[..., Algorithm]] = {
    "sft": algorithms.sft,
    "preference_model": functools.partial(algorithms.preference_model, n=2),
    "reward_model": functools.partial(algorithms.reward_model, n=2),
    "dpo": offline(functools.partial(algorithms.dpo, beta=0.3)),
    "ipo": offline(functools.partial(algorithms.ipo, tau=0.3)),
    "slic": offline(functools.partial(algorithms.slic, beta=0.3)),
    "online_dpo": judged(functools.partial(algorithms.online_dpo, beta=0.3)),
    "online_ipo": judged(functools.partial(algorithms.online_ipo, tau=0.3)),
    "online_slic": judged(functools.partial(algorithms.online_slic, beta=0.3)),
    "ipo_md": judged(functools.partial(algorithms.ipo_md, tau=0.3, beta=0.25)),
}
RECIPES = {name: filled(build) for name, build in RECIPES.items()}
# Played by a policy against itself and asked about by a judge: on a language model, and on games.
SELF_PLAY: dict[str, Callable[..., Algorithm]] = {
    "iterated_dpo": functools.partial(algorithms.iterated_dpo, sync_every=2),
    "oaif": functools.partial(algorithms.oaif, verdicts=(4, 5)),
    "nash_md": functools.partial(algorithms.nash_md, beta=0.25, n=2),
    "nash_ema": functools.partial(algorithms.nash_ema, decay=0.5),
    "self_play_pg": algorithms.self_play_pg,
    "sppo": functools.partial(algorithms.sppo, eta=4.0),
    "dno": algorithms.dno,
    "mnpo": functools.partial(algorithms.mnpo, eta=0.5, history=3, sync_every=2),
    "inpo": algorithms.inpo,
    "comal": functools.partial(algorithms.comal, outer=2),
    "onpo": algorithms.onpo,
    "egpo": functools.partial(algorithms.egpo, tau=0.5),
    "osp": functools.partial(algorithms.osp, verdicts=(4, 5)),
    "xpo": functools.partial(algorithms.xpo, alpha=0.1),
    "vpo": functools.partial(algorithms.vpo, alpha=0.1),
    "selm": functools.partial(algorithms.selm, sync_every=2),
    "active_dpo": functools.partial(algorithms.active_dpo, count=2, members=2, n=3, scores="borda"),
}
# Of these, `test_played.py` says what it does of RECIPES; their losses stand in tests/losses/cases.py.
PLAYED: dict[str, Callable[..., Algorithm]] = {
    **{name: judged(build) for name, build in SELF_PLAY.items()},
    "osp": self_judged(SELF_PLAY["osp"]),
    "oaif": lambda network, **parts: self_judged(SELF_PLAY["oaif"], annotator=Role(network, roles.fresh()))(
        network, **parts
    ),
    "vpo_offline": offline(algorithms.vpo_offline),
    "spin": with_text(functools.partial(algorithms.spin, sync_every=2)),
    "rival": rival,
    "optune": optune,
    "eva": judged(functools.partial(algorithms.eva, slots=8, prompt_tokens=6, rewriter="policy", n=2)),
    "ofs_dpo": offline(functools.partial(algorithms.ofs_dpo, slow_optimizer=fn(sgd, learning_rate=0.1))),
    "cofs_dpo": offline(functools.partial(algorithms.cofs_dpo, domains=2, slow_optimizer=fn(sgd, learning_rate=0.1))),
    "rloo": rewarded(functools.partial(algorithms.rloo, tau=0.1, n=3)),
    "grpo": rewarded(functools.partial(algorithms.grpo, tau=0.1, n=3)),
    "dr_grpo": judged(functools.partial(algorithms.dr_grpo, tau=0.1, n=3)),
    "bnpo": rewarded(functools.partial(algorithms.bnpo, n=3)),
    "dapo": judged(functools.partial(algorithms.dapo, n=3, buffer=2, drop_unfinished=True)),
    "cispo": rewarded(functools.partial(algorithms.cispo, n=3)),
    "gspo": rewarded(functools.partial(algorithms.gspo, n=3, of_tokens=True)),
    "luspo": rewarded(functools.partial(algorithms.luspo, n=3)),
    "sapo": rewarded(functools.partial(algorithms.sapo, n=3)),
    "vespo": rewarded(functools.partial(algorithms.vespo, n=3)),
    "gdpo": two_rewards,
    "reinforce_pp": rewarded(functools.partial(algorithms.reinforce_pp, n=3, baseline=True)),
    "raft": rewarded(functools.partial(algorithms.raft, n=3)),
    "remax": rewarded(functools.partial(algorithms.remax, n=2)),
    "maxrl": judged(functools.partial(algorithms.maxrl, n=3)),
}
PLAYED |= {
    "ppo": judged(functools.partial(algorithms.ppo, n=2, against=2, target=0.5, minibatches=2, epochs=1)),
    "ppo_max": rewarded(ppo_max),
    "safe_rlhf": safe_rlhf,
    "distillation": distillation,
    "ppo_ptx": rewarded(functools.partial(algorithms.ppo_ptx, gamma=0.5, importance=fn(stages.importance), epochs=2)),
}
PLAYED = {name: filled(build) for name, build in PLAYED.items()}
# Of these the source gives one completion a prompt; of all others that sample it gives prompts alone.
FROM_TEXT = ("spin", "rival")
WITH_TEXTS = ("ppo_ptx",)  # beside the prompts, in the view "pretrain"
COUPLED: dict[str, Callable[..., Algorithm]] = {
    "sorted": with_losses(sorted=fn(sorted_margins, beta=0.3)),
    "kl_and_mismatched": with_losses(kl=fn(kl), mismatched=fn(mismatched)),
    "two_roles_two_views": with_losses(
        sft=fn(losses.sft),
        value=fn(value_error),
        group=fn(losses.weighted, loss=fn(losses.dpo, beta=0.2, pairs=all_pairs(2), normalize="length"), weight=0.5),
        pretrain=losses.on("pretrain", losses.sft),
    ),
}


@functools.cache
def recipe(name: str, microbatches: int = 1) -> Algorithm:
    """The algorithm of that name on the tiny network, whose update moves params by their gradient."""
    network = model(outputs=("value", "reward", "preference"), layers=1)
    build = {**RECIPES, **COUPLED, **PLAYED}[name]
    return build(network, optimizer=OPTIMIZER, microbatches=microbatches)


def iterations(algorithm: Algorithm, state: TrainState, batch: Any, number: int) -> tuple[TrainState, list[Any]]:
    """The state after a number of iterations, and what each learned from and measured; all of it finite."""
    experience, update = make_experience(algorithm), make_update(algorithm)
    seen = []
    for _ in range(number):
        given, measured = experience(state, batch)
        assert all_finite((given, measured))
        state, metrics = update(state, given)
        seen.append((given, metrics))
    assert all_finite((state.roles, [metrics for _, metrics in seen]))
    return state, seen
