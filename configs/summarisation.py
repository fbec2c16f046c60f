"""The parts of the summarisation configs: post -> one-line summary, judged by trained preference models.

Not a config itself. Every function takes `Sizes` and returns one step of a Pipeline, or a part of one.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import algorithms, stages
from alignjax.config import Experiment, Fn, fn
from alignjax.data import Dataset, Docstrings, candidates, instructions, prompts, revisions
from alignjax.data.sources import recorded
from alignjax.evaluate.tournament import Player, play
from alignjax.models import TransformerConfig, transformer
from alignjax.pair_layout import all_pairs
from alignjax.roles import restored
from alignjax.train.optimizers import adamw
from alignjax.train.samples import decoded
from alignjax.train.step import experience_shapes
from alignjax.types import Algorithm, Batch, Context, Key, Model, Role


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Networks, texts (in tokens), batches (in prompts), runs (in steps), and a learning rate per kind of run.

    samples: completions per post in self-play and in the offline pairs; all their pairs are labelled.
    """

    dataset: Dataset = dataclasses.field(default_factory=Docstrings)
    vocab: int = 4096
    width: int = 128
    layers: int = 4
    prompt_length: int = 64
    completion_length: int = 24
    batch_size: int = 32
    judge_batch_size: int = 32
    policy_batch_size: int = 16
    samples: int = 4
    sft_steps: int = 330
    judge_steps: int = 90
    policy_steps: int = 80
    eval_batches: int = 8
    eval_batch_size: int = 64
    sft_rate: float = 3e-3
    judge_rate: float = 1e-3
    policy_rate: float = 7e-4


def tiny(dataset: Dataset) -> Sizes:
    """A few steps of everything, to see that it runs; the numbers mean nothing."""
    return Sizes(
        dataset,
        width=32,
        layers=2,
        prompt_length=32,
        completion_length=16,
        batch_size=8,
        judge_batch_size=8,
        policy_batch_size=8,
        samples=2,
        sft_steps=6,
        judge_steps=4,
        policy_steps=4,
        eval_batches=2,
        eval_batch_size=16,
    )


def _trunk(sizes: Sizes) -> dict[str, int]:
    return {"vocab": sizes.vocab, "width": sizes.width, "layers": sizes.layers, "heads": 4, "mlp": 3 * sizes.width}


# A model is one object per configuration, so that steps which run the same one share their compiled programs.
@functools.cache
def policy_model(sizes: Sizes) -> Model:
    return transformer(TransformerConfig(**_trunk(sizes)))


@functools.cache
def judge_model(sizes: Sizes) -> Model:
    return transformer(TransformerConfig(**_trunk(sizes), outputs=("embedding",)))


@functools.cache
def classifier_model(sizes: Sizes) -> Model:
    return transformer(TransformerConfig(**_trunk(sizes), outputs=("value",)))


