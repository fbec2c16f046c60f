"""Params as published weights: safetensors files with a config.json, written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from alignjax.config import ConfigError
from alignjax.models.architecture import TransformerConfig
from alignjax.models.huggingface.config_codec import config_json
from alignjax.models.huggingface.families import Family, tensor_name
from alignjax.models.huggingface.folders import CONFIG, DTYPES, INDEX, WEIGHTS, new_folder
from alignjax.models.huggingface.tensor_places import Place, place_of
from alignjax.ranges import Bytes
from alignjax.tree_names import leaves_by_name
from alignjax.types import Array, Params

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "generation_config.json", "tokenizer.model", "vocab.json", "merges.txt",
)  # fmt: skip


class Piece(NamedTuple):
    """A tensor to be written: the leaves that it is made of, each with the index of its part along the axes that number
    tensors, and where it lies."""

    name: str
    parts: tuple[tuple[Array, tuple[int, ...], Place], ...]

    @property
    def size(self) -> int:
        return sum(math.prod(leaf.shape[len(index) :]) for leaf, index, _ in self.parts)


def save(
    params: Params,
    config: TransformerConfig,
    folder: Path | str,
    *,
    head: str = "lm",
    dtype: str = "float32",
    shard_bytes: Bytes = 5_000_000_000,
    extra: Mapping[str, Any] | None = None,
    beside: Callable[[Path], None] = lambda folder: None,
    report_progress: Callable[[str, int, int], None] = lambda name, number, of: None,
) -> list[str]:
    """Writes params as a folder that `transformers` loads. One process writes, and must have all of every leaf.

    Args:
        params: The params.
        config: Their configuration.
        folder: The folder to be made.
        head: "lm" for a causal language model, "reward" or "classes" for a sequence classifier.
        dtype: Of the numbers in the files.
        shard_bytes: The most a file holds, and what is held in memory beside the params.
        extra: Further keys of config.json (token ids, max_position_embeddings).
        beside: beside(folder) writes what else belongs there, before the folder has its name.
        report_progress: Called with (file, number, of) before each file.

    Returns:
        The names of leaves that have no place there.

    Raises:
        ConfigError: Before anything is written: an architecture that no family has, a head that the params have not, a
            folder that holds something already, or a disk without room.
    """
    # config.json decides the family, the family names the tensors, their sizes the files; only then anything is made.
    family, written = config_json(config, head)
    folder = Path(folder)
    if shard_bytes < 1:
        raise ConfigError(f"a file of at most {shard_bytes} bytes holds nothing")
    if dtype not in DTYPES.values():
        raise ConfigError(f"weights are written as {', '.join(DTYPES.values())}, not {dtype!r}")
    pieces, left = _pieces(params, config, family, head)
    itemsize = 4 if dtype == "float32" else 2
    files = _files(pieces, itemsize, shard_bytes)
    total = sum(piece.size for piece in pieces) * itemsize
    with new_folder(folder, total) as part:
        for number, (name, some) in enumerate(files.items()):
            report_progress(name, number, len(files))
            save_file({piece.name: _numbers(piece, dtype) for piece in some}, part / name, metadata={"format": "pt"})
        if len(files) > 1:
            where = {piece.name: name for name, some in files.items() for piece in some}
            _write(part / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
        _write(part / CONFIG, {**(extra or {}), **written, "torch_dtype": dtype})
        beside(part)
    return left


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _pieces(params: Params, config: TransformerConfig, family: Family, head: str) -> tuple[list[Piece], list[str]]:
    """The tensors in the order of the network, and the names of leaves that have no place among them."""
    leaves = leaves_by_name({name: part for name, part in params.items() if name != "edits"})
    skipped = {"lm": ("heads/reward/", "heads/classes/"), "reward": ("heads/lm/", "heads/classes/")}
    aside = skipped.get(head, ("heads/lm/", "heads/reward/"))
    places = {
        leaf: None if leaf.startswith(aside) else place_of(leaf, array.ndim, family, config)
        for leaf, array in leaves.items()
    }
    if head != "lm":
        places[f"heads/{head}/bias"] = None
        if f"heads/{head}/kernel" not in leaves:
            raise ConfigError(f"the model has no head {head!r}; its heads are {', '.join(('lm', *config.outputs))}")
    left = [leaf for leaf, place in places.items() if place is None and leaf in leaves]
    pieces: dict[str, Piece] = {}
    for leaf, place in places.items():
        if place is None:
            continue
        for index in np.ndindex(leaves[leaf].shape[: place.stack]):
            name = place.pattern.format(*index)
            beside = pieces[name].parts if name in pieces else ()
            pieces[name] = Piece(name, (*beside, (leaves[leaf], index, place)))
    first = tensor_name("embed", family)

    def rank(piece: Piece) -> tuple[int, int]:
        _, index, _ = piece.parts[0]
        return (0, 0) if piece.name == first else (1, index[0]) if index else (2, 0)

    return sorted(pieces.values(), key=rank), left


def _files(pieces: list[Piece], itemsize: int, shard_bytes: int) -> dict[str, list[Piece]]:
    """Divides the tensors among files, none of which is larger than `shard_bytes` unless a single tensor is."""
    groups: list[list[Piece]] = [[]]
    room = shard_bytes
    for piece in pieces:
        if groups[-1] and piece.size * itemsize > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(piece)
        room -= piece.size * itemsize
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{n:05}-of-{len(groups):05}.safetensors": group for n, group in enumerate(groups, start=1)}


def _numbers(piece: Piece, dtype: str) -> np.ndarray:
    def part(leaf: Array, index: tuple[int, ...]) -> np.ndarray:
        return np.asarray(leaf[index] if index else leaf).astype(np.dtype(dtype))

    leaf, index, place = piece.parts[0]
    numbers = part(leaf, index)
    if place.order is not None:
        numbers = np.empty((*numbers.shape[:-1], place.outputs), numbers.dtype)
        for leaf, index, beside in piece.parts:
            numbers[..., beside.order] = part(leaf, index)
    return np.ascontiguousarray(numbers.T if place.transposed else numbers)
