"""GGUF files as llama.cpp's converter writes them, made of a folder that `transformers` wrote: other names, the rows of
a Llama's queries and keys in the order of its rotation, Gemma's norms with their 1."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

ARCHITECTURES = {name: name for name in ("llama", "qwen2", "qwen3", "gemma2", "olmo2", "granite", "smollm3", "cohere2")}
ARCHITECTURES |= {"gemma3_text": "gemma3"}
PERMUTED = ("llama", "granite", "smollm3")
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    **{f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"},
    **{f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")},
}  # fmt: skip
GEMMA = NAMES | {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip


SAME_NUMBERS = {
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "attention.layer_norm_epsilon": "layer_norm_eps",
    "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
}  # fmt: skip


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows i and i + h/2 of a head, which turn together, become neighbors."""
    half = len(weight) // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def gguf_of(
    folder: Path,
    file: Path,
    kind: str = "F32",
    *,
    settings: Mapping[str, Any] | None = None,
    more: Mapping[str, np.ndarray] | None = None,
    endian: Any = gguf.GGUFEndian.LITTLE,
) -> Path:
    """Writes the model of a folder as a GGUF file whose matrices are of a kind.

    Args:
        folder: What `save_pretrained` wrote.
        file: The file to be made.
        kind: Of the matrices; vectors are float32.
        settings: Further settings; None takes one out.
        more: Further tensors.
        endian: Of its numbers.
    """
    config = json.loads((folder / "config.json").read_text())
    name = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(file, name, endianess=endian)
    for key, value in (_settings(config, name) | {**(settings or {})}).items():
        if value is not None:
            add(writer, key, value)
    names = GEMMA if name.startswith(("gemma", "olmo")) else NAMES
    for tensor, weight in load_file(folder / "model.safetensors").items():
        module, _, part = tensor.rpartition(".")
        layer, _, inner = module.removeprefix("model.layers.").partition(".")
        inside = module.startswith("model.layers.")
        theirs = f"blk.{layer}.{names[inner]}" if inside else names[module]
        if name in PERMUTED and inner in ("self_attn.q_proj", "self_attn.k_proj"):
            heads = config["num_attention_heads" if "q_" in inner else "num_key_value_heads"]
            weight = permuted(weight, heads)
        if name.startswith("gemma") and module.endswith("norm"):
            weight = weight + np.float32(1)
        _put(writer, f"{theirs}.{part}", weight, kind if weight.ndim == 2 else "F32")
    for tensor, weight in (more or {}).items():
        _put(writer, tensor, weight, "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _put(writer: Any, name: str, weight: np.ndarray, kind: str) -> None:
    kind = gguf.GGMLQuantizationType[kind]
    if kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, weight.astype(np.float32))
    else:
        writer.add_tensor(name, gguf.quants.quantize(weight.astype(np.float32), kind), raw_dtype=kind)


def add(writer: Any, key: str, value: Any) -> None:
    """Adds a setting, of the type that its Python value has in GGUF."""
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    (writer.add_array if isinstance(value, Sequence) and not isinstance(value, str) else kinds[type(value)])(key, value)


def _settings(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    rope = config.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    said: dict[str, Any] = {
        "general.name": "made by a test",
        f"{name}.block_count": config["num_hidden_layers"],
        f"{name}.context_length": config["max_position_embeddings"],
        f"{name}.embedding_length": config["hidden_size"],
        f"{name}.feed_forward_length": config["intermediate_size"],
        f"{name}.attention.head_count": config["num_attention_heads"],
        f"{name}.attention.head_count_kv": config["num_key_value_heads"],
        f"{name}.rope.freq_base": float(rope.get("rope_theta", 10_000.0)),
        f"{name}.attention.key_length": head,
        f"{name}.attention.value_length": head,
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
    }
    said[f"{name}.vocab_size"] = config["vocab_size"]
    for theirs, key in SAME_NUMBERS.items():
        if config.get(key) is not None:
            said[f"{name}.{theirs}"] = float(config[key])
    if scale := config.get("logits_scaling", config.get("logit_scale")):
        said[f"{name}.logit_scale"] = float(scale)
    if near := (config.get("rope_parameters") or {}).get("sliding_attention"):
        said[f"{name}.rope.freq_base_swa"] = float(near["rope_theta"])
    if name == "llama":
        said[f"{name}.rope.dimension_count"] = head
    if rope.get("rope_type") == "linear":
        said |= {f"{name}.rope.scaling.type": "linear", f"{name}.rope.scaling.factor": rope["factor"]}
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(key):
            said[f"{name}.{key}"] = float(config[key])
    if name.startswith(("gemma", "cohere")):
        said[f"{name}.attention.sliding_window"] = config["sliding_window"]
    return said


def tokenizer_settings(kind: str, pre: str | None, tokens: Sequence[str], **more: Any) -> dict[str, Any]:
    """The settings of a tokenizer; all tokens are ordinary ones unless `token_type` says otherwise."""
    said = {"model": kind, "pre": pre, "tokens": list(tokens), "token_type": [1] * len(tokens), **more}
    return {f"tokenizer.ggml.{key}": value for key, value in said.items()}
