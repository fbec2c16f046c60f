"""The training loop, to be read from top to bottom: the algorithm says what is done, this file only when.

Every random number is a function of (seed, step, name of the stage, example), the data of (seed, step), and a
checkpoint lies between two iterations, so a run that was killed and resumed ends in the same bits, samples and
metrics.jsonl as one that was not.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from alignjax import outside
from alignjax.config import ConfigError, Experiment
from alignjax.data.sources.recorded import BatchWriter
from alignjax.data.sources.source import Source
from alignjax.parallel.mesh import make_mesh, place_batch, process_shard
from alignjax.parallel.processes import gather_to_host, is_main_process, raise_on_all_processes, translate_lost_peer
from alignjax.train import checkpoint, metrics
from alignjax.train.begin import Log, check_unused, claim, first_state, warn_of_no_reuse
from alignjax.train.checkpoint.checksums import not_finite
from alignjax.train.logp_cache.reference_logps import with_logps
from alignjax.train.overlap import ahead
from alignjax.train.resolve import Resolved, check_losses, resolve
from alignjax.train.run_record import write_config
from alignjax.train.samples import OnStep, sampler
from alignjax.train.state import TrainState, trained, unchanging
from alignjax.train.step import Experience, Update, make_experience, make_update
from alignjax.train.stop_signal import Interrupted, StopRequest, stop_requests
from alignjax.train.text_host import ANSWERS, naming_the_checkpoint, text_host
from alignjax.types import Algorithm, Batch
from alignjax.workspace import Workspace

AHEAD = 2  # steps that Python may be ahead of the device: enough to keep it busy, few enough to stop soon


class NotFinite(ArithmeticError):
    """A loss, a gradient or a weight became NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Run:
    """An experiment while it runs: its functions compiled, its files open.

    Attributes:
        resolved: The experiment with its algorithm, source and mesh.
        record: What config.json holds.
        state: The state before the first step to be taken.
        log: What was measured before that step and not yet written.
        batches: The batches of the steps that are left.
        experience: Makes a batch's experience and its metrics from a state.
        pending: Returns the experience that was made and not yet learned from, for checkpoints of an overlapped run.
        update: Learns from a batch, with metrics.
        writer: Writes checkpoints.
        write: Writes lines of metrics.
        sample: Shows samples after a step.
        keep: Writes the batches of an algorithm without losses.
        show: Shows the step, and its line of metrics if one was written.
        stop: Knows whether somebody wants the run to stop.
    """

    resolved: Resolved
    record: Mapping[str, Any]
    state: TrainState
    log: Log
    batches: Iterator[Batch]
    experience: Experience
    pending: Callable[[], Any]
    update: Update
    writer: checkpoint.Writer
    write: metrics.Write
    sample: OnStep
    keep: Callable[[int, Batch], None]
    show: Callable[[int, metrics.Row | None], None]
    stop: StopRequest


def train(
    experiment: Experiment,
    workspace: Workspace,
    *,
    resume: bool = False,
    console: Console | None = None,
    on_step: OnStep | None = None,
) -> TrainState:
    """Trains `experiment` in workspace.folder.

    It writes config.json, metrics.jsonl (a line per `log_every` steps, of means over them), samples.jsonl and
    checkpoints/. Of several processes each calls this and feeds its own rows of every batch; the first one alone writes
    and speaks.

    Args:
        experiment: The experiment.
        workspace: The workspace that names the folder.
        resume: Goes on from the newest good checkpoint of the folder, or begins if there is none; the state of a
            finished run is returned as it is.
        console: Where progress is shown.
        on_step: Called as on_step(step, state, metrics) after every step. `state` is donated to the next one, so copy
            what is to be kept.

    Returns:
        The state after the last step.

    Raises:
        ConfigError: Before any work, if the folder holds another run or cannot be written.
        CheckpointError: Before any work, if there is no room for checkpoints or none of those there is good.
        NotFinite: The training has diverged; its last checkpoint is kept.
        RewardError: A text function failed; the last checkpoint is kept.
        Interrupted: Ctrl-C or SIGTERM came at any process and the run was saved: a SystemExit with status 130 or 143.
        Unreachable: Another process of the run has died.
    """
    # The request to stop is looked at once more after the last step, so that all processes leave alike, and the files
    # are closed before the process ends: sinks then see no exception, and the last checkpoint is complete.
    console = (console or outside.console()) if is_main_process() else Console(quiet=True)
    with raise_on_all_processes():
        if not resume:
            check_unused(workspace.folder)  # before its data is prepared
        resolved = resolve(experiment, workspace, make_mesh(experiment.mesh), prepare=True)
        check_losses(resolved)
    with naming_the_checkpoint(workspace.folder), opened(resolved, workspace, console, resume) as run:
        state = run_steps(run, on_step)
        stopped = run.stop.agreed(ask_all=True)
    if stopped:
        raise _goodbye(run.stop.number, int(state.step), experiment, console)
    return state


