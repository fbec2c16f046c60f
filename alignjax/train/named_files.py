"""What the files that a config names hold, so that a run whose data moved is known to be the same run.

A path in a config is a text like any other; where it leads to a file or folder, the record of a run has a hash of what
lay there beside the config.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignjax.content_hashes import content_hash
from alignjax.outside import user_path

FIELDS = ("path", "test", "tokenizer", "chat_template", "folder", "file")
MOST_FILES = 1000  # of a folder that is looked at; one with more is known by its path
LONGEST = 1024  # characters of a path


def named_files(config: Any) -> dict[str, str]:
    """Returns {path as it is written: hash of the contents} of all files and folders that a config names.

    Args:
        config: The config as JSON.
    """
    hashes = {text: contents_of(text) for text in dict.fromkeys(_paths(config))}
    return {text: digest for text, digest in hashes.items() if digest}


def same_contents(old: Any, new: Any, files: Mapping[str, str]) -> bool:
    """Says whether two values of a config are paths of files, or of folders, that hold the same.

    Args:
        old: A value of the run's config.
        new: The value that stands there now.
        files: What `named_files` said when the run began.
    """
    return isinstance(old, str) and isinstance(new, str) and old in files and contents_of(new) == files[old]


def contents_of(text: str) -> str:
    """Returns a hash of the contents of a file, or of the files that lie in a folder; "" where there is none.

    Of a run's folder it is the records of its checkpoints, which hold a checksum of each array.

    Args:
        text: The path, which may begin with ~.
    """
    with contextlib.suppress(OSError, ValueError):  # a text that no system takes for a path, or a file not to be read
        path = user_path(text)
        if path.is_file():
            return content_hash(path)
        if path.is_dir() and (files := _files_of(path)):
            listed = [f"{file.relative_to(path)} {content_hash(file)}" for file in files]
            return hashlib.sha256("\n".join(listed).encode()).hexdigest()
    return ""


def _files_of(folder: Path) -> list[Path]:
    records = sorted(folder.glob("checkpoints/*/meta/metadata"))
    files = records or sorted(path for path in folder.iterdir() if path.is_file())
    return files if len(files) <= MOST_FILES else []


def _paths(value: Any, name: str = "") -> Iterator[str]:
    """The texts of a config that may be paths: of fields that hold one, and those with a separator in them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, name)
    elif isinstance(value, str) and 0 < len(value) <= LONGEST and (name in FIELDS or os.sep in value):
        yield value
