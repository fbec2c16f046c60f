"""A resolved config as JSON: what config.json holds, what a resumed run is compared with, and its hash."""

from __future__ import annotations

import dataclasses
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
from typing import Any

import jax
import numpy as np

from alignjax.config import ConfigError, Fn
from alignjax.parallel.processes import all_gather_text, is_main_process, raise_on_all_processes
from alignjax.types import Model

FILE = "config.json"
PACKAGES = ("alignjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
# Fields that may change when a run is resumed: none of them changes a number that an already taken step gave. Another
# mesh gives the steps to come the same numbers but for rounding.
FREE = ("steps", "keep", "checkpoint_every", "tags", "mesh")


def _function(function: Any) -> dict[str, Any]:
    """A function by its import path, with what its closure holds, so that two closures of one factory differ."""
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


def config_json(value: Any) -> Any:
    """`value` as plain JSON. Dataclasses become {"type": ..., fields}, an Fn {"function": "module.name", hyper-
    parameters}, a Model what made it, arrays lists, paths strings. Nothing in the result depends on the process.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        # JSON has no infinities; a hyper-parameter may (a clip that never binds).
        return value if np.isfinite(value) else str(value)
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, Fn):
        return _function(value.function) | {key: config_json(inner) for key, inner in value.kwargs.items()}
    if isinstance(value, Model):
        return {"model": config_json(value.config)}
    if isinstance(value, type) or inspect.isroutine(value):
        return _function(value)
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        names = getattr(value, "_fields", None) or [field.name for field in dataclasses.fields(value)]
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


def config_hash(tree: Any) -> str:
    """16 hexadecimal digits of a config, or of its JSON. Order counts: the order of stages is meaning."""
    return hashlib.sha256(json.dumps(config_json(tree)).encode()).hexdigest()[:16]


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The fields in which two JSON configs differ, as "path: old -> new" lines."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        inner = [(f"{where}.{name}" if where else name, name) for name in names]
        lines = [line for path, name in inner for line in differences(old.get(name), new.get(name), path)]
        return lines or ([f"{where}: another order"] if list(old) != list(new) else [])
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, pair in enumerate(zip(old, new, strict=True)) for line in differences(*pair, f"{where}[{i}]")
        ]
    if old == new:
        return []
    short = [text if len(text) <= 60 else text[:57] + "..." for text in map(json.dumps, (old, new))]
    return [f"{where or 'config'}: {short[0]} -> {short[1]}"]


def check_same(old: Any, new: Any, folder: Path, *, free: Iterable[str] = FREE) -> None:
    """Raises ConfigError naming the fields in which the run in `folder` was configured otherwise."""
    free = tuple(free)
    lines = [line for line in differences(old, config_json(new)) if line.split(":")[0].split(".")[0] not in free]
    if lines:
        shown = "\n  ".join(lines[:8] + ([f"... and {len(lines) - 8} more"] if len(lines) > 8 else []))
        raise ConfigError(
            f"{folder} holds a run of another config, so it cannot go on with this one:\n  {shown}\n"
            "Run the old config again with --resume, or give the new one a folder of its own with --run-dir."
        )


def versions() -> dict[str, str]:
    """What computed the numbers: Python, the packages, the kind of device."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"device": f"{jax.device_count()} x {jax.devices()[0].device_kind}"}


def git_hash() -> str | None:
    """The commit of the checkout that alignjax runs from, "-dirty" if tracked files changed; None outside one."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def write_json(path: Path, value: Any) -> None:
    """Writes `value` so that a reader, or a crash, sees the old file or the new one and never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_json(path: Path) -> Any:
    """The value in `path`, or None if there is no such file. Raises ConfigError when it is not JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); restore it, or use another --run-dir") from None


def write_config(folder: Path, config: Any) -> dict[str, Any]:
    """Writes folder/config.json: {"config", "hash", "versions", "git"}, and returns it. Of several processes the first
    writes, all having found that they run the same.

    Raises ConfigError, in words for people and on all processes, when they differ in config, packages or commit, when
    the folder cannot be written or when not all see it: before anything expensive has run.
    """
    record = {"config": config_json(config), "hash": config_hash(config), "versions": versions(), "git": git_hash()}
    _check_alike(record)
    with raise_on_all_processes():
        try:
            if is_main_process():
                write_json(folder / FILE, record)
        except OSError as error:
            raise ConfigError(
                f"cannot write the run folder {folder}: {error.strerror}. Use another --run-dir."
            ) from None
    with raise_on_all_processes():
        there = read_json(folder / FILE)
        if there is None or there["hash"] != record["hash"]:
            raise ConfigError(
                f"{folder} is not the folder that process 0 writes to; all processes need one that all of them see"
            )
    return record


def _check_alike(record: Mapping[str, Any]) -> None:
    """Raises ConfigError on all processes, naming those that differ from process 0 and in what."""
    said = [json.loads(text) for text in all_gather_text(json.dumps([socket.gethostname(), record]))]
    first = {name: said[0][1][name] for name in ("config", "versions", "git")}
    lines = []
    for number, (host, other) in enumerate(said[1:], 1):
        if found := differences(first, {name: other[name] for name in first}):
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            lines.append(f"process {number} on {host}: {'; '.join(found[:3])}{more}")
    if lines:
        shown = "\n  ".join(lines[:8] + ([f"... and {len(lines) - 8} more"] if len(lines) > 8 else []))
        raise ConfigError(
            f"processes of this run were started with other things than process 0 on {said[0][0]} "
            f"(its -> theirs):\n  {shown}\nStart all of them with the same command, config and installation."
        )
