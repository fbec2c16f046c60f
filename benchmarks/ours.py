"""Our side: the library's own jitted functions, called as the training loop calls them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import algorithms, losses, stages
from alignjax.config import MeshConfig, fn
from alignjax.models.transformer import TransformerConfig, transformer
from alignjax.parallel.mesh import make_mesh, place_batch, state_shardings
from alignjax.roles import Fresh, Value
from alignjax.train.optimizers import adamw
from alignjax.train.state import TrainState, abstract_state, create_state
from alignjax.train.step import make_experience, make_update
from alignjax.types import Algorithm, Array, Batch, Context, Key, Model, Role
from alignjax.workspace import Workspace
from benchmarks import machine
from benchmarks.compiling import compiled, device_bytes
from benchmarks.sizes import Sizes

__all__ = ["compiled", "device_bytes", "prepare", "versions"]

Call = Callable[[], dict[str, Any]]


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("alignjax", "jax", "flax", "optax")}


def _model(sizes: Sizes, **switches: Any) -> Model:
    config = TransformerConfig(
        vocab=sizes.vocabulary,
        width=sizes.width,
        layers=sizes.layers,
        heads=sizes.heads,
        mlp=sizes.mlp,
        dtype=sizes.dtype,
        param_dtype=sizes.dtype,
        attention="auto",
        **switches,
    )
    return transformer(config)


def _prompts(sizes: Sizes, rows: int) -> Batch:
    prompt = np.random.default_rng(1).integers(4, sizes.vocabulary, (rows, sizes.prompt), dtype=np.int32)
    return Batch(prompt=jnp.asarray(prompt), prompt_valid=jnp.ones(prompt.shape, bool), example_id=jnp.arange(rows))


def _pairs(sizes: Sizes) -> Batch:
    shape = (sizes.pairs, 2, sizes.completion)
    tokens = np.random.default_rng(2).integers(4, sizes.vocabulary, shape, dtype=np.int32)
    first = jnp.asarray([[0.5, 1.0], [0.0, 0.5]], jnp.float32)
    return _prompts(sizes, sizes.pairs).replace(
        tokens=jnp.asarray(tokens),
        valid=jnp.ones(shape, bool),
        mask=jnp.ones(shape, jnp.float32),
        preference=jnp.broadcast_to(first, (sizes.pairs, 2, 2)),
    )


def _parts(sizes: Sizes, model: Model) -> dict[str, Any]:
    """Policy and reference start from the same weights, so that what a loss starts at is known; nobody clips
    gradients."""
    optimizer = fn(adamw, learning_rate=sizes.learning_rate, max_grad_norm=None)
    return {"optimizer": optimizer, "start": Value(lambda _: model.init(jax.random.key(0)))}


def _placed(algorithm: Algorithm, batch: Batch) -> tuple[TrainState, Batch]:
    """State and batch, over all devices where there are several (FSDP)."""
    if len(jax.devices()) == 1:
        return create_state(algorithm, 0, Workspace(Path())), batch
    mesh = make_mesh(MeshConfig())
    shardings = state_shardings(algorithm, abstract_state(algorithm), mesh)
    return create_state(algorithm, 0, Workspace(Path()), shardings), place_batch(batch, mesh)


def _step(algorithm: Algorithm, batch: Batch, precomputed: bool = False) -> Call:
    """An iteration: experience and update; `precomputed`: the update alone, on what experience made beforehand."""
    state, batch = _placed(algorithm, batch)
    box = [state]  # in a box, because a donated state must not be kept
    experience, update = make_experience(algorithm), make_update(algorithm)
    ready = experience(state, batch)[0] if precomputed else None
    del state

    def call() -> dict[str, Any]:
        made = experience(box[0], batch)[0] if ready is None else ready
        box[0], metrics = update(box[0], made)
        jax.block_until_ready(box[0])
        return {"loss": float(metrics["loss"])}

    return call


def _dpo(sizes: Sizes, precomputed: bool = False) -> Call:
    model = _model(sizes)
    return _step(algorithms.dpo(model, beta=sizes.beta, **_parts(sizes, model)), _pairs(sizes), precomputed)


def _ipo(sizes: Sizes) -> Call:
    model = _model(sizes)
    loss = fn(losses.ipo, tau=sizes.beta, normalize="length")  # as TRL has it
    return _step(algorithms.offline(model, loss=loss, **_parts(sizes, model)), _pairs(sizes))


def _reward(sizes: Sizes) -> Call:
    model = _model(sizes, outputs=("reward",), tied=True)  # tied: no second head that nothing would read
    return _step(algorithms.reward_model(model, **_parts(sizes, model)), _pairs(sizes))


def _sampling(sizes: Sizes) -> Call:
    algorithm = Algorithm(
        experience={"generate": fn(stages.generate, n=1, max_tokens=sizes.completion, stop=())},
        roles={"policy": Role(_model(sizes), Fresh())},
    )
    state, batch = _placed(algorithm, _prompts(sizes, sizes.rows))
    box = [state]
    experience = make_experience(algorithm)
    advance = jax.jit(lambda step: step + 1)

    def call() -> dict[str, int]:
        state = box[0]
        made, _ = experience(state, batch)
        jax.block_until_ready(made)
        box[0] = TrainState(state.roles, state.optimizers, advance(state.step), state.seed)  # other tokens next time
        assert made.valid is not None
        return {"tokens": int(made.valid.sum())}

    return call


def _larger_first(context: Context, batch: Batch, key: Key) -> Array:
    """The trivial judge, the same as the peer's: the completion with the larger first token wins."""
    assert batch.tokens is not None
    first = batch.tokens[:, :, 0]
    return 0.5 * (1 + jnp.sign(first[:, :, None] - first[:, None, :]).astype(jnp.float32))


def _online(sizes: Sizes) -> Call:
    model, judge = _model(sizes), fn(_larger_first)
    made = algorithms.online_dpo(
        model, beta=sizes.beta, judge=judge, judges={}, max_tokens=sizes.completion, **_parts(sizes, model)
    )
    experience = {**made.experience, "generate": made.experience["generate"].replace(stop=())}
    return _step(Algorithm(experience, made.losses, made.roles), _prompts(sizes, sizes.online))


def _first_token(context: Context, batch: Batch, key: Key) -> Batch:
    """The trivial reward, the same as the peer's: the first token."""
    assert batch.tokens is not None
    return batch.replace(reward=batch.tokens[:, :, 0].astype(jnp.float32))


def _grpo(sizes: Sizes) -> Call:
    """The recipe with TRL's choices: a clipped ratio per token, standardized within the group, k3 in the loss."""
    model = _model(sizes)
    made = algorithms.grpo(
        model,
        tau=sizes.beta,
        reward=fn(_first_token),
        n=sizes.samples,
        max_tokens=sizes.completion,
        **_parts(sizes, model),
    )
    experience = {**made.experience, "generate": made.experience["generate"].replace(stop=())}
    return _step(dataclasses.replace(made, experience=experience), _prompts(sizes, sizes.groups))


def prepare(work: str, sizes: Sizes) -> Call:
    makers = {
        "dpo_update": _dpo,
        "dpo_update_precomputed": lambda sizes: _dpo(sizes, precomputed=True),
        "ipo_update": _ipo,
        "reward_step": _reward,
        "sampling": _sampling,
        "online_step": _online,
        "grpo_step": _grpo,
        "machine": lambda sizes: lambda: machine.peaks(sizes.dtype),
    }
    return makers[work](sizes)
