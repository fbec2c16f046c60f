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
YARN = {
    "rope_type": "yarn", "factor": 4.0, "rope_theta": 100.0, "original_max_position_embeddings": 8, "beta_fast": 4.0,
    "beta_slow": 1.0,
}  # fmt: skip
PARTIAL = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
HALF = {**PARTIAL, "rope_type": "linear", "factor": 2.0}
ONE_SIZE = {"num_key_value_heads": ...}  # a key that the family has not
FEW = {"num_experts": 5, "num_experts_per_tok": 2}
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
    "olmo2": ("olmo2", {}),
    "olmo3": (
        "olmo3",
        {
            "sliding_window": 3, "num_hidden_layers": 4,
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 4, "attention_bias": True, "tie_word_embeddings": False}),
    "phi3": ("phi3", {"head_dim": 8, "rope_parameters": PARTIAL, "sliding_window": 4}),
    "qwen3_moe": (
        "qwen3_moe", {**FEW, "head_dim": 8, "moe_intermediate_size": 12, "norm_topk_prob": True, "attention_bias": True}
    ),
    "gpt2": ("gpt2", {**ONE_SIZE, "n_inner": 24, "intermediate_size": ...}),
    "gpt_neox": ("gpt_neox", {**ONE_SIZE, "rope_parameters": PARTIAL}),
    "one after the other": (
        "gpt_neox",
        {**ONE_SIZE, "use_parallel_residual": False, "attention_bias": False, "rope_parameters": HALF},
    ),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 3, "sliding_window": 4}),
    "olmoe": ("olmoe", FEW),
    "gpt_oss": (
        "gpt_oss",
        {
            "head_dim": 8, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 3, "swiglu_limit": 1.5,
            "swiglu_alpha": 1.3, "rope_parameters": {**YARN, "truncate": False},
        },
    ),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.0, "logits_scaling": 1.3, "residual_multiplier": 0.7, "attention_multiplier": 0.4,
            "mlp_bias": True,
        },
    ),
    "ministral3": (
        "ministral3",
        {
            "head_dim": 8,
            "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5, "llama_4_scaling_beta": 0.3},
        },
    ),
    "cohere2": ("cohere2", {"sliding_window": 3, "num_hidden_layers": 4, "logit_scale": 0.3}),
    "yarn": ("llama", {"rope_parameters": {**YARN, "truncate": False}}),
}  # fmt: skip
OLDER_FAMILIES = ("llama2", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")
# What turns otherwise in a pass with a long sequence, which one of a few tokens is not.
BY_LENGTH: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic": (
        "llama",
        {"max_position_embeddings": 8, "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 100.0}},
    ),
    "longrope": (
        "phi3",
        {
            "original_max_position_embeddings": 8,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0],
            },
        },
    ),
}  # fmt: skip


def theirs(case: str, *, labels: int | None = None, **changes: Any) -> Any:
    """A `transformers` model in float32: a language model, or a classifier with so many labels. Its weights are random
    and large enough for logits to differ by several nats."""
    kind, special = {**CASES, **BY_LENGTH}[case]
    keys = {**SIZES, **special, **changes, **({"num_labels": labels} if labels else {})}
    config = transformers.AutoConfig.for_model(kind, **{key: value for key, value in keys.items() if value is not ...})
    auto = transformers.AutoModelForSequenceClassification if labels else transformers.AutoModelForCausalLM
    model = auto.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    random = torch.Generator().manual_seed(len(case))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            around = 1.0 if "norm" in name and not kind.startswith("gemma") else 0.0
            table = "embed" in name or "wte" in name
            scale = 0.3 if weight.ndim == 1 or table else weight.shape[-1] ** -0.5
            weight.copy_(around + (2 if table else 1) * scale * torch.randn(weight.shape, generator=random))
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
