"""Our side: the library's own jitted functions, called as the training loop calls them."""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import algorithms, stages
from alignjax.config import fn
from alignjax.models.transformer import TransformerConfig, transformer
from alignjax.roles import Fresh, Value
from alignjax.train.optimizers import adamw
from alignjax.train.state import TrainState, create_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Algorithm, Array, Batch, Context, Key, Role
from alignjax.workspace import Workspace
from benchmarks import machine
from benchmarks.sizes import SIZES

_compiled: dict[str, float] = defaultdict(float)


def _note(event: str, seconds: float, **about: Any) -> None:
    """jax tells how long each function took to trace, lower and compile."""
    if event.startswith("/jax/core/compile/"):
        _compiled[str(about.get("fun_name", "?")).removeprefix("jit(").removesuffix(")").lstrip("_")] += seconds


jax.monitoring.register_event_duration_secs_listener(_note)


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("alignjax", "jax", "flax", "optax")}


def _model() -> Any:
    return transformer(
        TransformerConfig(
            vocab=SIZES.vocabulary, width=SIZES.width, layers=SIZES.layers, heads=SIZES.heads, mlp=SIZES.mlp
        )
    )


def _prompts(rows: int) -> Batch:
    prompt = np.random.default_rng(1).integers(4, SIZES.vocabulary, (rows, SIZES.prompt), dtype=np.int32)
    return Batch(prompt=jnp.asarray(prompt), prompt_valid=jnp.ones(prompt.shape, bool), example_id=jnp.arange(rows))


def _pairs() -> Batch:
    shape = (SIZES.pairs, 2, SIZES.completion)
    tokens = np.random.default_rng(2).integers(4, SIZES.vocabulary, shape, dtype=np.int32)
    first = jnp.asarray([[0.5, 1.0], [0.0, 0.5]], jnp.float32)
    return _prompts(SIZES.pairs).replace(
        tokens=jnp.asarray(tokens),
        valid=jnp.ones(shape, bool),
        mask=jnp.ones(shape, jnp.float32),
        preference=jnp.broadcast_to(first, (SIZES.pairs, 2, 2)),
    )


def _parts() -> dict[str, Any]:
    """Policy and reference start from the same weights, so that every loss starts at ln 2; nobody clips gradients."""
    optimizer = fn(adamw, learning_rate=SIZES.learning_rate, max_grad_norm=None)
    return {"optimizer": optimizer, "start": Value(lambda _: _model().init(jax.random.key(0))), "beta": SIZES.beta}


def _state(algorithm: Algorithm) -> TrainState:
    return create_state(algorithm, 0, Workspace(Path()))


def _dpo(precomputed: bool) -> Callable[[], dict[str, float]]:
    algorithm = algorithms.dpo(_model(), **_parts())
    box = [_state(algorithm)]  # in a box, because a donated state must not be kept
    experience, update = make_experience(algorithm), make_update(algorithm)
    batch = _pairs()
    ready, _ = experience(box[0], batch)

    def call() -> dict[str, float]:
        given = ready if precomputed else experience(box[0], batch)[0]
        box[0], metrics = update(box[0], given)
        jax.block_until_ready(box[0])
        return {"loss": float(metrics["loss"])}

    return call


def _sampling() -> Callable[[], dict[str, int]]:
    algorithm = Algorithm(
        experience={"generate": fn(stages.generate, n=1, max_tokens=SIZES.completion, stop=())},
        roles={"policy": Role(_model(), Fresh())},
    )
    box = [_state(algorithm)]
    experience = make_experience(algorithm)
    advance = jax.jit(lambda step: step + 1)
    batch = _prompts(SIZES.rows)

    def call() -> dict[str, int]:
        state = box[0]
        made, _ = experience(state, batch)
        jax.block_until_ready(made)
        box[0] = TrainState(state.roles, state.optimizers, advance(state.step), state.seed)  # other tokens next time
        assert made.valid is not None
        return {"tokens": int(made.valid.sum())}

    return call


def _first_token(context: Context, batch: Batch, key: Key) -> Array:
    """The trivial judge, the same as the peer's: the completion with the larger first token wins."""
    assert batch.tokens is not None
    first = batch.tokens[:, :, 0]
    return 0.5 * (1 + jnp.sign(first[:, :, None] - first[:, None, :]).astype(jnp.float32))


def _online() -> Callable[[], dict[str, float]]:
    algorithm = algorithms.online_dpo(
        _model(), judge=fn(_first_token), judges={}, max_tokens=SIZES.completion, **_parts()
    )
    generate = algorithm.experience["generate"].replace(stop=())
    algorithm = Algorithm({**algorithm.experience, "generate": generate}, algorithm.losses, algorithm.roles)
    box = [_state(algorithm)]
    experience, update = make_experience(algorithm), make_update(algorithm)
    batch = _prompts(SIZES.online)

    def call() -> dict[str, float]:
        made, _ = experience(box[0], batch)
        box[0], metrics = update(box[0], made)
        jax.block_until_ready(box[0])
        return {"loss": float(metrics["loss"])}

    return call


def prepare(row: str) -> Callable[[], dict[str, Any]]:
    makers = {
        "dpo_update": lambda: _dpo(precomputed=False),
        "dpo_update_precomputed": lambda: _dpo(precomputed=True),
        "sampling": _sampling,
        "online_step": _online,
        "machine": lambda: machine.peaks,
    }
    _compiled.clear()
    return makers[row]()


def compiled() -> dict[str, float]:
    """Seconds of tracing, lowering and compiling since `prepare`, by function, where they are worth a line."""
    return {name: seconds for name, seconds in _compiled.items() if seconds > 0.2}
