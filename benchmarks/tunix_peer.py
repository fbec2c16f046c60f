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

from benchmarks.compiling import compiled, device_bytes
from benchmarks.sizes import Sizes

__all__ = ["compiled", "device_bytes", "prepare", "versions"]

Call = Callable[[], dict[str, Any]]


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("google-tunix", "jax", "flax")}


def _model(sizes: Sizes) -> llama.Llama3:
    config = llama.ModelConfig(
        num_layers=sizes.layers,
        vocab_size=sizes.vocabulary,
        embed_dim=sizes.width,
        hidden_dim=sizes.mlp,
        num_heads=sizes.heads,
        head_dim=sizes.width // sizes.heads,
        num_kv_heads=sizes.heads,
        rope_theta=10_000,
        norm_eps=1e-6,
    )
    model = llama.Llama3(config, rngs=nnx.Rngs(0))
    keys = iter(jax.random.split(jax.random.key(0), 1000))  # its own start leaves the MLP at zero
    state = jax.tree.map(lambda leaf: 0.02 * jax.random.normal(next(keys), leaf.shape, sizes.dtype), nnx.state(model))
    nnx.update(model, state)
    return model


def _dpo(sizes: Sizes) -> Call:
    trainer = DPOTrainer(
        model=_model(sizes),
        ref_model=_model(sizes),
        optimizer=optax.adamw(sizes.learning_rate),
        training_config=DPOTrainingConfig(eval_every_n_steps=1_000_000, max_steps=1_000_000, beta=sizes.beta),
    )
    rng = np.random.default_rng(1)

    def ids(length: int) -> np.ndarray:
        return rng.integers(4, sizes.vocabulary, (sizes.pairs, length), dtype=np.int32)

    prompt, chosen, rejected = ids(sizes.prompt), ids(sizes.completion), ids(sizes.completion)
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

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], **_: Any) -> str:
        return str(len(ids))

    def bos_id(self) -> int:
        return 0  # falsy: the sampler adds none

    def eos_id(self) -> int:
        return self.vocabulary  # cannot be produced

    def pad_id(self) -> int:
        return 0


def _sampling(sizes: Sizes) -> Call:
    length = sizes.prompt + sizes.completion
    sampler = Sampler(
        _model(sizes),
        _Words(sizes.vocabulary),
        CacheConfig(length, sizes.layers, sizes.heads, sizes.width // sizes.heads),
    )
    prompts = np.random.default_rng(1).integers(4, sizes.vocabulary, (sizes.rows, sizes.prompt))
    texts = [" ".join(map(str, prompt)) for prompt in prompts]
    seeds = iter(range(1_000_000))

    def call() -> dict[str, int]:
        output = sampler(
            texts,
            max_generation_steps=sizes.completion,
            max_prompt_length=sizes.prompt,
            temperature=1.0,
            top_p=1.0,
            seed=next(seeds),
        )
        # Pad can be sampled and ends nothing, so rows are full length.
        return {"tokens": sum(len(tokens) for tokens in output.tokens)}

    return call


def prepare(work: str, sizes: Sizes) -> Call:
    return {"dpo_update": _dpo, "sampling": _sampling}[work](sizes)
