"""Preferences between two (instruction, response) pairs whose instructions may differ: the dataset and the source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from alignjax.config import ConfigError
from alignjax.data.datasets.from_files import ChatFile
from alignjax.data.datasets.parsing import BadRow, checked_text, field, number_field
from alignjax.data.datasets.records import SCHEMAS, Record, completions_of
from alignjax.data.prepared import Dataset, rows_of, tokenizer_of
from alignjax.data.sources.batch_layout import batch_spec, pad_right, pair_fields
from alignjax.data.sources.row_selection import LONG_COMPLETIONS, LONG_PROMPTS, one_of
from alignjax.data.sources.source import Chosen, Opened, Source, endless
from alignjax.data.text.chat import completion_text, text_or_messages
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.types import Batch
from alignjax.workspace import Workspace

COUNTED = ("joint", "conditional")


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointPreferences(ChatFile):
    """Rows with `prompt_chosen`, `chosen`, `prompt_rejected` and `rejected`; a row with `prompt` has it on both sides.
    A soft label P(chosen is better) may stand in label_field, a weight in `weight`."""

    label_field: str = ""
    name: ClassVar[str] = "joint_preferences"
    schema: ClassVar[str] = "joint_preferences"

    def parse(self, row: Mapping[str, Any]) -> Record:
        prompts, texts = [], []
        for side in ("chosen", "rejected"):
            own = f"prompt_{side}"
            name = self.prompt_field if row.get(own) is None and row.get(self.prompt_field) is not None else own
            prompts.append(checked_text(text_or_messages(field(row, name), name, self.chat_template), name))
            texts.append(checked_text(completion_text(field(row, side), side), side))
        if prompts[0] == prompts[1] and texts[0] == texts[1]:
            raise BadRow("both sides are the same")
        label = number_field(row, self.label_field, 0.0, 1.0) if self.label_field else 1.0
        weight = number_field(row, "weight", 0.0, float("inf")) if "weight" in row else 1.0
        # The second prompt lies behind the two completions; `sides` takes the row apart again.
        return Record(prompts[0], (*texts, prompts[1]), preference=label, weight=weight)


def sides(row: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(instruction, response) tokens of both sides of a row of JointPreferences, or of pairs that share a prompt."""
    first, second, *other = completions_of(row)
    prompt = np.asarray(row["prompt_tokens"], np.int32)
    return [(prompt, first), (other[0] if other else prompt, second)]


def joint_preferences(
    workspace: Workspace | None,
    seed: int,
    *,
    dataset: Dataset,
    split: str = "train",
    batch_size: int,
    prompt_length: int,
    completion_length: int,
    instructions: str = "joint",
    long_prompts: str = "refuse",
    long_completions: str = "refuse",
    shuffle: bool = True,
    shard: tuple[int, int] = (0, 1),
) -> Source:
    """Pairs whose sides have instructions of their own, N = 2: with any pairwise loss, joint preference optimisation
    (DOVE, arXiv:2404.00530).

    The instruction stands in front of each completion, and the prompt is BOS alone: P = 1, T = prompt_length - 1 +
    completion_length. instructions="joint": their tokens count (mask 1), so losses compare log-probs of instruction and
    response together; "conditional": they do not (mask 0), and losses compare responses given their instructions. Where
    the instructions match, margins are those of the same pairs from `preferences` either way, and DPO is DPO.

    Takes JointPreferences, and datasets of preferences. To know which rows fit it reads them all once.
    """
    if dataset.schema not in ("joint_preferences", "preferences"):
        raise ConfigError(
            f"{dataset.name} holds {dataset.schema} ({SCHEMAS[dataset.schema]}); needed: JointPreferences(path=...) or "
            "a dataset of preferences"
        )
    for name, given, options in (
        ("instructions", instructions, COUNTED),
        ("long_prompts", long_prompts, LONG_PROMPTS),
        ("long_completions", long_completions, LONG_COMPLETIONS),
        (f"split of {dataset.name}", split, dataset.splits),
    ):
        one_of(name, given, options)
    length = prompt_length - 1 + completion_length

    def opened() -> Opened:
        rows, _ = rows_of(dataset, split, workspace)
        tokenizer = tokenizer_of(dataset, workspace)
        prefix, suffix = (tokenizer.encode(text) for text in (dataset.prefix, dataset.suffix))
        room = prompt_length - 1 - len(prefix) - len(suffix), completion_length - 1
        if min(room) < 1:
            raise ConfigError(
                f"prompt_length={prompt_length} and completion_length={completion_length} leave no room beside BOS, "
                f"EOS and the frame of {dataset.name}; raise them"
            )
        places, counts = _fitting(rows, room, long_prompts, long_completions, f"{dataset.name}/{split}")
        used = Chosen(rows, places)
        layout = _Layout(
            tokenizer, prefix, suffix, room, length, long_prompts == "truncate_left", instructions == "joint"
        )
        return Opened(endless(used, seed, shuffle).map(lambda row: _laid_out(row, layout)), len(used), counts)

    return Source(batch_spec(batch_size, 1, 2, length, ("pairs",)), opened, shard)


