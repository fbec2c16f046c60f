"""The settings that all sources over a prepared dataset share, which rows fit them, and how rows become batches.

Settings are checked when a source is made; the data is opened when the first batch is asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np

from alignjax.config import ConfigError, check_ranges, fn, hyperparameters
from alignjax.data.datasets.framing import CONTENT, Tokens
from alignjax.data.datasets.records import SCHEMAS, Lengths, completions_of, prompt_of
from alignjax.data.prepared import Dataset, rows_of, tokenizer_of
from alignjax.data.sources.batch_layout import batch_spec, completion_fields, framed_ids, pad_left, prompt_ids
from alignjax.data.sources.source import ROW, Buckets, OpenedSource, Source, Subset, bucket_shapes, endless
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.data.text.words import same_text
from alignjax.ranges import LARGEST, Count, Natural, Seed
from alignjax.types import Batch
from alignjax.workspace import Workspace

# What a setting may say about rows that do not fit.
LongPrompts = Literal["refuse", "skip", "truncate_left", "truncate_right"]
LongCompletions = Literal["refuse", "skip", "truncate"]

Row = Mapping[str, Any]

_log = logging.getLogger("alignjax.data")


@dataclasses.dataclass(frozen=True)
class Texts:
    """The settings of a source over a prepared dataset. They are the hyper-parameters of every function under
    `text_source`.

    Args:
        workspace: The run that asks, which goes on using the prepared files that it used before; None for no run.
        seed: Decides the order of the rows and whatever a source draws.
        dataset: The dataset whose rows are used, prepared when the first batch is asked for.
        split: The part of the dataset, such as "train" or "test".
        batch_size: B, the global number of rows of a batch.
        prompt_length: P, tokens of a prompt, BOS and the frame of the dataset included.
        completion_length: T, tokens of a completion, EOS included; 0 for sources without completions.
        long_prompts: Says what happens to rows whose prompt does not fit: "refuse" (an error), "skip", "truncate_left"
            (the end is kept) or "truncate_right" (the start is kept).
        long_completions: The same for completions: "refuse", "skip" or "truncate".
        shuffle: False gives the rows in the order of the dataset.
        buckets: Shapes (prompt tokens, completion tokens) for batches of short rows, growing; the full shape (P, T) is
            present without being named.
        numbers: Columns of numbers that the dataset keeps (its `keep`), which go into prompts[name] [B]: "margin" for
            `losses.bradley_terry`, attributes, the number of a user. NaN where a row has none.
        shard: (index, count): this process makes the index-th of count equal runs of rows of every batch.

    Raises:
        ConfigError: The dataset has no such split.
    """

    workspace: Workspace | None
    seed: Seed
    _: dataclasses.KW_ONLY
    dataset: Dataset
    split: str = "train"
    batch_size: Count
    prompt_length: Count
    completion_length: Natural
    long_prompts: LongPrompts = "refuse"
    long_completions: LongCompletions = "refuse"
    shuffle: bool = True
    buckets: Buckets = ()
    numbers: tuple[str, ...] = ()
    shard: tuple[Natural, Count] = (0, 1)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.split not in self.dataset.splits:
            options = ", ".join(self.dataset.splits)
            raise ConfigError(f"split of {self.dataset.name} is {self.split!r}; it must be one of {options}")

    @property
    def name(self) -> str:
        """The dataset and its split, as messages name them."""
        return f"{self.dataset.name}/{self.split}"

    def need(self, *schemas: str) -> None:
        """Raises ConfigError unless the dataset holds rows of one of these schemas."""
        name, schema = self.dataset.name, self.dataset.schema
        if schema not in schemas:
            wanted = " or ".join(f"{option} ({SCHEMAS[option]})" for option in schemas)
            raise ConfigError(f"{name} holds {schema} ({SCHEMAS[schema]}); needed: {wanted}")

    def spec(self, completions: int, *extra: str) -> Batch:
        """Returns the shapes of batches with these settings; see `batch_spec`."""
        return batch_spec(self.batch_size, self.prompt_length, completions, self.completion_length, extra)

    def source(self, spec: Batch, layout: Layout, rules: Callable[[TextRows], Sequence[Rule]] | None = None) -> Source:
        """Returns the source of the rows that fit.

        Args:
            spec: Shapes of the batches.
            layout: Makes the fields of a Batch from a row, without the batch axis; those of the prompt are filled in
                unless it makes them.
            rules: Says which rows fit, instead of `length_rules`.

        Raises:
            ConfigError: The buckets do not grow or the shard does not divide the batch.
        """
        shapes = bucket_shapes(self.buckets, self.prompt_length, self.completion_length)
        if self.numbers:
            each = jax.ShapeDtypeStruct((self.batch_size,), np.float32)
            spec = spec.replace(prompts={**spec.prompts, **dict.fromkeys(self.numbers, each)})
        return Source(spec, lambda: self._opened(layout, rules or length_rules), self.shard, shapes, self.seed)

    def _opened(self, layout: Layout, rules: Callable[[TextRows], Sequence[Rule]]) -> OpenedSource:
        # The rows that fit are numbered 0 .. n-1 and repeated endlessly by grain; a row is laid out when its position
        # is asked for. Random numbers are keyed by (seed, position), so that a batch does not depend on those before.
        rows = _open_rows(self)
        _check_numbers(rows)
        numbers, counts = _select(rows, rules(rows))
        usable = dataclasses.replace(rows, rows=Subset(rows.rows, numbers), lengths=rows.lengths[numbers])

        def laid_out(position: int, row: Row) -> Batch:
            ids = usable.prompt_ids(prompt_of(row))
            prompt, prompt_valid = pad_left(ids, self.prompt_length, usable.tokenizer.pad)
            example = np.asarray(row["example_id"], np.int32)
            rng = np.random.default_rng((self.seed % 2**32, ROW, position))
            fields: dict[str, Any] = {"prompt": prompt, "prompt_valid": prompt_valid, "example_id": example}
            made = {**fields, **layout(row, usable, rng)}
            if self.numbers:
                made["prompts"] = {**made.get("prompts", {}), **numbers_of(row, self.numbers)}
            return Batch(**made)

        longest = max(self.completion_length - 1, 0)
        # BOS and the frame around a prompt that no template wrote, what ends a completion
        lengths = Lengths(*usable.lengths.T)
        around = np.where(lengths.frame < 0, self.prompt_length - rows.room, 0)
        before = np.minimum(lengths.prompt + around, self.prompt_length)
        behind = np.minimum(lengths.longest, longest) + min(longest, 1)
        tokens = np.stack([before, behind], axis=1)
        order = endless(range(len(numbers)), self.seed, self.shuffle)
        batches = endless(usable.rows, self.seed, self.shuffle).map_with_index(laid_out)
        return OpenedSource(batches, len(numbers), counts, lengths=lambda position: tuple(tokens[order[position]]))


def numbers_of(row: Row, names: Sequence[str]) -> dict[str, np.float32]:
    """Returns the numbers in columns of a row that its dataset keeps, by name; NaN where it has none.

    Args:
        row: The row, as it was written.
        names: The columns.

    Raises:
        ValueError: There is something else in one of them.
    """
    columns = json.loads(row["meta"]).get("columns", {})
    for name in names:
        value = columns.get(name)
        if value is not None and (isinstance(value, bool | str | list | dict) or not abs(value) <= LARGEST):
            raise ValueError(f"its {name!r} is {str(value)[:40]!r}, which is no finite number")
    return {name: np.float32(math.nan if columns.get(name) is None else columns[name]) for name in names}


def _check_numbers(rows: TextRows) -> None:
    """Reads the numbers of all rows once, so that what is none is refused before the first step."""
    texts, known = rows.texts, set()
    for number, row in enumerate(rows.rows if texts.numbers else ()):
        try:
            known |= {name for name, value in numbers_of(row, texts.numbers).items() if not np.isnan(value)}
        except ValueError as error:
            where = rows.origin(np.arange(len(rows.lengths)) == number)
            raise ConfigError(
                f"{texts.name}, {where}: {error}; leave the row out, or the column out of numbers"
            ) from None
    if lacking := [name for name in texts.numbers if name not in known]:
        kept = ", ".join(getattr(texts.dataset, "keep", ())) or "none"
        raise ConfigError(
            f"numbers names {', '.join(map(repr, lacking))}, of which {texts.name} has no number: it keeps {kept}; "
            "name the column in keep=(...) of the dataset"
        )


@dataclasses.dataclass(frozen=True)
class TextRows:
    """The rows of an opened split, with what is needed to lay them out.

    Args:
        texts: The settings of the source.
        rows: Random access to the rows.
        lengths: int [rows, 6], see `Lengths`.
        tokenizer: The tokenizer that the rows are written with.
        prefix: Tokens of the frame before every prompt.
        suffix: Tokens of the frame behind it.
    """

    texts: Texts
    rows: Sequence[Row]
    lengths: np.ndarray
    tokenizer: Tokenizer
    prefix: Sequence[int]
    suffix: Sequence[int]

    @property
    def room(self) -> int:
        """Counts the tokens of a prompt that fit into its frame, behind BOS where there is one."""
        opening = int(self.tokenizer.opening is not None)
        return self.texts.prompt_length - opening - len(self.prefix) - len(self.suffix)

    @property
    def rooms(self) -> np.ndarray:
        """The tokens that fit of each row's prompt [rows]; one that a template wrote has BOS and frame in it."""
        return np.where(Lengths(*self.lengths.T).frame < 0, self.room, self.texts.prompt_length)

    def prompt_ids(self, prompt: Tokens) -> list[int]:
        """Returns BOS and a prompt in its frame, prompt_length tokens at most; only the prompt itself is cut."""
        keep = "end" if self.texts.long_prompts == "truncate_left" else "start"
        if len(prompt.parts):
            return framed_ids(prompt, self.texts.prompt_length, keep)
        frame = (self.prefix, self.suffix, self.tokenizer.opening)
        return prompt_ids(prompt.ids, *frame, self.texts.prompt_length, keep)

    def rewritten(self, row: Row, text: str) -> Tokens:
        """Returns the tokens of another text in the place of a row's first completion, in the frame of that one. Where
        it is too long it is cut before its end, which stays."""
        first, most = completions_of(row)[0], self.texts.completion_length
        if not len(first.parts):
            return Tokens(self.tokenizer.encode(text)[: most - 1])
        parts = np.asarray(first.parts)
        said = int(np.flatnonzero(parts == CONTENT)[-1]) + 1
        before, old = self.tokenizer.backend.decode(first.ids[:said].tolist()), row["completions"][0].decode().strip()
        start = before[: max(before.rfind(old), 0)]
        ids = self.tokenizer.encode(start + text)[: most - len(parts) + said]
        return Tokens([*ids, *first.ids[said:]], [CONTENT] * len(ids) + parts[said:].tolist())

    def completions(self, texts: Row | Sequence[Tokens]) -> dict[str, Any]:
        """Returns tokens, valid and mask [N,T] of the completions of a row, or of the tokens of N texts."""
        ids = completions_of(texts) if isinstance(texts, Mapping) else texts
        return completion_fields(ids, self.texts.completion_length, self.tokenizer)

    def another(self, row: Row, rng: np.random.Generator) -> Row:
        """Draws another row evenly. Raises ConfigError if there is none with another completion."""
        for _ in range(64):
            other = self.rows[int(rng.integers(len(self.rows)))]
            if not same_text(other["completions"][0].decode(), row["completions"][0].decode()):
                return other
        raise ConfigError("candidates needs at least two rows with different completions")

    def origin(self, which: np.ndarray, shown: int = 3) -> str:
        """Says where the first of some rows come from: 'lines 4, 9, 12, ...' of their file, or names of their files."""
        origins = [json.loads(self.rows[int(number)]["meta"]) for number in np.flatnonzero(which)[:shown]]
        more = ", ..." if which.sum() > shown else ""
        if all("line" in meta for meta in origins):
            numbers = (f"{meta['file']}:{meta['line']}" if "file" in meta else str(meta["line"]) for meta in origins)
            return f"line{'s' if len(origins) > 1 else ''} {', '.join(numbers)}{more}"
        return f"from {', '.join(str(meta.get('file', '?')) for meta in origins)}{more}"


