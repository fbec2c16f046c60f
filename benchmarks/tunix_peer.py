"""Tunix at the same work, in an environment of its own: its DPO trainer's jitted step, and its sampler."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.llama3 import model as llama
from tunix.sft.dpo.dpo_trainer import DPOTrainer, DPOTrainingConfig, TrainingInput

from benchmarks.sizes import SIZES


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("google-tunix", "jax", "flax")}


def _model() -> llama.Llama3:
    config = llama.ModelConfig(
        num_layers=SIZES.layers,
        vocab_size=SIZES.vocabulary,
        embed_dim=SIZES.width,
        hidden_dim=SIZES.mlp,
        num_heads=SIZES.heads,
        head_dim=SIZES.width // SIZES.heads,
        num_kv_heads=SIZES.heads,
        rope_theta=10_000,
        norm_eps=1e-6,
    )
    model = llama.Llama3(config, rngs=nnx.Rngs(0))
    keys = iter(jax.random.split(jax.random.key(0), 1000))  # its own start leaves the MLP at zero
    state = jax.tree.map(lambda leaf: 0.02 * jax.random.normal(next(keys), leaf.shape), nnx.state(model))
    nnx.update(model, state)
    return model


def _dpo() -> Callable[[], dict[str, float]]:
    trainer = DPOTrainer(
        model=_model(),
        ref_model=_model(),
        optimizer=optax.adamw(SIZES.learning_rate),
        training_config=DPOTrainingConfig(eval_every_n_steps=1_000_000, max_steps=1_000_000, beta=SIZES.beta),
    )
    rng = np.random.default_rng(1)

    def ids(length: int) -> np.ndarray:
        return rng.integers(4, SIZES.vocabulary, (SIZES.pairs, length), dtype=np.int32)

    prompt, chosen, rejected = ids(SIZES.prompt), ids(SIZES.completion), ids(SIZES.completion)
    one = np.ones_like
    batch = TrainingInput(prompt, one(prompt), chosen, one(chosen), rejected, one(rejected))
    step, _ = trainer.jit_train_and_eval_step()

    def call() -> dict[str, float]:
        # The reference's log-probs are made by `_prepare_inputs`, as in `train`.
        loss, _, _ = step(trainer._prepare_inputs(batch))
        jax.block_until_ready(nnx.state(trainer.model))
        return {"loss": float(loss)}

    return call


class _Words:
    """The tokenizer protocol over texts that are numbers; nothing is worth measuring in it."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], **_: Any) -> str:
        return str(len(ids))

    def bos_id(self) -> int:
        return 0  # falsy: the sampler adds none

    def eos_id(self) -> int:
        return SIZES.vocabulary  # cannot be produced

    def pad_id(self) -> int:
        return 0


def _sampling() -> Callable[[], dict[str, int]]:
    length = SIZES.prompt + SIZES.completion
    sampler = Sampler(_model(), _Words(), CacheConfig(length, SIZES.layers, SIZES.heads, SIZES.width // SIZES.heads))
    prompts = np.random.default_rng(1).integers(4, SIZES.vocabulary, (SIZES.rows, SIZES.prompt))
    texts = [" ".join(map(str, prompt)) for prompt in prompts]
    seeds = iter(range(1_000_000))

    def call() -> dict[str, int]:
        output = sampler(
            texts,
            max_generation_steps=SIZES.completion,
            max_prompt_length=SIZES.prompt,
            temperature=1.0,
            top_p=1.0,
            seed=next(seeds),
        )
        # Pad can be sampled and ends nothing, so rows are full length.
        return {"tokens": sum(len(tokens) for tokens in output.tokens)}

    return call


def prepare(row: str) -> Callable[[], dict[str, Any]]:
    return {"dpo_update": _dpo, "sampling": _sampling}[row]()
