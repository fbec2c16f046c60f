"""Adapters in the format of the `peft` package: adapter_config.json and adapter_model.safetensors, in and out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from alignjax.config import ConfigError
from alignjax.models import lora
from alignjax.models.architecture import TransformerConfig
from alignjax.models.huggingface import config_json, families_for, read_json
from alignjax.models.huggingface.families import Family, is_transposed
from alignjax.models.huggingface.folders import CONFIG as BASE_CONFIG, new_folder, opened
from alignjax.models.huggingface.tensor_places import Place, place_of
from alignjax.models.peft_settings import CONFIG, has_adapter, of_module, settings_of
from alignjax.models.transformer import transformer
from alignjax.outside import user_path
from alignjax.ranges import Positive
from alignjax.tree_names import leaves_by_name, nested
from alignjax.types import Array, Key, Params

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


class Loaded(NamedTuple):
    """Adapters as they were read, with what `lora.adapt` scales them by."""

    adapters: Params
    alpha: float
    rank_stabilised: bool


def _modules(family: Family, config: TransformerConfig) -> dict[str, dict[str, Place]]:
    """The modules of the matrices of the layers, "{}" standing for the layer, each with the matrices that are parts of
    it and where they lie: {"model.layers.{}.self_attn.q_proj": {"q": ..}}. Those of experts are none."""
    if family.in_out:
        raise ConfigError(f"adapters of a {family.name} are not read or written as peft's; merge them with export")
    modules: dict[str, dict[str, Place]] = {}
    for name in ("q", "k", "v", "o", *(() if config.experts else ("gate", "up", "down"))):
        place = place_of(f"layers/{name}", 3, family, config)
        if place is not None and not (name == "gate" and not config.gated):
            modules.setdefault(place.pattern.removesuffix(".weight"), {})[name] = place
    return modules


def _last_names(modules: Iterable[str]) -> dict[str, str]:
    """The shortest end of each module's name that no other one has, which is how adapter_config.json names it."""
    parts = {module: module.split(".") for module in modules}
    ends: dict[str, str] = {}
    for module, own in parts.items():
        others = [other for name, other in parts.items() if name != module]
        size = next(n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        ends[module] = ".".join(own[-size:])
    return ends


def _family(config: TransformerConfig, base: str, tensors: Iterable[str] = ()) -> Family:
    """The family whose names are used: of those that can say the configuration the one that the tensors are named by,
    or that the folder `base` is of, or the first. Raises ConfigError if there is none."""
    first, _ = config_json(config)
    able, starts = families_for(config), [name.removeprefix(PREFIX).partition(".lora_")[0] for name in tensors]
    for family in able:
        names = {module.format(layer) for module in _modules(family, config) for layer in range(config.layers)}
        if names & set(starts):
            return family
    if not starts and (Path(base) / BASE_CONFIG).is_file():
        kind = read_json(Path(base) / BASE_CONFIG).get("model_type")
        return next((family for family in able if family.name == kind), first)
    return first


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
        The names of what has no place there: of what was trained whole, a value head and biases of heads.

    Raises:
        ConfigError: An architecture that no family has, or a folder that holds something already.
    """
    # Each layer's factors are two tensors of their own, transposed: a product is [out, in] there. Matrices whose rank
    # is not that of the first stand in rank_pattern; what was trained whole is what peft calls modules_to_save.
    family = _family(config, base)
    modules, parts = _modules(family, config), {k: p for k, p in adapters["layers"].items() if isinstance(p, Mapping)}
    _refuse_experts(set(parts) - {name for leaves in modules.values() for name in leaves})
    whole, left = _whole(adapters, config, family)
    factors = {
        module: _joined({name: parts[name] for name in leaves if name in parts}, leaves, alpha, rank_stabilised)
        for module, leaves in modules.items()
        if set(leaves) & set(parts)
    }
    ranks = {module: a.shape[-1] for module, (a, _) in factors.items()}
    first = next(iter(ranks.values()))
    last_names = _last_names(modules)
    kind = "SEQ_CLS" if any(name.startswith("score.") for name in whole) else "CAUSAL_LM"
    written = {
        "peft_type": "LORA", "task_type": kind, "base_model_name_or_path": base, "r": first,
        "lora_alpha": float(alpha), "use_rslora": rank_stabilised, "lora_dropout": 0.0, "bias": "none",
        "fan_in_fan_out": family.in_out, "inference_mode": True,
        "modules_to_save": sorted({name.rpartition(".")[0].rpartition(".")[2] for name in whole}) or None,
        "target_modules": sorted(last_names[module] for module in factors),
        "rank_pattern": {last_names[module]: rank for module, rank in ranks.items() if rank != first},
    }  # fmt: skip
    tensors = {PREFIX + name: np.ascontiguousarray(np.asarray(tensor, np.float32)) for name, tensor in whole.items()}
    for module, (a, b) in factors.items():
        for layer in range(config.layers):
            stem = PREFIX + module.format(layer)
            tensors[f"{stem}.lora_A.weight"] = np.ascontiguousarray(a[layer].T)
            tensors[f"{stem}.lora_B.weight"] = np.ascontiguousarray(b[layer].T)
    with new_folder(Path(folder)) as part:
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        (part / CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return left


def _refuse_experts(names: Iterable[str]) -> None:
    if names := sorted(names):
        raise ConfigError(
            f"peft has no adapters of each expert's {', '.join(names)}; leave them out of the targets, or merge them "
            "into the weights with export"
        )


def _joined(
    parts: Mapping[str, Mapping[str, Any]], leaves: Mapping[str, Place], alpha: float, rank_stabilised: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The factors of one of their matrices, stacked over layers: a [L,D,R], b [L,R,F]."""
    # Parts of one matrix have factors of their own here, so theirs has the sum of the ranks and blocks of b. That the
    # scale goes by the rank is made up for in b.
    read = {name: [np.asarray(part[kind], np.float32) for kind in ("a", "b")] for name, part in parts.items()}
    (name, (a, b)), *more = read.items()
    order = leaves[name].order
    if not more and order is None:
        return a, b
    firsts = [part[0] for part in read.values()]
    same = all(np.array_equal(a, other) for other in firsts)  # as they are where peft has trained them
    joined = a if same else np.concatenate(firsts, axis=-1)
    rank, start = joined.shape[-1], 0
    written = np.zeros((len(b), rank, next(iter(leaves.values())).outputs), np.float32)
    for name, (a, b) in read.items():
        rows = slice(0, rank) if same else slice(start, start + a.shape[-1])
        scales = [lora.scale_of(alpha, size, rank_stabilised) for size in (a.shape[-1], rank)]
        written[:, rows, leaves[name].order] = b if same else b * np.float32(scales[0] / scales[1])
        start += a.shape[-1]
    return joined, written


def _whole(adapters: Params, config: TransformerConfig, family: Family) -> tuple[dict[str, Array], list[str]]:
    """The leaves that were trained whole, by the names of their tensors, and the names of those that have none."""
    leaves = {
        name: leaf
        for name, leaf in leaves_by_name(adapters).items()
        if not (name.startswith("layers/") and name.endswith(("/a", "/b")))
    }
    tensors: dict[str, Array] = {}
    left = []
    for leaf, value in leaves.items():
        if not (names := _names(leaf, family, config)):
            left.append(leaf)
        for layer, name in enumerate(names):
            part = value[layer] if leaf.startswith("layers/") else value
            tensors[name] = part.T if _turned(leaf, part.ndim, family) else part
    return tensors, left


def _turned(leaf: str, ndim: int, family: Family) -> bool:
    return is_transposed(leaf, ndim) and not (family.in_out and leaf.startswith("layers/"))


def _names(leaf: str, family: Family, config: TransformerConfig) -> list[str]:
    """The tensors of a leaf, one for each layer of a stacked one; none for a leaf that has no place there, or is a part
    of a tensor, or of experts."""
    place = place_of(leaf, 3 if leaf.startswith("layers/") else 2, family, config)
    experts = config.experts and leaf.startswith(("layers/gate", "layers/up", "layers/down"))
    if place is None or place.pattern == "score.bias" or place.order is not None or experts:
        return []
    return [place.pattern.format(layer) for layer in range(config.layers)] if place.stack else [place.pattern]


def weights_file(folder: Path) -> Path:
    """Returns the file of a folder that holds its adapters.

    Args:
        folder: The folder.

    Raises:
        ConfigError: They are there as pickle alone.
    """
    file = folder / WEIGHTS
    if not file.exists() and (pickled := sorted(path.name for path in folder.glob("*.bin"))):
        raise ConfigError(
            f"{folder} has its adapters only as pickle ({pickled[0]}), which runs code when it is read and is never "
            "read here. Convert it where you trust it: save_pretrained of a recent peft writes safetensors"
        )
    return file


def _finite(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name, as float32."""
    with opened(file) as stored:
        tensors = {name: np.asarray(stored.get_tensor(name), np.float32) for name in stored.keys()}  # noqa: SIM118
    if bad := next((name for name, tensor in tensors.items() if not np.isfinite(tensor).all()), ""):
        raise ConfigError(f"{file}: {bad} has numbers that are not finite, as all of the model would be; take others")
    return tensors


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
    # Tensors are taken out of the file's as each matrix finds its own, so that what is left over belongs nowhere. What
    # a matrix has of its own, its rank and scale, goes into its factors: zeros up to the largest rank, which stay zero,
    # and b times its scale over the common one.
    folder = user_path(folder)
    settings, file = settings_of(folder), weights_file(folder)
    tensors = _finite(file)
    shapes = jax.eval_shape(transformer(config).init, jax.random.key(0))
    layers: dict[str, Any] = {}
    family = _family(config, "", tensors)
    modules = _modules(family, config)
    for module, leaves in modules.items():
        names = [module.format(layer) for layer in range(config.layers)]
        targeted = [has_adapter(each, settings) for each in names]
        if any(targeted) and not any(f"{PREFIX}{each}.lora_A.weight" in tensors for each in names):
            last = module.rpartition(".")[2]
            raise ConfigError(f"{file} has no adapters of {last}, and {CONFIG} names it in target_modules")
        if any(targeted):
            name, place = next(iter(leaves.items()))
            shape = shapes["layers"][name].shape[1:]
            shape = (shape[0], place.outputs or shape[1])
            read = _matrix(names, targeted, tensors, file, settings, shape)
            for name, place in leaves.items():
                b = read["b"] if place.order is None else read["b"][..., place.order]
                layers[name] = {"a": read["a"], "b": b}
    whole = _taken_whole(tensors, config, family, shapes, settings, file)
    if tensors:
        raise ConfigError(f"{file}: {next(iter(tensors))} belongs to no matrix of this model's layers")
    targets = settings.get("target_modules")
    ends = {module.rpartition(".")[2] for module in modules}
    if absent := sorted({name for name in targets if "." not in name} - ends if isinstance(targets, list) else ()):
        raise ConfigError(f"{file} has no adapters of {absent[0]}, and {CONFIG} names it in target_modules")
    if not layers:
        raise ConfigError(f"{file} has no adapters of this model's layers")
    layers |= whole.pop("layers", {})
    return Loaded({"layers": layers, **whole}, float(settings["lora_alpha"]), bool(settings.get("use_rslora")))


def _matrix(
    modules: list[str],
    targeted: list[bool],
    tensors: dict[str, np.ndarray],
    file: Path,
    settings: Mapping[str, Any],
    shape: tuple[int, ...],
) -> dict[str, Array]:
    """Takes the factors of one matrix of all layers out of `tensors`: stacked, of one rank and one scale."""
    # A layer without an adapter has zeros, which stay zeros in training: each factor's gradient is a product with the
    # other.
    ranks = {module: of_module("rank_pattern", "r", module, settings) for module in modules}
    widest = max(ranks[module] for module, has in zip(modules, targeted, strict=True) if has)
    stabilised = bool(settings.get("use_rslora"))
    common = lora.scale_of(float(settings["lora_alpha"]), widest, stabilised)
    a = np.zeros((len(modules), shape[0], widest), np.float32)
    b = np.zeros((len(modules), widest, shape[1]), np.float32)
    for layer, (module, has) in enumerate(zip(modules, targeted, strict=True)):
        if not has:
            continue
        names = [f"{PREFIX}{module}.{kind}.weight" for kind in ("lora_A", "lora_B")]
        if missing := [name for name in names if name not in tensors]:
            raise ConfigError(f"{file} has no {missing[0]}; {CONFIG} says that there is one")
        first, second = (tensors.pop(name).T for name in names)
        if (first.shape[0], second.shape[1]) != shape:
            raise ConfigError(
                f"{file}: {module} is for a matrix {[first.shape[0], second.shape[1]]}, and this model's is "
                f"{list(shape)}"
            )
        rank = ranks[module]
        if first.shape[1] != rank or second.shape[0] != rank:
            raise ConfigError(
                f"{file}: {module} has rank {first.shape[1]} and {second.shape[0]}, and {CONFIG} says {rank}; they are "
                "of two trainings"
            )
        scale = lora.scale_of(float(of_module("alpha_pattern", "lora_alpha", module, settings)), rank, stabilised)
        a[layer, :, :rank], b[layer, :rank] = first, second if scale == common else second * (scale / common)
    return {"a": jnp.asarray(a), "b": jnp.asarray(b)}


def _taken_whole(
    tensors: dict[str, np.ndarray],
    config: TransformerConfig,
    family: Family,
    shapes: Params,
    settings: Mapping[str, Any],
    file: Path,
) -> dict[str, Any]:
    """Takes what was trained whole (modules_to_save) out of `tensors`, as a part of the model's tree."""
    # What is a part of a fused tensor has no name there, so it is left over and refused by whoever asked.
    saved = settings.get("modules_to_save") or []
    if config.tied and (both := [name for name in saved if name in ("lm_head", "embed_tokens")]):
        raise ConfigError(
            f"{file}: {CONFIG} has {both[0]} in modules_to_save, and embedding and head of this model are one matrix; "
            "that is not read"
        )
    leaves: dict[str, Array] = {}
    for leaf, abstract in leaves_by_name(shapes).items():
        names = [PREFIX + name for name in _names(leaf, family, config)]
        if not any(name in tensors for name in names):
            continue
        if missing := [name for name in names if name not in tensors]:
            raise ConfigError(f"{file} has no {missing[0]}; what is trained whole in some layers only is not read")
        stacked = leaf.startswith("layers/")
        parts = [tensors.pop(name) for name in names]
        parts = [part.T if _turned(leaf, part.ndim, family) else part for part in parts]
        shape = abstract.shape[1:] if stacked else abstract.shape
        if wrong := [part for part in parts if part.shape != shape]:
            raise ConfigError(
                f"{file}: {names[0]} has the shape {list(wrong[0].shape)}, and this model's is {list(shape)}"
            )
        leaves[leaf] = jnp.asarray(np.stack(parts) if stacked else parts[0])
    return nested(leaves) if leaves else {}


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
