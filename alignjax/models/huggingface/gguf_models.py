"""A GGUF file as published weights: its settings as a config.json, its tensors by the names and in the layout of
`transformers`.

llama.cpp writes what `transformers` has, but that it gives everything other names, puts the rows of the queries and
keys of a Llama into the order of its own rotation, and adds the 1 of Gemma's norms to their scales.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from alignjax.config import ConfigError
from alignjax.gguf_files import Header, numbers, read_header
from alignjax.json_shapes import check_shape
from alignjax.models.attention import RopeScaling
from alignjax.models.huggingface.families import FAMILIES, tensor_name
from alignjax.models.huggingface.known_keys import check_keys
from alignjax.models.rotary import rope_frequencies
from alignjax.ranges import Count, Natural, Positive

# Our leaf -> the name there, of a layer behind "blk.N.".
_PLAIN: Mapping[str, str] = {
    "embed": "token_embd", "norm": "output_norm", "heads/lm/kernel": "output",
    "layers/attn_norm": "attn_norm", "layers/mlp_norm": "ffn_norm", "layers/o": "attn_output",
    "layers/attn_post_norm": "post_attention_norm", "layers/mlp_post_norm": "post_ffw_norm",
    **{f"layers/{name}": f"attn_{name}" for name in ("q", "k", "v", "q_norm", "k_norm")},
    **{f"layers/{name}": f"ffn_{name}" for name in ("gate", "up", "down")},
}  # fmt: skip
# Settings of an architecture, behind its name, and the keys of config.json that say the same.
_SAME = {
    "block_count": "num_hidden_layers", "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta",
}  # fmt: skip
_HEADS = ("attention.key_length", "attention.value_length", "rope.dimension_count")
_SCALING = ("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear")
_NOTES = ("vocab_size", "rope.scaling.finetuned")
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "expert_count": (0,), "expert_used_count": (0,), "attention.causal": (True,), "pooling_type": (0,),
    "logit_scale": (1.0,), "residual_scale": (1.0,), "embedding_scale": (1.0,),
}  # fmt: skip
IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
_FREQUENCIES = "rope_freqs.weight"


# The types and ranges of what is read; a list, which has a number for each layer, is of none of them.
_Settings = TypedDict(
    "_Settings",
    {
        "block_count": Count, "context_length": Count, "embedding_length": Count, "feed_forward_length": Count,
        "attention.head_count": Count, "attention.head_count_kv": Count, "attention.layer_norm_rms_epsilon": Positive,
        "attention.key_length": Count, "attention.value_length": Count, "rope.dimension_count": Count,
        "rope.freq_base": Positive, "rope.freq_base_swa": Positive, "rope.scaling.type": str,
        "rope.scaling.factor": Positive, "rope.scale_linear": Positive, "attention.sliding_window": Count,
        "attention.sliding_window_pattern": Count, "attn_logit_softcapping": Positive,
        "final_logit_softcapping": Positive, "attention.layer_norm_epsilon": Positive, "attention.scale": Positive,
        "embedding_scale": Positive, "residual_scale": Positive, "logit_scale": Positive,
    },
    total=False,
)  # fmt: skip
_NEEDED = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One `general.architecture` of a GGUF file.

    family: its name among FAMILIES. more: further settings, and the keys of config.json that say the same. permuted:
    rows of q and k stand in the order of llama.cpp's rotation. shift: what was added to the scales of norms. large:
    the number of layers of the one size whose queries are scaled by the width over the heads; llama.cpp goes by it,
    since no setting says so.
    """

    family: str
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)
    permuted: bool = False
    shift: float = 0.0
    large: int | None = None


_WINDOW = {"attention.sliding_window": "sliding_window"}
_CAPS = {name: name for name in ("attn_logit_softcapping", "final_logit_softcapping")}
_LOCAL = {"rope.freq_base_swa": "rope_local_base_freq", "attention.sliding_window_pattern": "sliding_window_pattern"}
_SCALES = {
    "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
}  # fmt: skip
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", permuted=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma2": Architecture("gemma2", {**_WINDOW, **_CAPS}, shift=1.0, large=46),
    "olmo2": Architecture("olmo2"),
    "granite": Architecture("granite", _SCALES, permuted=True),
    "smollm3": Architecture("smollm3", permuted=True),  # every fourth layer is without positions there too
    "cohere2": Architecture(
        "cohere2", {**_WINDOW, "attention.layer_norm_epsilon": "rms_norm_eps", "logit_scale": "logit_scale"}
    ),
    "gemma3": Architecture("gemma3_text", {**_WINDOW, **_CAPS, **_LOCAL}, shift=1.0, large=62),
}


