"""The parts of the summarization configs: post -> one-line summary, judged by trained preference models.

Every function takes `Sizes` and returns one step of a Pipeline, a part of one, or the whole.
"""

from __future__ import annotations

import dataclasses
import functools
import sysconfig
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import algorithms, stages
from alignjax.config import Experiment, Fn, Pipeline, check_ranges, fn
from alignjax.data import Dataset, Docstrings, candidates, instructions, prepare, prompts, revisions
from alignjax.evaluate.tournament import Player, play, write
from alignjax.models import TransformerConfig, transformer
from alignjax.pair_layout import all_pairs
from alignjax.pipelines.judged_pairs import recorded_batches, self_play
from alignjax.ranges import Count, Natural, NonNegative
from alignjax.roles import restored
from alignjax.train.optimizers import adamw
from alignjax.train.samples import decoded
from alignjax.types import Algorithm, Batch, Context, Key, Model, Role


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Networks, texts (in tokens), batches (in prompts), runs (in steps), and a learning rate per kind of run.

    samples: completions per post in self-play and in the offline pairs; all their pairs are labeled. text_length: of
    human summaries; longer ones are skipped. completion_length: of samples, which get more room than the data have, for
    a text that is cut off loses whatever it says.
    """

    dataset: Dataset = dataclasses.field(default_factory=Docstrings)
    vocab: Count = 4096
    width: Count = 128
    layers: Count = 4
    prompt_length: Count = 64
    text_length: Count = 24
    completion_length: Count = 32
    batch_size: Count = 32
    judge_batch_size: Count = 32
    policy_batch_size: Count = 16
    samples: Natural = 4
    sft_steps: Count = 330
    judge_steps: Count = 90
    policy_steps: Count = 80
    eval_batches: Count = 8
    eval_batch_size: Count = 64
    sft_rate: NonNegative = 3e-3
    judge_rate: NonNegative = 1e-3
    policy_rate: NonNegative = 7e-4

    def __post_init__(self) -> None:
        check_ranges(self)


def tiny(dataset: Dataset | None = None) -> Sizes:
    """Sizes at which everything takes a few steps, to see that it runs; the numbers mean nothing.

    Args:
      dataset: where the posts come from; by default the docstrings of the standard library alone, which are collected
        in a few seconds.

    Returns:
      The sizes.
    """
    return Sizes(
        dataset or Docstrings(roots=(sysconfig.get_paths()["stdlib"],)),
        width=32,
        layers=2,
        prompt_length=32,
        text_length=16,
        completion_length=20,
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


def sizes_of(mode: str) -> Sizes:
    """Returns the `tiny` sizes for a mode whose name ends with "tiny", and the full ones for any other."""
    return tiny() if mode.endswith("tiny") else Sizes()


def _backbone(sizes: Sizes) -> dict[str, Any]:
    return {"vocab": sizes.vocab, "width": sizes.width, "layers": sizes.layers, "heads": 4, "mlp": 3 * sizes.width}


# A model is one object per configuration, so that steps which run the same one share their compiled programs.
@functools.cache
def policy_model(sizes: Sizes) -> Model:
    """Returns the language model: of the policy, the reference and the SFT run."""
    return transformer(TransformerConfig(**_backbone(sizes)))


@functools.cache
def judge_model(sizes: Sizes) -> Model:
    """Returns the preference model: the policy's backbone with an embedding as its output."""
    return transformer(TransformerConfig(**_backbone(sizes), outputs=("embedding",)))


@functools.cache
def classifier_model(sizes: Sizes) -> Model:
    """Returns the classifier of prompts: the policy's backbone with a value as its output."""
    return transformer(TransformerConfig(**_backbone(sizes), outputs=("value",)))


