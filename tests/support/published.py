"""Checkpoints of a few thousand random weights, built and written by `transformers` itself, one for every family and
switch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import transformers

from alignjax.models import huggingface, transformer

SIZES = {
    "vocab_size": 37, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16, "rope_theta": 100.0,
}  # fmt: skip
SLIDES = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
    "llama3": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 8}),
    "mistral": ("mistral", {"sliding_window": 3, "rms_norm_eps": 1e-2}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True, **SLIDES}),
    "qwen3": ("qwen3", {"head_dim": 8, "attention_bias": True}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 8, "query_pre_attn_scalar": 24, "sliding_window": 3, "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 3, "num_hidden_layers": 6,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
}  # fmt: skip


def theirs(case: str, *, labels: int | None = None, **changes: Any) -> Any:
    """A `transformers` model in float32: a language model, or a classifier with so many labels. Its weights are random
    and large enough for logits to differ by several nats."""
    kind, special = CASES[case]
    config = transformers.AutoConfig.for_model(
        kind, **{**SIZES, **special, **changes, **({"num_labels": labels} if labels else {})}
    )
    auto = transformers.AutoModelForSequenceClassification if labels else transformers.AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    random = torch.Generator().manual_seed(len(case))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            around = 1.0 if "norm" in name and not kind.startswith("gemma") else 0.0
            scale = 0.3 if weight.ndim == 1 or "embed" in name else weight.shape[-1] ** -0.5
            weight.copy_(around + (2 if "embed" in name else 1) * scale * torch.randn(weight.shape, generator=random))
    return model


@functools.cache
def written(case: str, root: Path, labels: int | None = None, dtype: str = "float32", limit: str = "5GB") -> Path:
    """The folder that `save_pretrained` makes of it."""
    folder = root / f"{case}-{labels}-{dtype}-{limit}"
    theirs(case, labels=labels).to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=limit)
    return folder


def loaded(folder: Path, **changes: Any) -> tuple[Any, Any]:
    network = transformer(huggingface.config_of(folder, **changes))
    return network, huggingface.load(folder, network)
