"""Stages that the host has a part in, between two compiled programs: `host` stages, whole, and text functions, of which
the compiled part of their stage is given the answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from alignjax.config import ConfigError, Fn, functions_within
from alignjax.parallel import processes
from alignjax.parallel.mesh import place_batch
from alignjax.sampling.engine_client import ask_engine
from alignjax.stages.compose import on_view
from alignjax.stages.host_stages import host, replayed
from alignjax.stages.importance import importance
from alignjax.stages.text_functions import text_function
from alignjax.types import Algorithm, Array, Batch, Context, Key

AskTexts = Callable[[str, Fn, int, Batch], np.ndarray]  # (name of the stage, text function, step, batch) -> its answer


def is_host(stage: Fn) -> bool:
    """True for a stage that runs in Python."""
    return stage.function is host


def is_asked(stage: Fn) -> bool:
    """True for a stage that the host has a part in."""
    return is_host(stage) or text_function(stage) is not None


def check_asked(algorithm: Algorithm) -> None:
    """Checks that host stages can be asked by this run.

    Raises:
        ConfigError: In a run of several processes, an engine is to be sent weights before it is asked: the first
            process asks alone, and cannot run or gather the weights that all hold together. Or an engine's samples are
            to be weighed by log-probs that are not those of what it draws from.
    """
    _check_weights(algorithm)
    for name, stage in algorithm.experience.items():
        asks = stage.kwargs["stage"] if processes.is_multi_process() and is_host(stage) else None
        if isinstance(asks, Fn) and asks.function is ask_engine and asks.kwargs["sync"] is not None:
            raise ConfigError(
                f"stage {name!r}: ask_engine(sync=..) cannot send weights from a run of several processes, since the "
                "first of them asks alone: use one process, or leave out sync and serve the weights of a checkpoint"
            )


def _check_weights(algorithm: Algorithm) -> None:
    """Refuses `importance(behaviour="engine")` of an engine that does not sample at temperature 1, untruncated: what it
    says are log-probs at that."""
    functions = [each for stage in algorithm.experience.values() for each in functions_within(stage)]
    weighs = any(each.function is importance and each.kwargs["behaviour"] == "engine" for each in functions)
    for each in functions if weighs else ():
        if each.function is ask_engine and (each.kwargs["temperature"] != 1 or each.kwargs["top_p"] != 1):
            raise ConfigError(
                'importance(behaviour="engine") divides by what the engine says of its samples, log-probs at '
                f"temperature 1, untruncated, and it samples at temperature={each.kwargs['temperature']:g}, "
                f"top_p={each.kwargs['top_p']:g}: set both to 1 in stages.engine(..)"
            )


# ------------------------------------------------------------------------------------------------------- host stages


def ask_stage(name: str, stage: Fn, context: Context, batch: Batch, key: Key, answers: Path | None) -> Any:
    """Asks a host stage, or replays its answer, and puts the answer on the mesh of the question.

    Args:
        name: The stage's name.
        stage: The stage.
        context: Given to it.
        batch: Given to it.
        key: Given to it.
        answers: Where its answers are kept; None: nowhere.
    """
    step = int(context.step)
    if processes.is_multi_process():
        answer = _ask_for_all(stage, name, step, context, batch, key, answers)
    else:
        answer = replayed(stage, name, step, context, batch, key, answers)
    return _placed_like(batch, answer)


def _placed_like(batch: Batch, answer: Any) -> Any:
    """An answer on the mesh of its question."""
    shardings = [leaf.sharding for leaf in jax.tree.leaves(batch) if isinstance(leaf, jax.Array)]
    mesh: Any = next((sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)), None)
    return answer if mesh is None else place_batch(answer, mesh)


def _ask_for_all(
    stage: Fn, name: str, step: int, context: Context, batch: Batch, key: Key, answers: Path | None
) -> Any:
    """Asks a host stage on the first process alone, which tells the others."""
    question = processes.gather_to_host(batch)
    shapes = jax.eval_shape(stage.kwargs["like"], question)
    answer = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    key = jax.random.wrap_key_data(processes.gather_to_host(jax.random.key_data(key)))
    alone = Context(context.roles, {}, step, {}, params=_not_on_one_process, score=_not_on_one_process)
    with processes.raise_on_all_processes():
        if processes.is_main_process():
            answer = replayed(stage, name, step, alone, question, key, answers)
    return processes.broadcast_from_main(answer)


def _not_on_one_process(*arguments: Any, **keywords: Any) -> Any:
    """Stands in a Context for what the first process cannot do alone."""
    raise ConfigError(
        "a host stage of a run of several processes is asked by the first of them alone, which cannot run the models "
        "that all hold together: put what it needs into the batch, in a stage before it"
    )


# ---------------------------------------------------------------------------------------------------- text functions


def _seen(stage: Fn, batch: Batch) -> Batch:
    """The batch that the text function of a stage is asked about: the stage's, or the view that it works on."""
    while stage.function is on_view and isinstance(stage.kwargs["stage"], Fn):
        batch = batch.views.get(stage.kwargs["view"], batch)
        stage = stage.kwargs["stage"]
    return batch


def answer_to(name: str, stage: Fn, batch: Batch, answer: Array | None) -> Callable[..., Array]:
    """Returns the `Context.ask` of a compiled stage.

    Args:
        name: The stage's name.
        stage: The stage.
        batch: What it is given.
        answer: What its text function said; None while shapes alone are traced.

    Returns:
        ask(batch, shape) -> the answer. It raises ConfigError for a batch that the stage made itself: the host was
        asked before the stage ran.
    """
    before = _seen(stage, batch)

    def ask(question: Batch, shape: tuple[int, ...]) -> Array:
        if any(getattr(question, field) is not getattr(before, field) for field in ("prompt", "tokens", "valid")):
            raise ConfigError(
                f"stage {name!r} asks a text function about texts that it makes itself; put what makes them into a "
                "stage before it"
            )
        return jnp.zeros(shape, jnp.float32) if answer is None else answer

    return ask


def ask_text_stage(name: str, stage: Fn, step: int, batch: Batch, ask_texts: AskTexts | None) -> Any:
    """Asks the text function of a stage about the batch that exists; of several processes the first asks for all.

    Args:
        name: The stage's name.
        stage: The stage.
        step: Finished steps.
        batch: The batch before the stage.
        ask_texts: What asks.
    """
    # Only what is read leaves the device. All processes wait for the first one's answer, or hear that it has none.
    asked, seen = text_function(stage), _seen(stage, batch)
    assert asked is not None
    if ask_texts is None:
        raise ConfigError(
            f"stage {name!r} asks {asked.name}, for which a run needs the tokenizer of its data: train it with "
            "`alignjax train`, or give make_experience what `text_host` makes"
        )
    fields = ("prompt", "prompt_valid", "tokens", "valid", "example_id", "pair_weight")
    question = processes.gather_to_host(Batch(**{field: getattr(seen, field) for field in fields}))
    answer = np.zeros((), np.float32)
    with processes.raise_on_all_processes():
        if processes.is_main_process():
            answer = ask_texts(name, asked, step, question)
    if processes.is_multi_process():
        answer = _to_all(answer)
    return _placed_like(batch, answer)


def _to_all(answer: np.ndarray) -> np.ndarray:
    """The first process's array, whose shape the others do not know."""
    sizes = np.zeros(4, np.int32)
    sizes[: answer.ndim] = answer.shape
    shape = tuple(int(size) for size in processes.broadcast_from_main(sizes) if size)
    whole = answer if answer.shape == shape else np.zeros(shape, np.float32)
    return processes.broadcast_from_main(whole)