@contextlib.contextmanager
def opened(resolved: Resolved, workspace: Workspace, console: Console, resume: bool) -> Iterator[Run]:
    """Opens a run: claims its folder, makes or restores its state, compiles its functions and opens its files.

    Args:
        resolved: The experiment, on the mesh of its devices.
        workspace: The workspace that names the folder.
        console: Where progress is shown.
        resume: Whether a run that the folder holds goes on.

    Raises:
        ConfigError: What `train` raises before any work.
    """
    # All that can refuse comes first, behind barriers: what fails on one process fails on all, before anything
    # expensive has run. Files are closed in the order opposite to their opening, checkpoints last, also after an error.
    experiment, algorithm, folder = resolved.experiment, resolved.algorithm, workspace.folder
    with raise_on_all_processes():
        claim(resolved.given, folder, resume)
    record = write_config(folder, resolved.given)
    with raise_on_all_processes():
        if is_main_process():
            once = unchanging(algorithm.roles)
            checkpoint.check_room(folder, resolved.state, keep=experiment.keep, once=once)
    update = make_update(algorithm)
    with translate_lost_peer(), stop_requests() as stop:
        state, log = first_state(resolved, workspace, console, resume)
        with raise_on_all_processes():
            _check_start(algorithm, state)
        warn_of_no_reuse(resolved, console)
        start, source = int(state.step), resolved.source
        if experiment.cached_logps and start < experiment.steps:
            source = with_logps(experiment, source, state, resolved.mesh, console, stop)
        with (
            _experience(resolved, source, state, workspace) as (batches, experience, pending),
            checkpoint.writing(folder, keep=experiment.keep) as writer,
            metrics.opened(folder, start, tags=experiment.tags, config=record["config"]) as write,
            sampler(experiment, workspace, start, console, write) as sample,
            metrics.watched(console, workspace.stage or "train", start, experiment.steps) as show,
        ):
            yield Run(
                resolved=resolved,
                record=record,
                state=dataclasses.replace(state, pending=None),
                log=log,
                batches=batches,
                experience=experience,
                pending=pending,
                update=update,
                writer=writer,
                write=write,
                sample=sample,
                keep=_recorder(algorithm, folder),
                show=show,
                stop=stop,
            )


def run_steps(run: Run, on_step: OnStep | None = None) -> TrainState:
    """Takes the steps that are left, or those until somebody wants to stop.

    Args:
        run: The run, which is used up.
        on_step: Called as on_step(step, state, metrics) after every step.

    Returns:
        The state after the last step that was taken.

    Raises:
        NotFinite: A loss, a gradient or a weight became NaN or infinite.
    """
    # Python runs ahead of the device by up to AHEAD steps. It waits for numbers only where a line is written or a
    # checkpoint saved, where they are looked through first: what is broken is never saved. A checkpoint holds the
    # metrics that no line has yet, so that a resumed run writes the lines of one that was not interrupted.
    experiment, state, log = run.resolved.experiment, run.state, run.log
    clock, pending = _clock(log.seconds), list(log.pending)
    running: collections.deque[Any] = collections.deque(maxlen=AHEAD)

    for step, batch in enumerate(run.batches, int(state.step) + 1):
        batch, seen = run.experience(state, batch)
        run.keep(step, batch)
        state, learned = run.update(state, batch)
        counted = {} if batch.valid is None else {"completion_tokens": jnp.sum(batch.valid, dtype=jnp.int32)}
        pending.append({**seen, **counted, **learned})
        if len(running) == AHEAD:
            jax.block_until_ready(running[0])
        running.append(pending[-1])
        if on_step is not None:
            on_step(step, state, pending[-1])

        log_now, last = step % experiment.log_every == 0, step == experiment.steps
        if step % experiment.sample_every == 0 or last:
            run.sample(step, state, batch)
        stop = run.stop.agreed(ask_all=log_now or last)
        save = step % experiment.checkpoint_every == 0 or last or stop
        row = None
        if log_now or save:
            pending = _fetched(pending, step, run.writer)
        if log_now or last:
            checkpoint.check(run.writer)
            row = metrics.logged_row(pending, batch, clock(), log.written)
            run.write(step, row)
            pending, log = [], Log(written=clock())
        run.show(step, row)
        if save:
            _save(run, state, step, Log(tuple(pending), clock(), log.written))
        if stop:
            break
    return state


def _save(run: Run, state: TrainState, step: int, log: Log) -> None:
    """Writes a checkpoint. Raises NotFinite instead if the weights are not: a finite loss says nothing of the update
    after it."""
    roles = run.resolved.algorithm.roles
    if wrong := not_finite({name: state.roles[name] for name in trained(roles)}):
        raise _broken(f"weights {', '.join(wrong[:3])} are not finite after step {step}", run.writer)
    extra = {**run.record, "iterator": {"next_step": step}, "log": dataclasses.asdict(log)}
    saved = dataclasses.replace(state, pending=run.pending())
    checkpoint.save(run.writer, step, saved, extra, once=unchanging(roles))


