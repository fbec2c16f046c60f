"""The names of the modules of published weights, one mapping for each way to name them."""

from __future__ import annotations

# Our leaf -> their module, "{}" standing for the number of the layer. A leaf "layers/q_bias" is the bias of "layers/q".
LLAMA: dict[str, str] = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "heads/lm": "lm_head",
    "heads/reward": "score",
    "heads/classes": "score",
    "layers/attn_norm": "model.layers.{}.input_layernorm",
    "layers/mlp_norm": "model.layers.{}.post_attention_layernorm",
    **{f"layers/{name}": f"model.layers.{{}}.self_attn.{name}_proj" for name in ("q", "k", "v", "o")},
    **{f"layers/{name}": f"model.layers.{{}}.mlp.{name}_proj" for name in ("gate", "up", "down")},
}
QK_NORM = {f"layers/{name}": f"model.layers.{{}}.self_attn.{name}" for name in ("q_norm", "k_norm")}
GEMMA2 = LLAMA | {
    "layers/attn_post_norm": "model.layers.{}.post_attention_layernorm",
    "layers/mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
    "layers/mlp_post_norm": "model.layers.{}.post_feedforward_layernorm",
}

NORMED_AFTER = {
    "layers/attn_post_norm": "model.layers.{}.post_attention_layernorm",
    "layers/mlp_post_norm": "model.layers.{}.post_feedforward_layernorm",
}
OLMO2 = {name: module for name, module in LLAMA.items() if not name.endswith("_norm")} | NORMED_AFTER
COHERE2 = {name: module for name, module in LLAMA.items() if name != "layers/mlp_norm"}
# Several leaves with one module are parts of one tensor, in this order.
PHI3 = (
    LLAMA
    | {f"layers/{name}": "model.layers.{}.self_attn.qkv_proj" for name in ("q", "k", "v")}
    | {f"layers/{name}": "model.layers.{}.mlp.gate_up_proj" for name in ("gate", "up")}
)
GPT2: dict[str, str] = {
    "embed": "transformer.wte",
    "positions": "transformer.wpe",
    "norm": "transformer.ln_f",
    "heads/lm": "lm_head",
    "heads/reward": "score",
    "heads/classes": "score",
    "layers/attn_norm": "transformer.h.{}.ln_1",
    "layers/mlp_norm": "transformer.h.{}.ln_2",
    **{f"layers/{name}": "transformer.h.{}.attn.c_attn" for name in ("q", "k", "v")},
    "layers/o": "transformer.h.{}.attn.c_proj",
    "layers/up": "transformer.h.{}.mlp.c_fc",
    "layers/down": "transformer.h.{}.mlp.c_proj",
}
GPT_NEOX: dict[str, str] = {
    "embed": "gpt_neox.embed_in",
    "norm": "gpt_neox.final_layer_norm",
    "heads/lm": "embed_out",
    "heads/reward": "score",
    "heads/classes": "score",
    "layers/attn_norm": "gpt_neox.layers.{}.input_layernorm",
    "layers/mlp_norm": "gpt_neox.layers.{}.post_attention_layernorm",
    **{f"layers/{name}": "gpt_neox.layers.{}.attention.query_key_value" for name in ("q", "k", "v")},
    "layers/o": "gpt_neox.layers.{}.attention.dense",
    "layers/up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
    "layers/down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
}
# The second "{}" stands for the number of the expert.
EXPERTS = {f"layers/{name}": f"model.layers.{{}}.mlp.experts.{{}}.{name}_proj" for name in ("gate", "up", "down")}
EXPERTS |= {"layers/router": "model.layers.{}.mlp.gate"}
GPT_OSS = (
    LLAMA
    | {f"layers/{name}": "model.layers.{}.mlp.experts.gate_up_proj" for name in ("gate", "up")}
    | {"layers/down": "model.layers.{}.mlp.experts.down_proj", "layers/router": "model.layers.{}.mlp.router"}
    | {"layers/sinks": "model.layers.{}.self_attn.sinks"}
)
MIXTRAL = {"layers/router": "model.layers.{}.block_sparse_moe.gate"} | {
    f"layers/{name}": f"model.layers.{{}}.block_sparse_moe.experts.{{}}.{theirs}"
    for name, theirs in (("gate", "w1"), ("up", "w3"), ("down", "w2"))
}
