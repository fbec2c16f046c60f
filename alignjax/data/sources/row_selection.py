"""Which rows of a dataset a source uses and how they become rows of a Batch.

Settings are checked when a source is made; the data is opened when the first batch is asked for.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from alignjax.config import ConfigError
from alignjax.data.prepared import Dataset, rows_of, tokenizer_of
from alignjax.data.sources.batch_layout import pad_left, prompt_ids
from alignjax.data.sources.source import ROW, Buckets, Chosen, Opened, Source, bucket_shapes, endless
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.types import Batch
from alignjax.workspace import Workspace

LONG_PROMPTS = ("refuse", "skip", "truncate_left", "truncate_right")
LONG_COMPLETIONS = ("refuse", "skip", "truncate")
UNEVEN = ("refuse", "skip")

Row = Mapping[str, Any]
# (row, tokenizer, random numbers of this position, draws another row) -> fields of a Batch without its batch axis
Fields = Callable[[Row, Tokenizer, np.random.Generator, Callable[[], Row]], dict[str, Any]]

_log = logging.getLogger("alignjax.data")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all sources over a prepared dataset have in common. completion_length is 0 where there are none; buckets:
    see `Source`, without the full shape."""

    workspace: Workspace | None
    seed: int
    dataset: Dataset
    split: str
    prompt_length: int
    completion_length: int
    long_prompts: str
    long_completions: str
    shuffle: bool
    buckets: Buckets = ()

    def __post_init__(self) -> None:
        one_of("long_prompts", self.long_prompts, LONG_PROMPTS)
        one_of("long_completions", self.long_completions, LONG_COMPLETIONS)
        one_of(f"split of {self.dataset.name}", self.split, self.dataset.splits)

    def source(
        self, spec: Batch, fields: Fields, shard: tuple[int, int], count: int | None = None, uneven: str = "refuse"
    ) -> Source:
        """The source of rows with these fields; see `opened`. Raises ConfigError for buckets that do not grow."""
        shapes = bucket_shapes(self.buckets, self.prompt_length, self.completion_length)
        return Source(spec, lambda: self.opened(fields, count, uneven), shard, shapes, self.seed)

    def opened(self, fields: Fields, count: int | None = None, uneven: str = "refuse") -> Opened:
        """Prepares the dataset if need be, chooses the rows that fit and lays them out. count: completions that a row
        must have. Raises ConfigError for rows that the settings refuse."""
        rows, lengths = rows_of(self.dataset, self.split, self.workspace)
        tokenizer = tokenizer_of(self.dataset, self.workspace)
        prefix, suffix = (tokenizer.encode(text) for text in (self.dataset.prefix, self.dataset.suffix))
        room = self.prompt_length - 1 - len(prefix) - len(suffix)
        if room < 1:
            raise ConfigError(
                f"prompt_length={self.prompt_length} leaves no room: BOS and the frame of {self.dataset.name} take "
                f"{self.prompt_length - room} tokens; raise prompt_length"
            )
        kept, counts = self._fitting(rows, lengths, room, count, uneven)
        usable = Chosen(rows, kept)
        keep = "end" if self.long_prompts == "truncate_left" else "start"

        def laid_out(position: int, row: Row) -> Batch:
            rng = np.random.default_rng((self.seed % 2**32, ROW, position))
            ids = prompt_ids(row["prompt_tokens"], prefix, suffix, tokenizer.bos, self.prompt_length, keep)
            prompt, prompt_valid = pad_left(ids, self.prompt_length, tokenizer.pad)
            found = fields(row, tokenizer, rng, lambda: _other(usable, row, rng))
            example = np.asarray(row["example_id"], np.int32)
            rest: dict[str, Any] = {"prompt": prompt, "prompt_valid": prompt_valid, "example_id": example}
            return Batch(**rest, **found)

        most = np.array([room, max(self.completion_length - 1, 0)])
        # BOS and the frame around a prompt, EOS behind a completion
        tokens = np.minimum(lengths[kept, :2], most) + np.array([self.prompt_length - room, min(most[1], 1)])
        numbers = endless(range(len(usable)), self.seed, self.shuffle)
        return Opened(
            endless(usable, self.seed, self.shuffle).map_with_index(laid_out),
            len(usable),
            counts,
            lengths=lambda position: tuple(tokens[numbers[position]]),
        )

    def _fitting(
        self, rows: Any, lengths: np.ndarray, room: int, count: int | None, uneven: str
    ) -> tuple[np.ndarray, dict[str, int]]:
        """(numbers of the rows that are used, {what: how many rows}) from [rows, 3] lengths."""
        most = self.completion_length - 1 if self.completion_length else math.inf
        rules = {
            "long_prompts": (lengths[:, 0] > room, self.long_prompts, f"prompts of more than {room} tokens"),
            "long_completions": (
                lengths[:, 1] > most,
                self.long_completions,
                f"completions of more than {most} tokens",
            ),
        }
        if count is not None:
            rules["uneven"] = (lengths[:, 2] != count, uneven, f"rows without exactly {count} completions")
        of, total = f"{self.dataset.name}/{self.split}", len(lengths)
        for name, (which, policy, what) in rules.items():
            if policy == "refuse" and which.any():
                say = " or ".join(repr(option) for option in _OPTIONS[name][1:])
                raise ConfigError(
                    f"{of} has {which.sum():,} {what} (of {total:,}; {_places(rows, which)}); set {name}={say}, or "
                    "give more room"
                )
        skipped = {name: which for name, (which, policy, _) in rules.items() if policy == "skip"}
        used = ~np.any([*skipped.values(), np.zeros(total, bool)], axis=0)
        counts = {"rows": int(used.sum()), "of": total}
        counts |= {f"skipped_{name}": int(which.sum()) for name, which in skipped.items()}
        cut = {name: which & used for name, (which, policy, _) in rules.items() if policy.startswith("truncate")}
        counts |= {f"cut_{name}": int(which.sum()) for name, which in cut.items()}
        if not counts["rows"]:
            raise ConfigError(f"{of}: no row is left of {total:,} ({counts}); raise prompt_length or completion_length")
        left_out = {f"skipped {name}": which for name, which in skipped.items() if which.any()}
        left_out |= {f"cut {name}": which for name, which in cut.items() if which.any()}
        if left_out:
            said = [f"{which.sum():,} {name} ({_places(rows, which)})" for name, which in left_out.items()]
            said = "; ".join(said).replace("_", " ")
            _log.warning("%s: %s of %s rows used; %s", of, f"{counts['rows']:,}", f"{total:,}", said)
        return np.flatnonzero(used), counts


_OPTIONS = {"long_prompts": LONG_PROMPTS, "long_completions": LONG_COMPLETIONS, "uneven": UNEVEN}


def _other(rows: Chosen, row: Row, rng: np.random.Generator) -> Row:
    """Another row, drawn evenly. Raises ConfigError if there is no other."""
    for _ in range(64):
        found = rows[int(rng.integers(len(rows)))]
        if found["completions"][0] != row["completions"][0]:
            return found
    raise ConfigError("candidates needs at least two rows with different completions")


def _places(rows: Any, which: np.ndarray, shown: int = 3) -> str:
    """Where the first of some rows come from: 'lines 4, 9, 12, ...' of their file, or the names of their files."""
    found = [json.loads(rows[int(number)]["meta"]) for number in np.flatnonzero(which)[:shown]]
    more = ", ..." if which.sum() > shown else ""
    if all("line" in meta for meta in found):
        return f"line{'s' if len(found) > 1 else ''} {', '.join(str(meta['line']) for meta in found)}{more}"
    return f"from {', '.join(str(meta.get('file', '?')) for meta in found)}{more}"


def one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raises ConfigError unless `value` is one of `options`."""
    if value not in options:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(options)}")
