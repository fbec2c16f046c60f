"""Networks of a few thousand weights, ragged batches for them, and contexts: what most tests start from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax.config import Fn, fn
from alignjax.models import TransformerConfig, transformer
from alignjax.scoring import context as context
from alignjax.types import Batch, Context, Model

VOCAB = 23
SIZES = {"vocab": VOCAB, "width": 16, "layers": 2, "heads": 4, "kv_heads": 2, "mlp": 24}


def model(**changes: Any) -> Model:
    """A transformer with grouped queries; the same object for the same changes."""
    return transformer(TransformerConfig(**{**SIZES, **changes}))


@functools.cache
def parameters(network: Model, seed: int = 0) -> Any:
    """Params away from their initial scale, so that distributions are far from uniform and scalar heads far from 0."""
    params = jax.jit(network.init)(jax.random.key(seed))
    heads = {name: jax.tree.map(lambda leaf: 3 * leaf, head) for name, head in params["heads"].items()}
    return {**params, "embed": 2 * params["embed"], "heads": heads}


def slow_but(*quick: str, name: str) -> Any:
    """A parameter of the slow tier, unless it is one of these."""
    return name if name in quick else pytest.param(name, marks=pytest.mark.slow)


def sgd(*, learning_rate: float = 1.0) -> optax.GradientTransformation:
    """An update of which the old minus the new params is the gradient."""
    return optax.sgd(learning_rate)


def ragged(
    seed: int = 0, *, rows: int = 4, n: int = 2, p: int = 6, t: int = 7, vocab: int = VOCAB, gaps: bool = False
) -> Batch:
    """Left-padded prompts and right-padded completions of any length from 1 on, with noise in the padding, holes in the
    mask and (with `gaps`) in the completions, soft preferences, and log-probs that a source might have filed."""
    draw = np.random.default_rng(seed)
    prompt_valid = np.arange(p) >= p - draw.integers(1, p + 1, (rows, 1))
    valid = np.arange(t) < draw.integers(1, t + 1, (rows, n, 1))
    valid[0, 0] = True
    if gaps:
        valid &= draw.random((rows, n, t)) < 0.7
    half = np.triu(draw.integers(0, 9, (rows, n, n)) / 8, 1)  # eighths, so that 1 - p is exact
    return Batch(
        prompt=draw.integers(4, vocab, (rows, p)).astype(np.int32),
        prompt_valid=prompt_valid,
        tokens=draw.integers(2, vocab, (rows, n, t)).astype(np.int32),
        valid=valid,
        mask=(valid & (draw.random((rows, n, t)) < 0.8)).astype(np.float32),
        logps={"reference": np.where(valid, -2 - draw.random((rows, n, t)), 0).astype(np.float32)},
        preference=(half + np.tril(1 - half.swapaxes(1, 2), -1) + np.eye(n) / 2).astype(np.float32),
        example_id=draw.permutation(1000)[:rows].astype(np.int32),
    )


def as_jax(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def as_numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)


def standin(**logps: Any) -> Any:
    """An object with nothing but `score`, which gives `logps` for each role: enough for a loss."""

    def score(role: str, batch: Batch, read: Any = None) -> dict[str, Any]:
        return {role: logps[role.replace(":", "_")]}

    return SimpleNamespace(score=score)


# One program a kind of loss and shape: its operations compiled one by one, as they come, cost several times as much.
@jax.jit
def _evaluated(loss: Fn, logps: dict[str, Any], batch: Batch) -> Any:
    value = lambda policy: loss(standin(**{**logps, "policy": policy}), batch)[0].value()  # noqa: E731
    return jax.value_and_grad(value)(logps["policy"])


@jax.jit
def _measured(loss: Fn, logps: dict[str, Any], batch: Batch) -> Any:
    mean, metrics = loss(standin(**logps), batch)
    return {name: (metric.value(), metric.weight) for name, metric in {**metrics, "": mean}.items()}


def evaluate(loss: Any, batch: Batch, **logps: Any) -> tuple[np.ndarray, np.ndarray]:
    """The value of a loss that scores nothing but `logps`, by role, and its gradient by those of the policy."""
    return jax.tree.map(np.asarray, _evaluated(loss if isinstance(loss, Fn) else fn(loss), logps, batch))


def measure(loss: Any, batch: Batch, **logps: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{metric: (its value, its weight)} of a loss that scores nothing but `logps`; "" is the loss itself."""
    return jax.tree.map(np.asarray, _measured(loss if isinstance(loss, Fn) else fn(loss), logps, batch))


@jax.jit
def _ran(stage: Fn, state: Any, step: Any, batch: Batch, key: Any) -> Any:
    return stage(Context(state=state, step=step), batch, key)


def run(stage: Any, context: Context, batch: Batch, key: Any, **hyper: Any) -> Any:
    """What a stage of no model makes of a batch, in NumPy: in one program, as in a training run, which costs a fraction
    of its operations one by one, and so does what a test does with NumPy."""
    assert not context.roles, "a stage that scores or samples is run with its context"
    answer = _ran(fn(stage, **hyper), context.state, context.step, as_numpy(batch), key)
    return as_numpy(answer)


def context_of(network: Model, **trees: Any) -> Context:
    """A real context in which every named tree of params runs on `network`."""
    return context(dict.fromkeys(trees, network), trees)


@functools.cache
def scorer(network: Model, output: str = "policy") -> Callable[[Any, Batch], jax.Array]:
    """(params, batch) -> what `score` gives for `output`, jitted."""
    role = output.partition(":")[0]

    def score(params: Any, batch: Batch) -> jax.Array:
        return context_of(network, **{role: params}).score(output, batch)[output]

    return jax.jit(score)


@functools.cache
def gradient(network: Model, output: str = "policy") -> Callable[[Any, Batch, Any], tuple[Any, jax.Array]]:
    """(params, batch, weights) -> the gradient of a weighted sum of the scores, and the scores; jitted."""
    score = scorer(network, output)

    def weighted(params: Any, batch: Batch, weights: Any) -> tuple[jax.Array, jax.Array]:
        scores = score(params, batch)
        return jnp.sum(scores * weights), scores

    return jax.jit(jax.grad(weighted, has_aux=True))


def difference(one: Any, other: Any) -> float:
    """The largest difference between two trees, relative to the largest number in the first (at least 1e-30)."""
    pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    largest = max(float(np.max(np.abs(np.asarray(a, np.float64)))) for a, _ in pairs)
    gap = max(float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)))) for a, b in pairs)
    return gap / max(largest, 1e-30)


def all_finite(tree: Any) -> bool:
    return all(bool(np.all(np.isfinite(np.asarray(leaf, np.float64)))) for leaf in jax.tree.leaves(tree))


def flops(program: Any) -> float:
    cost = program.cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]
