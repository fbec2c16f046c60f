"""The keys of each family's config.json with what is taken for one that is missing, and what no key says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The keys that a config.json may have, with what transformers takes for one that is missing; it must have the sizes.
COMMON: Mapping[str, Any] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")),
    **dict.fromkeys(("num_key_value_heads", "head_dim", "rope_scaling", "rope_parameters")),
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
MISTRAL = {"sliding_window": 4096, "num_key_value_heads": 8}
QWEN = {"sliding_window": 4096, "num_key_value_heads": 32, "max_window_layers": 28}
QWEN |= {"use_sliding_window": False, "layer_types": None}
GEMMA = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",  # hidden_act, which older files have too, is read by nobody
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 2,
    **dict.fromkeys(("layer_types", "final_logit_softcapping")),
}
GEMMA3 = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "sliding_window_pattern": 6,
}

OLMO = {"rms_norm_eps": 1e-5, "attention_bias": False}
OLMO3 = {"sliding_window": 4096, "sliding_window_pattern": 4, "layer_types": None, "rope_theta": 500_000.0}
OLMO3 |= {"rope_local_base_freq": 500_000.0}
SMOLLM3 = {
    "num_key_value_heads": 4,
    "rope_theta": 2_000_000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "no_rope_layer_interval": 4,
    **dict.fromkeys(("sliding_window", "layer_types", "no_rope_layers")),
    **dict.fromkeys(("attention_bias", "mlp_bias"), False),
}
PHI3_KEYS = {"rms_norm_eps": 1e-5, "partial_rotary_factor": 1.0, "sliding_window": None}
PHI3_KEYS |= {"original_max_position_embeddings": 4096}
QWEN3_MOE = {
    "num_key_value_heads": 4,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}
OLMOE = {"num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False}
MIXTRAL_KEYS = {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": None}
MIXTRAL_KEYS |= {"num_experts": 8, "num_experts_per_tok": 2}
GPT_OSS_KEYS = {
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150_000.0,
    "attention_bias": True,
    "sliding_window": 128,
    "sliding_window_pattern": 2,
    "layer_types": None,
    "num_experts": 128,
    "num_experts_per_tok": 4,
    "swiglu_limit": 7.0,
    "swiglu_alpha": 1.702,
    "rope_parameters": {
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}  # fmt: skip
GRANITE = dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier"), 1.0)
GRANITE |= dict.fromkeys(("attention_bias", "mlp_bias"), False)
MINISTRAL3 = {"num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5, "sliding_window": None}
MINISTRAL3["rope_parameters"] = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
COHERE2_KEYS = {"rms_norm_eps": 1e-5, "tie_word_embeddings": True, "attention_bias": False, "logit_scale": 0.0625}
COHERE2_KEYS |= {"sliding_window": 4096, "sliding_window_pattern": 4, "layer_types": None}
GPT2_KEYS = {"hidden_act": "gelu_new", "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
GPT2_KEYS |= {"max_position_embeddings": 1024}
GPT_NEOX_KEYS = {"hidden_act": "gelu", "rms_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "attention_bias": True}
GPT_NEOX_KEYS |= {"use_parallel_residual": True}
GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "hidden_act": "activation_function",
    "rms_norm_eps": "layer_norm_epsilon",
    "max_position_embeddings": "n_positions",
}
GPT_NEOX_NAMES = {
    "rms_norm_eps": "layer_norm_eps",
    "partial_rotary_factor": "rotary_pct",
    "rope_theta": "rotary_emb_base",
}

# What no config.json of a family says.
PLAIN = {"mlp_bias": False, "qk_norm": False}
NO_BIAS = {"qkv_bias": False, "o_bias": False}
GEMMA_NORMS = PLAIN | {"post_norms": True, "centred_norms": True, "embed_scale": True}
OLMO_NORMS = PLAIN | {"qk_norm": True, "qk_norm_whole": True, "pre_norms": False, "post_norms": True}
LAYER_NORMS = {"qk_norm": False, "norm": "layer", "norm_bias": True, "gated": False, "mlp_bias": True}
