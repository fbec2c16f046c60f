"""Experience of the next iteration, begun before this one is learned from: the policy that samples is one step older
than the one that learns.

Iteration k + 1 is sampled by the state that iteration k begins with, under the keys of iteration k + 1, and scored by
that state where it is scored at all: `logps` of a batch are those of the policy that sampled. So a run is a function of
its config as ever. What is sampled and not yet learned from is part of a checkpoint.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from alignjax.config import ConfigError, Experiment, functions_within
from alignjax.numerics import strong
from alignjax.parallel.mesh import batch_shardings
from alignjax.parallel.processes import is_multi_process
from alignjax.roles import return_to
from alignjax.train.ask_host import is_asked
from alignjax.train.on_policy import on_policy
from alignjax.train.state import TrainState
from alignjax.train.step import Experience, Made
from alignjax.types import Algorithm, Batch


def check_overlap(experiment: Experiment) -> None:
    """Checks that an experiment may be overlapped, if it asks for it.

    Raises:
        ConfigError: It has no stages; or cached log-probs, which are of completions that no stage makes; or `reinforce`
            that takes all samples for the present policy's; or a role whose rule is `return_to`, whose iterations take
            turns, so that each would learn from the samples of the other kind.
    """
    if not experiment.overlap:
        return
    algorithm = experiment.algorithm
    if not algorithm.experience:
        raise ConfigError("Experiment.overlap: the algorithm has no stages, so there is nothing to make ahead")
    if experiment.cached_logps:
        raise ConfigError("Experiment.overlap is for completions that are sampled, cached_logps for those of a source")
    if names := on_policy(algorithm):
        raise ConfigError(
            f"Experiment.overlap samples by the policy of one step before, and {names[0]}, or leave out overlap"
        )
    for name, role in algorithm.roles.items():
        if any(each.function is return_to for each in functions_within(role.rule)):
            raise ConfigError(
                f"Experiment.overlap: role {name!r} has the rule return_to, by which iterations take turns; samples of "
                "one step before would be those of the other turn. Leave out overlap"
            )


@contextlib.contextmanager
def ahead(
    experience: Experience, algorithm: Algorithm, state: TrainState, batches: Iterator[Batch]
) -> Iterator[tuple[Experience, Callable[[], Made]]]:
    """Makes an experience that is one iteration ahead of the update.

    It is called with the state and the batch of the *next* iteration, begins on it, and gives what was begun before:
    `state.pending` of a resumed run at first, else experience on the first of `batches`. On one device the two programs
    follow each other without Python in between. With a host stage (an external engine, a remote judge) experience is
    made in a thread of its own, on a copy of the roles, while the device learns; not in a run of several processes,
    which must all run their programs in one order.

    Args:
        experience: What makes a batch's experience and its metrics.
        algorithm: The algorithm, whose stages say whether a thread is needed.
        state: The state before the first iteration.
        batches: The batches of the run, from which the first may be taken here.

    Yields:
        The experience, and a function that returns what has been made and not been taken yet.
    """
    # `begun` starts on a batch and returns a function that waits for it; `latest` holds the one that was begun last.
    threaded = any(map(is_asked, algorithm.experience.values())) and not is_multi_process()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1)) if threaded else None

        def begun(state: TrainState, batch: Batch) -> Callable[[], Made]:
            if pool is None:
                made = _as_stored(*experience(state, batch))
                return lambda: made
            # The update is given the state's own buffers, so what is read beside it must be others.
            copied = _copied(dataclasses.replace(state, optimizers={}))
            return pool.submit(lambda: _as_stored(*experience(copied, batch))).result

        first = None if state.pending is not None else next(batches, None)
        latest: list[Callable[[], Any]] = [begun(state, first) if first is not None else lambda: state.pending]

        def one_ahead(state: TrainState, following: Batch) -> Made:
            ready = latest[0]()
            latest[0] = begun(dataclasses.replace(state, step=state.step + 1), following)
            return ready

        yield one_ahead, lambda: latest[0]()


def _as_stored(batch: Batch, metrics: dict[str, Any]) -> Made:
    """Puts experience into the shardings in which a checkpoint gives it back, so that a resumed run learns by the same
    program."""
    sharding = next((leaf.sharding for leaf in jax.tree.leaves(batch) if isinstance(leaf, jax.Array)), None)
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return batch, metrics
    return jax.device_put((batch, metrics), batch_shardings((batch, metrics), sharding.mesh))


_copied = jax.jit(strong)
