"""A network of about a hundred weights as a real `Model`, and batches that carry everything a loss may read.

Every distribution can be written down, in float64 if the params are; what stands in padding has no influence at all.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.models.kv_cache import default_read
from alignjax.types import Batch, Head, Hidden, Model

VOCAB, WIDTH = 6, 4
ROWS, N, PROMPT, LENGTH = 8, 4, 3, 5  # B, N, P, T of the batches: 8 rows, for 8 devices and for 4 microbatches
SMALL = {"value": "before", "reward": "after", "preference": "after"}  # head -> where it reads
AXES = {
    "prompt": ("vocab", "embed"),
    "seen": ("vocab", "embed"),
    "turn": ("embed", None),
    "heads": {"lm": ("embed", "vocab"), **dict.fromkeys(SMALL, ("embed", None))},
}


def init(key: Any, dtype: Any = float) -> Any:
    """Weights far enough from 0 that distributions are far from uniform."""
    shapes = {"prompt": (VOCAB, WIDTH), "seen": (VOCAB, WIDTH), "turn": (WIDTH, WIDTH), "lm": (WIDTH, VOCAB)}
    shapes |= dict.fromkeys(SMALL, (WIDTH, 1))
    keys = jax.random.split(key, len(shapes))
    drawn = {name: jax.random.normal(k, shape, dtype) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}
    heads = {name: drawn.pop(name) for name in ("lm", *SMALL)}
    return {**drawn, "heads": heads}


def hidden(params: Any, batch: Batch, sites: tuple[str, ...] = ()) -> Hidden:
    """States tanh(prompt turn + seen), `seen` a sum over the valid tokens so far, a later one counting more. Sites are
    those of a transformer of two layers: "embed" [B,N,T,D] and "block" [B,N,T,2,D]."""
    assert batch.valid is not None
    dtype = params["turn"].dtype
    prompt = jnp.sum(params["prompt"][batch.prompt] * batch.prompt_valid[..., None].astype(dtype), axis=1)
    position = 0.5 + 0.3 * jnp.cumsum(batch.valid, axis=2)
    embed = params["seen"][batch.tokens] * jnp.where(batch.valid, position, 0)[..., None].astype(dtype)
    seen = jnp.cumsum(embed, axis=2)
    first = (prompt @ params["turn"])[:, None, None]
    after, before = jnp.tanh(first + seen), jnp.tanh(first + seen - embed)
    states = {"embed": embed, "block": jnp.stack([first + seen, after], axis=3)}
    return Hidden(before, after, {site: states[site] for site in sites})


def _head(name: str, reads: str) -> Head:
    return Head(reads, lambda params, states: states @ params["heads"][name])


NETWORK = Model(
    init,
    hidden,
    {"lm": _head("lm", "before"), **{name: _head(name, reads) for name, reads in SMALL.items()}},
    default_read,
    axes=AXES,
)


@functools.cache
def parameters(seed: int, dtype: str = "float32") -> Any:
    """Params by seed, the same numbers in every dtype."""
    draw = np.random.default_rng(seed)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.asarray(jnp.asarray(draw.normal(size=leaf.shape), dtype)), shapes)


def full_batch(seed: int = 0, dtype: Any = np.float64, rows: int = ROWS) -> Batch:
    """Everything that a loss may read, as numpy arrays.

    Left-padded prompts and right-padded completions, lengths ragged from 1 on, holes in the mask, noise in the padding.
    Preferences are hard in even rows and soft in odd ones, some pairs are not labelled, and ids are those of an example
    and an annotator. `reward` is graded, no two alike within a row; `binary_reward` makes thumbs of it.
    completions["edited"] [B,N,T]: 1 on tokens that an edit touched. The view "pretrain" is a second stream.
    No log-probs of the reference are filed.
    """
    draw = np.random.default_rng(seed)
    prompt_valid = np.arange(PROMPT) >= PROMPT - draw.integers(1, PROMPT + 1, (rows, 1))
    valid = np.arange(LENGTH) < draw.integers(2, LENGTH + 1, (rows, N, 1))
    mask = valid & (draw.random((rows, N, LENGTH)) < 0.8)
    mask[..., 0] |= ~mask.any(-1)  # at least one token of each counts
    soft = draw.integers(1, 8, (rows, N, N)) / 8  # eighths, so that 1 - p is exact
    hard = draw.integers(0, 2, (rows, N, N)).astype(float)
    half = np.triu(np.where(np.arange(rows)[:, None, None] % 2, soft, hard), 1)
    weight = np.triu(draw.choice([0.0, 0.5, 1.0, 1.0, 2.0], (rows, N, N)), 1)
    weight[:, 0, 1] = np.where(np.arange(rows) == 2, 0, np.maximum(weight[:, 0, 1], 0.5))
    return Batch(
        prompt=draw.integers(0, VOCAB, (rows, PROMPT)).astype(np.int32),
        prompt_valid=prompt_valid,
        tokens=draw.integers(0, VOCAB, (rows, N, LENGTH)).astype(np.int32),
        valid=valid,
        mask=mask.astype(dtype),
        reward=(draw.permuted(np.tile(np.arange(N), (rows, 1)), axis=1) + 0.9 * draw.random((rows, N)) - 1).astype(
            dtype
        ),
        preference=(half + np.tril(1 - half.swapaxes(1, 2), -1) + np.eye(N) / 2).astype(dtype),
        pair_weight=(weight + weight.swapaxes(1, 2)).astype(dtype),
        advantage=draw.normal(size=(rows, N, LENGTH)).astype(dtype),
        returns=draw.normal(size=(rows, N, LENGTH)).astype(dtype),
        example_id=draw.permutation(1000)[:rows].astype(np.int32),
        prompts={"annotator": draw.integers(0, 2, rows).astype(np.int32)},
        completions={"edited": (valid & (draw.random((rows, N, LENGTH)) < 0.5)).astype(dtype)},
    )


def binary_reward(batch: Batch) -> Batch:
    """Thumbs up (1) or down (0) in place of graded rewards; both occur in every batch."""
    return batch.replace(reward=(batch.reward > 0.5).astype(batch.reward.dtype))


def with_view(batch: Batch, name: str, seed: int = 5) -> Batch:
    """A second stream of the same sizes under batch.views[name]."""
    return batch.replace(views={**batch.views, name: full_batch(seed, batch.mask.dtype, len(batch.tokens))})
