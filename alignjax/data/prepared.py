"""Datasets that prepare themselves: collected once, tokenized, written as TFDS, recognized by their settings.

A prepared dataset is a folder under `~/.cache/alignjax/data` (or `$ALIGNJAX_CACHE`), named by a hash of its settings
and of what it was made from. It appears in one rename, so that a killed preparation leaves nothing half-made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from alignjax.config import ConfigError, check_ranges, nearest
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.datasets.preparation import WRITABLE, Room, room_for, write_splits
from alignjax.data.datasets.records import Record, read_lengths, read_records
from alignjax.data.datasets.spooled import SplitRecords
from alignjax.data.text.chat import load_template, template_words, turn_end
from alignjax.data.text.special_tokens import ADDED, MARKS, NAMING
from alignjax.data.text.tokenizers import Tokenizer, load_tokenizer, read_tokenizer, tokenizer_file, train_bpe
from alignjax.outside import cache_root, writing
from alignjax.ranges import Count
from alignjax.workspace import Workspace, read_json, read_record, write_json

FORMAT = 2  # raise it when what is written changes: old folders are then left alone and new ones made
TOKENIZER_RULES = b"3"  # likewise, where the way in which somebody else's tokenizer is read changes
PATHS = ("tokenizer", "chat_template", "path", "test")  # settings that lead to contents, which are hashed
LEARNED_FROM = 128_000_000  # characters: of more, a part is what a tokenizer is learned from
PINS = "datasets.json"  # in a run folder: the prepared files that it goes on using
Report = Callable[[str], Any]


def cache_folder() -> Path:
    """Returns the folder of all prepared datasets: $ALIGNJAX_CACHE, or ~/.cache/alignjax/data."""
    return cache_root()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A description of rows and of the tokenizer that they are written with. Frozen and hashable: a value in a config.

    Args:
        vocab_size: Tokens of the byte-level BPE that is trained on the train split.
        tokenizer: Another tokenizer instead: the path of a tokenizer.json or tokenizer.model, or a Dataset whose
            tokenizer is to be shared.
        prefix: The start of the instruction frame around every prompt, never cut when a prompt is truncated.
        suffix: Its end.
        eos_token: The spelling of the token that ends a completion, instead of what the files of `tokenizer` say.
        bos_token: That of the token that begins every prompt; "" for prompts without any.
        pad_token: That of padding.
        sep_token: That of the token between two completions that are read together.
    """

    vocab_size: Count = 4096
    tokenizer: str | Dataset = ""
    prefix: str = ""
    suffix: str = ""
    eos_token: str | None = None
    bos_token: str | None = None
    pad_token: str | None = None
    sep_token: str | None = None

    name: ClassVar[str] = "dataset"
    schema: ClassVar[str] = "prompts"  # what a row holds, a key of SCHEMAS
    splits: ClassVar[tuple[str, ...]] = ("train",)
    answers: ClassVar[bool] = False  # whether rows carry a number for a verifier

    def __post_init__(self) -> None:
        check_ranges(self)

    def fingerprint(self) -> str:
        """Returns a short text that changes when what the rows are made from changes."""
        raise NotImplementedError

    def collect(self, report: Report) -> tuple[Mapping[str, Sequence[Record]], Mapping[str, Any]]:
        """Reads the rows: the only slow part, and only called when no prepared files exist.

        Args:
            report: Is told in a sentence what happens.

        Returns:
            The records by split, and a JSON-able account of them (counts, packages, bad rows).
        """
        raise NotImplementedError

    def sample(self, report: Report) -> tuple[Sequence[Record], str] | None:
        """Returns some records for a look at a dataset whose rows take long to collect, and in words which they are;
        None for one that is prepared in little time.

        Args:
            report: Is told in a sentence what happens.
        """
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able settings, nested datasets included; special tokens where they are named."""
        return {"dataset": type(self).__name__, **_without_unnamed(dataclasses.asdict(self))}

    @property
    def named_tokens(self) -> dict[str, str]:
        """The special tokens that the settings spell, by mark."""
        return {mark: token for mark in MARKS if (token := getattr(self, f"{mark}_token")) is not None}

    @property
    def tokenizer_owner(self) -> Dataset:
        """The dataset whose tokenizer this one has: itself, or one that shares its own."""
        return self.tokenizer.tokenizer_owner if isinstance(self.tokenizer, Dataset) else self

    @property
    def template(self) -> str:
        """The text of the chat template that conversations are rendered with."""
        return load_template("")

    @property
    def template_words(self) -> dict[str, str]:
        """What the template reads beside messages."""
        return template_words(None)

    @property
    def folder(self) -> Path:
        """The folder where the prepared files are or will be."""
        # The settings, the things read and the tokenizer: all that what is written depends on. Of files it is the
        # contents, and not the paths.
        inner = self.tokenizer.folder.name if isinstance(self.tokenizer, Dataset) else digest_file(self.tokenizer)
        settings = {key: value for key, value in self.settings.items() if key not in PATHS}
        return cache_folder() / f"{self.name}-{_key([FORMAT, settings, self.fingerprint(), inner])}"

    def prepare(self, report: Report = print, workers: int | None = None) -> dict[str, Any]:
        """Makes the prepared files unless they exist. What a killed preparation has done is not done again.

        Args:
            report: Is told in a sentence what was done.
            workers: The most processes that work on rows; None for as many as there are cores, and one for few rows.

        Returns:
            The account: rows by split, seconds, bad rows, ...; `reused` says that nothing had to be done.

        Raises:
            ConfigError: A file is missing, no row is usable, or the cache cannot be written.
            DataError: A file cannot be read, or holds rows that the settings refuse.
        """
        # All is written into a folder beside the final one and renamed at the end, so that whoever sees the final
        # folder sees it whole, also when two processes prepare the same data.
        folder = self.folder
        if is_prepared(folder):
            account = read_account(folder)
            report(f"{self.name}: {account['sentence']}, reused from {folder}")
            return {**account, "reused": True}
        began, cache = time.perf_counter(), cache_folder()
        with room_for(cache, folder.name, workers, report) as room:
            if not is_prepared(folder):  # another process may have made it by now
                self._build(room, folder, report, began)
        account = read_account(folder)
        if straddling := account.get("straddling"):
            report(
                f"{self.name}: {straddling:,} prompts end within a token of the whole conversation; there prompt and "
                "completion have the tokens that each has by itself, as in sampling"
            )
        report(f"{self.name}: {account['sentence']}, prepared in {account['seconds']:.1f} s at {folder}")
        return {**account, "reused": False}

    def gather(self, report: Report, room: Room) -> tuple[Mapping[str, SplitRecords], Mapping[str, Any]]:
        """Reads the rows as `collect` does; datasets that need not hold them in memory do without that."""
        splits, account = self.collect(report)
        return {split: SplitRecords((records,)) for split, records in splits.items()}, account

    def _build(self, room: Room, folder: Path, report: Report, began: float) -> None:
        splits, collected = self.gather(report, room)
        records = splits[self.splits[0]] if self.splits else SplitRecords(())
        if self.splits and not len(records):
            raise ConfigError(f"{self.name}: no usable rows for the split {self.splits[0]!r}; {dict(collected)}")
        talks = sum(each.talks for each in splits.values())
        tokenizer = room.tokenizer()  # of a start that was killed
        if tokenizer is None:
            tokenizer = self._with_turn_end(self._make_tokenizer(records, report), bool(records.talks))
            room.keep(tokenizer)
        straddling = write_splits(room, splits, tokenizer, self.name) if splits else 0
        counts = {split: len(each) for split, each in splits.items()}
        account = {
            "sentence": f"{sum(counts.values()):,} rows ({', '.join(f'{n:,} {split}' for split, n in counts.items())})",
            **collected,
            **({"straddling": straddling} if straddling else {}),
            **({"chat": {"template": self.template, "words": self.template_words, "rows": talks}} if talks else {}),
            "settings": self.settings,
            "rows": counts,
            "vocab_size": tokenizer.vocab_size,
            "special": tokenizer.settings,
            "seconds": round(time.perf_counter() - began, 2),
            "folder": str(folder),
        }
        with writing(folder.parent, WRITABLE):
            (room.folder / "account.json").write_text(json.dumps(account, indent=1), encoding="utf-8")
            _move(room.folder, folder)

    def _with_turn_end(self, tokenizer: Tokenizer, conversations: bool) -> Tokenizer:
        if not (conversations or getattr(self, "chat_template", "")):
            return tokenizer
        try:
            return dataclasses.replace(tokenizer, closing=turn_end(tokenizer, self.template))
        except BadRow as error:
            raise ConfigError(f"{self.name}: chat_template writes no assistant's turn: {error}") from error

    def _make_tokenizer(self, records: SplitRecords, report: Report) -> Tokenizer:
        named = self.named_tokens
        if named and not (self.tokenizer and isinstance(self.tokenizer, str)):
            raise ConfigError(
                f"{self.name}: {', '.join(f'{mark}_token={token!r}' for mark, token in named.items())} names a token "
                "of a published tokenizer, and this one is trained here, with marks of its own: leave it out, or name "
                "a file in tokenizer="
            )
        if isinstance(self.tokenizer, Dataset):
            self.tokenizer.prepare(report)
            return tokenizer_in(self.tokenizer.folder)
        if self.tokenizer:
            return load_tokenizer(self.tokenizer, **named)
        sample, share = records.sample(LEARNED_FROM)
        if share > 1:
            report(f"{self.name}: the tokenizer is learned from every {share}th part of the rows")
        texts = (text for r in sample for text in (r.prompt, *r.completions, self.prefix, self.suffix) if text)
        return train_bpe(texts, self.vocab_size)


def prepare(workspace: Workspace, *, dataset: Dataset) -> dict[str, Any]:
    """Prepares a dataset as a pipeline job, and notes in the run folder which files the run uses.

    Args:
        workspace: The run.
        dataset: The dataset to prepare.

    Returns:
        The account; see `Dataset.prepare`.
    """
    account = dataset.prepare()
    _pin(workspace, dataset)
    return account


def located(dataset: Dataset, workspace: Workspace | None, report: Report = print) -> Path:
    """Returns the folder of a dataset's prepared files, made now if need be.

    A run that used files once goes on using them: packages installed between two halves of a run must not change its
    data.

    Args:
        dataset: The dataset.
        workspace: The run that asks; None for no run.
        report: Is told in a sentence what is prepared.

    Raises:
        ConfigError: The files that the run was started on are gone and cannot be made again.
    """
    pinned = _pins(workspace).get(_key(dataset.settings))
    if pinned:
        if is_prepared(Path(pinned)):
            return Path(pinned)
        if dataset.folder != Path(pinned):
            raise ConfigError(
                f"this run was started on {pinned}, which is gone, and what {dataset.name} is made from has changed "
                "since; start a new run (another --run-dir), or put the files back"
            )
    if not is_prepared(dataset.folder):
        dataset.prepare(report)
    if workspace is not None and workspace.root.is_dir():
        _pin(workspace, dataset)
    return dataset.folder


def is_prepared(folder: Path) -> bool:
    """Says whether a folder holds a whole prepared dataset."""
    return (folder / "account.json").is_file()


def read_account(folder: Path) -> dict[str, Any]:
    """Returns what `Dataset.prepare` said about the files in a folder."""
    return read_json(folder / "account.json", f"remove {folder}, and it is prepared again")


@lru_cache(maxsize=8)
def tokenizer_in(folder: Path) -> Tokenizer:
    """Returns the tokenizer of a prepared dataset, with the special ids it was prepared with."""
    return read_tokenizer(folder, read_account(folder)["special"])


def tokenizer_of(dataset: Dataset, workspace: Workspace | None = None) -> Tokenizer:
    """Returns the tokenizer that a dataset's rows are written with; prepares the dataset if need be.

    Args:
        dataset: The dataset.
        workspace: The run that asks; None for no run.
    """
    return tokenizer_in(located(dataset, workspace))


class Chat(NamedTuple):
    """The chat template of a prepared dataset, what it reads beside messages, and whether all rows were conversations;
    `trained` is False of one that no row was rendered with."""

    template: str
    words: Mapping[str, str]
    only: bool
    trained: bool


def chat_of(dataset: Dataset, workspace: Workspace | None = None) -> Chat:
    """Returns how conversations of a dataset are rendered, as its prepared files say; prepares it if need be.

    Args:
        dataset: The dataset.
        workspace: The run that asks; None for no run.
    """
    account = read_account(located(dataset, workspace))
    if "chat" not in account:
        return Chat(dataset.template, dataset.template_words, only=False, trained=False)
    chat, rows = account["chat"], sum(account["rows"].values())
    return Chat(chat["template"], chat["words"], only=chat["rows"] == rows, trained=True)


def rows_of(dataset: Dataset, split: str, workspace: Workspace | None = None) -> tuple[Any, Any]:
    """Returns the rows of a split; prepares the dataset if need be.

    Args:
        dataset: The dataset.
        split: One of dataset.splits.
        workspace: The run that asks; None for no run.

    Returns:
        (random access to the rows, their `Lengths`).

    Raises:
        ConfigError: The split is unknown or empty.
    """
    if split not in dataset.splits:
        raise ConfigError(f"{dataset.name} has no split {split!r}.{nearest(split, dataset.splits)}")
    folder = located(dataset, workspace)
    lengths = read_lengths(folder, split)
    if not len(lengths):
        raise ConfigError(f"the split {split!r} of {dataset.name} is empty in this environment ({folder})")
    return read_records(folder, split), lengths


def _without_unnamed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the special tokens that nobody names, so that files which are prepared already are found."""
    unnamed = {f"{mark}_token" for mark in MARKS if settings.get(f"{mark}_token") is None}
    nested = {name: _without_unnamed(value) for name, value in settings.items() if isinstance(value, dict)}
    return {name: nested.get(name, value) for name, value in settings.items() if name not in unnamed}


def digest_file(path: str | Dataset) -> str:
    """Returns a hash of a tokenizer's file and of those beside it that name its special tokens; "" without a file."""
    if isinstance(path, Dataset) or not path:
        return ""
    file = tokenizer_file(path)
    beside = [file.with_name(name) for name in (*NAMING, ADDED)]  # which say what the special ids are
    content = b"".join(part.read_bytes() for part in (file, *beside) if part.is_file())
    return hashlib.sha256(TOKENIZER_RULES + content).hexdigest() if file.is_file() else ""


def _move(building: Path, folder: Path) -> None:
    try:
        os.rename(building, folder)
    except OSError:
        if not is_prepared(folder):  # otherwise another process was faster, with the same content
            raise


def _key(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _pins(workspace: Workspace | None) -> dict[str, str]:
    """The prepared folders that a run uses, by the key of the dataset's settings."""
    return (read_record(workspace.root / PINS, dict[str, str]) if workspace else None) or {}


def _pin(workspace: Workspace, dataset: Dataset) -> None:
    pins = _pins(workspace)
    both = {**pins, _key(dataset.settings): str(dataset.folder)}
    if pins != both:
        write_json(workspace.root / PINS, dict(sorted(both.items())))
