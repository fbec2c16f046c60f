"""Config files: from `CONFIG[:MODE]` and overrides on a command line to a resolved `Experiment` or `Pipeline`, and back
from a run folder."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

from alignjax.cli import overrides
from alignjax.cli.packaged_configs import by_name, packaged
from alignjax.config import ConfigError, Experiment, Pipeline, nearest, type_hints
from alignjax.outside import reading, user_path
from alignjax.workspace import read_record, write_json

COMMAND_FILE = "command.json"  # in a run folder: how to build its config again
DEFAULT_MODE = "full"


class Command(TypedDict):
    """What stands in COMMAND_FILE."""

    config: str
    mode: str | None
    overrides: list[str]
    sha256: str


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A resolved config and where it came from."""

    path: Path
    mode: str | None  # None: its get_config takes no argument
    arguments: tuple[str, ...]
    config: Experiment | Pipeline

    @property
    def default_run_dir(self) -> Path:
        """runs/<name of the config file>-<mode>, below the working directory."""
        return Path("runs") / (f"{self.path.stem}-{self.mode}" if self.mode else self.path.stem)


def load(where: str, arguments: Sequence[str] = (), *, flags: Sequence[str] = ()) -> Loaded:
    """Loads a config file and applies overrides.

    Args:
        where: `path/to/file.py` or `path/to/file.py:mode`, or the name of a config that comes with alignjax in the
            place of the path.
        arguments: overrides, as words of a command line.
        flags: the command's own flags, which a misspelled override may have meant.

    Returns:
        The config and where it came from.

    Raises:
        ConfigError: there is no such file, it has no `get_config` or no such mode, or an override does not fit.
    """
    path, mode = _split(where)
    module = imported(path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(
            f"{path} has no get_config; a config file defines get_config(mode) and returns an Experiment or a Pipeline"
        )
    config, mode = _called(path, get_config, mode, getattr(module, "MODES", None))
    if not isinstance(config, (Experiment, Pipeline)):
        raise ConfigError(
            f"get_config in {path} returned a {type(config).__name__}; it must return an Experiment or a Pipeline"
        )
    return Loaded(path, mode, tuple(arguments), overrides.apply(config, arguments, flags))


def _split(where: str) -> tuple[Path, str | None]:
    """The file and the mode of `CONFIG[:MODE]`."""
    whole = user_path(where)
    if whole.is_file():
        return whole, None
    name, colon, mode = where.rpartition(":")
    path = user_path(name) if colon else whole
    found = path if path.is_file() else by_name(path)
    if found is not None:
        return found, (mode or None) if colon else None
    folder = path if path.is_dir() else path.parent
    if path.stem in packaged():
        raise ConfigError(f"no such config file: {path}; the one that comes with alignjax is {path.stem!r}")
    if not folder.is_dir():
        raise ConfigError(f"no such config file: {path} (there is no folder {folder})")
    configs = sorted(file.name for file in folder.glob("*.py") if not file.name.startswith("_"))
    if folder == path:
        known = f" There are: {', '.join(configs)}." if configs else ""
        raise ConfigError(f"{path} is a folder; name a config file in it.{known}")
    known = configs if path.suffix else [*configs, *packaged()]
    raise ConfigError(f"no such config file: {path}.{nearest(path.name, known)}")


def imported(path: Path) -> ModuleType:
    """The module in the file. Its folder is put on the import path first, as `python FILE` does, so that it may import
    its siblings; a file inside a package is imported as part of that package."""
    path = path.resolve()
    with reading(path, "a config is a .py file with get_config(mode)"):
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except SyntaxError as error:
            raise ConfigError(f"{path} is not valid Python: {error}") from error
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    if len(parts) > 1:
        return importlib.import_module(".".join(parts))
    # Not under its bare name, which may be that of an installed module ("dpo", "sft").
    name = f"_alignjax_config_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file; a config is a .py file with get_config(mode)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and get_type_hints look a class's module up here
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, SyntaxError):  # of a file that it imports
            raise ConfigError(f"{path} is not valid Python: {error}") from error
        raise
    return module