# (row, the rows of the stream, random numbers of this position) -> fields of a Batch without its batch axis
Layout = Callable[[Row, TextRows, np.random.Generator], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A setting and the rows that it speaks about.

    Args:
        setting: The name of the setting.
        policy: What it says to do with these rows.
        which: bool [rows], true where the rule applies.
        what: What these rows are, in words.
        options: What else it may say than "refuse".
    """

    setting: str
    policy: str
    which: np.ndarray
    what: str
    options: tuple[str, ...]


def length_rules(rows: TextRows) -> list[Rule]:
    """Returns the rules about prompts and completions that are too long, and about rows that say nothing: completions
    without a token, and pairs or lists whose completions are the same tokens once they are cut."""
    texts, most = rows.texts, rows.texts.completion_length - 1
    prompt, longest, number, frame, alike, shortest = rows.lengths.T
    long = prompt > rows.rooms, (longest > most) & (most >= 0)
    prompts, completions = f"prompts of more than {rows.room} tokens", f"completions of more than {most} tokens"
    rules = [
        Rule("long_prompts", texts.long_prompts, long[0], prompts, get_args(LongPrompts)[1:]),
        Rule("long_completions", texts.long_completions, long[1], completions, get_args(LongCompletions)[1:]),
    ]
    if texts.long_prompts.startswith("truncate"):  # all of a frame stays, and a token of content
        whole = (frame >= texts.prompt_length) & long[0]
        rules.append(Rule("long_frames", "skip", whole, "prompts whose frame alone is too long", ()))
    opened = rows.tokenizer.opening is not None or bool([*rows.prefix, *rows.suffix])
    none = (prompt + opened < 1) & (frame < 0)
    rules.append(Rule("empty_prompts", "skip", none, "prompts without a token, and no BOS before them", ()))
    if texts.completion_length:
        rules.append(Rule("empty_completions", "skip", (number > 0) & (shortest < 1), "empty completions", ()))
        same = (number > 1) & (alike >= texts.completion_length)
        rules.append(Rule("alike_completions", "skip", same, "rows of completions alike", ()))
    return rules


def text_source(**fixed: Any) -> Callable[[Callable[..., Source]], Callable[..., Source]]:
    """Makes a source of a function of `Texts`: (workspace, seed, *, ...) for the `source` slot of an Experiment.

    The fields of `Texts` become hyper-parameters beside those of the function itself, which come first where both have
    one of the same name.

    Args:
        fixed: Values of fields that the source does not offer.
    """

    def decorate(function: Callable[..., Source]) -> Callable[..., Source]:
        extra = hyperparameters(function)
        shared = {name: field for name, field in hyperparameters(Texts).items() if name not in {**extra, **fixed}}
        if "completion_length" in shared:  # only a source that fixes it may do without completions
            shared["completion_length"] = shared["completion_length"].replace(annotation=Count)

        def source(workspace: Workspace | None, seed: int, **settings: Any) -> Source:
            settings = dict(fn(source, **settings).kwargs)  # checked, also where no config does it
            common = {name: settings.pop(name) for name in shared}
            return function(Texts(workspace, seed, **fixed, **common), **settings)

        functools.update_wrapper(source, function, ("__module__", "__name__", "__qualname__", "__doc__"))
        del source.__wrapped__  # the signature below is the one to read, not that of `function`
        leading = list(inspect.signature(source).parameters.values())[:2]
        source.__signature__ = inspect.Signature([*leading, *shared.values(), *extra.values()])  # type: ignore
        source.__annotations__ |= {name: field.annotation for name, field in {**shared, **extra}.items()}
        return source

    return decorate


def _open_rows(texts: Texts) -> TextRows:
    """The rows of a split, which is prepared if need be. Raises ConfigError if the frame leaves no room for prompts."""
    dataset = texts.dataset
    rows, lengths = rows_of(dataset, texts.split, texts.workspace)
    tokenizer = tokenizer_of(dataset, texts.workspace)
    opened = TextRows(texts, rows, lengths, tokenizer, *map(tokenizer.encode, (dataset.prefix, dataset.suffix)))
    if opened.room < 1:
        raise ConfigError(
            f"prompt_length={texts.prompt_length} leaves no room: BOS and the frame of {dataset.name} take "
            f"{texts.prompt_length - opened.room} tokens; raise prompt_length"
        )
    return opened


def _select(rows: TextRows, rules: Sequence[Rule]) -> tuple[np.ndarray, dict[str, int]]:
    """(numbers of the rows that are used, {what: how many rows}); what is left out or cut is logged."""
    name, total = rows.texts.name, len(rows.lengths)
    used = np.ones(total, bool)
    for rule in rules:
        if rule.policy == "refuse" and rule.which.any():
            raise ConfigError(
                f"{name} has {rule.which.sum():,} {rule.what} (of {total:,}; {rows.origin(rule.which)}); set "
                f"{rule.setting}={' or '.join(map(repr, rule.options))}, or give more room"
            )
        if rule.policy == "skip":
            used &= ~rule.which
    counts, notes = {"rows": int(used.sum()), "of": total}, []
    for rule in rules:
        if rule.policy == "refuse":
            continue
        verb, which = ("skipped", rule.which) if rule.policy == "skip" else ("cut", rule.which & used)
        counts[f"{verb}_{rule.setting}"] = int(which.sum())
        if which.any():
            notes.append(f"{which.sum():,} {verb} {rule.setting.replace('_', ' ')} ({rows.origin(which)})")
    if not counts["rows"]:
        raise ConfigError(f"{name}: no row is left of {total:,} ({counts}); raise prompt_length or completion_length")
    if notes:
        _log.warning("%s: %s of %s rows used; %s", name, f"{counts['rows']:,}", f"{total:,}", "; ".join(notes))
    return np.flatnonzero(used), counts
