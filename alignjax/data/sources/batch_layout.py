"""How token ids lie in a Batch: prompts left-padded behind BOS, completions right-padded before EOS."""

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
    body: Ids, prefix: Sequence[int], suffix: Sequence[int], bos: int, length: int, keep: str = "start"
) -> list[int]:
    """BOS + prefix + body + suffix in at most `length` tokens. Only the body is ever cut: keep="start" drops its last
    tokens, keep="end" its first. Raises ValueError if the frame alone does not fit."""
    room = length - 1 - len(prefix) - len(suffix)
    if room < 0:
        raise ValueError(f"the prompt frame alone takes {length - room} tokens of {length}")
    if len(body) > room:
        body = body[:room] if keep == "start" else body[len(body) - room :]
    return [bos, *prefix, *body, *suffix]


def pad_left(ids: Ids, length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [length] int32, valid [length] bool), padding in front."""
    tokens, valid = np.full(length, pad, np.int32), np.zeros(length, np.bool_)
    if len(ids):
        tokens[-len(ids) :], valid[-len(ids) :] = ids, True
    return tokens, valid


def pad_right(ids: Ids, length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [length] int32, valid [length] bool), padding behind."""
    tokens, valid = np.full(length, pad, np.int32), np.zeros(length, np.bool_)
    tokens[: len(ids)], valid[: len(ids)] = ids, True
    return tokens, valid


def completion_fields(texts: Sequence[Ids], length: int, tokenizer: Tokenizer, count: int) -> dict[str, Any]:
    """tokens, valid, mask [count, length] of up to `count` completions. Each ends with EOS, unless it had to be
    cut: then it has not ended, and nothing says it has. Missing completions are all padding."""
    tokens, valid = [], []
    for ids in [*texts, *[None] * (count - len(texts))]:
        ended = [] if ids is None else [*ids, tokenizer.eos][:length]
        found = pad_right(ended, length, tokenizer.pad)
        tokens.append(found[0])
        valid.append(found[1])
    return {"tokens": np.stack(tokens), "valid": np.stack(valid), "mask": np.stack(valid).astype(np.float32)}


def pair_fields(preference: np.ndarray, marked: np.ndarray) -> dict[str, np.ndarray]:
    """preference [N,N] from its upper triangle, the lower being 1 - p and the diagonal 1/2; pair_weight [N,N]."""
    upper = np.triu(preference, 1)
    full = np.where(np.triu(np.ones_like(upper), 1) > 0, upper, 1 - upper.T)
    np.fill_diagonal(full, 0.5)
    return {"preference": full.astype(np.float32), "pair_weight": marked.astype(np.float32)}


def batch_spec(
    batch_size: int, prompt_length: int, completions: int = 0, length: int = 0, extra: Sequence[str] = ()
) -> Batch:
    """Shapes and dtypes of a source's batches; `extra` names further fields: reward, pairs, answer."""

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
    """A batch whose prompts have at most `prompt_length` and completions at most `length` tokens, without the padding
    beyond. Raises ValueError if that would take tokens, or for fields that may have slots of their own."""
    if batch.views or batch.completions:
        raise ValueError("a batch with views or further completion fields cannot be cut to a bucket")
    named = {name: getattr(batch, name) for name in PER_COMPLETION_TOKEN}
    parts: dict[str, Any] = {name: leaf[..., :length] for name, leaf in named.items() if leaf is not None}
    parts["logps"] = {name: leaf[..., :length] for name, leaf in batch.logps.items()}
    for name in PER_PROMPT_TOKEN:
        parts[name] = getattr(batch, name)[..., -prompt_length:]
    short = batch.replace(**parts)
    kept = [(short.prompt_valid, batch.prompt_valid), (short.valid, batch.valid)]
    if any(new is not None and old is not None and np.sum(new) != np.sum(old) for new, old in kept):
        raise ValueError(f"a bucket of {prompt_length} and {length} tokens would cut tokens off; this is a bug")
    return short


def stacked(rows: Sequence[Batch]) -> Batch:
    """A batch from rows without a batch axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