def optimizer(rate: float, steps: int) -> Fn:
    """Adam with a short warm-up and a cosine to a tenth."""
    shape = {"schedule": "cosine", "warmup_steps": max(1, steps // 20), "total_steps": steps, "final_fraction": 0.1}
    return fn(adamw, learning_rate=rate, max_grad_norm=1.0, **shape)


def posts(sizes: Sizes) -> dict[str, Any]:
    """Which prompts a source gives, and what happens to long ones."""
    return {"dataset": sizes.dataset, "prompt_length": sizes.prompt_length, "long_prompts": "truncate_right"}


def _texts(sizes: Sizes) -> dict[str, Any]:
    return posts(sizes) | {"completion_length": sizes.completion_length, "long_completions": "skip"}


def sft(sizes: Sizes) -> Experiment:
    """Post -> the human summary."""
    algorithm = algorithms.sft(policy_model(sizes), optimizer=optimizer(sizes.sft_rate, sizes.sft_steps))
    return Experiment(algorithm, fn(instructions, batch_size=sizes.batch_size, **_texts(sizes)), sizes.sft_steps)


def judge(sizes: Sizes, seed: int) -> Experiment:
    """A preference model: the human summary beats another post's, two spoilt copies, and a sample of the SFT policy.

    Its trunk starts from that policy, which can read already."""
    algorithm = algorithms.preference_model(
        judge_model(sizes),
        n=4,
        reading="apart",
        sampler=Role(policy_model(sizes), restored("sft", "policy")),
        max_tokens=sizes.completion_length,
        start=restored("sft", "policy", grow=True),
        optimizer=optimizer(sizes.judge_rate, sizes.judge_steps),
    )
    source = fn(candidates, batch_size=sizes.judge_batch_size, **_texts(sizes))
    return Experiment(algorithm, source, sizes.judge_steps, seed=seed)


def judged(sizes: Sizes) -> dict[str, Any]:
    """What self-play needs beside a policy: the trained judge, and where everything starts."""
    return {
        "judge": fn(stages.preference_model, reading="apart"),
        "judges": {"preference": Role(judge_model(sizes), restored("preference", "preference"))},
        "start": restored("sft", "policy"),
        "max_tokens": sizes.completion_length,
        "n": sizes.samples,
    }


def policy_optimizer(sizes: Sizes) -> Fn:
    return optimizer(sizes.policy_rate, sizes.policy_steps)


def online(sizes: Sizes, algorithm: Algorithm) -> Experiment:
    """An algorithm on fresh posts."""
    source = fn(prompts, batch_size=sizes.policy_batch_size, **posts(sizes))
    sample = fn(decoded, dataset=sizes.dataset)
    return Experiment(algorithm, source, sizes.policy_steps, sample=sample, sample_every=40)


def sampled_pairs(sizes: Sizes) -> Experiment:
    """Pairs of SFT samples labelled by the judge: the fixed data of offline methods, as many as the online ones see."""
    return online(sizes, algorithms.labelled_samples(policy_model(sizes), **judged(sizes)))


def judged_samples(sizes: Sizes) -> dict[str, Experiment]:
    """The step "pairs": what `recorded_samples` reads."""
    return {"pairs": sampled_pairs(sizes)}


def recorded_samples(sizes: Sizes) -> Fn:
    """Source: posts with the labelled SFT samples that the step "pairs" has written."""
    shapes = lambda: experience_shapes(sampled_pairs(sizes))  # noqa: E731
    return fn(recorded, stage="pairs", batch_size=sizes.policy_batch_size, like=shapes)


def offline(sizes: Sizes, algorithm: Algorithm) -> Experiment:
    """An algorithm on the pairs that the step "pairs" has written."""
    return Experiment(algorithm, recorded_samples(sizes), sizes.policy_steps)


def revised_summaries(sizes: Sizes) -> Fn:
    """Source: a human summary and a spoilt copy of it, with the edits marked."""
    return fn(revisions, batch_size=sizes.policy_batch_size, **_texts(sizes))


def judged_summaries(context: Context, batch: Batch, key: Key, *, judgement: tuple[int, ...]) -> Batch:
    """Stage: of `revised_summaries` one text each, the spoilt one in about half of the rows. The view "judged" has the
    judgement (token ids: what stands for "this is spoilt") in the prompts of those."""
    assert batch.prompt is not None
    told = jax.random.bernoulli(key, shape=batch.prompt.shape[:1])
    one = Batch(prompt=batch.prompt, prompt_valid=batch.prompt_valid, tokens=batch.tokens, valid=batch.valid)
    one = one.replace(mask=batch.mask, example_id=batch.example_id).pick(told[:, None].astype(int))
    view = stages.condition_on(context, one, key, goal=judgement)
    assert view.prompt_valid is not None
    place = slice(1, 1 + len(judgement))
    valid = view.prompt_valid.at[:, place].set(view.prompt_valid[:, place] & told[:, None])
    return one.replace(prompts={"judged": told.astype(jnp.float32)}, views={"judged": view.replace(prompt_valid=valid)})


def of_all_pairs(loss: Fn, completions: int) -> Fn:
    """A loss that is told which completions to compare, or that wraps such a loss, compares all of them."""
    changes = {name: of_all_pairs(part, completions) for name, part in loss.kwargs.items() if isinstance(part, Fn)}
    return loss.replace(**changes, **({"pairs": all_pairs(completions)} if "pairs" in loss.kwargs else {}))


def tournament(sizes: Sizes, *players: Player) -> Fn:
    """SFT, the players and the human on held-out posts, decided by the held-out judge."""
    held_out = {"split": "test", "batch_size": sizes.eval_batch_size}
    return fn(
        play,
        model=policy_model(sizes),
        judge_model=judge_model(sizes),
        players=(Player("sft", "sft", label="SFT", note="supervised on human summaries"), *players),
        judges=(("held_out", "held_out"), ("training", "preference")),
        source=fn(instructions, **_texts(sizes), **held_out),
        judge_source=fn(candidates, **_texts(sizes), **held_out),
        dataset=sizes.dataset,
        batches=sizes.eval_batches,
        max_tokens=sizes.completion_length,
    )
