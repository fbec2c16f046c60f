"""Folders of published weights merged tensor by tensor, of which a few rows are in memory at a time."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError, check_known
from alignjax.json_shapes import shown
from alignjax.models.huggingface import TOKENIZER_FILES
from alignjax.models.huggingface.folders import (
    CONFIG,
    DTYPES,
    INDEX,
    Stored,
    folder_of,
    new_folder,
    opened,
    read_json,
    tensors_of,
)
from alignjax.models.huggingface.known_keys import NOTES
from alignjax.numerics import fold_name
from alignjax.outside import reading
from alignjax.ranges import Bytes
from alignjax.types import Key
from alignjax.weights.leaves import Block, Leaf

KINDS = {dtype: kind for kind, dtype in DTYPES.items()}  # as headers call them
# What is no weight (a table of who sees whom) is copied where all models have the same.
COPIED = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8}
TOKENS, PIECES = "tokenizer.json", "tokenizer.model"
Tensors = dict[str, tuple[Stored, ...]]  # of each model by name, the base first


def merge_folders(
    merge: Any,
    models: Sequence[Path | str],
    to: Path | str,
    *,
    base: Path | str | None = None,
    key: Key | None = None,
    values: Callable[[str], Mapping[str, Any]] = lambda name: {},
    dtype: str | None = None,
    block_bytes: Bytes = 2**22,
    beside: Callable[[Path], None] = lambda folder: None,
    report_progress: Callable[[str, int, int], None] = lambda name, number, of: None,
) -> None:
    """Merges folders of safetensors into a new one, laid out as the base's, or else as the first model's, from which
    config.json and the tokenizer are copied.

    Numbers are computed in float32, of blocks of the same rows of every model: these and what is made of them are all
    that memory holds, some 100 MB as it is, however large the tensors are.

    Args:
        merge: A merge of trees, as `weights.ties`.
        models: Folders.
        to: The folder to be made.
        base: The folder of the model that the others were trained from, for a merge that takes one.
        key: For a merge that draws.
        values: values(name of a tensor) -> the hyper-parameters of the merge.
        dtype: Of the numbers that are written; of each tensor its own if None.
        block_bytes: What a block of all models takes in float32. A row is never divided, nor is a tensor of one axis.
        beside: beside(folder) writes what else belongs there.
        report_progress: Called with (name, number, of) before each tensor.

    Raises:
        ConfigError: Before anything is written: models that do not belong together, a folder that cannot be read or
            made; later: a number that is not finite, or beyond what float16 holds.
    """
    # All checks come before the first write. Sizes are known before numbers are, so a file is a header and then tensors
    # as they are made.
    folders = _folders(merge, models, base)
    check_known(dtype or "float32", KINDS, f"weights are written as {', '.join(KINDS)}, not {dtype!r}")
    tensors = _tensors(folders)
    written = {name: dtype or held[0].dtype for name, held in tensors.items() if held[0].dtype in KINDS}
    sizes = {name: _bytes(held[0], written.get(name)) for name, held in tensors.items()}
    order, files = list(tensors), _by_file(tensors)

    def merged(name: str) -> Iterator[np.ndarray]:
        report_progress(name, order.index(name), len(order))
        if name not in written:
            return (rows[0] for _, rows in _read(tensors[name][:1], block_bytes))
        leaf = _leaf(tensors[name], len(models), None if key is None else fold_name(key, name), block_bytes)
        return (_narrowed(np.asarray(rows), written[name], name) for rows in merge.rows(leaf, **values(name)))

    with new_folder(Path(to), sum(sizes.values())) as part:
        for file, names in files.items():
            with (part / file).open("wb") as out:
                out.write(_header({name: (tensors[name][0], written.get(name), sizes[name]) for name in names}))
                for name in names:
                    _write(out, merged(name), sizes[name])
        _write_index(folders[0], part, files, sum(sizes.values()))
        _copy_beside(folders[0], part, dtype)
        beside(part)


def _folders(merge: Any, models: Sequence[Path | str], base: Path | str | None) -> list[Path]:
    """The folders, the base first, of models that are alike."""
    if merge.base != (base is not None):
        raise ConfigError(f"{merge.__name__} {'needs a' if merge.base else 'takes no'} base")
    folders = [folder_of(folder) for folder in ((base, *models) if base is not None else models)]
    check_alike(folders)
    return folders


def check_alike(folders: Sequence[Path]) -> None:
    """Checks that folders hold models of one architecture and vocabulary.

    Raises:
        ConfigError: One is a GGUF file, or config.json or the tokenizer of one says something else.
    """
    first = folders[0]
    for folder in folders:
        if folder.is_file():
            raise ConfigError(f"{folder} is a GGUF file; folders of safetensors are merged")
    config = {key: value for key, value in read_json(first / CONFIG).items() if key not in NOTES}
    for folder in folders[1:]:
        other = {key: value for key, value in read_json(folder / CONFIG).items() if key not in NOTES}
        if differ := [key for key in {**config, **other} if config.get(key) != other.get(key)]:
            raise ConfigError(
                f"{CONFIG} of {first} and of {folder} differ in {', '.join(differ[:4])}; models of one architecture "
                "are merged"
            )
    for vocabulary in (_vocabulary, _pieces):
        said = {folder: known for folder in folders if (known := vocabulary(folder)) is not None}
        for folder, tokens in said.items():
            if tokens != said[counted := next(iter(said))]:
                raise ConfigError(
                    f"the tokenizers of {counted} and {folder} give other numbers to tokens, so the rows of their "
                    "embeddings do not belong together; merge models of one vocabulary"
                )


def _vocabulary(folder: Path) -> Any:
    """What numbers its tokens have, None without a tokenizer.json."""
    if not (folder / TOKENS).is_file():
        return None
    tokenizer = read_json(folder / TOKENS)
    model = tokenizer.get("model")
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(each, dict) for each in added):
        raise ConfigError(
            f"{folder / TOKENS}: added_tokens is {shown(added)}; it must be objects, so download it again"
        )
    return model.get("vocab") if isinstance(model, dict) else None, [
        (each.get("id"), each.get("content")) for each in added
    ]


def _pieces(folder: Path) -> list[str] | None:
    """The pieces of SentencePiece's tokenizer.model in their order; None where tokenizer.json stands beside it."""
    if (folder / TOKENS).is_file() or not (folder / PIECES).is_file():
        return None
    try:
        from sentencepiece import sentencepiece_model_pb2 as proto  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ConfigError(
            f"comparing the vocabulary of {folder / PIECES} needs sentencepiece: pip install 'alignjax[sentencepiece]'"
        ) from error
    with reading(folder / PIECES, "download it again", kind=" as SentencePiece"):
        model = proto.ModelProto.FromString((folder / PIECES).read_bytes())  # pyright: ignore (made at run time)
        return [each.piece for each in model.pieces]