def optimizer(rate: float, steps: int) -> Fn:
    """Returns Adam with a peak learning rate `rate`, a warm-up of a twentieth of `steps` and a cosine to a tenth.

    Args:
        rate: The peak learning rate.
        steps: Steps of the whole run.
    """
    shape = {"schedule": "cosine", "warmup_steps": max(1, steps // 20), "total_steps": steps, "final_fraction": 0.1}
    return fn(adamw, learning_rate=rate, max_grad_norm=1.0, **shape)


def policy_optimizer(sizes: Sizes) -> Fn:
    """Returns the optimizer of everything that is trained from preferences."""
    return optimizer(sizes.policy_rate, sizes.policy_steps)


def posts(sizes: Sizes) -> dict[str, Any]:
    """Returns the options of a source that say which posts it gives, and what happens to long ones."""
    return {"dataset": sizes.dataset, "prompt_length": sizes.prompt_length, "long_prompts": "truncate_right"}


def texts(sizes: Sizes) -> dict[str, Any]:
    """Returns the options of a source of posts with summaries; a row whose summary is too long is skipped."""
    return posts(sizes) | {"completion_length": sizes.text_length, "long_completions": "skip"}


def sft(sizes: Sizes) -> Experiment:
    """Returns the step that teaches a policy to write the human summary of a post."""
    algorithm = algorithms.sft(policy_model(sizes), optimizer=optimizer(sizes.sft_rate, sizes.sft_steps))
    return Experiment(algorithm, fn(instructions, batch_size=sizes.batch_size, **texts(sizes)), sizes.sft_steps)


def judge(sizes: Sizes, seed: int, sft_step: str = "sft") -> Experiment:
    """Returns the step that trains a preference model: the human summary of a post beats that of another post, two
    corrupted copies, and a sample of the SFT policy. Its backbone starts from that policy, which can read already.

    Args:
        sizes: The sizes of the pipeline.
        seed: The seed of the run.
        sft_step: The step that trained this SFT policy.
    """
    algorithm = algorithms.preference_model(
        judge_model(sizes),
        n=4,
        reading="apart",
        sampler=Role(policy_model(sizes), restored(sft_step, "policy")),
        max_tokens=sizes.completion_length,
        start=restored(sft_step, "policy", grow=True),
        optimizer=optimizer(sizes.judge_rate, sizes.judge_steps),
    )
    source = fn(candidates, batch_size=sizes.judge_batch_size, **texts(sizes))
    return Experiment(algorithm, source, sizes.judge_steps, seed=seed)


def judged(sizes: Sizes) -> dict[str, Any]:
    """Returns what a recipe of self-play takes beside a policy: the trained judge, and where everything starts."""
    return self_play(judge_model(sizes), max_tokens=sizes.completion_length, n=sizes.samples)


def online(sizes: Sizes, algorithm: Algorithm) -> Experiment:
    """Returns the step that runs an algorithm on fresh posts.

    Args:
        sizes: The sizes of the pipeline.
        algorithm: The algorithm, with a role "policy".
    """
    source = fn(prompts, batch_size=sizes.policy_batch_size, **posts(sizes))
    sample = fn(decoded, dataset=sizes.dataset)
    return Experiment(algorithm, source, sizes.policy_steps, sample=sample, sample_every=40)


def sampled_pairs(sizes: Sizes) -> Experiment:
    """Returns the step that samples the SFT policy and labels the pairs by the judge: the fixed data of offline
    methods, as many as the online ones see."""
    return online(sizes, algorithms.labelled_samples(policy_model(sizes), **judged(sizes)))


def judged_samples(sizes: Sizes) -> dict[str, Experiment]:
    """Returns the step "pairs", whose batches `recorded_samples` reads."""
    return {"pairs": sampled_pairs(sizes)}


def recorded_samples(sizes: Sizes) -> Fn:
    """Returns the source of posts with the labeled SFT samples that the step "pairs" has written."""
    return recorded_batches("pairs", sampled_pairs(sizes), sizes.policy_batch_size)


def offline(sizes: Sizes, algorithm: Algorithm) -> Experiment:
    """Returns the step that runs an algorithm on the pairs that the step "pairs" has written.

    Args:
        sizes: The sizes of the pipeline.
        algorithm: An algorithm that learns from labeled pairs.
    """
    return Experiment(algorithm, recorded_samples(sizes), sizes.policy_steps)


def revised_texts(sizes: Sizes) -> Fn:
    """Returns the source of pairs of a human summary and a corrupted copy of it, with the edits marked."""
    return fn(revisions, batch_size=sizes.policy_batch_size, **texts(sizes))


def judged_summaries(context: Context, batch: Batch, key: Key, *, judgement: tuple[Natural, ...]) -> Batch:
    """The stage keeps one text of each pair of `revised_texts`, the corrupted one in about half of the rows, and
    adds the view "judged", in which the prompts of those rows carry the judgment.

    Args:
      context: not read.
      batch: pairs of a human summary (completion 0) and a corrupted copy (1), [B,2,T].
      key: decides which rows keep the corrupted copy.
      judgement: token ids that stand for "this is corrupted".

    Returns:
      The batch [B,1,T] with prompts["judged"] [B], 1 where the text is the corrupted one, and the view.
    """
    assert batch.prompt is not None
    corrupted = jax.random.bernoulli(key, shape=batch.prompt.shape[:1])
    single = Batch(prompt=batch.prompt, prompt_valid=batch.prompt_valid, tokens=batch.tokens, valid=batch.valid)
    single = single.replace(mask=batch.mask, example_id=batch.example_id).pick(corrupted[:, None].astype(int))
    view = stages.condition_on(context, single, key, goal=judgement)
    assert view.prompt_valid is not None
    where = slice(1, 1 + len(judgement))
    valid = view.prompt_valid.at[:, where].set(view.prompt_valid[:, where] & corrupted[:, None])
    judged_rows = {"judged": corrupted.astype(jnp.float32)}
    return single.replace(prompts=judged_rows, views={"judged": view.replace(prompt_valid=valid)})


def of_all_pairs(loss: Fn, completions: int) -> Fn:
    """Returns the loss, told to compare all pairs of `completions` completions where it (or a loss that it wraps) has
    the parameter `pairs`.

    Args:
        loss: The loss.
        completions: Completions per prompt.
    """
    changes = {name: of_all_pairs(part, completions) for name, part in loss.kwargs.items() if isinstance(part, Fn)}
    return loss.replace(**changes, **({"pairs": all_pairs(completions)} if "pairs" in loss.kwargs else {}))


def tournament(sizes: Sizes, *players: Player) -> Fn:
    """Returns the step in which SFT, its controls, the players and the human meet on held-out posts, decided by the
    held-out judge: one of form, which tells well-formed lines from corrupted ones and samples."""
    held_out = {"split": "test", "batch_size": sizes.eval_batch_size}
    return fn(
        play,
        model=policy_model(sizes),
        judge_model=judge_model(sizes),
        players=(Player("sft", "sft", label="SFT", note="supervised on human summaries"), *players),
        judges=(("held_out", "held_out"), ("training", "preference")),
        labels=(("held_out", "held-out judge of form"), ("training", "training judge of form")),
        source=fn(instructions, **texts(sizes), **held_out),
        judge_source=fn(candidates, **texts(sizes), **held_out),
        dataset=sizes.dataset,
        batches=sizes.eval_batches,
        max_tokens=sizes.completion_length,
    )


def prepared(sizes: Sizes) -> dict[str, Any]:
    """Returns the steps that everything begins with: the data, the SFT policy, and the judge that is learned from."""
    return {"data": fn(prepare, dataset=sizes.dataset), "sft": sft(sizes), "preference": judge(sizes, seed=1)}


def compared(
    sizes: Sizes, steps: Mapping[str, Any], *players: Player, title: str, held_out: Mapping[str, Any] | None = None
) -> Pipeline:
    """Puts a whole study together, from nothing to a report of win rates against the SFT policy.

    Args:
      sizes: of networks, texts and runs.
      steps: what stands between the judges and the tournament, by name.
      *players: the policies of those steps that take part in the tournament.
      title: of the report.
      held_out: the steps that make the judge that decides, of which one has the name "held_out"; None: one that differs
        from the training judge in its seed alone.

    Returns:
      The pipeline.
    """
    return Pipeline(
        {
            **prepared(sizes),
            **(held_out or {"held_out": judge(sizes, seed=2)}),
            **steps,
            "evaluate": tournament(sizes, *players),
            "report": fn(write, title=title, dataset=sizes.dataset),
        }
    )
