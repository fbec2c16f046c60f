"""Folders of published weights: what one holds, from the headers of its files alone, and a new one to write in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors

from alignjax.config import ConfigError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
HEADERS = 1.05  # bytes on disk for a byte of weights: headers, indices and a checkpoint's own records are far below
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Stored(NamedTuple):
    """Where a tensor lies, under what name, and what it is; dtype as NumPy calls it."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def folder_of(folder: Path | str) -> Path:
    """The folder; ConfigError if there is none."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path} with a checkpoint; download it there first")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ConfigError if there is no such file or it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path.parent} has no {path.name}; is it the folder of a checkpoint?") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); it may be cut short: download it again") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no JSON object")
    return found


@contextlib.contextmanager
def new_folder(folder: Path, need: int = 0) -> Iterator[Path]:
    """A folder to write in, beside the wanted one, whose name it takes at the end; it goes if anything fails, so that
    the wanted one is whole or not there.

    need: bytes that will be written. Raises ConfigError, before anything is made, for a folder that holds something, a
    place that cannot be written to, or a disk without room.
    """
    folder = folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already and not empty; name another folder")
    above = next(parent for parent in folder.absolute().parents if parent.is_dir())
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


def _weight_files(folder: Path) -> Mapping[str, tuple[str, ...] | None]:
    """{file name: the tensors that the index says are in it, None where there is no index}."""
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise ConfigError(f"{folder / INDEX} has no weight_map")
        files = sorted(set(index.values()))
        return {file: tuple(name for name, where in index.items() if where == file) for file in files}
    if (folder / WEIGHTS).is_file():
        return {WEIGHTS: None}
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickled:
        raise ConfigError(
            f"{folder} has its weights only as pickle ({pickled[0]}), which runs code when it is read and is never "
            "read here. Convert it where you trust it: AutoModelForCausalLM.from_pretrained(folder).save_pretrained("
            "other_folder) writes safetensors"
        )
    raise ConfigError(f"{folder} has neither {WEIGHTS} nor {INDEX}")


def tensors_of(folder: Path | str) -> dict[str, Stored]:
    """Every tensor of a folder by name. Only headers are read.

    Raises ConfigError naming the file or tensor: one that is not there or is cut short, that the index promises and the
    file has not, or whose numbers are of a kind that is not read.
    """
    folder = folder_of(folder)
    found: dict[str, Stored] = {}
    for name, promised in _weight_files(folder).items():
        path = folder / name
        if not path.is_file():
            raise ConfigError(f"{folder / INDEX} names {name}, which is not there; download it")
        try:
            with safetensors.safe_open(path, framework="np") as file:
                views = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                here = {key: (view.get_dtype(), tuple(view.get_shape())) for key, view in views.items()}
        except safetensors.SafetensorError as error:
            raise ConfigError(f"{path} is not a whole safetensors file ({error}); download it again") from None
        missing = [key for key in promised or () if key not in here]
        if missing:
            raise ConfigError(f"{path} has no tensor {missing[0]!r}, which {INDEX} says it has")
        for key, (dtype, shape) in here.items():
            found[key] = Stored(path, key, str(DTYPES.get(dtype, dtype)), shape)
    return found


def fingerprint(folder: Path | str, *, pieces: int = 64, size: int = 4096) -> str:
    """16 hexadecimal digits that tell one checkpoint from another without reading it all: config.json, the weight
    files' names, sizes and headers, and `pieces` short stretches of each, evenly spread."""
    folder = folder_of(folder)
    digest = hashlib.sha256((folder / CONFIG).read_bytes() if (folder / CONFIG).is_file() else b"")
    for name in _weight_files(folder):
        path = folder / name
        if not path.is_file():
            raise ConfigError(f"{folder / INDEX} names {name}, which is not there; download it")
        length = path.stat().st_size
        digest.update(f"{name} {length}".encode())
        with path.open("rb") as file:
            start = 8 + struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
            for piece in range(pieces):
                file.seek(min(start, length) + max(0, length - start - size) * piece // max(1, pieces - 1))
                digest.update(file.read(size))
            file.seek(0)
            digest.update(file.read(min(start, length, 1 << 24)))
    return digest.hexdigest()[:16]
