"""How token ids lie in a Batch: prompts left-padded, behind BOS where there is one; completions right-padded, behind
their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

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


def completion_fields(texts: Sequence[Ids], length: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns tokens, valid and mask [N, length] of the token ids of N completions.

    Each ends with EOS, or with the end that it has already, unless it had to be cut: then it has not ended, and nothing
    says it has.

    Args:
        texts: The token ids of each of the N completions.
        length: The length that they are cut or padded to, in tokens.
        tokenizer: Names EOS, the other ends and padding.
    """
    padded = [pad_right(tokenizer.closed(ids)[:length], length, tokenizer.pad) for ids in texts]
    tokens, valid = (np.stack(field) for field in zip(*padded, strict=True))
    return {"tokens": tokens, "valid": valid, "mask": valid.astype(np.float32)}


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
