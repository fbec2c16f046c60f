"""Prompts of random letters by step: a dataset without files, and sources whose batches are functions of (seed, step).

A prompt and what is demonstrated for it depend on (seed, split, number of the example) alone, so runs with other batch
sizes see the same examples in the same order.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers

from alignjax.config import ConfigError, Fn, check_ranges
from alignjax.data.prepared import Dataset, Report
from alignjax.data.text.tokenizers import BOS, EOS, PAD, SPECIAL_TOKENS, Tokenizer, own_tokenizer
from alignjax.exact_tasks.task import ALPHABET, FIRST
from alignjax.numerics import fold_name, quick_options
from alignjax.ranges import Count, Natural
from alignjax.types import Array, Batch, Key
from alignjax.workspace import Workspace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Letters(Dataset):
    """The letters of an alphabet, a token each: a tokenizer, and no rows, for prompts are made when they are asked for.

    Args:
        vocab_size: Tokens: the four special ones, and as many letters as are left, from the alphabet's first on.
        alphabet: The letters: different characters.
    """

    vocab_size: Count = 16
    alphabet: str = ALPHABET

    name: ClassVar[str] = "letters"
    splits: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_ranges(self)
        letters, marks = len(self.alphabet), len(SPECIAL_TOKENS)
        if len(set(self.alphabet)) < letters:
            raise ConfigError(f"Letters: alphabet is {self.alphabet!r}; each of its letters must stand there once")
        if not 0 < self.kinds <= letters:
            raise ConfigError(
                f"Letters: vocab_size is {self.vocab_size}; it must be from {marks + 1} to {marks + letters} "
                f"({marks} marks, {letters} letters)"
            )

    @property
    def kinds(self) -> int:
        """The number of letters."""
        return self.vocab_size - len(SPECIAL_TOKENS)

    def fingerprint(self) -> str:
        """Returns "": nothing is read."""
        return ""

    def collect(self, report: Report) -> tuple[Mapping[str, Sequence[Any]], Mapping[str, Any]]:
        """Returns no rows."""
        return {}, {"sentence": f"{self.kinds} letters, prompts made on the spot"}

    def _make_tokenizer(self, records: Sequence[Any], report: Report) -> Tokenizer:
        words = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *self.alphabet[: self.kinds]))}
        backend = hf.Tokenizer(models.WordLevel(words))
        backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        backend.decoder = decoders.Fuse()
        backend.encode_special_tokens = True
        return own_tokenizer(backend)


@dataclasses.dataclass(frozen=True, eq=False)
class LetterSource:
    """Batches by number: `source[step] -> Batch` of numpy arrays, for any step, in any order.

    Attributes:
        draw: Makes the batch of a step: a function that sources share, with the arguments of this one.
    """

    draw: functools.partial[Batch]

    @functools.cached_property
    def spec(self) -> Batch:
        """The batch as jax.ShapeDtypeStructs."""
        return jax.eval_shape(self.draw, 0)

    def __getitem__(self, step: int) -> Batch:
        draw = self.draw
        return jax.device_get(_jitted(draw.func)(*draw.args, int(step), **draw.keywords))


def letters(
    workspace: Workspace | None,
    seed: int,
    *,
    dataset: Letters,
    batch_size: Count,
    length: Count,
    max_tokens: Natural = 0,
    demonstrate: Fn | None = None,
    ask: Fn | None = None,
    split: str = "train",
) -> LetterSource:
    """Gives prompts of random letters.

    Args:
        workspace: Not used.
        seed: Decides the prompts and the demonstrations.
        dataset: The alphabet.
        batch_size: B.
        length: The number of letters of a prompt; a BOS stands before them.
        max_tokens: The length T of a demonstration, its end token included.
        demonstrate: Writes a completion for every prompt, N = 1: demonstrate(prompt [length], key) -> (letters
            [max_tokens - 1], how many of them count); None gives prompts alone.
        ask: Draws a prompt: ask(key) -> letters [length]; None: each letter uniformly and by itself.
        split: The name of a stream of prompts; no two streams of a seed are related.
    """
    sizes = (dataset.kinds, batch_size, length, max_tokens)
    key = fold_name(jax.random.key(seed), split)
    return LetterSource(functools.partial(_drawn, key, ask, (demonstrate,), sizes=sizes))


def revised_letters(
    workspace: Workspace | None,
    seed: int,
    *,
    dataset: Letters,
    batch_size: Count,
    length: Count,
    max_tokens: Count,
    demonstrate: Fn,
    solve: Fn,
    ask: Fn | None = None,
    split: str = "train",
) -> LetterSource:
    """Gives pairs of a right answer and a demonstration, N = 2: preference[b, 0, 1] = 1, pair_weight 0 where they are
    the same, and completions["edited"] [B,2,T] marks the tokens in which they differ.

    Args:
        workspace: Not used.
        seed: Decides the prompts and the demonstrations.
        dataset: The alphabet.
        batch_size: B.
        length: The number of letters of a prompt.
        max_tokens: The length T of a completion.
        demonstrate: Writes completion 1, as in `letters`.
        solve: Writes completion 0, likewise.
        ask: Draws a prompt, as in `letters`.
        split: The name of a stream of prompts.
    """
    sizes = (dataset.kinds, batch_size, length, max_tokens)
    key = fold_name(jax.random.key(seed), split)
    return LetterSource(functools.partial(_revised, key, ask, (solve, demonstrate), sizes=sizes))


@functools.cache
def _jitted(draw: Callable[..., Batch]) -> Callable[..., Batch]:
    """The function, compiled quickly: it draws few numbers, and what is random takes long to compile."""
    return jax.jit(draw, static_argnames="sizes", compiler_options=quick_options())


def _drawn(
    key: Key, ask: Fn | None, writers: tuple[Fn | None, ...], step: Array | int, *, sizes: tuple[int, int, int, int]
) -> Batch:
    """The batch of a step: a key per example, from which its prompt and then its completions come."""
    kinds, rows, length, most = sizes
    number = step * rows + jnp.arange(rows, dtype=jnp.int32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, number)
    draw = ask or functools.partial(jax.random.randint, shape=(length,), minval=FIRST, maxval=FIRST + kinds)
    body = jax.vmap(lambda row: draw(fold_name(row, "prompt")))(keys)
    prompt = jnp.concatenate([jnp.full((rows, 1), BOS, jnp.int32), body], axis=1)
    batch = Batch(prompt=prompt, prompt_valid=jnp.ones_like(prompt, bool), example_id=number)
    texts = [_written(write, body, keys, most) for write in writers if write is not None]
    if not texts:
        return batch
    tokens, valid = (jnp.stack(part, axis=1) for part in zip(*texts, strict=True))
    return batch.replace(tokens=tokens, valid=valid, mask=valid.astype(jnp.float32))


def _written(write: Fn, body: Array, keys: Array, most: int) -> tuple[Array, Array]:
    """Tokens and validity [B,T] of what a function writes for every prompt, with the end token behind it."""
    text, count = jax.vmap(write)(body, jax.vmap(lambda row: fold_name(row, "answer"))(keys))
    text = jnp.pad(text, [(0, 0), (0, most - text.shape[1])])
    place, count = jnp.arange(most)[None], count[:, None]
    tokens = jnp.where(place < count, text, jnp.where(place == count, EOS, PAD)).astype(jnp.int32)
    return tokens, place <= count


def _revised(
    key: Key, ask: Fn | None, writers: tuple[Fn, ...], step: Array | int, *, sizes: tuple[int, int, int, int]
) -> Batch:
    """The batch of a step, labeled and with the edits marked."""
    batch = _drawn(key, ask, writers, step, sizes=sizes)
    assert batch.tokens is not None
    differs = jnp.any(batch.tokens != batch.tokens[:, ::-1], axis=(1, 2))
    edited = (batch.tokens != batch.tokens[:, ::-1]).astype(jnp.float32)
    preference = jnp.broadcast_to(jnp.array([[0.5, 1.0], [0.0, 0.5]]), (len(differs), 2, 2))
    weight = differs[:, None, None] * jnp.array([[[0.0, 1.0], [0.0, 0.0]]])
    return batch.replace(preference=preference, pair_weight=weight, completions={"edited": edited})