def _called(path: Path, get_config: Any, mode: str | None, modes: Sequence[str] | None) -> tuple[Any, str | None]:
    """get_config(mode) and the mode's name. A mode the file does not have is refused by name."""
    parameters = list(inspect.signature(get_config).parameters.values())
    if not parameters:
        if mode is not None:
            raise ConfigError(f"{path} has no modes: its get_config takes no argument; leave out {f':{mode}'!r}")
        return get_config(), None
    if mode is None:
        default = parameters[0].default
        mode = DEFAULT_MODE if default is inspect.Parameter.empty else str(default)
    known = modes_of(get_config, modes)
    if known and mode not in known:
        raise ConfigError(f"{path} has no mode {mode!r}.{nearest(mode, known)}")
    try:
        return get_config(mode), mode
    except KeyError as error:  # a config that looks the mode up in a dict
        if error.args == (mode,):
            raise ConfigError(f"{path} has no mode {mode!r}") from None
        raise


def modes_of(get_config: Any, modes: Sequence[str] | None) -> list[str]:
    """Lists the modes that a config names: in its MODES, or as a Literal of what its get_config takes.

    Args:
        get_config: The function of the file.
        modes: Its MODES, if it has some.
    """
    parameters = list(inspect.signature(get_config).parameters)
    annotation = type_hints(get_config).get(parameters[0]) if parameters else None
    return list(modes or ()) or [option for option in typing.get_args(annotation) if isinstance(option, str)]


def remember(loaded: Loaded, run_dir: Path) -> None:
    """Writes down how the run's config was made, for `generate`, `evaluate` and whoever repeats the run.

    Args:
        loaded: The config as it was loaded.
        run_dir: The run folder, made if need be.
    """
    record = {
        "config": str(loaded.path.resolve()),
        "mode": loaded.mode,
        "overrides": list(loaded.arguments),
        "sha256": hashlib.sha256(loaded.path.read_bytes()).hexdigest(),
    }
    write_json(run_dir / COMMAND_FILE, record)


def run_folder(where: str) -> tuple[Path, str | None]:
    """Finds the run folder of `RUN_DIR` or `RUN_DIR/STEP`, and the step.

    Args:
        where: what a person wrote.

    Returns:
        The run folder, and the name of the step or None.

    Raises:
        ConfigError: neither the folder nor its parent is a run of `alignjax train`.
    """
    folder = user_path(where)
    if (folder / COMMAND_FILE).is_file():
        return folder, None
    if (folder.parent / COMMAND_FILE).is_file():
        return folder.parent, folder.name
    if not folder.is_dir():
        beside = [other.name for other in folder.parent.iterdir() if other.is_dir()] if folder.parent.is_dir() else []
        raise ConfigError(f"no such run folder: {folder}.{nearest(folder.name, beside)}")
    raise ConfigError(f"{folder} is not a run folder: it has no {COMMAND_FILE}, which `alignjax train` writes")


def reload(run_dir: Path, arguments: Sequence[str] = ()) -> Loaded:
    """Loads the config that a run folder was trained with from its file, and says on stderr if that has changed since.

    Args:
        run_dir: the run folder.
        arguments: further overrides.

    Returns:
        The config and where it came from.

    Raises:
        ConfigError: the config file does not exist any more.
    """
    record = read_record(
        run_dir / COMMAND_FILE, Command, f"`alignjax train CONFIG --run-dir {run_dir} --resume` writes it"
    )
    path = Path(record["config"])
    if not path.is_file():
        raise ConfigError(f"{run_dir} was trained with {path}, which is not there any more")
    with reading(path):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        print(f"warning: {path} has changed since {run_dir} was trained", file=sys.stderr)
    where = str(path) if record["mode"] is None else f"{path}:{record['mode']}"
    return load(where, [*record["overrides"], *arguments])