class _Layout(NamedTuple):
    """How rows become tokens. room: how many of an instruction and of a response fit; keep_end: of a long instruction;
    joint: whether instructions count."""

    tokenizer: Tokenizer
    prefix: Sequence[int]
    suffix: Sequence[int]
    room: tuple[int, int]
    length: int
    keep_end: bool
    joint: bool


def _laid_out(row: Mapping[str, Any], layout: _Layout) -> Batch:
    """A row of a Batch, without its batch axis."""
    both = [_side(instruction, response, layout) for instruction, response in sides(row)]
    label, marked = np.zeros((2, 2)), np.zeros((2, 2))
    label[0, 1], marked[0, 1] = row["preference"], row["weight"]
    fields: dict[str, Any] = {name: np.stack([side[name] for side in both]) for name in both[0]}
    fields |= {"prompt": np.array([layout.tokenizer.bos], np.int32), "prompt_valid": np.array([True])}
    fields |= {"example_id": np.asarray(row["example_id"], np.int32), **pair_fields(label, marked)}
    return Batch(**fields)


def _side(instruction: np.ndarray, response: np.ndarray, layout: _Layout) -> dict[str, np.ndarray]:
    """tokens, valid, mask [length] of one side. Of an instruction only its own tokens are cut, never the frame."""
    room, tokenizer = layout.room, layout.tokenizer
    body = instruction[-room[0] :] if layout.keep_end else instruction[: room[0]]
    before = [*layout.prefix, *body, *layout.suffix]
    after = [*response, tokenizer.eos][: room[1] + 1]  # a response that was cut has not ended, and has no EOS
    tokens, valid = pad_right([*before, *after], layout.length, tokenizer.pad)
    counts = valid & (layout.joint | (np.arange(layout.length) >= len(before)))
    return {"tokens": tokens, "valid": valid, "mask": counts.astype(np.float32)}


def _fitting(
    rows: Any, room: tuple[int, int], long_prompts: str, long_completions: str, of: str
) -> tuple[np.ndarray, dict[str, int]]:
    """(numbers of the rows that are used, {what: how many rows}). Raises ConfigError for rows that are refused."""
    most = np.array([np.max([[len(a), len(b)] for a, b in sides(rows[k])], axis=0) for k in range(len(rows))])
    used = np.ones(len(most), bool)
    counts: dict[str, int] = {}
    for column, (name, policy, what) in enumerate(
        (("long_prompts", long_prompts, "instructions"), ("long_completions", long_completions, "completions"))
    ):
        long = most[:, column] > room[column]
        if policy == "refuse" and long.any():
            options = (LONG_PROMPTS, LONG_COMPLETIONS)[column][1:]
            raise ConfigError(
                f"{of} has {long.sum():,} rows (of {len(most):,}) with {what} of more than {room[column]} tokens; set "
                f"{name}={' or '.join(map(repr, options))}, or give more room"
            )
        if policy != "refuse":
            counts[f"{'skipped' if policy == 'skip' else 'cut'}_{name}"] = int(long.sum())
        used &= ~long if policy == "skip" else True
    if not used.any():
        raise ConfigError(f"{of}: no row is left of {len(most):,} ({counts}); raise prompt_length or completion_length")
    return np.flatnonzero(used), {"rows": int(used.sum()), "of": len(most), **counts}
