"""A configuration for each way in which families of models differ, as small as shows it."""

from __future__ import annotations

from typing import Any

from alignjax.models import RopeScaling, TransformerConfig

SIZES: dict[str, Any] = {"vocab": 37, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp": 24}
YARN = RopeScaling("yarn", 4.0, 1.0, 4.0, 8, attention=1.2, temper=0.3)
LAYER_NORMS: dict[str, Any] = {
    "norm": "layer", "norm_bias": True, "gated": False, "qkv_bias": True, "o_bias": True, "mlp_bias": True,
}  # fmt: skip
FEW = {"experts": 4, "experts_per_token": 2}
OLMO: dict[str, Any] = {"pre_norms": False, "post_norms": True, "qk_norm": True, "qk_norm_whole": True}
CONFIGS: dict[str, TransformerConfig] = {
    name: TransformerConfig(**SIZES, **changes)
    for name, changes in {
        "olmo2": OLMO,
        "olmo3": OLMO | {"window": 3, "local": (True, False), "local_rope_theta": 100.0, "rope_scaling": YARN},
        "smollm3": {"rope_layers": (True, False), "rope_scaling": YARN, "tied": True},
        "phi3": {"rotary_dim": 4, "window": 4},
        "gpt2": LAYER_NORMS | {"positions": 32, "activation": "gelu_tanh", "tied": True},
        "gpt_neox": LAYER_NORMS | {"parallel": True, "rotary_dim": 4, "activation": "gelu"},
        "granite": {
            "embed_multiplier": 3.0, "logit_multiplier": 0.7, "residual_multiplier": 0.6, "query_scale": 0.4,
        },
        "cohere2": {
            "norm": "layer", "parallel": True, "shared_norm": True, "window": 3, "local": (True, False),
            "rope_layers": (True, False),
        },
        "qwen3_moe": FEW | {"qk_norm": True, "renormalized": True},
        "gpt_oss": FEW | {
            "window": 3, "local": (True, False), "sinks": True, "mlp_bias": True, "qkv_bias": True, "o_bias": True,
            "renormalized": True, "swiglu_limit": 0.8, "rope_scaling": YARN,
        },
        "olmoe": FEW | {"experts": 5, "qk_norm": True, "qk_norm_whole": True},
    }.items()
}  # fmt: skip
