"""Folders of published weights: the tensors of one, from the headers of its files alone, and a new one to write in."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import safetensors

from alignjax import workspace
from alignjax.config import ConfigError
from alignjax.content_hashes import content_hash
from alignjax.gguf_files import is_gguf, read_header
from alignjax.json_shapes import check_shape, shown
from alignjax.models.huggingface import mxfp4
from alignjax.models.huggingface.gguf_models import opened_gguf, tensors_of_gguf
from alignjax.outside import user_path

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
HEADERS = 1.05  # bytes on disk for a byte of weights: headers, indices and a checkpoint's own records are far below
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class _Index(TypedDict):
    weight_map: dict[str, str]


class Stored(NamedTuple):
    """A tensor of a folder: its file, its name there, its dtype as NumPy calls it, its shape. One in MXFP4 has those of
    what it stands for, and exponents in a tensor `scales`."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    scales: Stored | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from."""
        return (self.file,) if self.scales is None else (self.file, self.scales.file)

    def view(self, files: Mapping[Path, Any]) -> Any:
        """Returns what reads it, of files that are open."""
        blocks = files[self.file].get_slice(self.name)
        return blocks if self.scales is None else mxfp4.View(blocks, self.scales.view(files))


def folder_of(folder: Path | str) -> Path:
    """The folder, or the GGUF file, as a path. Raises ConfigError if it does not exist."""
    path = user_path(folder)
    if is_gguf(path):
        return read_header(path).path
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path} with a checkpoint; download it there first")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file. Raises ConfigError if there is no such file or it holds something else."""
    value = workspace.read_json(path, workspace.DOWNLOAD_AGAIN)
    if value is None:
        raise ConfigError(f"{path.parent} has no {path.name}; is it the folder of a checkpoint?")
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no JSON object")
    return value


