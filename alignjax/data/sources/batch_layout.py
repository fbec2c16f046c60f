"""How token ids lie in a Batch: prompts left-padded, behind BOS where there is one; completions right-padded, behind
their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from alignjax.data.datasets.framing import CONTENT, FRAME, OTHERS, SYSTEM, Tokens
from alignjax.data.text.tokenizers import Tokenizer
from alignjax.types import Batch

Ids: TypeAlias = Sequence[int] | np.ndarray

# Fields of a Batch whose last axis is tokens of the prompt, or of a completion, as that of each of its logps is.
PER_PROMPT_TOKEN = ("prompt", "prompt_valid")
PER_COMPLETION_TOKEN = ("tokens", "valid", "mask", "advantage", "returns")


def prompt_ids(
    body: Ids, prefix: Sequence[int], suffix: Sequence[int], bos: int | None, length: int, keep: str = "start"
) -> list[int]:
    """Returns BOS + prefix + body + suffix in at most `length` tokens. Only the body is ever cut. A frame or body that
    begins with BOS itself gets no second one.

    Args:
        body: Token ids of the prompt itself.
        prefix: Token ids of the frame before it.
        suffix: Token ids of the frame behind it.
        bos: The id of BOS; None for none.
        length: The most tokens that the result may have.
        keep: "start" drops the body's last tokens, "end" its first.

    Raises:
        ValueError: The frame alone does not fit.
    """
    before = [*prefix] if bos is None else [bos, *_without_first(prefix, bos)]
    body = body if bos is None else _without_first(body, bos)
    room = length - len(before) - len(suffix)
    if room < 0:
        raise ValueError(f"the prompt frame alone takes {length - room} tokens of {length}")
    if len(body) > room:
        body = body[:room] if keep == "start" else body[len(body) - room :]
    return [*before, *body, *suffix]


def _without_first(ids: Ids, token: int) -> Ids:
    return ids[1:] if len(ids) and ids[0] == token else ids


def framed_ids(tokens: Tokens, length: int, keep: str = "start") -> list[int]:
    """Returns the ids of a prompt that a template wrote in at most `length` tokens. Only contents are ever cut, and
    those of system messages last.

    Args:
        tokens: The ids, and what each is part of.
        length: The most tokens that the result may have.
        keep: "start" drops the last tokens of the contents, "end" the first: the oldest turns.

    Raises:
        ValueError: The frame alone does not fit.
    """
    ids, parts = np.asarray(tokens.ids, np.int32), np.asarray(tokens.parts, np.int32)
    contents = [np.flatnonzero(parts == part) for part in (CONTENT, SYSTEM)]
    order = np.concatenate([places if keep == "end" else places[::-1] for places in contents])
    excess = max(len(ids) - length, 0)
    if excess > len(order):
        raise ValueError(f"the prompt frame alone takes {len(ids) - len(order)} tokens of {length}")
    return np.delete(ids, order[:excess]).tolist()


def completion_ids(tokens: Tokens, length: int, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Returns the ids of a completion in at most `length` tokens, and which of them are learned.

    It ends with its end, unless it had to be cut: then it has not ended, and nothing says it has. No part of an end is
    left of one that was cut, nor what others say behind its last words.

    Args:
        tokens: The ids; without parts those of a plain text, which has no end yet.
        length: The length that it is cut to, in tokens.
        tokenizer: Says what ends a text.
    """
    ids, parts = list(map(int, tokens.ids)), list(map(int, tokens.parts))
    if not parts:
        whole = tokenizer.closed(ids)
        ids = whole if len(whole) <= length else ids[:length]
        return ids, [True] * len(ids)
    if len(ids) > length:
        said = len(parts)
        while said and parts[said - 1] == FRAME:
            said -= 1
        last = min(said, length)
        while last and parts[last - 1] == OTHERS:
            last -= 1
        ids = ids[:last]
    return ids, [part != OTHERS for part in parts[: len(ids)]]


