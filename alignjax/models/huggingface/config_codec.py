"""config.json as a TransformerConfig, and back.

A family's defaults name all keys that its config.json may have (`families.py`), so both directions are one function for
all families: what a family does not know is neither read nor written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignjax.config import ConfigError, nearest
from alignjax.json_shapes import check_shape
from alignjax.models.architecture import TransformerConfig
from alignjax.models.attention import RopeScaling
from alignjax.models.huggingface.families import FAMILIES, WITH_IMAGES, Family, canonical, family_of, spelled
from alignjax.models.huggingface.folders import CONFIG, folder_of, read_json
from alignjax.models.huggingface.gguf_models import config_of_gguf
from alignjax.models.huggingface.known_keys import OF_IMAGES, Note, check_config
from alignjax.models.huggingface.rope_codec import KINDS, head_dim_of, rope_of, their_rope

_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
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
    "parallel": "use_parallel_residual",
    "positions": "max_position_embeddings",
    "experts": "num_experts",
    "experts_per_token": "num_experts_per_tok",
    "renormalized": "norm_topk_prob",
    "swiglu_limit": "swiglu_limit",
    "swiglu_alpha": "swiglu_alpha",
    "embed_multiplier": "embedding_multiplier",
    "residual_multiplier": "residual_multiplier",
}
# What no config.json decides.
_FREE = ("dtype", "param_dtype", "remat", "attention", "group_chunks", "outputs", "classes", "head_bias")


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
    raw = canonical(read_json(where), where)
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
    """Tells for how many tokens the weights of a folder are meant: max_position_embeddings, but under longrope the
    original context, since a completion that grows out of it would turn by two sets of frequencies; None if nothing
    says so.

    Raises:
        ConfigError: There is no such folder or file, or it says something else than a number.
    """
    raw, where = config_in(folder)
    said = raw.get("max_position_embeddings")
    said = check_shape({"max_position_embeddings": said}, Note, where, "download it again")["max_position_embeddings"]
    config = config_of(folder)
    bounds = [said or config.positions, _short_context(config.rope_scaling)]
    return min((bound for bound in bounds if bound), default=None)


def _short_context(scaling: RopeScaling | None) -> int:
    """Where a sequence that grows would begin to turn by a second set of frequencies; 0 if it never does."""
    return scaling.original if scaling is not None and scaling.kind == "longrope" else 0


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
    # Every key that the family knows becomes a field, by whichever rule holds for the key; what no key says is fixed by
    # the family.
    raw, family = canonical(raw, where), family_of(raw, where)
    check_config(raw, family, where)
    keys = {key: raw.get(key, default) for key, default in family.defaults.items()}
    if keys["intermediate_size"] is None and family.mlp_times and keys["hidden_size"]:
        keys["intermediate_size"] = family.mlp_times * keys["hidden_size"]
    if raw.get("rope_scaling") and not raw.get("rope_parameters") and "rope_parameters" in keys:
        keys["rope_parameters"] = None  # older files say all there
    missing = [key for key in _SIZES.values() if keys[key] is None]
    if missing:
        raise ConfigError(f"{where} does not say {missing[0]}")
    fields: dict[str, Any] = {field: keys[key] for field, key in _SAME.items() if key in keys}
    fields |= {
        "kv_heads": keys.get("num_key_value_heads") or keys["num_attention_heads"],
        "head_dim": head_dim_of(keys),
    }
    rope_layers = _rope_layers(keys)
    windows = windows_of(keys, where)
    fields |= {"activation": _activation(keys, where), "rope_layers": rope_layers, **windows}
    length = raw.get("max_position_embeddings")
    fields |= rope_of(keys, where, length, windows, family.tempered) if "rope_theta" in keys else {}
    if "attention_bias" in keys:
        fields |= dict.fromkeys(("qkv_bias", "o_bias"), bool(keys["attention_bias"]))
    if "mlp_bias" in keys:
        fields["mlp_bias"] = bool(keys["mlp_bias"])
    if "moe_intermediate_size" in keys:
        fields["mlp"] = keys["moe_intermediate_size"]
    if "query_pre_attn_scalar" in keys or "attention_multiplier" in keys:
        scale = (
            keys["attention_multiplier"] if "attention_multiplier" in keys else keys["query_pre_attn_scalar"] ** -0.5
        )
        fields["query_scale"] = None if scale == head_dim_of(keys) ** -0.5 else scale
    if "logits_scaling" in keys or "logit_scale" in keys:
        fields["logit_multiplier"] = keys["logit_scale"] if "logit_scale" in keys else 1 / keys["logits_scaling"]
    if family.pairs:  # Cohere 2: layers that see everything have no positions
        fields["rope_layers"] = windows["local"] or (False,) * (windows["window"] is None)
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
    differences: dict[str, list[str]] = {}
    for family, written in _sayings(config, head, differences):
        return family, spelled(written, family)
    closest = min(differences, key=lambda name: len(differences[name]))
    raise ConfigError(
        "no family of published checkpoints has this architecture; the nearest is "
        f"{closest}, but for {', '.join(f'{name}={getattr(config, name)!r}' for name in differences[closest])}"
    )


def families_for(config: TransformerConfig) -> list[Family]:
    """Lists the families whose config.json can say what a configuration says, in the order in which an export asks
    them."""
    return [family for family, _ in _sayings(config, "lm", {})]


def _sayings(
    config: TransformerConfig, head: str, differences: dict[str, list[str]]
) -> Iterator[tuple[Family, dict[str, Any]]]:
    """Yields the families that can say what a configuration says, with their config.json by the keys of most; of the
    others `differences` gets the fields that they cannot say."""
    free = {*_FREE} | (set() if head == "lm" else {"tied", "logit_softcap", "logit_multiplier"})
    everything = _everything(config)
    unsaid = {field.name: field.default for field in dataclasses.fields(config) if field.name != "vocab"}
    for family in FAMILIES.values():
        if head != "lm" and not family.classifier:
            continue
        said = everything | their_rope(config, family.rope)
        written = {"model_type": family.name} | {key: said[key] for key in said if key in family.defaults}
        written |= _architecture(config, family, head)
        if config.rope_scaling is not None and config.rope_scaling.kind == "dynamic":
            written["max_position_embeddings"] = config.rope_scaling.original
        try:
            fields = unsaid | fields_in(written, family.name)
        except ConfigError:  # it has no such layers, or no such scaling
            fields = unsaid
        wrong = [name for name, value in fields.items() if name not in free and getattr(config, name) != value]
        if wrong:
            differences[family.name] = wrong
        else:
            yield family, written


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
        "moe_intermediate_size": config.mlp,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": activation,
        "hidden_activation": activation,
        "attention_bias": config.o_bias,
        "mlp_bias": config.mlp_bias,
        "sliding_window": config.window,
        "use_sliding_window": config.window is not None,
        "layer_types": ["sliding_attention" if near else "full_attention" for near in local],
        "query_pre_attn_scalar": config.head_dim if config.query_scale is None else round(config.query_scale**-2),
        "attention_multiplier": config.head_dim**-0.5 if config.query_scale is None else config.query_scale,
        "logit_scale": config.logit_multiplier,
        "logits_scaling": round(1 / config.logit_multiplier, 9),
        "no_rope_layers": [int(turned) for turned in config.rope_layers or (True,) * config.layers],
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


def _rope_layers(keys: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which layers turn, () for all: SmolLM3 writes 0 for those that do not, by default every fourth."""
    if "no_rope_layers" not in keys:
        return ()
    numbers, every = range(keys["num_hidden_layers"]), keys["no_rope_layer_interval"]
    said = keys["no_rope_layers"] or [int((number + 1) % every != 0) for number in numbers]
    turned = tuple(bool(said[number]) for number in numbers if number < len(said))
    return () if all(turned) else turned