def _tensors(folders: Sequence[Path]) -> Tensors:
    """The tensors of all folders by name, which are the same, of one shape and of numbers that can be merged."""
    stored = [tensors_of(folder) for folder in folders]
    for folder, here in zip(folders, stored, strict=True):
        if odd := sorted(stored[0].keys() ^ here.keys()):
            raise ConfigError(
                f"{odd[0]} stands in only one of {folders[0]} and {folder}; models of one kind are merged"
            )
    tensors = {name: tuple(here[name] for here in stored) for name in stored[0]}
    for name, held in tensors.items():
        for folder, tensor in zip(folders, held, strict=True):
            if tensor.shape != held[0].shape:
                raise ConfigError(
                    f"{name} has the shape {list(held[0].shape)} in {folders[0]} and {list(tensor.shape)} in {folder}; "
                    "models of one size are merged"
                )
            if tensor.scales is not None or tensor.dtype not in {**KINDS, **COPIED}:
                what = "MXFP4" if tensor.scales is not None else tensor.dtype
                raise ConfigError(f"{name} in {folder} is {what}; {', '.join(KINDS)} are merged")
        if held[0].dtype in COPIED or any(tensor.dtype in COPIED for tensor in held):
            whole = [list(_read((tensor,), 2**40)) for tensor in held]
            if any(not np.array_equal(rows[0][1][0], whole[0][0][1][0]) for rows in whole):
                raise ConfigError(f"{name} holds whole numbers and differs between the models; it cannot be merged")
    return tensors


