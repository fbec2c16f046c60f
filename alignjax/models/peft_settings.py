"""The settings of adapters that `peft` wrote, adapter_config.json: those that are read, notes, and which module has an
adapter, of which rank and scale."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from alignjax.config import ConfigError
from alignjax.json_shapes import check_shape
from alignjax.models.huggingface import read_json
from alignjax.models.huggingface.known_keys import check_keys
from alignjax.ranges import Count, Natural, Positive

CONFIG = "adapter_config.json"
SAVE_AGAIN = "save the adapters again with peft"
_OFF = (None, False)
# Settings that would change the numbers and are not built, with the values that change nothing.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none",), "target_parameters": (None, []), "loftq_config": ({}, None),
    **dict.fromkeys(("use_dora", "lora_bias", "use_qalora", "ensure_weight_tying"), (False, None)),
    **dict.fromkeys(("megatron_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"), _OFF),
    **dict.fromkeys(("alora_invocation_tokens", "monteclora_config", "arrow_config", "kasa_config"), _OFF),
    **dict.fromkeys(("layer_replication", "trainable_token_indices", "use_bdlora"), _OFF),
    # The others (pissa, olora, corda, loftq, ..) change the base too, and its change is not in the folder.
    "init_lora_weights": (True, False, None, "gaussian"),
}  # fmt: skip
# What changes no number of adapters that have been trained.
_NOTES = (
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "megatron_core", "qalora_group_size", "runtime_config",
    "fan_in_fan_out",  # peft itself goes by the module that it adapts
)  # fmt: skip


class _Needed(TypedDict):
    r: Count
    lora_alpha: Positive


class Settings(_Needed, total=False):
    """What is read, with its types and ranges."""

    peft_type: str
    use_rslora: bool | None
    rank_pattern: dict[str, Count] | None
    alpha_pattern: dict[str, Positive] | None
    target_modules: str | list[str] | None
    exclude_modules: str | list[str] | None
    layers_to_transform: Natural | list[Natural] | None
    layers_pattern: str | list[str] | None
    modules_to_save: list[str] | None


def settings_of(folder: Path) -> dict[str, Any]:
    """Reads the settings of a folder of adapters.

    Raises:
        ConfigError: There are none, or one is unknown, of another type, or changes the numbers and is not built.
    """
    path = folder / CONFIG
    raw = read_json(path)
    check_keys(raw, path, {*Settings.__annotations__} - {"peft_type"}, _NOTES, _PLAIN)
    return check_shape(raw, Settings, path, SAVE_AGAIN)


def _matched(pattern: str, module: str, where: str, whole: bool = True) -> bool:
    try:
        return bool((re.fullmatch if whole else re.match)(pattern, module))
    except re.error as error:
        raise ConfigError(f"{where} of adapters is no pattern ({error}); {SAVE_AGAIN}") from None


def _named(names: str | list[str], module: str, where: str) -> bool:
    """As peft matches modules: one text is a pattern of the whole name, a list has the ends of names."""
    if isinstance(names, str):
        return _matched(names, module, where)
    return any(module == name or module.endswith(f".{name}") for name in names)


def has_adapter(module: str, settings: Mapping[str, Any]) -> bool:
    """Tells whether a module of a layer has an adapter by the settings.

    Args:
        module: Its name, "model.layers.3.self_attn.q_proj".
        settings: See `settings_of`.

    Raises:
        ConfigError: A pattern is none.
    """
    targets, excluded = settings.get("target_modules"), settings.get("exclude_modules")
    if excluded and _named(excluded, module, "exclude_modules"):
        return False
    if targets == "all-linear":
        return True
    if not targets or not _named(targets, module, "target_modules"):
        return False
    layers = settings.get("layers_to_transform")
    if isinstance(targets, str) or layers is None or layers == []:
        return True
    patterns = settings.get("layers_pattern") or [r"[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    numbers = [re.match(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.", module) for pattern in patterns]
    number = next((int(match["idx"]) for match in numbers if match), None)
    return number == layers if isinstance(layers, int) else number in layers


def of_module(kind: str, default: str, module: str, settings: Mapping[str, Any]) -> Any:
    """Returns the number that the settings give a module: that of the first pattern which its name ends in, as peft
    reads it.

    Args:
        kind: "rank_pattern" or "alpha_pattern".
        default: The setting of all others.
        module: The name of the module.
        settings: See `settings_of`.

    Raises:
        ConfigError: A pattern is none.
    """
    patterns = (settings.get(kind) or {}).items()
    numbers = (number for name, number in patterns if _matched(rf"(.*\.)?({name})$", module, kind, whole=False))
    return next(numbers, settings[default])
