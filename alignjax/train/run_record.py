"""The record of a run, config.json: its config as JSON with a hash, the versions and the commit that ran it. A run is
resumed by the config that it began with, but for the fields in FREE (`check_same`)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np

from alignjax.asking import described
from alignjax.config import ConfigError, Fn
from alignjax.parallel.processes import all_gather_text, is_main_process, raise_on_all_processes
from alignjax.stages.text_functions import functions_of, text_judge, text_reward
from alignjax.train.named_files import named_files, same_contents
from alignjax.types import Model
from alignjax.workspace import read_record, write_json

FILE = "config.json"
PACKAGES = ("alignjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
# Fields that may change when a run is resumed: none of them changes a number that an already taken step gave. Another
# mesh gives the steps to come the same numbers but for rounding.
FREE = ("steps", "keep", "checkpoint_every", "tags", "mesh")
PATIENCE = ("timeout", "retries", "concurrency")  # of text functions and engines: likewise, wherever they stand


def _function(function: Any) -> dict[str, Any]:
    """Describes a function by its import path and what its closure holds, so that two closures of one factory
    differ."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    # A config file is imported under a name made from its path; the path is not part of the config.
    module = re.sub(r"^_alignjax_config_(.+)_[0-9a-f]{8}$", r"\1", getattr(function, "__module__", None) or "")
    if module == "__main__":  # a script's functions have the script's name, as when it is imported
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)  # of `python -m package.module`
        module = spec.name if spec else Path(getattr(main, "__file__", None) or "__main__").stem
    described = {"function": f"{module}.{name}"}
    closure = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    return described | {key: config_json(value) for key, value in closure.items() if value is not function}


def _text_function(function: Any) -> dict[str, Any]:
    """A person's function by its path and the hash of its source: a run does not go on with another one."""
    named = function.func if isinstance(function, functools.partial) else function
    return config_json(named) | described(function)


def config_json(value: Any) -> Any:
    """Turns a config into plain JSON; nothing in the result depends on the process.

    Dataclasses become {"type": ..., fields}, an Fn {"function": "module.name", hyper-parameters}, a Model what made it,
    arrays lists and paths strings.
    """
    # Cases from the special to the general: an Fn is also callable, a Model a dataclass, a string an iterable.
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        # JSON has no infinities; a hyper-parameter may (a clip that never binds).
        return value if np.isfinite(value) else str(value)
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, Fn):
        asked = value.function in (text_reward, text_judge)
        hyper = {key: config_json(inner) for key, inner in value.kwargs.items() if not (asked and key == "function")}
        asks = {"asks": [_text_function(each) for each in functions_of(value.kwargs["function"])]} if asked else {}
        return _function(value.function) | asks | hyper
    if isinstance(value, Model):
        return {"model": config_json(value.config)}
    if isinstance(value, type) or inspect.isroutine(value):
        return _function(value)
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        names = getattr(value, "_fields", None) or [
            field.name for field in dataclasses.fields(value) if _said(field, value)
        ]
        fields = {name: config_json(getattr(value, name)) for name in names}
        return {"type": f"{type(value).__module__}.{type(value).__qualname__}"} | fields
    if isinstance(value, Mapping):
        return {str(key): config_json(inner) for key, inner in value.items()}
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return config_json(np.asarray(value).tolist())
    if isinstance(value, (set, frozenset)):
        return sorted(map(config_json, value), key=str)
    if isinstance(value, Iterable):
        return [config_json(inner) for inner in value]
    return {"type": f"{type(value).__module__}.{type(value).__qualname__}"}


def _said(field: dataclasses.Field[Any], value: Any) -> bool:
    return not (field.metadata.get("unsaid") and getattr(value, field.name) == field.default)


def config_hash(tree: Any) -> str:
    """Returns 16 hexadecimal digits of a config, or of its JSON. Order counts: the order of stages is meaning."""
    return hashlib.sha256(json.dumps(config_json(tree)).encode()).hexdigest()[:16]


