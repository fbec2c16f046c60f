"""config.json as a TransformerConfig, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignjax.config import ConfigError, nearest
from alignjax.models.architecture import TransformerConfig
from alignjax.models.attention import RopeScaling
from alignjax.models.huggingface.families import FAMILIES, WITH_IMAGES, Family, family_of
from alignjax.models.huggingface.folders import CONFIG, folder_of, read_json

_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
_SIZES = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "mlp": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
}
_KINDS = {"full_attention": False, "sliding_attention": True}


def config_of(folder: Path | str, **changes: Any) -> TransformerConfig:
    """The configuration that the config.json of a folder describes, for `transformer(config_of(folder))`.

    A sequence classifier has the output "reward" (one label) or "classes" (more), without a bias, and its "lm" head,
    which nobody trained, is its embedding. changes: what config.json does not decide, `dtype`, `param_dtype`, `remat`,
    `outputs` (further heads, which start afresh), ...

    Raises ConfigError naming the file and the key for what is not there, not known, or would change the numbers and is
    not built: quantized weights, other rotary scalings, bidirectional attention.
    """
    config = TransformerConfig(**described(*config_in(folder)))
    if "outputs" in changes:
        changes["outputs"] = (*config.outputs, *(name for name in changes["outputs"] if name not in config.outputs))
    return dataclasses.replace(config, **changes)


def config_in(folder: Path | str) -> tuple[dict[str, Any], Path]:
    """(config.json, its path); of a model with images, what it says of the part that reads and writes text."""
    where = folder_of(folder) / CONFIG
    given = read_json(where)
    if given.get("architectures") == [WITH_IMAGES]:
        text = {"tie_word_embeddings": given.get("tie_word_embeddings", True), **(given.get("text_config") or {})}
        given = {**text, "model_type": "gemma3_text", "architectures": [FAMILIES["gemma3_text"].causal]}
    return given, where


def described(given: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """The fields of a TransformerConfig that a config.json decides; errors are said to be in `where`."""
    family = family_of(given, where)
    for key, fine in (("quantization_config", (None,)), ("use_bidirectional_attention", (None, False))):
        if given.get(key) not in fine:
            raise ConfigError(f"{where}: {key} is set, and models of that kind are not read")
    given = {**family.defaults, **given}
    missing = [key for key in _SIZES.values() if given.get(key) is None]
    if missing:
        raise ConfigError(f"{where} does not say {missing[0]}")
    fields: dict[str, Any] = {name: given[key] for name, key in _SIZES.items()}
    gemma = family.name.startswith("gemma")
    activation = given["hidden_activation" if gemma else "hidden_act"]
    if activation not in _ACTIVATIONS:
        raise ConfigError(f"{where}: unknown activation {activation!r}.{nearest(str(activation), _ACTIVATIONS)}")
    fields |= {
        "kv_heads": given["num_key_value_heads"] or given["num_attention_heads"],
        "head_dim": given["head_dim"] or given["hidden_size"] // given["num_attention_heads"],
        "norm_eps": given["rms_norm_eps"],
        "tied": given["tie_word_embeddings"],
        "activation": _ACTIVATIONS[activation],
        "qkv_bias": family.name == "qwen2" or bool(given.get("attention_bias")),
        "o_bias": family.name != "qwen2" and bool(given.get("attention_bias")),
        "mlp_bias": family.name == "llama" and bool(given["mlp_bias"]),
        "qk_norm": family.name in ("qwen3", "gemma3_text"),
    }
    fields |= _windows(given, family, where)
    if gemma:
        scale = given["query_pre_attn_scalar"] ** -0.5
        fields |= {
            "query_scale": None if scale == fields["head_dim"] ** -0.5 else scale,
            "attn_softcap": given.get("attn_logit_softcapping"),
            "logit_softcap": given.get("final_logit_softcapping"),
            "post_norms": True,
            "centred_norms": True,
            "embed_scale": True,
        }
        if family.name == "gemma3_text" and fields["attn_softcap"] is not None:
            raise ConfigError(f"{where}: attn_logit_softcapping is set, which Gemma 3 has in its config and never uses")
    fields |= _rope(given, fields, where)
    return fields | _outputs(given, family)


def _outputs(given: Mapping[str, Any], family: Family) -> dict[str, Any]:
    if given["architectures"][0] == family.causal:
        return {}
    labels = given.get("num_labels") or len(given.get("id2label") or ()) or 2
    reward = {"outputs": ("reward",)} if labels == 1 else {"outputs": ("classes",), "classes": labels}
    return {**reward, "head_bias": False, "tied": True, "logit_softcap": None}


def _windows(given: Mapping[str, Any], family: Family, where: Any) -> dict[str, Any]:
    """window and local: which layers attend within a window."""
    layers, window = given["num_hidden_layers"], given.get("sliding_window")
    if family.name == "llama" or window is None or not given.get("use_sliding_window", True):
        return {"window": None, "local": ()}
    if given.get("layer_types") is not None and family.name != "mistral":
        unknown = [kind for kind in given["layer_types"] if kind not in _KINDS]
        if unknown or len(given["layer_types"]) != layers:
            raise ConfigError(f"{where}: layer_types must name one of {', '.join(_KINDS)} for each of {layers} layers")
        local = tuple(_KINDS[kind] for kind in given["layer_types"])
    elif family.name == "mistral":
        local = (True,) * layers
    elif "max_window_layers" in given:
        local = tuple(number >= given["max_window_layers"] for number in range(layers))
    else:
        every = given.get("sliding_window_pattern", 2)
        local = tuple((number + 1) % every != 0 for number in range(layers))
    if len(set(local)) == 1:
        return {"window": window if local[0] else None, "local": ()}
    return {"window": window, "local": local}


def _rope(given: Mapping[str, Any], windows: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """Rotary numbers, from the flat keys of older files or the one mapping of newer ones, which may be one for each
    kind of layer."""
    old = {"rope_theta": given["rope_theta"], **(given.get("rope_scaling") or {})}
    new = given.get("rope_parameters") or {}
    nested = {kind: new[kind] for kind in _KINDS if isinstance(new.get(kind), Mapping)}
    theta, scaling = _one_rope(nested.get("full_attention") or (old if nested else {**old, **new}), given, where)
    everywhere = {"rope_theta": theta, "rope_scaling": scaling}
    if "rope_local_base_freq" not in given:
        return everywhere
    near = {"rope_theta": given["rope_local_base_freq"], **nested.get("sliding_attention", {})}
    local_theta, local_scaling = _one_rope(near, given, where)
    if local_scaling is not None:
        raise ConfigError(f"{where}: rope_parameters.sliding_attention is scaled, which is not built")
    if windows["local"]:
        return {**everywhere, "local_rope_theta": local_theta}
    return everywhere if windows["window"] is None else {"rope_theta": local_theta, "rope_scaling": None}


def _one_rope(rope: Mapping[str, Any], given: Mapping[str, Any], where: Any) -> tuple[float, RopeScaling | None]:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if rope.get("partial_rotary_factor", 1.0) not in (None, 1.0):
        raise ConfigError(f"{where}: partial_rotary_factor is {rope['partial_rotary_factor']}; only whole heads turn")
    theta = float(rope.get("rope_theta") or given["rope_theta"])
    if kind == "default":
        return theta, None
    try:
        if kind == "linear":
            return theta, RopeScaling("linear", float(rope["factor"]))
        if kind == "llama3":
            original = rope.get("original_max_position_embeddings") or given["max_position_embeddings"]
            low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
            return theta, RopeScaling("llama3", float(rope["factor"]), low, high, original)
    except KeyError as error:
        raise ConfigError(f"{where}: rotary scaling {kind!r} needs {error.args[0]}") from None
    raise ConfigError(f"{where}: rotary scaling {kind!r} is not built; there are default, linear and llama3")


# ------------------------------------------------------------------------------------------------------------- and back


def config_json(config: TransformerConfig, head: str = "lm") -> tuple[Family, dict[str, Any]]:
    """The first family that can say what a configuration says, and the config.json that says it. head: "lm" for a
    causal language model, "reward" or "classes" for a sequence classifier.

    Raises ConfigError naming the fields that no family has together.
    """
    if head not in ("lm", "reward", "classes"):
        raise ConfigError(f"the head {head!r} has no place in a published checkpoint; there are lm, reward, classes")
    apart: dict[str, list[str]] = {}
    for family in FAMILIES.values():
        written = _said(config, family) | _head_said(config, family, head)
        fields = described(written, family.name)
        free = {"outputs", "classes", "head_bias"} | (set() if head == "lm" else {"tied", "logit_softcap"})
        apart[family.name] = [
            name for name, value in fields.items() if name not in free if getattr(config, name) != value
        ]
        # what the family never mentions must be as it is by default
        unsaid = {field.name: field.default for field in dataclasses.fields(config) if field.name in _SWITCHES}
        apart[family.name] += [n for n, default in unsaid.items() if n not in fields and getattr(config, n) != default]
        if not apart[family.name]:
            return family, written
    nearest_name = min(apart, key=lambda name: len(apart[name]))
    raise ConfigError(
        "no family of published checkpoints has this architecture; the nearest is "
        f"{nearest_name}, but for {', '.join(f'{name}={getattr(config, name)!r}' for name in apart[nearest_name])}"
    )


_SWITCHES = (
    "local_rope_theta", "query_scale", "attn_softcap", "logit_softcap", "post_norms", "centred_norms", "embed_scale",
)  # fmt: skip


def _head_said(config: TransformerConfig, family: Family, head: str) -> dict[str, Any]:
    if head == "lm":
        return {"architectures": [family.causal]}
    labels = 1 if head == "reward" else config.classes
    names = [f"LABEL_{number}" for number in range(labels)]
    return {
        "architectures": [family.classifier],
        "num_labels": labels,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def _said(config: TransformerConfig, family: Family) -> dict[str, Any]:
    """config.json as the family would have it; what it cannot say is left out, and missed when it is read back."""
    c = config
    activation = next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == c.activation)
    written: dict[str, Any] = {"model_type": family.name} | {key: getattr(c, name) for name, key in _SIZES.items()}
    written |= {
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tied,
        "hidden_act": activation,
        "rope_theta": c.rope_theta,
    }
    if "attention_bias" in family.defaults:
        written["attention_bias"] = c.o_bias
    if "mlp_bias" in family.defaults:
        written["mlp_bias"] = c.mlp_bias
    if c.rope_scaling is not None:
        s = c.rope_scaling
        written["rope_scaling"] = {"rope_type": s.kind, "factor": s.factor}
        if s.kind == "llama3":
            written["rope_scaling"] |= {
                "low_freq_factor": s.low,
                "high_freq_factor": s.high,
                "original_max_position_embeddings": s.original,
            }
    if family.name != "llama":
        written["sliding_window"] = c.window
    if family.name not in ("llama", "mistral"):
        local = c.local or (c.window is not None,) * c.layers
        written["layer_types"] = ["sliding_attention" if near else "full_attention" for near in local]
    if "use_sliding_window" in family.defaults:
        written["use_sliding_window"] = c.window is not None
    if family.name.startswith("gemma"):
        written |= {
            "hidden_activation": activation,
            "query_pre_attn_scalar": c.head_dim if c.query_scale is None else round(c.query_scale**-2),
            "final_logit_softcapping": c.logit_softcap,
        }
    if family.name == "gemma2":
        written["attn_logit_softcapping"] = c.attn_softcap
    if family.name == "gemma3_text":
        written["rope_local_base_freq"] = c.rope_theta if c.local_rope_theta is None else c.local_rope_theta
    return written
