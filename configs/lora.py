"""Preference methods with low-rank adapters in the place of whole weights, a mode each, on docstring summaries.

    alignjax train configs/lora.py:dpo
    alignjax train configs/lora.py:ipo_md-tiny    # a few steps, to see that it runs

The policy is adapters of rank RANK over the SFT policy's weights, which stay as they are and are the reference too:
there is one copy of them. For adapters in a recipe of your own: `algorithms.with_lora(recipe(...))`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import summarisation as parts

from alignjax import algorithms
from alignjax.config import Experiment, Fn, Pipeline, fn
from alignjax.data import Docstrings, prepare, prompts
from alignjax.evaluate.samples import decoded
from alignjax.evaluate.tournament import Player, write
from alignjax.roles import restored
from alignjax.train.merge import merge
from alignjax.types import Algorithm

RANK, ALPHA = 8, 16.0
RATE = 3e-3  # adapters take larger steps than whole weights
TAU, BETA = 0.05, 0.1


def posts(sizes: parts.Sizes) -> Fn:
    return fn(prompts, batch_size=sizes.policy_batch_size, **parts.posts(sizes))


def nothing(sizes: parts.Sizes) -> Mapping[str, Experiment]:
    return {}


def offline(recipe: Callable[..., Algorithm], **hyper: Any) -> Callable[[parts.Sizes], Algorithm]:
    """A recipe that learns from labelled samples of the SFT policy."""
    return lambda sizes: recipe(
        parts.policy_model(sizes),
        start=restored("sft", "policy"),
        n=sizes.samples,
        optimizer=parts.optimizer(RATE, sizes.policy_steps),
        **hyper,
    )


def online(recipe: Callable[..., Algorithm], **hyper: Any) -> Callable[[parts.Sizes], Algorithm]:
    """A recipe that learns from what it samples itself."""
    return lambda sizes: recipe(
        parts.policy_model(sizes), optimizer=parts.optimizer(RATE, sizes.policy_steps), **parts.judged(sizes), **hyper
    )


def fast_and_slow(sizes: parts.Sizes) -> Algorithm:
    slow = parts.optimizer(RATE / 5, sizes.policy_steps)
    return offline(algorithms.ofs_dpo, beta=BETA, slow_optimizer=slow)(sizes)


# name -> (recipe, what with_lora is told beside rank and alpha, what it learns from, steps that make that)
RECIPES: dict[str, tuple[Callable[..., Algorithm], dict[str, Any], Callable[..., Fn], Callable[..., Any]]] = {
    "dpo": (offline(algorithms.dpo, beta=BETA), {}, parts.recorded_samples, parts.judged_samples),
    # QLoRA: the frozen matrices in 4 bits
    "dpo_4_bits": (offline(algorithms.dpo, beta=BETA), {"bits": 4}, parts.recorded_samples, parts.judged_samples),
    "ofs_dpo": (fast_and_slow, {}, parts.recorded_samples, parts.judged_samples),
    "online_ipo": (online(algorithms.online_ipo, tau=TAU), {}, posts, nothing),
    "ipo_md": (online(algorithms.ipo_md, tau=TAU, beta=0.125), {}, posts, nothing),
}
TINY = "-tiny"
MODES = (*RECIPES, *(name + TINY for name in RECIPES))


def adapted(sizes: parts.Sizes, name: str) -> Algorithm:
    recipe, options, _, _ = RECIPES[name]
    return algorithms.with_lora(recipe(sizes), rank=RANK, alpha=ALPHA, **options)


def trained(sizes: parts.Sizes, name: str) -> Experiment:
    _, _, source, _ = RECIPES[name]
    sample = fn(decoded, dataset=sizes.dataset)
    return Experiment(adapted(sizes, name), source(sizes), sizes.policy_steps, sample=sample, sample_every=40)


def get_config(mode: str = "dpo") -> Pipeline:
    sizes = parts.tiny(Docstrings()) if mode.endswith(TINY) else parts.Sizes()
    name = mode.removesuffix(TINY)
    _, _, _, before = RECIPES[name]
    label = f"LoRA {name.replace('_', ' ')}"
    return Pipeline(
        {
            "data": fn(prepare, dataset=sizes.dataset),
            "sft": parts.sft(sizes),
            "preference": parts.judge(sizes, seed=1),
            "held_out": parts.judge(sizes, seed=2),
            **before(sizes),
            name: trained(sizes, name),
            "merged": fn(merge, stage=name, algorithm=lambda: adapted(sizes, name)),
            "evaluate": parts.tournament(sizes, Player(name, "merged", label=label, note=f"rank {RANK}")),
            "report": fn(write, title=f"{name} with adapters on docstring summaries", dataset=sizes.dataset),
        }
    )