def differences(old: Any, new: Any, where: str = "", files: Mapping[str, str] | None = None) -> list[str]:
    """Lists the fields in which two JSON configs differ, as "path: old -> new" lines.

    Args:
        old: A JSON value.
        new: Another one.
        where: The path of both, for the lines.
        files: What the files that the old one names held; a path in the place of another one whose file holds the same
            makes no difference.

    Returns:
        The lines; none if they are equal.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        inner = [(f"{where}.{name}" if where else name, name) for name in names]
        lines = [line for path, name in inner for line in differences(old.get(name), new.get(name), path, files)]
        return lines or ([f"{where}: another order"] if list(old) != list(new) else [])
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, f"{where}[{i}]", files)]
    if old == new or (files and same_contents(old, new, files)):
        return []
    short = [text if len(text) <= 60 else text[:57] + "..." for text in map(json.dumps, (old, new))]
    return [f"{where or 'config'}: {short[0]} -> {short[1]}"]


def _first(lines: list[str], most: int) -> list[str]:
    """The first lines, and how many more there are."""
    return lines[:most] + ([f"... and {len(lines) - most} more"] if len(lines) > most else [])


def check_same(old: Mapping[str, Any], new: Any, folder: Path, *, free: tuple[str, ...] = FREE) -> None:
    """Checks that the run in `folder` was configured as this one is. Files that a config names may lie elsewhere, as
    long as they hold the same.

    Args:
        old: The record of the run: its config as JSON, and what the files that it names held.
        new: The config of this run.
        folder: The folder, for the message.
        free: The fields that may differ.

    Raises:
        ConfigError: Other fields differ; the message names them.
    """
    lines = differences(old["config"], config_json(new), files=old.get("files"))
    paths = [line.split(":")[0].split(".") for line in lines]
    lines = [line for line, path in zip(lines, paths, strict=True) if path[0] not in free and path[-1] not in PATIENCE]
    if lines:
        shown = "\n  ".join(_first(lines, 8))
        raise ConfigError(
            f"{folder} holds a run of another config, so it cannot go on with this one:\n  {shown}\n"
            "Run the old config again with --resume, or give the new one a folder of its own with --run-dir."
        )


def versions() -> dict[str, str]:
    """Returns the versions of what computes the numbers: Python, the packages that are installed, the devices."""
    numbers = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            numbers[package] = importlib.metadata.version(package)
    return numbers | {"device": f"{jax.device_count()} x {jax.devices()[0].device_kind}"}


def git_hash() -> str | None:
    """Returns the commit of the checkout that alignjax runs from, "-dirty" if tracked files changed; None outside
    one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


class Record(TypedDict):
    """What stands in FILE; runs of older versions have no `files`."""

    config: dict[str, Any]
    hash: str
    versions: dict[str, str]
    git: str | None
    files: NotRequired[dict[str, str]]


def write_config(folder: Path, config: Any) -> dict[str, Any]:
    """Writes folder/config.json and returns it: {"config", "hash", "versions", "git", "files"}.

    Args:
        folder: The run folder.
        config: The algorithm and all around it.

    Returns:
        The record.

    Raises:
        ConfigError: On all processes and before anything expensive has run: they differ in config, packages or commit,
            or the folder cannot be written, or not all see it.
    """
    # Of several processes the first writes, after all have found that they run the same; then all look whether it is
    # the same folder that they see.
    record = {"config": config_json(config), "hash": config_hash(config), "versions": versions(), "git": git_hash()}
    _check_alike(record)
    record["files"] = named_files(record["config"])
    with raise_on_all_processes():
        try:
            if is_main_process():
                write_json(folder / FILE, record)
        except OSError as error:
            raise ConfigError(
                f"cannot write the run folder {folder}: {error.strerror}. Use another --run-dir."
            ) from None
    with raise_on_all_processes():
        written = read_record(folder / FILE, Record)
        if written is None or written["hash"] != record["hash"]:
            raise ConfigError(
                f"{folder} is not the folder that process 0 writes to; all processes need one that all of them see"
            )
    return record


def _check_alike(record: Mapping[str, Any]) -> None:
    """Raises ConfigError on all processes, naming those that differ from process 0 and in what."""
    (main, first), *others = [json.loads(text) for text in all_gather_text(json.dumps([socket.gethostname(), record]))]
    names = ("config", "versions", "git")
    lines = []
    for number, (host, other) in enumerate(others, 1):
        if wrong := differences({name: first[name] for name in names}, {name: other[name] for name in names}):
            lines.append(f"process {number} on {host}: {'; '.join(_first(wrong, 3))}")
    if lines:
        shown = "\n  ".join(_first(lines, 8))
        raise ConfigError(
            f"processes of this run were started with other things than process 0 on {main} "
            f"(its -> theirs):\n  {shown}\nStart all of them with the same command, config and installation."
        )
