"""Adapters in the format of the `peft` package: adapter_config.json and adapter_model.safetensors, in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from alignjax.config import ConfigError
from alignjax.json_shapes import check_shape
from alignjax.models.architecture import TransformerConfig
from alignjax.models.huggingface import config_json, read_json, tensor_name
from alignjax.models.huggingface.folders import new_folder, opened
from alignjax.models.huggingface.known_keys import check_keys
from alignjax.models.transformer import transformer
from alignjax.outside import user_path
from alignjax.ranges import Count, Positive
from alignjax.tree_names import leaves_by_name
from alignjax.types import Array, Key, Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_OFF = (None, False)
# Settings that would change the numbers and are not built, with the values that change nothing.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none",), "modules_to_save": (None, []), "alpha_pattern": ({}, None),
    "layers_to_transform": (None, []), "layers_pattern": (None, [], ""), "target_parameters": (None, []),
    "loftq_config": ({}, None),
    **dict.fromkeys(("use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "ensure_weight_tying"), (False, None)),
    **dict.fromkeys(("megatron_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"), _OFF),
    **dict.fromkeys(("alora_invocation_tokens", "monteclora_config", "arrow_config", "kasa_config"), _OFF),
    **dict.fromkeys(("layer_replication", "trainable_token_indices", "use_bdlora"), _OFF),
    # The others (pissa, olora, corda, loftq, ..) change the base too, and its change is not in the folder.
    "init_lora_weights": (True, False, None, "gaussian"),
}  # fmt: skip
# What changes no number of adapters that have been trained.
_NOTES = (
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "exclude_modules", "megatron_core", "qalora_group_size", "runtime_config",
)  # fmt: skip


class _Needed(TypedDict):
    r: Count
    lora_alpha: Positive


class _Settings(_Needed, total=False):
    peft_type: str
    use_rslora: bool | None
    rank_pattern: dict[str, Count] | None
    target_modules: str | list[str] | None


class Loaded(NamedTuple):
    """Adapters as they were read, with what `lora.adapt` scales them by."""

    adapters: Params
    alpha: float
    rank_stabilised: bool


def _modules(config: TransformerConfig) -> dict[str, str]:
    """The module of each matrix of the layers, "{}" standing for the layer: {"q": "model.layers.{}.self_attn.q_proj",
    ..}. Raises ConfigError for an architecture that no family of published checkpoints has."""
    family, _ = config_json(config)
    names = {name: tensor_name(f"layers/{name}", family) for name in ("q", "k", "v", "o", "gate", "up", "down")}
    return {name: tensor.removesuffix(".weight") for name, tensor in names.items() if tensor is not None}


def save(
    adapters: Params,
    config: TransformerConfig,
    folder: Path | str,
    *,
    alpha: Positive,
    rank_stabilised: bool = False,
    base: str = "",
) -> list[str]:
    """Writes adapters as a folder that `peft` loads, in float32; whole or not at all.

    Args:
        adapters: See `lora.init`.
        config: The configuration of the adapted model.
        folder: The folder to be made.
        alpha: See `lora.scale_of`.
        rank_stabilised: See `lora.scale_of`.
        base: The name or folder of the adapted weights, which is only noted.

    Returns:
        The names of what has no place there: what was trained whole.

    Raises:
        ConfigError: An architecture that no family has, or a folder that holds something already.
    """
    # Each layer's factors are two tensors of their own, transposed: a product is [out, in] there. Matrices whose rank
    # is not that of the first stand in rank_pattern.
    modules, parts = _modules(config), adapters["layers"]
    ranks = {name: part["a"].shape[-1] for name, part in parts.items()}
    first = next(iter(ranks.values()))
    last_names = {name: modules[name].rpartition(".")[2] for name in parts}
    written = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": first,
        "lora_alpha": float(alpha), "use_rslora": rank_stabilised, "lora_dropout": 0.0, "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "modules_to_save": None,
        "target_modules": sorted(last_names.values()),
        "rank_pattern": {last_names[name]: rank for name, rank in ranks.items() if rank != first},
    }  # fmt: skip
    tensors = {}
    for name, part in parts.items():
        for layer in range(config.layers):
            stem = PREFIX + modules[name].format(layer)
            tensors[f"{stem}.lora_A.weight"] = np.ascontiguousarray(np.asarray(part["a"][layer], np.float32).T)
            tensors[f"{stem}.lora_B.weight"] = np.ascontiguousarray(np.asarray(part["b"][layer], np.float32).T)
    with new_folder(Path(folder)) as part:
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        (part / CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return [*leaves_by_name({name: part for name, part in adapters.items() if name != "layers"})]


def _settings(path: Path) -> dict[str, Any]:
    settings = read_json(path)
    check_keys(settings, path, {*_Settings.__annotations__} - {"peft_type"}, _NOTES, _PLAIN)
    return check_shape(settings, _Settings, path, "save the adapters again with peft")


def _rank(module: str, settings: Mapping[str, Any]) -> int:
    """The rank that the settings give a module: that of the first pattern which its name ends in, as peft reads it."""
    patterns = (settings.get("rank_pattern") or {}).items()
    try:
        return next((r for name, r in patterns if re.match(rf"(.*\.)?({name})$", module)), settings["r"])
    except re.error as error:
        raise ConfigError(f"rank_pattern of adapters is no pattern ({error})") from None


def load(folder: Path | str, config: TransformerConfig) -> Loaded:
    """Reads the adapters that `peft` saved in a folder.

    Args:
        folder: The folder.
        config: The configuration of the adapted model.

    Returns:
        The adapters, float32 and stacked over the layers, and their scale.

    Raises:
        ConfigError: Adapters of another kind than LoRA on matrices of the layers, or of some layers only, or of other
            shapes than the model's; the message names the file, setting or tensor.
    """
    # Tensors are taken out of the file's as each matrix finds its own, so that what is left over belongs nowhere.
    folder = user_path(folder)
    settings, file = _settings(folder / CONFIG), folder / WEIGHTS
    if not file.exists() and (pickled := sorted(path.name for path in folder.glob("*.bin"))):
        raise ConfigError(
            f"{folder} has its adapters only as pickle ({pickled[0]}), which runs code when it is read and is never "
            "read here. Convert it where you trust it: save_pretrained of a recent peft writes safetensors"
        )
    with opened(file) as stored:
        tensors = {name: np.asarray(stored.get_tensor(name), np.float32) for name in stored.keys()}  # noqa: SIM118
    shapes = jax.eval_shape(transformer(config).init, jax.random.key(0))["layers"]
    layers: dict[str, dict[str, Array]] = {}
    for name, module in _modules(config).items():
        stems = [PREFIX + module.format(layer) for layer in range(config.layers)]
        if not any(f"{stem}.lora_A.weight" in tensors for stem in stems):
            continue
        a, b = (_stacked([f"{stem}.{kind}.weight" for stem in stems], tensors, file) for kind in ("lora_A", "lora_B"))
        if (a.shape[1], b.shape[2]) != shapes[name].shape[1:]:
            raise ConfigError(
                f"{file}: {stems[0]} is for a matrix {[a.shape[1], b.shape[2]]}, and this model's is "
                f"{list(shapes[name].shape[1:])}"
            )
        for stem in stems:
            rank = _rank(stem.removeprefix(PREFIX), settings)
            if a.shape[2] != rank or b.shape[1] != rank:
                raise ConfigError(
                    f"{file}: {stem} has rank {a.shape[2]} and {b.shape[1]}, and {CONFIG} says {rank}; they are of two "
                    "trainings"
                )
        layers[name] = {"a": a, "b": b}
    if tensors:
        raise ConfigError(f"{file}: {next(iter(tensors))} belongs to no matrix of this model's layers")
    targets = settings.get("target_modules")
    absent = set(targets if isinstance(targets, list) else ()) - {
        module.rpartition(".")[2] for name, module in _modules(config).items() if name in layers
    }
    if absent := sorted(name for name in absent if "." not in name):
        raise ConfigError(f"{file} has no adapters of {absent[0]}, and {CONFIG} names it in target_modules")
    if not layers:
        raise ConfigError(f"{file} has no adapters of this model's layers")
    return Loaded({"layers": layers}, float(settings["lora_alpha"]), bool(settings.get("use_rslora")))


def _stacked(names: list[str], tensors: dict[str, np.ndarray], where: Path) -> Array:
    """Takes the tensors of all layers out of `tensors`, transposed and stacked."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ConfigError(f"{where} has no {missing[0]}; adapters of some layers only are not read")
    layers = [tensors.pop(name) for name in names]
    if len({layer.shape for layer in layers}) > 1:
        raise ConfigError(f"{where}: {re.sub(r'[0-9]+', 'N', names[0], count=1)} has another rank in another layer")
    return jnp.stack([layer.T for layer in layers])


def start(key: Key, params: Params, *, folder: str, config: TransformerConfig) -> Params:
    """Starts from adapters that `peft` has saved: `with_lora(.., start=fn(peft.start, folder=.., config=..))`, with the
    alpha and rank_stabilised of `load`.

    Args:
        key: Not used.
        params: Not used.
        folder: What `peft` has saved.
        config: Of the model that is adapted.

    Returns:
        The adapters.

    Raises:
        ConfigError: See `load`.
    """
    return load(folder, config).adapters
