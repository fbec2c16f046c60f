"""A path becomes the files that hold its rows: one file, a folder, a glob, a list, a saved dataset, a hub id.

Nothing is left out in silence: what of a folder is not read stands in a note.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from alignjax.config import ConfigError, nearest
from alignjax.data.datasets import hub
from alignjax.data.datasets.row_files import existing_path
from alignjax.outside import ReadError, read_json, reading, user_path

Paths = str | tuple[str, ...]

ROWS = {".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow"}
PACKED = {".gz", ".zst", ".zstd", ".bz2", ".xz"}
# What `datasets` writes beside rows.
_ABOUT = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}
# Names of splits as files and folders spell them, and what they are called here.
_SPLIT_WORDS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
_SHOWN = 6


@dataclasses.dataclass(frozen=True)
class FileSet:
    """The files of a split, in the order of their rows.

    Args:
        files: Each by the name that messages call it.
        notes: Sentences about what is not read.
        made_from: What else than the contents tells these rows from others: the revision of a hub's repository.
    """

    files: dict[str, Path]
    notes: tuple[str, ...] = ()
    made_from: str = ""


def file_set(path: Paths, what: str, default: str = "train") -> FileSet:
    """Returns the files that a path names.

    Args:
        path: A file, a folder, a glob, "hub:OWNER/NAME", or several of them; a split may stand behind "#".
        what: The setting that holds the path, for messages.
        default: The split that is read of what has several and where none is named.

    Raises:
        ConfigError: There is nothing, or nothing with rows, or no such split; those that exist are named.
        ReadError: A folder or a file that describes it is damaged.
    """
    if isinstance(path, tuple):
        if not path:
            raise ConfigError(f"the list of paths is empty ({what}); give that of a file")
        sets = [file_set(each, what, default) for each in path]
        names = [name for each in sets for name in each.files]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise ConfigError(f"{twice} stands twice in the list of {what}: its rows would count twice; name it once")
        files = {name: file for each in sets for name, file in each.files.items()}
        return FileSet(files, sum((each.notes for each in sets), ()), " ".join(each.made_from for each in sets).strip())
    if path.startswith(hub.PREFIX):
        return _of_hub(path, what, default)
    with reading(f"{path[:100]} ({what})", "give the path of a file"):
        literal = not path or user_path(path).exists()
    place, _, split = (path, "", "") if literal else path.partition("#")
    if glob.has_magic(place) and not literal:
        return _matching(place, what)
    root = existing_path(place, what)
    if root.is_file():
        if split:
            raise ConfigError(f"{path}: a file has no splits ({what}); leave out #{split}")
        return FileSet({place: root})
    with reading(root, "name a folder that you may read"):
        return _in_folder(root, place, what, split, default)


def _of_hub(path: str, what: str, default: str) -> FileSet:
    parts = hub.read_id(path, what)
    splits, name = hub.splits_of(parts, what), f"{hub.PREFIX}{parts.name}{parts.config and ':'}{parts.config}"
    split = chosen_split(sorted(splits), parts.split, default, name, what)
    files, state = splits[split]
    named = {f"{name}#{split}/{file.name}": file for file in files}
    return FileSet(named, _others(name, sorted(set(splits) - {split})), f"{parts.name} {parts.config} {split} {state}")


def _matching(pattern: str, what: str) -> FileSet:
    """The files that a glob names: all of them are read, but not the hidden ones."""
    matches = sorted(glob.glob(str(user_path(pattern)), recursive=True), key=_in_order)
    files = {match: Path(match) for match in matches if Path(match).is_file()}
    if not files:
        folders = ", which names folders alone" if matches else ""
        raise ConfigError(f"there is no file {pattern}{folders} ({what}); give the path of your own copy")
    return FileSet(files, _note(pattern, [match for match in matches if match not in files], "they are no files"))


def _in_folder(root: Path, name: str, what: str, split: str, default: str) -> FileSet:
    """The files of a split in a folder: a dataset that `datasets` saved, or files that say by their names to which
    split they belong, as those of a hub's repository do; without such names all files are one split."""
    if (root / "dataset_dict.json").is_file():
        splits = _saved_splits(root / "dataset_dict.json")
        chosen = chosen_split(splits, split, default, name, what)
        others = [each for each in splits if each != chosen]
        return dataclasses.replace(_saved(root / chosen, f"{name}/{chosen}", what), notes=_others(name, others))
    if (root / "state.json").is_file() and not split:
        return _saved(root, name, what)
    rows, others = _listed(root)
    if not rows:
        about = f"; it holds {_some(others)}" if others else ", it is empty"
        raise ConfigError(f"{root.absolute()} has no file of rows ({what}){about}: {_some(sorted(ROWS), 9)} are read")
    by_split: dict[str, list[str]] = {}
    for file in rows:
        by_split.setdefault(_split_of(file), []).append(file)
    if set(by_split) == {""}:
        by_split = {"train" if not split else "": rows}
    nowhere = by_split.pop("", [])
    chosen = chosen_split(sorted(by_split), split, default, name, what)
    notes = (
        *_note(name, others, "they hold no rows"),
        *_note(name, nowhere, "their names say no split, as those of other files do"),
        *_others(name, sorted(set(by_split) - {chosen})),
    )
    return FileSet({f"{name.rstrip('/')}/{file}": root / file for file in by_split[chosen]}, notes)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and Path(value).name == value