def windows_of(keys: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """window and local: which layers attend within a window."""
    layers, window = keys["num_hidden_layers"], keys.get("sliding_window")
    if window is None or not keys.get("use_sliding_window", True):
        if "sliding_attention" in (keys.get("layer_types") or ()):
            raise ConfigError(f"{where}: layer_types has sliding_attention, and no sliding_window is in use; say which")
        return {"window": None, "local": ()}
    if "layer_types" not in keys:
        return {"window": window, "local": ()}
    if keys["layer_types"] is not None:
        unknown = [kind for kind in keys["layer_types"] if kind not in KINDS]
        if unknown or len(keys["layer_types"]) != layers:
            raise ConfigError(f"{where}: layer_types must name one of {', '.join(KINDS)} for each of {layers} layers")
        local = tuple(KINDS[kind] for kind in keys["layer_types"])
    elif "no_rope_layers" in keys:  # SmolLM3
        local = tuple(not turned for turned in _rope_layers(keys) or (True,) * layers)
    elif "max_window_layers" in keys:
        local = tuple(number >= keys["max_window_layers"] for number in range(layers))
    else:
        local = tuple((number + 1) % keys["sliding_window_pattern"] != 0 for number in range(layers))
    if len(set(local)) == 1:
        return {"window": window if local[0] else None, "local": ()}
    return {"window": window, "local": local}
