"""Records: what a loader makes of a file, and how they are tokenized, written and read back as a TFDS dataset."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module  # type: ignore[attr-defined]
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.core.utils import gcs_utils

from alignjax.data.datasets.framing import FRAME, Framed, Tokens, encoded
from alignjax.data.text.tokenizers import Tokenizer

MOST_CHARACTERS = 1 << 20  # of records that are tokenized together
ALIKE = 2**31 - 1  # tokens that two completions have in common which are the same

# What a row holds, by the name of its schema.
SCHEMAS = {
    "prompts": "a prompt",
    "instructions": "a prompt and its completion",
    "preferences": "a prompt, two completions and the probability that the first is better",
    "joint_preferences": "two prompts with a completion each, and the probability that the first pair is better",
    "rankings": "a prompt and completions with a score each",
    "thumbs": "a prompt, a completion and a score for it",
    "judgements": "a prompt, a response and what is wrong with it, if anything is",
}


@dataclasses.dataclass(frozen=True)
class Record:
    """A row before tokenization.

    Args:
        prompt: The prompt, without the frame of the dataset.
        completions: Its K completions.
        scores: K numbers, higher is better, or none.
        preference: P(completions[0] beats completions[1]); NaN where nobody judged.
        weight: How much the row counts.
        answer: The number that a verifier compares with; NaN for none.
        meta: JSON-able notes that say where the row comes from.
        layout: The layout that the row was read by; it is not written.
        chats: Of a row of messages, the conversations that a template is to write (see `conversation`): that of the
            prompt and its completions, or of each of two prompts and its one completion.
        framed: Those conversations, written.
        grouped_by: The text by which the row is put into a split; "" for the prompt.
    """

    prompt: str
    completions: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    preference: float = math.nan
    weight: float = 1.0
    answer: float = math.nan
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layout: str = ""
    chats: tuple[Mapping[str, Any], ...] = ()
    framed: tuple[Framed, ...] = ()
    grouped_by: str = ""


class Lengths(NamedTuple):
    """What is counted of a row, or the columns of these numbers of many rows: `Lengths(*read_lengths(..).T)`.

    Attributes:
        prompt: Tokens of the prompt.
        longest: Tokens of the longest completion without the one that ends it.
        completions: The number of completions.
        frame: Tokens of the prompt's frame where a template wrote it, else -1.
        alike: Tokens that all completions, or two with different scores, have in common from the start on: ALIKE where
            they are the same, -1 of fewer than two.
        shortest: Tokens of the shortest completion, as of the longest.
    """

    prompt: Any
    longest: Any
    completions: Any
    frame: Any
    alike: Any
    shortest: Any


def is_aside(text: str, fraction: float) -> bool:
    """Says whether a text is among the share of all texts that is put aside: a pure function of the text.

    Args:
        text: Any text.
        fraction: The share of all texts that is put aside, in [0, 1].
    """
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _features() -> Any:
    text, tokens = tfds.features.Text(), tfds.features.Tensor(shape=(None,), dtype=np.int32)
    return tfds.features.FeaturesDict(
        {
            "prompt": text,
            "completions": tfds.features.Sequence(text),  # K
            "scores": tfds.features.Tensor(shape=(None,), dtype=np.float32),  # K, or none if not rated
            "preference": np.float32,  # probability that completion 0 beats completion 1; NaN: not judged
            "weight": np.float32,
            "answer": np.float32,  # the number a verifier looks for; NaN: there is none
            "example_id": np.int32,  # unique over all splits
            "meta": text,  # JSON: where the row comes from
            "prompt_tokens": tokens,
            "completion_tokens": tokens,  # of all K, one after another
            "completion_lengths": tokens,  # K
            "prompt_parts": tokens,  # what each token of a conversation is part of; none in a plain text
            "completion_parts": tokens,  # likewise, of all K
        }
    )


class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Describes splits in array_record files, whose rows are in order; K completions may differ from row to row.

    It downloads and writes nothing but this description, and is read without TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        # Rows stay in order, so that a row's number says the same thing on every machine.
        return tfds.core.DatasetInfo(builder=self, features=_features(), disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> Any:
        raise NotImplementedError

    def _generate_examples(self, **kwargs: Any) -> Any:
        raise NotImplementedError


def tokens_of(records: Sequence[Record], tokenizer: Tokenizer) -> tuple[list[tuple[Tokens, list[Tokens]]], int]:
    """Returns ((prompt, its completions) of every record, the number of completions where a token reaches over the
    border to the prompt), all encoded together, so that all cores encode.

    Args:
        records: The records, conversations rendered.
        tokenizer: What they are tokenized with.
    """
    plain = [record for record in records if not record.framed]
    prompts = iter(tokenizer.encode_batch([record.prompt for record in plain]))
    texts = iter(tokenizer.encode_batch([text for record in plain for text in record.completions]))
    chats, straddling = encoded([chat for record in records for chat in record.framed], tokenizer)
    rest, rows = iter(chats), []
    for record in records:
        if record.framed:
            (prompt, completions), *more = [next(rest) for _ in record.framed]
            # of a row with two prompts the second one is the third completion
            rows.append((prompt, [*completions, *(each for other, own in more for each in (*own, other))]))
        else:
            rows.append((Tokens(next(prompts)), [Tokens(next(texts)) for _ in record.completions]))
    return rows, straddling


def frame_size(prompt: Tokens) -> int:
    """Returns the number of tokens of a prompt's frame where a template wrote it, else -1."""
    return int(np.sum(np.asarray(prompt.parts) == FRAME)) if len(prompt.parts) else -1