def _saved_splits(file: Path) -> list[str]:
    """The splits that a saved dataset lists: names of folders beside the list, and nothing that leads elsewhere."""
    content = read_json(file)
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, list) or not all(map(_is_name, splits)):
        raise ReadError(f"{file} lists no splits by name; save the dataset again")
    return splits


def chosen_split(splits: Sequence[str], split: str, default: str, name: str, what: str) -> str:
    """Returns the split that is read: the one that is named, else the default, else the only one.

    Args:
        splits: Those that exist.
        split: The one that is asked for, or "".
        default: The one that is read if none is.
        name: What has the splits, for messages.
        what: The setting that names it.

    Raises:
        ConfigError: It does not exist, or none is named of several.
    """
    if split and split not in splits:
        has = f"it has {', '.join(splits)}" if splits else "it has no splits; leave out the name"
        raise ConfigError(f"{name} has no split {split!r} ({what}); {has}.{nearest(split, splits) if splits else ''}")
    if split or default in splits:
        return split or default
    if len(splits) == 1 and default == "train":
        return splits[0]
    has = f"but {', '.join(splits)}: name one, as in {name}#{splits[0]}" if splits else "and no other"
    raise ConfigError(f"{name} has no split {default!r} ({what}), {has}")


def _saved(folder: Path, name: str, what: str) -> FileSet:
    """The shards of a dataset that `datasets` saved, as its state.json lists them."""
    if not (folder / "state.json").is_file():
        raise ConfigError(f"{folder} has no state.json ({what}): it is not all of a saved dataset; save it again")
    state = read_json(folder / "state.json")
    listed = state.get("_data_files") if isinstance(state, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) and "filename" in each for each in listed):
        raise ConfigError(f"{folder / 'state.json'} lists no files ({what}); save the dataset again")
    names = [Path(str(each["filename"])).name for each in listed]
    if missing := next((each for each in names if not (folder / each).is_file()), ""):
        raise ConfigError(f"{folder} lacks {missing}, which its state.json lists ({what}); copy or save it again")
    more = sorted(file.name for file in folder.glob("*.arrow") if file.name not in names)
    return FileSet(
        {f"{name}/{each}": folder / each for each in names}, _note(name, more, "its state.json does not list them")
    )


def _listed(root: Path) -> tuple[list[str], list[str]]:
    """(files of rows, other files) below a folder; hidden ones are neither."""
    rows, others = [], []
    for folder, inside, names in os.walk(root):
        inside[:] = sorted((each for each in inside if not each.startswith((".", "__"))), key=_in_order)
        linked = [each for each in inside if (Path(folder) / each).is_symlink()]
        for name in [*(each for each in names if not each.startswith(".")), *linked]:
            file = Path(folder, name)
            suffixes = [each.lower() for each in file.suffixes if each.lower() not in PACKED]
            is_rows = name not in _ABOUT and suffixes[-1:] and suffixes[-1] in ROWS and file.is_file()
            (rows if is_rows else others).append(file.relative_to(root).as_posix())
    return sorted(rows, key=_in_order), sorted(others, key=_in_order)


def _split_of(file: str) -> str:
    """The split that a file's name or its folder says: the first word of either that names one."""
    for part in reversed(file.split("/")):
        words = [_SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", part.lower()) if word in _SPLIT_WORDS]
        if words:
            return words[0]
    return ""


def _in_order(path: str) -> tuple[object, ...]:
    """A key that puts part-2 before part-10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path))


def _others(name: str, splits: Sequence[str]) -> tuple[str, ...]:
    return (f"{name} has more splits, which this path does not read: {', '.join(splits)}",) if splits else ()


def _note(name: str, files: Sequence[str], why: str) -> tuple[str, ...]:
    return (f"{name}: not read are {_some(files)}: {why}",) if files else ()


def _some(names: Sequence[str], most: int = _SHOWN) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