def _by_file(tensors: Tensors) -> dict[str, list[str]]:
    """The names of tensors by the file of the first model that holds them."""
    files: dict[str, list[str]] = {}
    for name, (first, *_) in tensors.items():
        files.setdefault(first.file.name, []).append(name)
    return files


def _bytes(tensor: Stored, dtype: str | None) -> int:
    return math.prod(tensor.shape) * (np.dtype(dtype).itemsize if dtype else COPIED[tensor.dtype])


def _read(held: Sequence[Stored], block_bytes: int) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """The rows of a tensor of each model, block by block."""
    # Files are mapped into memory and opened anew for each block, so that no pages of earlier ones stay.
    shape = held[0].shape
    row = 4 * len(held) * math.prod(shape[1:])
    step = max(block_bytes // max(row, 1), 1) if len(shape) > 1 else max(math.prod(shape), 1)
    length = shape[0] if shape else 0
    for start in range(0, max(length, 1), step):  # one without entries is a block as well
        rows = []
        for tensor in held:
            with opened(tensor.file) as file:
                view = file.get_slice(tensor.name)
                part = view[start : min(start + step, length)] if length else file.get_tensor(tensor.name)
                rows.append(np.asarray(part))
        yield start, tuple(rows)


def _leaf(held: Sequence[Stored], count: int, key: Key | None, block_bytes: int) -> Leaf:
    def blocks() -> Iterator[Block]:
        for start, rows in _read(held, block_bytes):
            yield start, tuple(jnp.asarray(row.astype(np.float32)) for row in rows)

    return Leaf(blocks, math.prod(held[0].shape), count, key)


def _narrowed(rows: np.ndarray, dtype: str, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrow = rows.astype(np.dtype(dtype))
    if not np.isfinite(rows).all():
        raise ConfigError(
            f"{name} comes out with numbers that are not finite: a model has some there, or the parameters carry it "
            "beyond float32; look at the models, or lower the weights"
        )
    if dtype == "float16" and np.any(np.isinf(narrow) & np.isfinite(rows)):
        raise ConfigError(f"{name} has numbers beyond what float16 holds; write it as bfloat16 or float32")
    return narrow


def _header(tensors: Mapping[str, tuple[Stored, str | None, int]]) -> bytes:
    """The beginning of a safetensors file: the length of a JSON object, and that object, which says where tensors
    lie."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (tensor, dtype, size) in tensors.items():
        kind = KINDS[dtype] if dtype else tensor.dtype
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [end, end := end + size]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write(out: BinaryIO, blocks: Iterable[np.ndarray], size: int) -> None:
    written = sum(out.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data) for rows in blocks)
    assert written == size


def _write_index(folder: Path, to: Path, files: Mapping[str, Sequence[str]], size: int) -> None:
    """Writes in which file each tensor is, where the folder that is followed says so."""
    if (folder / INDEX).is_file():
        where = {name: file for file, names in files.items() for name in names}
        index = {"metadata": {"total_size": size}, "weight_map": where}
        (to / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _copy_beside(folder: Path, to: Path, dtype: str | None) -> None:
    """Copies config.json, which says in what dtype the weights are, and the tokenizer."""
    for name in (CONFIG, *TOKENIZER_FILES):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, to / name)
    if dtype is not None:
        config = {
            key: value for key, value in read_json(folder / CONFIG).items() if key not in ("dtype", "torch_dtype")
        }
        (to / CONFIG).write_text(json.dumps({**config, "torch_dtype": dtype}, indent=2) + "\n", encoding="utf-8")
