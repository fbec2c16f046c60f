"""Log-probs of completions on disk, found again by what was scored: files that appear whole or not at all, which
`reference_logps.py` writes and reads.

A folder holds the numbers of one scorer, in shards written by any number of runs. A shard is an .npz: keys [n,16]
bytes, lengths [n], values [sum of lengths] in nats; its zip checksums tell a damaged file from a good one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alignjax.types import Batch
from alignjax.workspace import whole_file

KEY_BYTES = 16
# What numpy and zipfile raise for bytes that are not those that were written; not what a disk or a network does.
_BROKEN = (EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def content_keys(row: Batch) -> list[bytes]:
    """Hashes what each completion of a row is scored by.

    That is the valid tokens of prompt and completion, and all else that a model may look at. Neither padding nor the
    other completions change a key.

    Args:
        row: A Batch without its batch axis.

    Returns:
        A key for each of its N completions.
    """
    prompt = hashlib.blake2b(digest_size=KEY_BYTES)
    _add(prompt, np.asarray(row.prompt)[np.asarray(row.prompt_valid)])
    for name in sorted(row.prompts):
        _add(prompt, np.asarray(row.prompts[name]), name)
    tokens, valid = np.asarray(row.tokens), np.asarray(row.valid)
    keys = []
    for number in range(len(tokens)):
        completion = prompt.copy()
        _add(completion, tokens[number][valid[number]])
        for name in sorted(row.completions):
            _add(completion, np.asarray(row.completions[name])[number], name)
        keys.append(completion.digest())
    return keys


def _add(hashed: Any, array: np.ndarray, name: str = "") -> None:
    # Shape and dtype first, so that no two sequences of arrays are the same bytes.
    hashed.update(f"{name} {array.dtype.str} {array.shape};".encode())
    hashed.update(np.ascontiguousarray(array).tobytes())


def write_shard(folder: Path, values: Mapping[bytes, np.ndarray]) -> Path:
    """Writes {key: log-probs of the valid tokens [length], in nats} as a new shard, and returns its path.

    Args:
        folder: Where shards are; made if missing.
        values: Log-probs by key.

    Returns:
        The path of the shard.
    """
    path = folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.npz"
    with whole_file(path) as file:
        file.write(encoded(values))
    return path


def read_shards(folder: Path, warn: Callable[[str], Any]) -> dict[bytes, np.ndarray]:
    """Reads all shards of a folder.

    A damaged one is renamed to *.damaged; what it held is missing and will be computed again.

    Args:
        folder: The folder.
        warn: Told of each damaged shard.

    Returns:
        {key: log-probs of the valid tokens [length], in nats}.

    Raises:
        OSError: Something cannot be read at all.
    """
    # Other runs write and rename files here at any time: what was listed may be gone.
    logps: dict[bytes, np.ndarray] = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            logps |= decoded(path.read_bytes())
        except FileNotFoundError:
            continue
        except _BROKEN as error:
            aside = path.with_suffix(".damaged")
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, aside)
            warn(f"{path} is damaged ({error}); it is now {aside.name}, and what it held is computed again")
    return logps


def encoded(values: Mapping[bytes, np.ndarray]) -> bytes:
    """Encodes {key: log-probs of the valid tokens [length]} as the bytes of a shard."""
    data = io.BytesIO()
    np.savez(
        data,
        keys=np.frombuffer(b"".join(values), np.uint8).reshape(-1, KEY_BYTES),
        lengths=np.array([len(value) for value in values.values()], np.int32),
        values=np.concatenate([*values.values(), np.zeros(0, np.float32)]),
    )
    return data.getvalue()


def decoded(data: bytes) -> dict[bytes, np.ndarray]:
    """Decodes what `encoded` made. Raises one of _BROKEN for other bytes."""
    # Not from a file: of a damaged archive zipfile may seek to places that a file refuses as if the disk were at fault.
    with np.load(io.BytesIO(data)) as file:
        keys, lengths, values = file["keys"], file["lengths"], file["values"]
    if len(keys) != len(lengths) or lengths.sum() != len(values):
        raise ValueError(f"{len(keys)} keys, {len(lengths)} lengths that sum to {lengths.sum()}, {len(values)} values")
    parts = np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []
    return {key.tobytes(): part for key, part in zip(keys, parts, strict=True)}
