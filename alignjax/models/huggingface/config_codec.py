"""config.json as a TransformerConfig, and back.

A family's defaults name all keys that its config.json may have (`families.py`), so both directions are one function for
all families: what a family does not know is neither read nor written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignjax.config import ConfigError, nearest
from alignjax.json_shapes import check_shape
from alignjax.models.architecture import TransformerConfig
from alignjax.models.attention import RopeScaling
from alignjax.models.huggingface.families import FAMILIES, WITH_IMAGES, Family, family_of
from alignjax.models.huggingface.folders import CONFIG, folder_of, read_json
from alignjax.models.huggingface.gguf_models import config_of_gguf
from alignjax.models.huggingface.known_keys import OF_IMAGES, Note, Rope, check_config, check_keys

_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
_SIZES = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "mlp": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
}
# Further fields that say just what a key says.
_SAME = {
    **_SIZES,
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
    "logit_softcap": "final_logit_softcapping",
    "attn_softcap": "attn_logit_softcapping",
}
# Fields that stand at their defaults where a family says nothing of them.
_SWITCHES = (
    "local_rope_theta", "query_scale", "attn_softcap", "logit_softcap", "post_norms", "centred_norms", "embed_scale",
)  # fmt: skip
# What each kind of rotary scaling needs to say; the last mapping has what is taken where it says nothing.
_LLAMA3 = {"factor": 1.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_ROPES: Mapping[str, tuple[str, ...]] = {"default": (), "linear": ("factor",), "llama3": tuple(_LLAMA3)}
_WHOLE_HEADS = {"partial_rotary_factor": (1.0,)}
_KINDS = {"full_attention": False, "sliding_attention": True}


def config_of(folder: Path | str, **changes: Any) -> TransformerConfig:
    """Reads the configuration that the config.json of a folder describes, for `transformer(config_of(folder))`.

    A sequence classifier has the output "reward" (one label) or "classes" (more), without a bias, and its "lm" head,
    which nobody trained, is its embedding.

    Args:
        folder: A folder of published weights, or a GGUF file.
        **changes: What config.json does not decide: `dtype`, `param_dtype`, `remat`, `outputs` (further heads, which
            start afresh), ...

    Returns:
        The configuration.

    Raises:
        ConfigError: Something is missing, unknown, or would change the numbers and is not built (quantized weights,
            other rotary scalings, bidirectional attention); the message names the file and the key.
    """
    raw, where = config_in(folder)
    try:
        config = TransformerConfig(**fields_in(raw, where))
    except ConfigError as error:
        raise error if str(error).startswith(str(where)) else ConfigError(f"{where}: {error}") from None
    if "outputs" in changes:
        changes["outputs"] = (*config.outputs, *(name for name in changes["outputs"] if name not in config.outputs))
    return dataclasses.replace(config, **changes)


def config_in(folder: Path | str) -> tuple[dict[str, Any], Path]:
    """Reads config.json, or what a GGUF file says in its place; of a model with images, what it says of the part that
    reads and writes text.

    Returns:
        (config.json, its path or that of the GGUF file).

    Raises:
        ConfigError: There is no such folder or file, or it holds something else.
    """
    path = folder_of(folder)
    if path.is_file():
        return config_of_gguf(path), path
    where = path / CONFIG
    raw = read_json(where)
    if raw.get("architectures") == [WITH_IMAGES]:
        text, family = raw.get("text_config"), FAMILIES["gemma3_text"]
        if not isinstance(text, dict):
            raise ConfigError(f"{where} has no text_config, which describes the part that reads and writes text")
        outer = {key: value for key, value in raw.items() if key not in OF_IMAGES}
        inner = {key: value for key, value in text.items() if key not in ("model_type", "architectures")}
        raw = {"tie_word_embeddings": True, **outer, **inner, "model_type": family.name}
        raw["architectures"] = [family.causal]
    return raw, where


def positions_of(folder: Path | str) -> int | None:
    """Tells for how many tokens the weights of a folder are meant, max_position_embeddings; None if nothing says so.

    Raises:
        ConfigError: There is no such folder or file, or it says something else than a number.
    """
    raw, where = config_in(folder)
    said = raw.get("max_position_embeddings")
    return check_shape({"max_position_embeddings": said}, Note, where, "download it again")["max_position_embeddings"]


def fields_in(raw: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """Reads the fields of a TransformerConfig that a config.json decides.

    Args:
        raw: The config.json.
        where: What an error message begins with.

    Returns:
        {field: value}.

    Raises:
        ConfigError: See `config_of`.
    """
    family = family_of(raw, where)
    check_config(raw, family, where)
    keys = {key: raw.get(key, default) for key, default in family.defaults.items()}
    missing = [key for key in _SIZES.values() if keys[key] is None]
    if missing:
        raise ConfigError(f"{where} does not say {missing[0]}")
    fields: dict[str, Any] = {field: keys[key] for field, key in _SAME.items() if key in keys}
    fields |= {"kv_heads": keys["num_key_value_heads"] or keys["num_attention_heads"], "head_dim": _head_dim(keys)}
    fields |= {"activation": _activation(keys, where), **_windows(keys, where), **_rope(keys, where)}
    if "attention_bias" in keys:
        fields |= dict.fromkeys(("qkv_bias", "o_bias"), bool(keys["attention_bias"]))
    if "mlp_bias" in keys:
        fields["mlp_bias"] = bool(keys["mlp_bias"])
    if "query_pre_attn_scalar" in keys:
        scale = keys["query_pre_attn_scalar"] ** -0.5
        fields["query_scale"] = None if scale == _head_dim(keys) ** -0.5 else scale
    return {**fields, **family.fixed, **_outputs(raw, family)}


def config_json(config: TransformerConfig, head: str = "lm") -> tuple[Family, dict[str, Any]]:
    """Writes a configuration as the config.json of the first family that can say what it says.

    Args:
        config: The configuration.
        head: "lm" for a causal language model, "reward" or "classes" for a sequence classifier.

    Returns:
        (the family, the config.json).

    Raises:
        ConfigError: Another head, or fields that no family has together; the message names them.
    """
    # Every family writes what it can; what it cannot say is left out, and missed when its config.json is read back.
    # What it never mentions must be as it is by default.
    if head not in ("lm", "reward", "classes"):
        raise ConfigError(f"the head {head!r} has no place in a published checkpoint; there are lm, reward, classes")
    free = {"outputs", "classes", "head_bias"} | (set() if head == "lm" else {"tied", "logit_softcap"})
    everything, differences = _everything(config), {}
    for family in FAMILIES.values():
        written = {"model_type": family.name} | {key: everything[key] for key in everything if key in family.defaults}
        written |= _architecture(config, family, head)
        fields = fields_in(written, family.name)
        fields |= {name: getattr(TransformerConfig, name) for name in _SWITCHES if name not in fields}
        wrong = [name for name, value in fields.items() if name not in free and getattr(config, name) != value]
        if not wrong:
            return family, written
        differences[family.name] = wrong
    closest = min(differences, key=lambda name: len(differences[name]))
    raise ConfigError(
        "no family of published checkpoints has this architecture; the nearest is "
        f"{closest}, but for {', '.join(f'{name}={getattr(config, name)!r}' for name in differences[closest])}"
    )


def _architecture(config: TransformerConfig, family: Family, head: str) -> dict[str, Any]:
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


# ------------------------------------------------------------------------------------------------------- parts of both


def _everything(config: TransformerConfig) -> dict[str, Any]:
    """A configuration by the keys of all families."""
    local = config.local or (config.window is not None,) * config.layers
    activation = next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == config.activation)
    return {
        **{key: getattr(config, field) for field, key in _SAME.items()},
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": activation,
        "hidden_activation": activation,
        "rope_theta": config.rope_theta,
        "rope_local_base_freq": config.local_rope_theta or config.rope_theta,
        "attention_bias": config.o_bias,
        "mlp_bias": config.mlp_bias,
        **_their_scaling(config),
        "sliding_window": config.window,
        "use_sliding_window": config.window is not None,
        "layer_types": ["sliding_attention" if near else "full_attention" for near in local],
        "query_pre_attn_scalar": config.head_dim if config.query_scale is None else round(config.query_scale**-2),
    }


def _outputs(raw: Mapping[str, Any], family: Family) -> dict[str, Any]:
    if raw["architectures"][0] == family.causal:
        return {}
    labels = raw.get("num_labels") or len(raw.get("id2label") or ()) or 2
    reward = {"outputs": ("reward",)} if labels == 1 else {"outputs": ("classes",), "classes": labels}
    return {**reward, "head_bias": False, "tied": True, "logit_softcap": None}


def _activation(keys: Mapping[str, Any], where: Any) -> str:
    name = keys.get("hidden_activation", keys["hidden_act"])
    if name not in _ACTIVATIONS:
        raise ConfigError(f"{where}: unknown activation {name!r}.{nearest(str(name), _ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _head_dim(keys: Mapping[str, Any]) -> int:
    return keys["head_dim"] or keys["hidden_size"] // keys["num_attention_heads"]


def _windows(keys: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """window and local: which layers attend within a window."""
    layers, window = keys["num_hidden_layers"], keys.get("sliding_window")
    if window is None or not keys.get("use_sliding_window", True):
        return {"window": None, "local": ()}
    if "layer_types" not in keys:
        return {"window": window, "local": ()}
    if keys["layer_types"] is not None:
        unknown = [kind for kind in keys["layer_types"] if kind not in _KINDS]
        if unknown or len(keys["layer_types"]) != layers:
            raise ConfigError(f"{where}: layer_types must name one of {', '.join(_KINDS)} for each of {layers} layers")
        local = tuple(_KINDS[kind] for kind in keys["layer_types"])
    elif "max_window_layers" in keys:
        local = tuple(number >= keys["max_window_layers"] for number in range(layers))
    else:
        local = tuple((number + 1) % keys["sliding_window_pattern"] != 0 for number in range(layers))
    if len(set(local)) == 1:
        return {"window": window if local[0] else None, "local": ()}
    return {"window": window, "local": local}


def _rope(keys: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """Rotary numbers, from the flat keys of older files or the one mapping of newer ones, which may be one for each
    kind of layer."""
    old = {"rope_theta": keys["rope_theta"], **(keys["rope_scaling"] or {})}
    new = keys["rope_parameters"] or {}
    by_kind = {kind: new[kind] for kind in _KINDS if isinstance(new.get(kind), Mapping)}
    if by_kind and (other := [key for key in new if key not in _KINDS]):
        raise ConfigError(f"{where}: rope_parameters has {other[0]} beside {next(iter(by_kind))}, which is not read")
    theta, scaling = _one_rope(by_kind.get("full_attention") or (old if by_kind else {**old, **new}), keys, where)
    everywhere = {"rope_theta": theta, "rope_scaling": scaling}
    if "rope_local_base_freq" not in keys:
        return everywhere
    near = {"rope_theta": keys["rope_local_base_freq"], **by_kind.get("sliding_attention", {})}
    local_theta, local_scaling = _one_rope(near, keys, where)
    if local_scaling is not None:
        raise ConfigError(f"{where}: rope_parameters.sliding_attention is scaled, which is not built")
    windows = _windows(keys, where)
    if windows["local"]:
        return {**everywhere, "local_rope_theta": local_theta}
    return everywhere if windows["window"] is None else {"rope_theta": local_theta, "rope_scaling": None}


def _one_rope(rope: Mapping[str, Any], keys: Mapping[str, Any], where: Any) -> tuple[float, RopeScaling | None]:
    rope = {key: value for key, value in rope.items() if value is not None}
    check_shape(rope, Rope, f"{where}: rope_parameters", "download it again")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in _ROPES:
        raise ConfigError(f"{where}: rotary scaling {kind!r} is not built; there are {', '.join(_ROPES)}")
    check_keys(rope, f"{where}: rope_parameters", {"rope_type", "type", "rope_theta", *_ROPES[kind]}, (), _WHOLE_HEADS)
    theta = rope.get("rope_theta") or keys["rope_theta"]
    if missing := [key for key in _ROPES[kind] if key not in rope]:
        raise ConfigError(f"{where}: rotary scaling {kind!r} needs {missing[0]}")
    if theta is None:
        raise ConfigError(f"{where} does not say rope_theta")
    *numbers, original = (rope.get(key, default) for key, default in _LLAMA3.items())
    return float(theta), None if kind == "default" else RopeScaling(kind, *map(float, numbers), original=original)


def _their_scaling(config: TransformerConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {}
    llama3 = {
        "low_freq_factor": scaling.low,
        "high_freq_factor": scaling.high,
        "original_max_position_embeddings": scaling.original,
    }
    kind = {"rope_type": scaling.kind, "factor": scaling.factor}
    return {"rope_scaling": kind | (llama3 if scaling.kind == "llama3" else {})}
