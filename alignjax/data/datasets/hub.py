"""Datasets of a hub's repositories, through the `datasets` package, which fetches them or has them in its cache.

Their rows are read from the Arrow files that the package makes. Code in a repository is never run: versions of the
package that could are refused.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import re
from pathlib import Path
from typing import Any, NamedTuple

from alignjax.config import ConfigError
from alignjax.outside import Unreadable, reading, user_path

PREFIX = "hub:"
SPELLED = "hub:OWNER/NAME@REVISION:CONFIG#SPLIT, of which all behind OWNER/NAME may be left out"
_ID = re.compile(r"(?P<name>[^@:#]+)(?:@(?P<revision>[^:#]+))?(?::(?P<config>[^#]+))?(?:#(?P<split>[\w.-]+))?")


class HubId(NamedTuple):
    """A dataset of a hub.

    Args:
        name: OWNER/NAME, or the folder of a repository.
        revision: A commit, branch or tag; "" for the main branch.
        config: One of the repository's configs; "" for its only one, or the one called "default".
        split: One of the splits; "" where none is named.
    """

    name: str
    revision: str = ""
    config: str = ""
    split: str = ""


def read_id(text: str, what: str) -> HubId:
    """Returns the parts of hub:OWNER/NAME@REVISION:CONFIG#SPLIT.

    Args:
        text: The spelled id.
        what: The setting that holds it, for messages.

    Raises:
        ConfigError: It is not spelled so.
    """
    match = _ID.fullmatch(text.removeprefix(PREFIX))
    parts = HubId(**{name: part or "" for name, part in match.groupdict().items()}) if match else HubId("")
    local = parts.name.startswith(("/", "./", "../", "~"))
    if not local and not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", parts.name):
        raise ConfigError(f"{text!r} is no id of a hub's dataset ({what}); write {SPELLED}")
    if local:
        if parts.revision:
            raise ConfigError(f"{text}: a folder has no revisions ({what}); leave out @{parts.revision}")
        parts = parts._replace(name=str(user_path(parts.name)))
        if not Path(parts.name).is_dir():
            raise ConfigError(f"there is no folder {parts.name} ({what}); give that of a repository")
    elif Path(parts.name).exists():  # which `datasets` would take in its place
        raise ConfigError(
            f"{text}: there is a folder {parts.name} too ({what}); write {PREFIX}./{parts.name} for it, or start from "
            "another folder"
        )
    return parts


def splits_of(parts: HubId, what: str) -> dict[str, tuple[tuple[Path, ...], str]]:
    """Returns the Arrow files of every split, and with them what tells this state of the repository from others: the
    commit, or of a folder the hash that `datasets` has of it.

    Args:
        parts: The dataset; its split is not looked at.
        what: The setting that names it, for messages.

    Raises:
        ConfigError: The package is missing, or a commit is not in the cache.
        ReadError: The package says why there is no such dataset, config or revision.
    """
    return _loaded(parts.name, parts.config, parts.revision, what)


@functools.lru_cache(maxsize=8)
def _loaded(name: str, config: str, revision: str, what: str) -> dict[str, tuple[tuple[Path, ...], str]]:
    # `datasets` fetches the repository, or finds it in its cache, and writes its rows as Arrow files there, in a folder
    # that is called by the commit. Without a network it takes the latest commit that it has, whatever was asked for.
    package = _package()
    shown = f"{PREFIX}{name} ({what})"
    advice = "name another, or fetch it once with a network; HF_HUB_OFFLINE=1 reads the cache alone"
    with reading(shown, advice, kind=" through datasets"), _silent(package):
        commit = _commit_of(name, revision)
        loaded = package.load_dataset(name, config or None, revision=commit or None)
    splits: dict[str, tuple[tuple[Path, ...], str]] = {}
    for split, rows in loaded.items():
        files = tuple(Path(each["filename"]) for each in rows.cache_files)
        state = files[0].parent.name if files else ""
        if commit and state != commit:
            raise ConfigError(
                f"{shown}: commit {commit} is not in the cache of datasets, which has {state}: name that one, or fetch "
                "this one with a network"
            )
        splits[str(split)] = files, state
    return splits


def _commit_of(name: str, revision: str) -> str:
    """The commit that a branch or tag of a repository is now, which only the hub knows."""
    if not revision or re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    import huggingface_hub  # noqa: PLC0415 (comes with datasets)

    try:
        return str(huggingface_hub.HfApi().dataset_info(name, revision=revision).sha)
    except (OSError, ValueError) as error:  # what its errors are, that of being offline among them
        first = next(iter(str(error).strip().splitlines()), "")[:200]
        raise Unreadable(
            f"which commit {revision!r} is now only the hub can say: {first}", advice="name the commit, all 40 digits"
        ) from error


def _package() -> Any:
    try:
        import datasets  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise ConfigError("datasets of a hub need a package: pip install 'alignjax[datasets]'") from error
    version = importlib.metadata.version("datasets")
    if int(version.partition(".")[0]) < 4:
        raise ConfigError(
            f"datasets {version} can run code of a repository, which is never done here: pip install "
            "'alignjax[datasets]'"
        )
    return datasets


@contextlib.contextmanager
def _silent(package: Any) -> Any:
    """Keeps the package from bars and words of its own; what was read is said here."""
    shown, log = package.is_progress_bar_enabled(), package.logging
    verbosity = log.get_verbosity()
    package.disable_progress_bars()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if shown:
            package.enable_progress_bars()
