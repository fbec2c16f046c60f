"""Stages that run in Python on the host (verifiers, remote judges, environments), and those of an external engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.config import Fn, fn
from alignjax.numerics import as_float32, token_logps
from alignjax.ranges import Count, NonNegative
from alignjax.sampling.engine_client import ask_engine, engine_shapes
from alignjax.types import Array, Batch, Context, Key, Mean, Metrics
from alignjax.workspace import whole_file


def host(
    context: Context, batch: Batch, key: Key, *, stage: Callable[..., Any], like: Callable[[Batch], Any]
) -> Batch | tuple[Batch, Metrics]:
    """Runs a stage in plain Python and NumPy, between the programs of the others.

    Its answers are stored in the run folder, so that a resumed run replays them instead of asking a judge twice.

    Args:
        context: Given to the stage.
        batch: Given to the stage as NumPy arrays.
        key: Given to the stage.
        stage: stage(context, batch, key) -> batch, or (batch, metrics).
        like: like(batch) says, on shapes alone, what comes back; checked after every call and used by dry runs.

    Returns:
        What the stage returned, as NumPy arrays.

    Raises:
        ValueError: If what comes back is not of the shapes and dtypes that `like` declares.
    """
    # Shapes are compared with `like` by path after each call: the stage behind was traced for those, and an error
    # from there would not name the stage.

    def described(tree: Any) -> dict[str, tuple[Any, str]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves}

    answer = jax.tree.map(np.asarray, stage(context, jax.tree.map(np.asarray, batch), key))
    have, want = described(answer), described(jax.eval_shape(like, batch))
    wrong = [
        f"{path}: {have.get(path)}, declared {want.get(path)}"
        for path in sorted({*have, *want})
        if have.get(path) != want.get(path)
    ]
    if wrong:
        raise ValueError(f"a host stage returned something else than its `like` declares: {'; '.join(wrong[:4])}")
    return answer


def replayed(stage: Fn, name: str, step: int, context: Context, batch: Batch, key: Key, folder: Path | None) -> Any:
    """Asks a host stage, or replays the answer that it gave to the same question of this step.

    Args:
        stage: The host stage.
        name: Its name in the algorithm.
        step: The iteration.
        context: Given to the stage.
        batch: The question; an answer is replayed only if it was given to an equal one.
        key: Given to the stage.
        folder: Where answers are stored; None: nowhere.

    Returns:
        The stage's answer.
    """
    # The question is stored with the answer and compared in full, since a step number alone would replay an answer to
    # other samples; after a crash the rename leaves no answer instead of half of one.
    path = folder / f"{name}-{step:08d}.npz" if folder else None
    question = [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]
    if path is not None and path.is_file():
        with np.load(path) as stored:
            if int(stored["asked"]) == len(question) and all(
                np.array_equal(stored[f"asked{i}"], leaf) for i, leaf in enumerate(question)
            ):
                structure = jax.tree.structure(jax.eval_shape(stage.kwargs["like"], batch))
                return jax.tree.unflatten(structure, [stored[f"answer{i}"] for i in range(structure.num_leaves)])
    answer = stage(context, batch, key)
    if path is not None:
        arrays: dict[str, Any] = {"asked": len(question)} | {f"asked{i}": leaf for i, leaf in enumerate(question)}
        arrays |= {f"answer{i}": leaf for i, leaf in enumerate(jax.tree.leaves(answer))}
        with whole_file(path) as file:
            np.savez(file, **arrays)
    return answer


def engine(
    *,
    n: Count,
    max_tokens: Count,
    temperature: NonNegative = 1.0,
    logprobs: bool = True,
    role: str = "policy",
    **settings: Any,
) -> dict[str, Fn]:
    """Returns the two stages that stand where `generate` does: {"generate": completions of an external engine,
    "engine_logps": their log-probs by our scorer}.

    Args:
        n: Completions per prompt.
        max_tokens: Longest completion, in tokens.
        temperature: Of the engine.
        logprobs: Asks the engine for its own log-probs too.
        role: The role whose weights the engine has.
        **settings: Further arguments of `ask_engine`.
    """
    sizes = {"n": n, "max_tokens": max_tokens, "logprobs": logprobs}
    ask = fn(ask_engine, temperature=temperature, **sizes, **settings)
    scored = fn(engine_logps, role=role, temperature=temperature, truncated=settings.get("top_p", 1.0) < 1)
    return {"generate": fn(host, stage=ask, like=fn(engine_shapes, **sizes)), "engine_logps": scored}


def engine_logps(
    context: Context,
    batch: Batch,
    key: Key,
    *,
    role: str = "policy",
    temperature: NonNegative = 1.0,
    truncated: bool = False,
) -> tuple[Batch, Metrics]:
    """Fills logps[role] and, of what was sampled untruncated, logps["sampler"]: log-probs by our scorer, the latter at
    the temperature of the engine.

    They are the engine's own as far as it has the weights of the role. One that lags behind samples from older weights,
    which these log-probs do not know, so that reinforce(behaviour="sampler") would weigh its samples by 1: at
    temperature 1, untruncated, write behaviour="engine", which divides by what the engine itself says.

    Args:
        context: Scores the role.
        batch: The engine's completions.
        key: Not used.
        role: The role whose weights the engine has.
        temperature: The engine's.
        truncated: Whether the engine truncated (top_p below 1), which our log-probs do not know.

    Returns:
        The batch; with logps["engine"] the metric sampler_gap/engine says how far the engine was from our scorer, in
        nats per token (of engines that report log-probs at temperature 1, untruncated, as vLLM does by default).
    """
    # One pass reads both log-probs from the same logits: a second pass at another temperature would cost as much again.
    # Temperature 0 is clamped, as the samplers do it.

    def read(outputs: Mapping[str, Array], token: Array) -> dict[str, Array]:
        (logits,) = outputs.values()
        cold = as_float32(logits) / jnp.maximum(temperature, 1e-6)
        return {"role": token_logps(logits, token), "sampler": token_logps(cold, token)}

    scores = context.score(role, batch, read)
    filled = batch.with_logps(**{role: scores["role"]}, **({} if truncated else {"sampler": scores["sampler"]}))
    if "engine" not in batch.logps:
        return filled, {}
    return filled, {"sampler_gap/engine": Mean.of(jnp.abs(batch.logps["engine"] - scores["role"]), batch.valid)}
