"""Adapters in the format of the `peft` package: adapter_config.json and adapter_model.safetensors, in and out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import save_file

from alignjax.config import ConfigError
from alignjax.models.architecture import TransformerConfig
from alignjax.models.huggingface import config_json, read_json, tensor_name
from alignjax.models.huggingface.folders import new_folder
from alignjax.models.transformer import transformer
from alignjax.types import Array, Key, Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# What would change the numbers and is not built, with the values that change nothing.
_PLAIN = {
    "peft_type": ("LORA",), "bias": ("none",), "use_dora": (False, None), "lora_bias": (False, None),
    "fan_in_fan_out": (False, None), "modules_to_save": (None, []), "alpha_pattern": ({}, None),
    "layer_replication": (None,), "trainable_token_indices": (None,),
    # The others (pissa, olora, corda, loftq, ..) change the base too, and its change is not in the folder.
    "init_lora_weights": (True, False, None, "gaussian"),
}  # fmt: skip


class Loaded(NamedTuple):
    """Adapters, and what `lora.adapt` scales them by."""

    adapters: Params
    alpha: float
    rank_stabilised: bool


def _modules(config: TransformerConfig) -> dict[str, str]:
    """Their module of each matrix of the layers, "{}" standing for the layer: {"q": "model.layers.{}.self_attn.q_proj",
    ..}. Raises ConfigError for an architecture that no family of published checkpoints has."""
    family, _ = config_json(config)
    names = {name: tensor_name(f"layers/{name}", family) for name in ("q", "k", "v", "o", "gate", "up", "down")}
    return {name: found.removesuffix(".weight") for name, found in names.items() if found is not None}


def save(
    adapters: Params,
    config: TransformerConfig,
    folder: Path | str,
    *,
    alpha: float,
    rank_stabilised: bool = False,
    base: str = "",
) -> list[str]:
    """Writes adapters as a folder that `peft` loads over the weights `base` (a name or folder, which it only notes),
    and returns what of them has no place there: what was trained whole. float32; whole or not at all.

    Raises ConfigError for an architecture that no family has, and a folder that holds something already.
    """
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
    with new_folder(Path(folder)) as made:
        save_file(tensors, made / WEIGHTS, metadata={"format": "pt"})
        (made / CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    rest = jax.tree_util.tree_leaves_with_path({name: part for name, part in adapters.items() if name != "layers"})
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in rest]


def _settings(path: Path) -> dict[str, Any]:
    given = read_json(path)
    for key, fine in _PLAIN.items():
        if key in given and given[key] not in fine:
            raise ConfigError(f"{path}: {key} is {given[key]!r}, and only {fine[0]!r} is read")
    return given


def load(folder: Path | str, config: TransformerConfig) -> Loaded:
    """The adapters that `peft` saved in a folder, for a model of `config`: float32 leaves stacked over the layers.

    Raises ConfigError naming the file, setting or tensor: adapters of another kind than LoRA on matrices of the layers,
    or of some layers only, or of other shapes than the model's.
    """
    folder = Path(folder).expanduser()
    given = _settings(folder / CONFIG)
    try:
        with safetensors.safe_open(folder / WEIGHTS, framework="np") as file:
            tensors = {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(f"{folder / WEIGHTS} cannot be read ({error})") from None
    modules = _modules(config)
    shapes = jax.eval_shape(transformer(config).init, jax.random.key(0))["layers"]
    layers: dict[str, dict[str, Array]] = {}
    for name, module in modules.items():
        kinds = {"a": "lora_A", "b": "lora_B"}
        stems = [PREFIX + module.format(layer) for layer in range(config.layers)]
        if any(f"{stem}.lora_A.weight" in tensors for stem in stems):
            layers[name] = {
                part: _stacked([f"{stem}.{kind}.weight" for stem in stems], tensors, folder / WEIGHTS)
                for part, kind in kinds.items()
            }
            found = (layers[name]["a"].shape[1], layers[name]["b"].shape[2])
            if found != shapes[name].shape[1:]:
                raise ConfigError(
                    f"{folder / WEIGHTS}: {stems[0]} is for a matrix {list(found)}, and this model's is "
                    f"{list(shapes[name].shape[1:])}"
                )
    if tensors:
        raise ConfigError(f"{folder / WEIGHTS}: {next(iter(tensors))} belongs to no matrix of this model's layers")
    return Loaded({"layers": layers}, float(given["lora_alpha"]), bool(given.get("use_rslora")))


def _stacked(names: list[str], tensors: dict[str, np.ndarray], where: Path) -> Array:
    """The tensors of all layers, transposed and stacked, taken out of `tensors`."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ConfigError(f"{where} has no {missing[0]}; adapters of some layers only are not read")
    found = [tensors.pop(name) for name in names]
    if len({one.shape for one in found}) > 1:
        raise ConfigError(f"{where}: {re.sub(r'[0-9]+', 'N', names[0], count=1)} has another rank in another layer")
    return jnp.stack([one.T for one in found])


def start(key: Key, params: Params, *, folder: str, config: TransformerConfig) -> Params:
    """Where adapters start that `peft` has saved: `with_lora(.., start=fn(peft.start, folder=.., config=..))`, with the
    alpha and rank_stabilised of `load`. Raises ConfigError as `load` does."""
    return load(folder, config).adapters