@contextlib.contextmanager
def new_folder(folder: Path, need: int = 0) -> Iterator[Path]:
    """Makes a folder whole or not at all: what is written goes into one beside it, which takes its name at the end.

    Args:
        folder: The folder to be made.
        need: Bytes that will be written.

    Yields:
        The folder to write in, which is removed if anything fails.

    Raises:
        ConfigError: Before anything is made: the folder holds something, its parent cannot be written to, or the disk
            has no room.
    """
    # All checks come before the first write, and the rename at the end is atomic, so a crash leaves the old state and
    # never half a folder that looks whole.
    folder = user_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already and not empty; name another folder")
    if folder.is_symlink():
        raise ConfigError(f"{folder} is a link; name the folder that is meant")
    above = next(parent for parent in folder.absolute().parents if os.path.lexists(parent))
    if not above.is_dir():
        raise ConfigError(f"{above} is no folder; name another folder")
    if not os.access(above, os.W_OK):
        raise ConfigError(f"{above} cannot be written to; name another folder")
    if (free := shutil.disk_usage(above).free) < HEADERS * need:
        raise ConfigError(f"{above} has {free / 1e9:.1f} GB free and the weights take {need / 1e9:.1f} GB")
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    part.mkdir(parents=True)
    try:
        yield part
        if folder.is_dir():
            folder.rmdir()  # it was empty
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _weight_files(folder: Path) -> dict[Path, tuple[str, ...]]:
    """The weight files, each with the tensors that the index promises (none without an index)."""
    if (folder / INDEX).is_file():
        index = check_shape(read_json(folder / INDEX), _Index, folder / INDEX, "download it again")["weight_map"]
        if not index:
            raise ConfigError(f"{folder / INDEX}: weight_map names no tensor; download it again")
        names = sorted(set(index.values()))
        if outside := [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name)]:
            raise ConfigError(
                f"{folder / INDEX} names {shown(outside[0])}; only .safetensors files beside it are read, so download "
                "the folder again from where you trust it"
            )
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ConfigError(f"{folder / INDEX} names {missing[0]}, which is not there; download it")
        return {folder / name: tuple(key for key, where in index.items() if where == name) for name in names}
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: ()}
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickled:
        raise ConfigError(
            f"{folder} has its weights only as pickle ({pickled[0]}), which runs code when it is read and is never "
            "read here. Convert it where you trust it: AutoModelForCausalLM.from_pretrained(folder).save_pretrained("
            "other_folder) writes safetensors"
        )
    inside = sorted(path.name for path in folder.glob("*.gguf"))
    hint = f"; it has {inside[0]}: name that file instead of the folder" if inside else ""
    raise ConfigError(f"{folder} has neither {WEIGHTS} nor {INDEX}{hint}")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Opens a safetensors file, through a link too, as caches of downloads have them, or a GGUF file.

    Raises:
        ReadError: It is a GGUF file and not whole.
        ConfigError: It is not a regular file, or not whole: the header is longer than the file, is not JSON, or its
            tensors overlap, leave holes, or have not the size of their shape.
    """
    if not path.is_file():  # a folder, a pipe, a link to nothing: safetensors would wait for some of them
        raise ConfigError(f"{path} is no file that can be read; download it again")
    if is_gguf(path):
        yield opened_gguf(path)
        return
    try:
        with safetensors.safe_open(path, framework="np") as file:
            yield file
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(f"{path} is not a whole safetensors file ({error}); download it again") from None


def tensors_of(folder: Path | str) -> dict[str, Stored]:
    """Lists the tensors of a folder by name. Only headers are read.

    Raises:
        ConfigError: A file is missing or cut short, or has not what the index promises; the message names it.
    """
    folder = folder_of(folder)
    if folder.is_file():
        return {name: Stored(folder, inner, dtype, shape) for name, inner, dtype, shape in tensors_of_gguf(folder)}
    tensors: dict[str, Stored] = {}
    for path, promised in _weight_files(folder).items():
        with opened(path) as file:
            views = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            headers = {key: (view.get_dtype(), tuple(view.get_shape())) for key, view in views.items()}
        missing = [key for key in promised if key not in headers]
        if missing:
            raise ConfigError(f"{path} has no tensor {missing[0]!r}, which {INDEX} says it has")
        if twice := [key for key in headers if key in tensors]:
            raise ConfigError(
                f"{twice[0]!r} stands in {tensors[twice[0]].file.name} and in {path.name} of {folder}; which is meant "
                "is not known, so download the folder again"
            )
        for key, (dtype, shape) in headers.items():
            tensors[key] = Stored(path, key, str(DTYPES.get(dtype, dtype)), shape)
    return _unpacked(tensors)


def _unpacked(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """Tensors by name, two that hold codes and exponents of MXFP4 as the one that they stand for: every such number is
    one of bfloat16."""
    pairs = {name.removesuffix(mxfp4.PARTS[0]) for name in tensors if name.endswith(mxfp4.PARTS[0])}
    joined = dict(tensors)
    for stem in pairs:
        blocks, scales = (tensors.get(stem + part) for part in mxfp4.PARTS)
        if blocks is None or scales is None or {blocks.dtype, scales.dtype} != {"U8"} or stem in tensors:
            continue
        if (shape := mxfp4.shape_of(blocks.shape, scales.shape)) is None:
            raise ConfigError(
                f"{blocks.name} in {blocks.file} has the shape {list(blocks.shape)} and its scales "
                f"{list(scales.shape)}, which is no MXFP4; download the folder again"
            )
        del joined[blocks.name], joined[scales.name]
        joined[stem] = Stored(blocks.file, blocks.name, "bfloat16", shape, scales)
    return joined


def dtype_of(folder: Path | str) -> str:
    """Says in what dtype the numbers of a folder can be kept as they are: "bfloat16" if all are, else "float32".

    Raises:
        ConfigError: The folder has no weights that can be read.
    """
    dtypes = {tensor.dtype for tensor in tensors_of(folder).values()}
    return "bfloat16" if dtypes == {"bfloat16"} else "float32"


def fingerprint(folder: Path | str) -> str:
    """Gives 16 hexadecimal digits that tell one checkpoint from another: of the contents of config.json and of all
    weight files, wherever they lie.

    Args:
        folder: A folder of published weights, or a GGUF file.

    Returns:
        The digits.

    Raises:
        ConfigError: The folder has no weights that can be read.
    """
    folder = folder_of(folder)
    if folder.is_file():
        return content_hash(folder)[:16]
    digest = hashlib.sha256((folder / CONFIG).read_bytes() if (folder / CONFIG).is_file() else b"")
    for path in _weight_files(folder):
        digest.update(f"{path.name} {content_hash(path)}".encode())
    return digest.hexdigest()[:16]
