"""Rotary positions in a config.json, and back: the flat keys of older files, the one mapping of newer ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from alignjax.config import ConfigError
from alignjax.json_shapes import check_shape
from alignjax.models.architecture import TransformerConfig
from alignjax.models.attention import RopeScaling
from alignjax.models.huggingface.known_keys import Rope, check_keys

KINDS = {"full_attention": False, "sliding_attention": True}
_LLAMA3 = {"factor": 1.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_ORIGINAL = "original_max_position_embeddings"
# What each kind of rotary scaling needs to say, and what else it may.
_ROPES: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": tuple(_LLAMA3),
    "yarn": ("factor", _ORIGINAL),
    "dynamic": ("factor", "max_position_embeddings"),
    "longrope": ("short_factor", "long_factor", _ORIGINAL),
}
_MORE: Mapping[str, tuple[str, ...]] = {
    "yarn": (
        "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate",
        "max_position_embeddings",
    ),
    "longrope": ("attention_factor", "factor"),
}  # fmt: skip


def head_dim_of(keys: Mapping[str, Any]) -> int:
    """Returns the size of a head, by the keys of a config.json."""
    return keys.get("head_dim") or keys["hidden_size"] // keys["num_attention_heads"]


def rope_of(
    keys: Mapping[str, Any], where: Any, length: int | None, windows: Mapping[str, Any], tempered: bool
) -> dict[str, Any]:
    """Reads the fields that are about rotary positions.

    Args:
        keys: The keys of a config.json, those left out at their defaults.
        where: What an error message begins with.
        length: Its max_position_embeddings.
        windows: The fields window and local.
        tempered: Whether the family's queries may grow with their position.

    Returns:
        {field: value}.

    Raises:
        ConfigError: A scaling is unknown, says too little, or is not built for such layers.
    """
    # The mapping may be one for each kind of layer; older files have flat keys, which are about layers that see all.
    old = {"rope_theta": keys["rope_theta"], **(keys["rope_scaling"] or {})}
    new = keys["rope_parameters"] or {}
    by_kind = {kind: new[kind] for kind in KINDS if isinstance(new.get(kind), Mapping)}
    if by_kind and (other := [key for key in new if key not in KINDS]):
        raise ConfigError(f"{where}: rope_parameters has {other[0]} beside {next(iter(by_kind))}, which is not read")
    said = by_kind.get("full_attention") or (old if by_kind else {**old, **new})
    theta, scaling, share = _one_rope(said, keys, where, length, tempered)
    everywhere: dict[str, Any] = {"rope_theta": theta, "rope_scaling": scaling}
    turned = int(head_dim_of(keys) * share)
    everywhere |= {"rotary_dim": 0 if turned == head_dim_of(keys) else turned}
    if "rope_local_base_freq" not in keys:
        return everywhere
    near = {"rope_theta": keys["rope_local_base_freq"], **by_kind.get("sliding_attention", {})}
    local_theta, local_scaling, _ = _one_rope(near, keys, where, length)
    if local_scaling is not None:
        raise ConfigError(f"{where}: rope_parameters.sliding_attention is scaled, which is not built")
    if windows["local"]:
        return {**everywhere, "local_rope_theta": local_theta}
    return everywhere if windows["window"] is None else {**everywhere, "rope_theta": local_theta, "rope_scaling": None}


def _one_rope(
    rope: Mapping[str, Any], keys: Mapping[str, Any], where: Any, length: int | None, tempered: bool = False
) -> tuple[float, RopeScaling | None, float]:
    """The base, the scaling, and the share of a head that turns, of one mapping."""
    # Lengths may stand beside the mapping; they are put into it before what the kind needs is looked for.
    rope = {key: value for key, value in rope.items() if value is not None}
    check_shape(rope, Rope, f"{where}: rope_parameters", "download it again")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if _ORIGINAL in keys and kind in ("su", "yarn"):  # the older names of Phi 3
        kind = "longrope"
    if kind not in _ROPES:
        raise ConfigError(f"{where}: rotary scaling {kind!r} is not built; there are {', '.join(_ROPES)}")
    partial = "partial_rotary_factor" in keys
    known = {
        "rope_type",
        "type",
        "rope_theta",
        *_ROPES[kind],
        *_MORE.get(kind, ()),
        *(("llama_4_scaling_beta",) if tempered else ()),
    }
    notes = ("partial_rotary_factor",) if partial else ()
    check_keys(rope, f"{where}: rope_parameters", known, notes, {"partial_rotary_factor": (1.0,)})
    theta = rope.get("rope_theta") or keys["rope_theta"]
    if kind in ("yarn", "dynamic", "longrope"):
        lengths = {"max_position_embeddings": length, _ORIGINAL: rope.get(_ORIGINAL, length)}
        lengths |= {_ORIGINAL: keys[_ORIGINAL]} if keys.get(_ORIGINAL) else {}
        rope |= {key: value for key, value in lengths.items() if value is not None}
    ratio = ("max_position_embeddings",) if kind == "longrope" and "factor" not in rope else ()
    if missing := [key for key in (*_ROPES[kind], *ratio) if key not in rope]:
        raise ConfigError(f"{where}: rotary scaling {kind!r} needs {missing[0]}")
    if theta is None:
        raise ConfigError(f"{where} does not say rope_theta")
    share = rope.get("partial_rotary_factor", keys["partial_rotary_factor"]) if partial else 1.0
    return float(theta), _scaling(kind, rope), float(share)


def _scaling(kind: str, rope: Mapping[str, Any]) -> RopeScaling | None:
    if kind == "default":
        return None
    if kind == "dynamic":
        return RopeScaling(kind, float(rope["factor"]), original=rope["max_position_embeddings"])
    if kind == "longrope":
        original, lists = rope[_ORIGINAL], [tuple(map(float, rope[name])) for name in ("short_factor", "long_factor")]
        factor = float(rope.get("factor") or rope["max_position_embeddings"] / original)
        usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        attention = float(rope.get("attention_factor", usual))
        return RopeScaling(kind, factor, original=original, attention=attention, short=lists[0], long=lists[1])
    if kind == "yarn":
        return RopeScaling(
            kind,
            float(rope["factor"]),
            low=float(rope.get("beta_slow", 1)),
            high=float(rope.get("beta_fast", 32)),
            original=rope[_ORIGINAL],
            attention=_attention_of_yarn(rope),
            whole=rope.get("truncate", True),
            temper=float(rope.get("llama_4_scaling_beta", 0)),
        )
    *numbers, original = (rope.get(key, default) for key, default in _LLAMA3.items())
    return RopeScaling(kind, *map(float, numbers), original=original)


def _attention_of_yarn(rope: Mapping[str, Any]) -> float:
    """What turned queries and keys are multiplied by: as said, or from the factor (arXiv:2309.00071 eq. 22)."""
    if "attention_factor" in rope:
        return float(rope["attention_factor"])

    def of(scale: float) -> float:
        return 0.1 * scale * math.log(rope["factor"]) + 1 if rope["factor"] > 1 else 1.0

    scales = [float(rope.get(key, 0)) for key in ("mscale", "mscale_all_dim")]
    return of(scales[0]) / of(scales[1]) if all(scales) else of(1)


def their_rope(config: TransformerConfig, form: str) -> dict[str, Any]:
    """Writes the fields about rotary positions by the keys of all families.

    Args:
        config: The configuration.
        form: "flat" keys, "one" mapping, or one "by kind" of layers.

    Returns:
        {key: value}.
    """
    scaling, turned = config.rope_scaling, config.rotary_dim or config.head_dim
    local = config.local_rope_theta or config.rope_theta
    written = {
        "partial_rotary_factor": turned / config.head_dim,
        "original_max_position_embeddings": 4096 if scaling is None else scaling.original,
    }
    stretched = None if scaling is None else _their_scaling(scaling)
    if form == "flat":
        scaled = {} if stretched is None else {"rope_scaling": stretched}
        return {**written, "rope_theta": config.rope_theta, "rope_local_base_freq": local, **scaled}
    everywhere = {"rope_type": "default", "rope_theta": config.rope_theta, **(stretched or {})}
    near = {"rope_type": "default", "rope_theta": local}
    by_kind = {"full_attention": everywhere, "sliding_attention": near}
    return {**written, "rope_parameters": everywhere if form == "one" else by_kind}


def _their_scaling(scaling: RopeScaling) -> dict[str, Any]:
    written: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    original = {_ORIGINAL: scaling.original}
    if scaling.kind == "llama3":
        return written | {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high, **original}
    if scaling.kind == "yarn":
        beta = {"llama_4_scaling_beta": scaling.temper} if scaling.temper else {}
        betas = {"beta_slow": scaling.low, "beta_fast": scaling.high, **beta}
        return written | betas | {"attention_factor": scaling.attention, "truncate": scaling.whole, **original}
    if scaling.kind == "longrope":
        lists = {"short_factor": list(scaling.short), "long_factor": list(scaling.long)}
        return written | lists | {"attention_factor": scaling.attention}
    return written
