"""Control vectors in GGUF files, as repeng writes and llama.cpp reads them: a tensor `direction.L` for each layer that
is steered."""

from __future__ import annotations

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from alignjax.config import ConfigError
from alignjax.gguf_files import numbers, read_header
from alignjax.outside import user_path
from alignjax.ranges import Count
from alignjax.types import Array
from alignjax.workspace import whole_file

KIND = "controlvector"
_NAME = re.compile(r"direction\.(0|[1-9][0-9]*)")  # one name a layer


def read_control_vector(path: Path | str, *, layers: Count, width: Count) -> dict[str, Array]:
    """Reads a control vector: `direction.L` is what is added behind layer L, counted from 0.

    Args:
        path: The file.
        layers: Of the model that is steered.
        width: Of its states.

    Returns:
        {"block": [L,D]}, 0 at layers that the file has no direction of.

    Raises:
        ReadError: There is no such file, or it is not whole.
        ConfigError: It is no control vector, or one of another model; or the package gguf is missing.
    """
    header = read_header(path)
    kind = header.metadata.get("general.architecture")
    if kind != KIND:
        raise ConfigError(f"{path} is of the architecture {kind!r}; control vectors are {KIND!r}")
    hint = header.metadata.get(f"{KIND}.model_hint")
    made_for = f" (it was made for a {hint})" if isinstance(hint, str) else ""
    block = np.zeros((layers, width), np.float32)
    for name, tensor in header.tensors.items():
        found = _NAME.fullmatch(name)
        if found is None:
            raise ConfigError(f"{path} holds {name!r}; the tensors of a control vector are called direction.LAYER")
        if tensor.shape != (width,) or int(found[1]) >= layers:
            raise ConfigError(
                f"{path}: {name} has the shape {list(tensor.shape)}, and the model has {layers} layers of width "
                f"{width}{made_for}; take one that was made for this model"
            )
        block[int(found[1])] = numbers(header, name)
    if not block.any() or not np.isfinite(block).all():
        raise ConfigError(f"{path} holds {'numbers that are not finite' if block.any() else 'no direction'}")
    return {"block": jnp.asarray(block)}


def write_control_vector(path: Path | str, block: Array, *, hint: str) -> None:
    """Writes a control vector, which llama.cpp (`--control-vector`), repeng and `alignjax generate --steer` read.

    Args:
        path: The new file.
        block: What is added behind each layer [L,D]; layers that are all 0 are left out.
        hint: What kind of model it is for, "llama" for example.

    Raises:
        ConfigError: Layer 0 has a direction, which llama.cpp refuses, or none has; or the package gguf is missing.
        WriteError: The file cannot be written.
    """
    try:
        import gguf  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ConfigError(f"writing {path} (GGUF) needs gguf: pip install 'alignjax[gguf]'") from error
    rows = np.asarray(block, np.float32)
    if not np.isfinite(rows).all():
        raise ConfigError(f"{path} is not written: the directions hold numbers that are not finite")
    there = np.flatnonzero(rows.any(axis=1))
    if not there.size or there[0] == 0:
        what = "layer 0 is steered, which llama.cpp refuses" if there.size else "all directions are 0"
        raise ConfigError(f"{path} is not written: {what}; choose layers from 1 on (steering.layers_only)")
    with whole_file(user_path(path)) as file:
        writer = gguf.GGUFWriter(file.name, KIND)
        writer.add_string(f"{KIND}.model_hint", hint)
        writer.add_uint32(f"{KIND}.layer_count", len(there))
        for layer in there:
            writer.add_tensor(f"direction.{layer}", rows[layer])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
