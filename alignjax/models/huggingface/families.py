"""The families of published weights: what their config.json leaves unsaid, and the names of their modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax.config import ConfigError
from alignjax.models.huggingface import default_keys as keys, module_names as modules

# The Gemma 3 that also reads images: its text model is a gemma3_text, and the rest is passed over.
WITH_IMAGES = "Gemma3ForConditionalGeneration"
_OF_IMAGES = ("vision_tower.", "multi_modal_projector.")


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type` of a config.json.

    Attributes:
        name: The model_type.
        causal: The language model among its "architectures".
        classifier: The sequence classifier; "" where transformers has none.
        modules: Our leaf -> their module.
        defaults: The keys that it knows, with what `transformers` takes for a missing one.
        fixed: The fields of a TransformerConfig that no key says.
        names: How it spells keys that others spell otherwise.
        aliases: Further spellings that are read, with the keys they stand for.
        notes: Further keys that change no number.
        harmless: Further keys that change none at these values.
        by_head: The parts of one tensor take turns head by head, where they else follow one another whole.
        in_out: Matrices of layers are [in, out], as here.
        interleaved: The gate and what it multiplies take turns, output by output, in one tensor.
        mxfp4: Its matrices of experts may be in MXFP4.
        bare: The leaves whose tensors are called by the module's name alone, their biases by that and "_bias".
        pairs: Numbers of a head that turn together lie side by side.
        rope: Rotary positions are written as "flat" keys, in "one" mapping, or one "by kind" of layers.
        tempered: Its queries may grow with their position.
        mlp_times: How many times as wide as the model its MLP is where nothing is said; 0: it must be said.
    """

    name: str
    causal: str
    classifier: str
    modules: Mapping[str, str]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    harmless: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    by_head: bool = False
    in_out: bool = False
    interleaved: bool = False
    mxfp4: bool = False
    bare: tuple[str, ...] = ()
    pairs: bool = False
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rope: str = "flat"
    tempered: bool = False
    mlp_times: int = 0


def _family(
    name: str,
    stem: str,
    modules: Mapping[str, str],
    defaults: Any,
    fixed: Any = keys.PLAIN,
    text: str = "",
    **more: Any,
) -> Family:
    classifier = f"{stem}{text}ForSequenceClassification" if more.pop("classifier", True) else ""
    absent, causal = more.pop("absent", ()), more.pop("causal", f"{stem}ForCausalLM")
    defaults = {key: value for key, value in {**keys.COMMON, **defaults}.items() if key not in absent}
    return Family(name, causal, classifier, modules, defaults, fixed, **more)


_NORMED = modules.LLAMA | modules.QK_NORM
_CAPPED = keys.GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_QWEN3 = keys.QWEN | {"head_dim": 128, "attention_bias": False}
_ONE_SIZE = ("num_key_value_heads", "head_dim")
_ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")
# An export takes the first that can say what a configuration says.
FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        _family("llama", "Llama", modules.LLAMA, {"attention_bias": False, "mlp_bias": False}, {"qk_norm": False}),
        _family("mistral", "Mistral", modules.LLAMA, keys.MISTRAL, keys.PLAIN | keys.NO_BIAS),
        _family("qwen2", "Qwen2", modules.LLAMA, keys.QWEN, keys.PLAIN | {"qkv_bias": True, "o_bias": False}),
        _family("qwen3", "Qwen3", _NORMED, _QWEN3, keys.PLAIN | {"qk_norm": True}),
        _family("gemma2", "Gemma2", modules.GEMMA2, _CAPPED, keys.GEMMA_NORMS),
        _family(
            "gemma3_text",
            "Gemma3",
            modules.GEMMA2 | modules.QK_NORM,
            keys.GEMMA | keys.GEMMA3,
            keys.GEMMA_NORMS | {"qk_norm": True},
            "Text",
        ),
        _family("olmo2", "Olmo2", modules.OLMO2 | modules.QK_NORM, keys.OLMO, keys.OLMO_NORMS),
        _family(
            "olmo3", "Olmo3", modules.OLMO2 | modules.QK_NORM, keys.OLMO | keys.OLMO3, keys.OLMO_NORMS, rope="by kind"
        ),
        _family("smollm3", "SmolLM3", modules.LLAMA, keys.SMOLLM3, {"qk_norm": False}),
        _family("phi3", "Phi3", modules.PHI3, keys.PHI3_KEYS, keys.PLAIN | keys.NO_BIAS, notes=("auto_map",)),
        _family(
            "qwen3_moe",
            "Qwen3Moe",
            _NORMED | modules.EXPERTS,
            keys.QWEN3_MOE,
            keys.PLAIN | {"qk_norm": True},
            notes=("max_window_layers",),
            aliases={"num_local_experts": "num_experts"},
            harmless={"decoder_sparse_step": (1,), "mlp_only_layers": (None, [])},
        ),
        _family(
            "gpt2",
            "GPT2",
            modules.GPT2,
            keys.GPT2_KEYS,
            keys.LAYER_NORMS | {"qkv_bias": True, "o_bias": True},
            names=keys.GPT2_NAMES,
            notes=(
                "n_ctx",
                "attn_pdrop",
                "summary_use_proj",
                "summary_activation",
                "summary_proj_to_labels",
                "summary_first_dropout",
                "reorder_and_upcast_attn",
            ),
            harmless={"scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,)},
            in_out=True,
            mlp_times=4,
            causal="GPT2LMHeadModel",
            absent=(*_ONE_SIZE, *_ROPE_KEYS),
        ),
        _family(
            "gpt_neox",
            "GPTNeoX",
            modules.GPT_NEOX,
            keys.GPT_NEOX_KEYS,
            keys.LAYER_NORMS,
            names=keys.GPT_NEOX_NAMES,
            by_head=True,
            absent=_ONE_SIZE,
        ),
        _family(
            "mixtral",
            "Mixtral",
            modules.LLAMA | modules.MIXTRAL,
            keys.MIXTRAL_KEYS,
            keys.PLAIN | keys.NO_BIAS | {"renormalized": True},
            names={"num_experts": "num_local_experts"},
            notes=("router_jitter_noise",),
        ),
        _family(
            "gpt_oss",
            "GptOss",
            modules.GPT_OSS,
            keys.GPT_OSS_KEYS,
            {"qk_norm": False, "mlp_bias": True, "renormalized": True, "sinks": True},
            names={"num_experts": "num_local_experts"},
            aliases={"experts_per_token": "num_experts_per_tok"},
            notes=("initial_context_length",),
            interleaved=True,
            mxfp4=True,
            bare=("layers/gate", "layers/up", "layers/down", "layers/sinks"),
            rope="one",
        ),
        _family(
            "olmoe",
            "Olmoe",
            _NORMED | modules.EXPERTS,
            keys.OLMO | keys.OLMOE,
            keys.PLAIN | {"qk_norm": True, "qk_norm_whole": True},
            classifier=False,
            absent=("head_dim",),
        ),
        _family("granite", "Granite", modules.LLAMA, keys.GRANITE, {"qk_norm": False}, classifier=False),
        _family(
            "ministral3",
            "Ministral3",
            modules.LLAMA,
            keys.MINISTRAL3,
            keys.PLAIN | keys.NO_BIAS,
            rope="one",
            tempered=True,
        ),
        _family(
            "cohere2",
            "Cohere2",
            modules.COHERE2,
            keys.COHERE2_KEYS,
            keys.PLAIN | {"norm": "layer", "parallel": True, "shared_norm": True},
            pairs=True,
            classifier=False,
            names={"rms_norm_eps": "layer_norm_eps"},
        ),
    )
}
# What families that are asked for need and is not built.
MISSING: Mapping[str, str] = {
    "gemma4": "heads of two sizes, norms of values, inputs of each layer, keys and values that layers share",
    "gemma3n": "inputs of each layer, alternating updates, keys and values that layers share",
    "qwen2_moe": "experts that all tokens share",
    "qwen3_next": "linear attention",
    "qwen3_5": "linear attention",
    "deepseek": "latent attention, experts that all tokens share",
    "kimi": "latent attention, experts that all tokens share",
    "glm4_moe": "experts that all tokens share, layers of several kinds",
    "llama4": "chunked attention, experts beside an MLP",
    "mamba": "state-space layers",
    "falcon_h1": "state-space layers",
    "granitemoe": "experts in one tensor",
    "nemotron": "squared ReLU",
}