def _architecture(header: Header) -> tuple[str, Architecture]:
    name = header.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        kind = header.metadata.get("general.type", "model")
        what = f"general.architecture is {name!r}" if kind == "model" else f"it holds {kind!r}, not a model"
        raise ConfigError(f"{header.path}: {what}; of GGUF files {', '.join(ARCHITECTURES)} are read")
    return name, ARCHITECTURES[name]


def _settings(header: Header) -> dict[str, Any]:
    """The settings of the file's architecture, each of its type and known."""
    name, architecture = _architecture(header)
    begin = f"{name}."
    raw = {key.removeprefix(begin): value for key, value in header.metadata.items() if key.startswith(begin)}
    where = f"{header.path}: {name}"
    if missing := [key for key in _NEEDED if key not in raw]:
        raise ConfigError(f"{header.path} does not say {begin}{missing[0]}; download it again")
    check_keys(raw, where, {*_SAME, *_HEADS, *_SCALING, *architecture.more}, _NOTES, _HARMLESS)
    return check_shape(raw, _Settings, where, "download it again")


def config_of_gguf(path: Path) -> dict[str, Any]:
    """Writes what a GGUF file says of its model as a config.json.

    Args:
        path: The file.

    Returns:
        The config.json, with token ids.

    Raises:
        ConfigError: An architecture or a setting that is not read; the message names it.
        ReadError: The file is not whole.
    """
    # Sizes have their keys. What config.json says by a key and GGUF by a tensor that is there or not (ties, biases),
    # or not at all (the scale of Gemma's queries), is worked out.
    header = read_header(path)
    name, architecture = _architecture(header)
    settings, family = _settings(header), FAMILIES[architecture.family]
    if "token_embd.weight" not in header.tensors:
        raise ConfigError(f"{path} has no tensor 'token_embd.weight'; is it a whole model?")
    keys = {key: settings[theirs] for theirs, key in {**_SAME, **architecture.more}.items() if theirs in settings}
    head = settings.get("attention.key_length") or settings.get("rope.dimension_count")
    head = head or keys["hidden_size"] // keys["num_attention_heads"]
    if wrong := [key for key in _HEADS if settings.get(key, head) != head]:
        raise ConfigError(
            f"{path}: {name}.{wrong[0]} is {settings[wrong[0]]}, and a head has {head}; that is not built"
        )
    config = {
        "model_type": family.name,
        "architectures": [family.causal],
        **keys,
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "head_dim": head,
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    if "attention_bias" in family.defaults:
        config["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    if "mlp_bias" in family.defaults:
        config["mlp_bias"] = "blk.0.ffn_up.bias" in header.tensors
    if "query_pre_attn_scalar" in family.defaults:
        wide = keys["num_hidden_layers"] == architecture.large
        config["query_pre_attn_scalar"] = keys["hidden_size"] / keys["num_attention_heads"] if wide else head
    if scaling := _scaling(header, settings, head):
        config["rope_scaling"] = scaling
    ids = {key: header.metadata.get(f"tokenizer.ggml.{mark}_token_id") for mark, key in IDS.items()}
    ids = {key: number for key, number in ids.items() if number is not None}
    return config | check_shape(ids, dict[str, Natural], f"{path}: tokenizer.ggml", "download it again")


def _scaling(header: Header, settings: Mapping[str, Any], head: int) -> dict[str, Any] | None:
    """How rotary frequencies were stretched: a kind and a factor, or a table of what each is divided by, which is held
    to the one that the numbers of Llama 3 give."""
    kind = settings.get("rope.scaling.type", "linear")
    factor = settings.get("rope.scaling.factor") or settings.get("rope.scale_linear") or 1.0
    if kind not in ("none", "linear"):
        raise ConfigError(f"{header.path}: rope.scaling.type is {kind!r}; of GGUF files 'linear' and 'none' are read")
    plain = kind == "none" or factor == 1.0
    scaling = None if plain else {"rope_type": kind, "factor": factor}
    if _FREQUENCIES not in header.tensors:
        return scaling
    table = np.asarray(numbers(header, _FREQUENCIES))
    theta, most = settings.get("rope.freq_base", 10_000.0), round(float(table.max()), 4)
    straight = np.asarray(rope_frequencies(head // 2, theta))
    for original in (8192, settings.get("context_length", 8192)):
        llama3 = RopeScaling("llama3", most, 1.0, 4.0, original)
        stretched = np.asarray(rope_frequencies(head // 2, theta, llama3))
        if scaling is None and table.shape == straight.shape and np.allclose(straight / table, stretched, rtol=1e-4):
            said = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": original}
            return {"rope_type": "llama3", "factor": most, **said}
    raise ConfigError(
        f"{header.path}: {_FREQUENCIES} is not the table of a Llama 3 (low_freq_factor 1, high_freq_factor 4, "
        "original_max_position_embeddings 8192); other tables of rotary frequencies are not built"
    )


def tensors_of_gguf(path: Path) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """Yields (name in `transformers`, name in the file, dtype, shape) of each tensor; what has no other name keeps its
    own. What is held in few bits counts as float32.

    Raises:
        ConfigError: See `config_of_gguf`.
        ReadError: The file is not whole.
    """
    header = read_header(path)
    family = FAMILIES[_architecture(header)[1].family]
    leaves = {stem: leaf for leaf, stem in _PLAIN.items() if tensor_name(leaf, family) is not None}
    for name, tensor in header.tensors.items():
        if name == _FREQUENCIES:
            continue
        stem, _, part = name.rpartition(".")
        layer, dot, inner = stem.removeprefix("blk.").partition(".")
        stacked = stem.startswith("blk.") and dot and layer.isdecimal()
        leaf = leaves.get(inner if stacked else stem, "")
        known = leaf and part in ("weight", "bias") and leaf.startswith("layers/") == bool(stacked)
        theirs = str(tensor_name(leaf + "_bias" * (part == "bias"), family)) if known else name
        dtype = {"F16": "float16", "BF16": "bfloat16"}.get(tensor.kind, "float32")
        yield theirs.replace("{}", layer), name, dtype, tensor.shape


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor as `transformers` has it, of which an index reads its rows alone."""

    header: Header
    name: str
    order: np.ndarray | None
    shift: float

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        rows = first if self.order is None else self.order[first]
        read = numbers(self.header, self.name, rows)[(slice(None), *rest)]
        return read - np.float32(self.shift) if self.shift else read


@dataclasses.dataclass(frozen=True)
class GgufTensors:
    """An open GGUF file with the methods of an open safetensors file that reading weights needs."""

    header: Header

    def get_slice(self, name: str) -> View:
        """Returns a view of the tensor that the file calls `name`."""
        _, architecture = _architecture(self.header)
        settings, rows = _settings(self.header), self.header.tensors[name].shape[0]
        heads = settings.get("attention.head_count", 1)
        heads = {"attn_q": heads, "attn_k": settings.get("attention.head_count_kv", heads)}.get(
            name.split(".")[-2] if name.startswith("blk.") else ""
        )
        order = _unpermuted(rows, heads) if architecture.permuted and heads else None
        return View(self.header, name, order, architecture.shift if name.endswith("norm.weight") else 0.0)

    def get_tensor(self, name: str) -> np.ndarray:
        """Returns a tensor whole."""
        return self.get_slice(name)[:]


def _unpermuted(rows: int, heads: int) -> np.ndarray:
    """Where each row of q or k stands: within a head, pair i of a rotation is its rows 2i and 2i + 1 there, and rows i
    and i + h/2 here."""
    if rows % (2 * heads):
        return np.arange(rows)  # a shape that no such model has, which is refused where shapes are compared
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def opened_gguf(path: Path) -> GgufTensors:
    """Opens a GGUF file. Raises ReadError if it is not whole."""
    return GgufTensors(read_header(path))