def ended(completion: Tokens, tokenizer: Tokenizer) -> list[int]:
    """Returns the ids of a completion with its end: its own if a template wrote it, else that of the tokenizer."""
    return [*completion.ids] if len(completion.parts) else tokenizer.closed(completion.ids)


def _measures(
    prompt: Tokens, completions: Sequence[Tokens], tokenizer: Tokenizer, scores: Sequence[float] = ()
) -> Lengths:
    """What is counted of a row of tokens."""
    ends = [ended(tokens, tokenizer) for tokens in completions]
    shared = min((_shared(ends[0], other) for other in ends[1:]), default=-1)
    pairs = itertools.combinations(range(len(ends)), 2) if scores else ()
    unequal = [_shared(ends[i], ends[j]) for i, j in pairs if scores[i] != scores[j]]
    sizes = [len(ids) - 1 for ids in ends] or [0]
    alike = max([shared, *unequal])
    return Lengths(len(prompt.ids), max(sizes), len(completions), frame_size(prompt), alike, min(sizes))


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """The number of tokens that two completions have in common from the start on; ALIKE of those that are the same."""
    if list(first) == list(second):
        return ALIKE
    ends = (k for k, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(ends, min(len(first), len(second)))


def _row(record: Record, prompt: Tokens, completions: Sequence[Tokens], number: int) -> dict[str, Any]:
    return {
        "prompt": record.prompt,
        "completions": list(record.completions),
        "scores": np.asarray(record.scores, np.float32),
        "preference": record.preference,
        "weight": record.weight,
        "answer": record.answer,
        "example_id": number,
        "meta": json.dumps(dict(record.meta), sort_keys=True),
        "prompt_tokens": np.asarray(prompt.ids, np.int32),
        "completion_tokens": np.asarray([token for each in completions for token in each.ids], np.int32),
        "completion_lengths": np.asarray([len(each.ids) for each in completions], np.int32),
        "prompt_parts": np.asarray(prompt.parts, np.int32),
        "completion_parts": np.asarray([part for each in completions for part in each.parts], np.int32),
    }


def _some_at_once(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Runs of records: 1000 at most, and not many characters, so that they fit into memory with their tokens."""
    block, size = [], 0
    for record in records:
        block.append(record)
        size += len(record.prompt) + sum(map(len, record.completions))
        if len(block) == 1000 or size > MOST_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def write_shard(records: Iterable[Record], tokenizer: Tokenizer, first_id: int, shard: Path) -> tuple[np.ndarray, int]:
    """Writes records as one array_record file, which appears whole.

    Args:
        records: The records.
        tokenizer: What they are tokenized with.
        first_id: The id of the first; those of the others follow.
        shard: The file.

    Returns:
        (the `Lengths` of the rows, the number of completions whose first characters share a token
        with the end of their prompt).
    """
    features = _features()
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    lengths: list[Lengths] = []
    straddling, beside = 0, shard.with_name(f".{os.getpid()}-{shard.name}")
    try:
        writer = array_record_module.ArrayRecordWriter(str(beside), "group_size:1")
        for block in _some_at_once(records):
            tokens, over = tokens_of(block, tokenizer)
            straddling += over
            for record, (prompt, completions) in zip(block, tokens, strict=True):
                row = _row(record, prompt, completions, first_id + len(lengths))
                writer.write(serializer.serialize_example(features.encode_example(row)))
                lengths.append(_measures(prompt, completions, tokenizer, record.scores))
        writer.close()
    except RuntimeError as error:  # how array_record says what the system answered
        if "() failed: " not in str(error):
            raise
        raise OSError(str(error).partition("() failed: ")[2].partition(";")[0]) from error
    os.replace(beside, shard)
    return np.asarray(lengths, np.int32).reshape(-1, len(Lengths._fields)), straddling


def describe_shards(folder: Path, shards: Mapping[str, Sequence[Path]], lengths: Mapping[str, Any]) -> None:
    """Gives the shards of splits their final names, and writes what tells readers about them: a TFDS dataset, and the
    token counts of every row, from which sources know which rows are too long without reading them all.

    Args:
        folder: The folder of the dataset.
        shards: The files of every split, in order.
        lengths: What `write_shard` returned for each of them.
    """
    gcs_utils._is_gcs_disabled = True  # no look-up in a bucket, whatever the environment says
    core: Any = tfds.core
    builder = Records(data_dir=str(folder), file_format="array_record")
    place = folder / "records" / str(Records.VERSION)
    place.mkdir(parents=True, exist_ok=True)
    splits = []
    for split, files in shards.items():
        if not files:
            continue
        template = core.ShardedFileTemplate(
            data_dir=place, dataset_name="records", split=split, filetype_suffix="array_record"
        )
        for number, file in enumerate(files):
            os.replace(file, template.sharded_filepath(shard_index=number, num_shards=len(files)))
        sizes = [len(each) for each in lengths[split]]
        splits.append(core.SplitInfo(name=split, shard_lengths=sizes, num_bytes=0, filename_template=template))
    builder.info.set_splits(core.splits.SplitDict(splits))
    builder.info.write_to_directory(place)
    whole: dict[str, Any] = {
        split: np.concatenate([np.zeros((0, len(Lengths._fields)), np.int32), *each]) for split, each in lengths.items()
    }
    np.savez(folder / "lengths.npz", **whole)


def read_records(folder: Path, split: str) -> Sequence[dict[str, Any]]:
    """Returns random access to the rows of a split that `write_shard` wrote; texts are bytes, as TFDS gives them.

    Args:
        folder: The folder of a prepared dataset.
        split: The name of the split.
    """
    gcs_utils._is_gcs_disabled = True
    builder: Any = tfds.builder_from_directory(str(folder / "records" / str(Records.VERSION)))
    return builder.as_data_source(split=split)


def read_lengths(folder: Path, split: str) -> np.ndarray:
    """Returns the lengths of a split's rows.

    Args:
        folder: The folder of a prepared dataset.
        split: The name of the split.

    Returns:
        int32 [rows, 6], the columns those of `Lengths`.
    """
    with np.load(folder / "lengths.npz") as lengths:
        return lengths[split]


def completions_of(row: Mapping[str, Any]) -> list[Tokens]:
    """Returns the tokens of each of a row's K completions. Those that a template wrote have their end, and say of each
    token what it is part of."""
    ends = np.cumsum(row["completion_lengths"])[:-1]
    if not len(row["completion_lengths"]):
        return []
    ids = np.split(np.asarray(row["completion_tokens"], np.int32), ends)
    parts = np.asarray(row["completion_parts"], np.int32)
    return [Tokens(*pair) for pair in zip(ids, np.split(parts, ends) if len(parts) else [()] * len(ids), strict=True)]


def prompt_of(row: Mapping[str, Any]) -> Tokens:
    """Returns the tokens of a row's prompt, which say what they are part of where a template wrote them."""
    return Tokens(np.asarray(row["prompt_tokens"], np.int32), np.asarray(row["prompt_parts"], np.int32))