def _missing(kind: Any) -> str:
    """Says what a family would need, if that is known."""
    names = [name for name in MISSING if isinstance(kind, str) and kind.startswith(name)]
    return f" It needs {MISSING[max(names, key=len)]}, which is not built." if names else ""


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
        what = "it names no model_type, which says the family" if kind is None else f"model_type {kind!r} is not read"
        raise ConfigError(f"{where}: {what}; families that are: {', '.join(FAMILIES)}.{_missing(kind)}")
    family = FAMILIES[kind]
    known = tuple(name for name in (family.causal, family.classifier) if name)
    if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in known:
        raise ConfigError(f"{where}: architectures is {architectures}; of {kind} there are {' and '.join(known)}")
    return family


def canonical(raw: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """Spells the keys of a config.json as most families do. Raises ConfigError for one that says a thing twice."""
    family = FAMILIES.get(raw["model_type"]) if isinstance(raw.get("model_type"), str) else None
    if family is None:
        return dict(raw)
    ours = {theirs: key for key, theirs in family.names.items()} | {**family.aliases}
    spelled: dict[str, Any] = {}
    for key, value in raw.items():
        name = ours.get(key, key)
        if spelled.get(name) is not None and value is not None and spelled[name] != value:
            raise ConfigError(f"{where}: {key} is {value!r}, and {name}, which means the same, {spelled[name]!r}")
        spelled[name] = value if spelled.get(name) is None else spelled[name]
    return spelled


def spelled(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Spells the keys of a config.json as its family does."""
    return {family.names.get(key, key): value for key, value in config.items()}


def tensor_name(leaf: str, family: Family) -> str | None:
    """Names the tensor of a leaf.

    Args:
        leaf: "layers/q", "layers/q_bias", "heads/lm/kernel".
        family: Whose names are used.

    Returns:
        The name, "{}" standing for the number of the layer; None for a leaf that the family has not (a value head).
    """
    module, part = leaf, "weight"
    if leaf.startswith(("layers/", "norm")) and leaf.endswith("_bias"):
        module, part = leaf.removesuffix("_bias"), "bias"
    elif leaf.startswith("heads/"):
        module, _, last = leaf.rpartition("/")
        part = "bias" if last == "bias" else "weight"
    if module in family.bare:
        return family.modules[module] + "_bias" * (part == "bias")
    return f"{family.modules[module]}.{part}" if module in family.modules else None


def text_name(name: str) -> str | None:
    """Names a tensor of a model with images as its text model would; None for one that is not of the text model."""
    return None if name.startswith(_OF_IMAGES) else name.removeprefix("language_model.")


def is_transposed(leaf: str, ndim: int) -> bool:
    """Tells whether our matrix is theirs transposed: products are [in, out] here and [out, in] in most families, while
    tables are [V, D] in all. ndim does not count the axes that number tensors.

    Args:
        leaf: Its name.
        ndim: Its axes, without those of layers and experts.

    Returns:
        True if it must be transposed.
    """
    return ndim == 2 and leaf not in ("embed", "positions")
