"""The families of published weights: what their config.json leaves unsaid, and the names of their modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax.config import ConfigError

# Our leaf -> their module, "{}" standing for the number of the layer. A leaf "layers/q_bias" is the bias of "layers/q".
_LLAMA: Mapping[str, str] = {
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
_QK_NORM = {f"layers/{name}": f"model.layers.{{}}.self_attn.{name}" for name in ("q_norm", "k_norm")}
_GEMMA2 = _LLAMA | {
    "layers/attn_post_norm": "model.layers.{}.post_attention_layernorm",
    "layers/mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
    "layers/mlp_post_norm": "model.layers.{}.post_feedforward_layernorm",
}

# The keys that a config.json may have, with what transformers takes for one that is missing; it must have the sizes.
_COMMON: Mapping[str, Any] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")),
    **dict.fromkeys(("num_key_value_heads", "head_dim", "rope_scaling", "rope_parameters")),
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
_MISTRAL = {"sliding_window": 4096, "num_key_value_heads": 8}
_QWEN = {"sliding_window": 4096, "num_key_value_heads": 32, "max_window_layers": 28}
_QWEN |= {"use_sliding_window": False, "layer_types": None}
_GEMMA = {
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
_GEMMA3 = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "sliding_window_pattern": 6,
}

# What no config.json of a family says.
_PLAIN = {"mlp_bias": False, "qk_norm": False}
_GEMMA_NORMS = _PLAIN | {"post_norms": True, "centred_norms": True, "embed_scale": True}

# The Gemma 3 that also reads images: its text model is a gemma3_text, and the rest is passed over.
WITH_IMAGES = "Gemma3ForConditionalGeneration"
_OF_IMAGES = ("vision_tower.", "multi_modal_projector.")


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type` of a config.json.

    causal, classifier: its "architectures". modules: our leaf -> their module. defaults: the keys that it knows, with
    what `transformers` takes for a missing one. fixed: the fields of a TransformerConfig that no key says.
    """

    name: str
    causal: str
    classifier: str
    modules: Mapping[str, str]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]


def _family(
    name: str, stem: str, modules: Mapping[str, str], defaults: Any, fixed: Any = _PLAIN, text: str = ""
) -> Family:
    classifier = f"{stem}{text}ForSequenceClassification"
    return Family(name, f"{stem}ForCausalLM", classifier, modules, {**_COMMON, **defaults}, fixed)


_NORMED = _LLAMA | _QK_NORM
_CAPPED = _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_QWEN3 = _QWEN | {"head_dim": 128, "attention_bias": False}
# An export takes the first that can say what a configuration says.
FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        _family("llama", "Llama", _LLAMA, {"attention_bias": False, "mlp_bias": False}, {"qk_norm": False}),
        _family("mistral", "Mistral", _LLAMA, _MISTRAL, _PLAIN | {"qkv_bias": False, "o_bias": False}),
        _family("qwen2", "Qwen2", _LLAMA, _QWEN, _PLAIN | {"qkv_bias": True, "o_bias": False}),
        _family("qwen3", "Qwen3", _NORMED, _QWEN3, _PLAIN | {"qk_norm": True}),
        _family("gemma2", "Gemma2", _GEMMA2, _CAPPED, _GEMMA_NORMS),
        _family(
            "gemma3_text", "Gemma3", _GEMMA2 | _QK_NORM, _GEMMA | _GEMMA3, _GEMMA_NORMS | {"qk_norm": True}, "Text"
        ),
    )
}


def family_of(config: Mapping[str, Any], where: Any) -> Family:
    """Finds the family of a config.json.

    Args:
        config: The config.json.
        where: What an error message begins with.

    Returns:
        The family.

    Raises:
        ConfigError: An unknown one, or an architecture that is neither its causal language model nor its sequence
            classifier.
    """
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ConfigError(f"{where}: model_type is {kind!r}, a family that is not read. {', '.join(FAMILIES)} are")
    family = FAMILIES[kind]
    known = (family.causal, family.classifier)
    if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in known:
        raise ConfigError(f"{where}: architectures is {architectures}; of {kind} there are {' and '.join(known)}")
    return family


def tensor_name(leaf: str, family: Family) -> str | None:
    """Names the tensor of a leaf.

    Args:
        leaf: "layers/q", "layers/q_bias", "heads/lm/kernel".
        family: Whose names are used.

    Returns:
        The name, "{}" standing for the number of the layer; None for a leaf that the family has not (a value head).
    """
    module, part = leaf, "weight"
    if leaf.startswith("layers/") and leaf.endswith("_bias"):
        module, part = leaf.removesuffix("_bias"), "bias"
    elif leaf.startswith("heads/"):
        module, _, last = leaf.rpartition("/")
        part = "bias" if last == "bias" else "weight"
    return f"{family.modules[module]}.{part}" if module in family.modules else None


def text_name(name: str) -> str | None:
    """Names a tensor of a model with images as its text model would; None for one that is not of the text model."""
    return None if name.startswith(_OF_IMAGES) else name.removeprefix("language_model.")


def is_transposed(leaf: str, ndim: int) -> bool:
    """Tells whether our matrix is theirs transposed: all products are [in, out] here and [out, in] there, while the
    embedding is [V, D] in both. ndim does not count the axis of layers.

    Args:
        leaf: Its name.
        ndim: Its axes, without that of layers.

    Returns:
        True if it must be transposed.
    """
    return ndim == 2 and leaf != "embed"