@contextlib.contextmanager
def _experience(
    resolved: Resolved, source: Any, state: TrainState, workspace: Workspace
) -> Iterator[tuple[Iterator[Batch], Experience, Callable[[], Any]]]:
    """A `Run`'s batches, what makes experience of them, and what of it a checkpoint has to hold."""
    answers, first, last = workspace.folder / ANSWERS, int(state.step), resolved.experiment.steps
    with text_host(resolved.experiment, workspace, answers) as ask_texts:
        experience = make_experience(resolved.algorithm, answers, ask_texts)
        if not resolved.experiment.overlap:
            yield _batches(source, first, last, resolved.mesh), experience, lambda: None
            return
        batches = _batches(source, first + (state.pending is not None), last + 1, resolved.mesh)
        with ahead(experience, resolved.algorithm, state, batches) as (experience, pending):
            yield batches, experience, pending


def _batches(source: Any, start: int, stop: int, mesh: Any) -> Iterator[Batch]:
    """Batches start .. stop - 1 on the mesh, made in the background where the source can. A source that can be shared
    makes this process's rows alone, where the mesh gives it rows of its own; any other makes whole batches
    everywhere."""
    parts = 1
    if isinstance(source, Source) and source.shard == (0, 1):
        source = dataclasses.replace(source, shard=process_shard(source.spec, mesh))
        parts = source.shard[1]
    if start < stop and hasattr(source, "prefetched"):
        batches = itertools.islice(source.prefetched(start), stop - start)
    else:
        batches = (source[step] for step in range(start, stop))
    return (place_batch(_labels_looked_at(batch, step), mesh, parts) for step, batch in enumerate(batches, start))


def _clock(seconds: float) -> Callable[[], float]:
    """A clock of the seconds of training, those before an interruption included."""
    begun = time.perf_counter() - seconds
    return lambda: time.perf_counter() - begun


# -------------------------------------------------------------------------------------------------------------- numbers


def _fetched(pending: list[Any], step: int, writer: checkpoint.Writer) -> list[metrics.Row]:
    """Fetches the metrics of the steps up to `step` from the device. Raises NotFinite at the first that is broken."""
    rows = metrics.fetched(gather_to_host(pending))
    for number, row in enumerate(rows, step - len(rows) + 1):
        if wrong := metrics.not_finite(row):
            raise _broken(f"{', '.join(f'{name} = {row[name]}' for name in wrong)} at step {number}", writer)
    return rows


def _broken(what: str, writer: checkpoint.Writer) -> NotFinite:
    """Waits for the last checkpoint to be whole, and returns the exception that says so."""
    checkpoint.wait(writer)
    steps = checkpoint.steps(Path(writer.directory).parent)
    rest = f"The checkpoint of step {steps[-1]} is kept." if steps else "There is no checkpoint yet."
    return NotFinite(
        f"training diverged: {what}. {rest} The weights that it began with and the labels of its batches were looked "
        "at and are finite. Try a lower learning rate or a lower max_grad_norm."
    )


def _check_start(algorithm: Algorithm, state: TrainState) -> None:
    """Checks the weights before the first step, so that what was broken before is not called diverged. Raises
    ConfigError naming the role and leaf."""
    for role, tree in state.roles.items():
        if algorithm.roles[role].model is not None and (wrong := not_finite(tree)):
            raise ConfigError(
                f"role {role!r} starts with numbers that are not finite ({', '.join(wrong[:3])}): look at what it "
                "starts from; no step was taken"
            )


def _labels_looked_at(batch: Batch, step: int) -> Batch:
    """The batch, if its labels are numbers: probabilities in `preference`, finite weights from 0. A reward may be NaN,
    which says that nobody knows it. Raises ConfigError naming the field; arrays on a device are not waited for."""
    weight = batch.pair_weight if isinstance(batch.pair_weight, np.ndarray) else None
    for name, most, meant in (
        ("pair_weight", math.inf, "a finite number from 0"),
        ("preference", 1.0, "a probability"),
    ):
        values = getattr(batch, name)
        if not isinstance(values, np.ndarray):
            continue
        wrong = ~((values >= 0) & (values <= most) & np.isfinite(values))
        if weight is not None and name == "preference":  # what counts nothing need not be a number
            wrong &= weight + weight.swapaxes(-1, -2) > 0
        if wrong.any():
            raise ConfigError(
                f"{name} of batch {step} of the source has a value that is not {meant}; look at the labels of its rows"
            )
    return batch


# -------------------------------------------------------------------------------------------------------------- outputs


def _recorder(algorithm: Algorithm, folder: Path) -> Callable[[int, Batch], None]:
    """Returns what writes the batches of an algorithm without losses: they are its result. A resumed run comes past
    some that are written already."""
    if algorithm.losses:
        return lambda step, batch: None
    writer = BatchWriter(folder)
    complete = writer.complete

    def record(step: int, batch: Batch) -> None:
        if step > complete:
            whole = gather_to_host(batch)
            if is_main_process():
                writer.append(whole)

    return record


def _goodbye(number: int, step: int, experiment: Experiment, console: Console) -> Interrupted:
    """Says what is left to do, and returns the exception that ends the process."""
    left = experiment.steps - step
    rest = f"{left} steps are left: run the same command with --resume" if left else "all steps are done"
    console.print(f"stopped and saved after step {step}; {rest}", highlight=False, markup=False, soft_wrap=True)
    return Interrupted(number, step)