def pad_left(ids: Ids, length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads token ids in front, as prompts are.

    Args:
        ids: At most `length` token ids.
        length: The length in tokens.
        pad: The id of the padding.

    Returns:
        (tokens [length] int32, valid [length] bool).
    """
    tokens, valid = pad_right(ids, length, pad)
    return np.roll(tokens, length - len(ids)), np.roll(valid, length - len(ids))


def pad_right(ids: Ids, length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads token ids behind, as completions are.

    Args:
        ids: At most `length` token ids.
        length: The length in tokens.
        pad: The id of the padding.

    Returns:
        (tokens [length] int32, valid [length] bool).
    """
    tokens, valid = np.full(length, pad, np.int32), np.zeros(length, np.bool_)
    tokens[: len(ids)], valid[: len(ids)] = ids, True
    return tokens, valid


def completion_fields(texts: Sequence[Tokens], length: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns tokens, valid and mask [N, length] of N completions; the mask is 0 for what others say in one.

    Args:
        texts: The tokens of each of the N completions, see `completion_ids`.
        length: The length that they are cut or padded to, in tokens.
        tokenizer: Names padding, and says what ends a text.
    """
    cut_to = [completion_ids(text, length, tokenizer) for text in texts]
    tokens, valid = (
        np.stack(field) for field in zip(*(pad_right(ids, length, tokenizer.pad) for ids, _ in cut_to), strict=True)
    )
    mask = np.stack([pad_right(learned, length, 0)[0] for _, learned in cut_to])
    return {"tokens": tokens, "valid": valid, "mask": mask.astype(np.float32)}


def pair_fields(preference: np.ndarray, marked: np.ndarray) -> dict[str, np.ndarray]:
    """Returns preference and pair_weight of N completions as float32.

    Args:
        preference: P(i beats j) [N,N]; its upper triangle is used, the lower one becomes 1 - p and the diagonal 1/2.
        marked: How much each pair counts [N,N].
    """
    upper = np.triu(preference, 1)
    full = np.where(np.triu(np.ones_like(upper), 1) > 0, upper, 1 - upper.T)
    np.fill_diagonal(full, 0.5)
    return {"preference": full.astype(np.float32), "pair_weight": marked.astype(np.float32)}


def two_completions(preference: float, weight: float) -> dict[str, np.ndarray]:
    """Returns preference and pair_weight [2,2] of a pair whose first completion wins with this probability.

    Args:
        preference: P(first beats second), in [0, 1].
        weight: The weight of the pair.
    """
    first = np.array([[0.0, 1.0], [0.0, 0.0]])
    return pair_fields(preference * first, weight * first)


def batch_spec(
    batch_size: int, prompt_length: int, completions: int = 0, length: int = 0, extra: Sequence[str] = ()
) -> Batch:
    """Returns the shapes and dtypes of a source's batches.

    Args:
        batch_size: B.
        prompt_length: P, in tokens.
        completions: N; 0 for batches of prompts alone.
        length: T, tokens of a completion.
        extra: Names of further fields: "reward", "pairs" (preference and pair_weight), "answer".
    """
    # Shapes alone, without rows: a dry run and the compiler need them before a dataset is read, and sources declare
    # them here so that all of them lay out a batch alike.

    def of(*shape: int, dtype: Any = np.float32) -> Any:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    fields: dict[str, Any] = {
        "prompt": of(prompt_length, dtype=np.int32),
        "prompt_valid": of(prompt_length, dtype=np.bool_),
        "example_id": of(dtype=np.int32),
    }
    if completions:
        shape = (completions, length)
        fields |= {"tokens": of(*shape, dtype=np.int32), "valid": of(*shape, dtype=np.bool_), "mask": of(*shape)}
    if "reward" in extra:
        fields["reward"] = of(completions)
    if "pairs" in extra:
        fields |= {name: of(completions, completions) for name in ("preference", "pair_weight")}
    if "answer" in extra:
        fields["prompts"] = {"answer": of()}
    return Batch(**fields)


def cut(batch: Batch, prompt_length: int, length: int) -> Batch:
    """Returns a batch without the padding beyond a shape.

    Args:
        batch: A batch whose prompts and completions fit into the shape.
        prompt_length: P of the result, in tokens.
        length: T of the result, in tokens.

    Raises:
        ValueError: That would take tokens, or the batch has fields that may have slots of their own.
    """
    if batch.views or batch.completions:
        raise ValueError("a batch with views or further completion fields cannot be cut to a bucket")
    named = {name: getattr(batch, name) for name in PER_COMPLETION_TOKEN}
    parts: dict[str, Any] = {name: leaf[..., :length] for name, leaf in named.items() if leaf is not None}
    parts["logps"] = {name: leaf[..., :length] for name, leaf in batch.logps.items()}
    for name in PER_PROMPT_TOKEN:
        parts[name] = getattr(batch, name)[..., -prompt_length:]
    short = batch.replace(**parts)
    masks = [(short.prompt_valid, batch.prompt_valid), (short.valid, batch.valid)]
    if any(new is not None and old is not None and np.sum(new) != np.sum(old) for new, old in masks):
        raise ValueError(f"a bucket of {prompt_length} and {length} tokens would cut tokens off; this is a bug")
    return short


def stacked(rows: Sequence[Batch]) -> Batch:
    """Returns the batch of rows that have no batch axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
