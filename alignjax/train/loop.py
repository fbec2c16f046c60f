"""The training loop, to be read from top to bottom. What it does is in the algorithm; here is only when.

Every random number is a function of (seed, step, name of the stage, example), the data of (seed, step), and a
checkpoint lies between two iterations, so a run that was killed and resumed ends in the same bits, samples and
metrics.jsonl as one that was not.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from alignjax.config import ConfigError, Experiment
from alignjax.data.sources.batch_layout import PER_COMPLETION_TOKEN, PER_PROMPT_TOKEN
from alignjax.data.sources.recorded import BatchWriter
from alignjax.data.sources.source import Source
from alignjax.parallel.mesh import make_mesh, place_batch, process_shard
from alignjax.parallel.processes import (
    gather_to_host,
    is_main_process,
    is_multi_process,
    raise_on_all_processes,
    translate_lost_peer,
)
from alignjax.roles import remember
from alignjax.train import checkpoint, metrics
from alignjax.train.begin import Log, abstract, claim, first_state
from alignjax.train.checkpoint.leaves import not_finite
from alignjax.train.logp_cache.reference_logps import with_logps, without_cached
from alignjax.train.overlap import ahead, with_pending
from alignjax.train.run_record import write_config
from alignjax.train.state import TrainState, abstract_state, trained, unchanging
from alignjax.train.step import make_experience, make_update
from alignjax.train.stop_signal import Interrupted, Wish, stop_wishes
from alignjax.types import Algorithm, Batch
from alignjax.workspace import Workspace

AHEAD = 2  # steps that Python may be ahead of the device: enough to keep it busy, few enough to stop soon
OnStep = Callable[[int, TrainState, Any], None]


class NotFinite(ArithmeticError):
    """A loss, a gradient or a weight became NaN or infinite."""


def train(
    experiment: Experiment,
    workspace: Workspace,
    *,
    resume: bool = False,
    console: Console | None = None,
    on_step: OnStep | None = None,
) -> TrainState:
    """Trains `experiment` in workspace.folder and returns the state after its last step.

    resume: go on from the newest good checkpoint of the folder, or begin if there is none; a finished run is returned
    as it is. on_step(step, state, metrics) is called after every step; `state` is donated to the next one, so copy what
    is to be kept.

    Writes config.json, metrics.jsonl (a line per `log_every` steps, of means over them), samples.jsonl, checkpoints/.

    Of several processes each calls this and feeds its own rows of every batch; the first one alone writes and speaks.

    Raises ConfigError or CheckpointError before any work if the folder holds another run, is not to be written or has
    no room; NotFinite if the training diverges, its last checkpoint kept; Interrupted (a SystemExit with status 130 or
    143), having saved, after Ctrl-C or SIGTERM at any process; distributed.Unreachable if another process has died.
    """
    console = (console or Console()) if is_main_process() else Console(quiet=True)
    folder, algorithm = workspace.folder, without_cached(experiment, workspace)
    with raise_on_all_processes():
        claim(experiment, folder, resume)
    record = write_config(folder, experiment)
    mesh = make_mesh(experiment.mesh)
    like = with_pending(experiment, algorithm, abstract(algorithm, experiment.seed, mesh), workspace)
    with raise_on_all_processes():
        if is_main_process():
            checkpoint.check_room(folder, like, keep=experiment.keep, once=unchanging(algorithm.roles))
    source = _source(experiment, algorithm, workspace)

    with contextlib.ExitStack() as stack:
        stack.enter_context(translate_lost_peer())
        wish = stack.enter_context(stop_wishes())
        state, log = first_state(experiment, workspace, like, console, resume)
        start = int(state.step)
        if experiment.cached_logps and start < experiment.steps:
            source = with_logps(experiment, source, state, mesh, console, wish)
        open_sinks = metrics.opened(folder, start, tags=experiment.tags, config=record["config"])
        run = Run(
            record=record,
            **_made(experiment, algorithm, state, workspace, stack, source, mesh),
            update=make_update(algorithm),
            writer=stack.enter_context(checkpoint.writing(folder, keep=experiment.keep)),
            sink=stack.enter_context(open_sinks),
            sample=stack.enter_context(_sampler(experiment, workspace, start, console)),
            keep=_recorder(algorithm, workspace),
            show=stack.enter_context(metrics.watched(console, workspace.stage or "train", start, experiment.steps)),
            on_step=on_step or (lambda step, state, values: None),
            wish=wish,
        )
        state = _steps(experiment, run, dataclasses.replace(state, pending=None), log)
        stopped = wish.granted(agree=True)
    if stopped:
        raise _goodbye(wish.number, int(state.step), experiment, console)
    return state


@dataclasses.dataclass(frozen=True)
class Run:
    """What an experiment is while it runs: its functions compiled, its files open."""

    record: Mapping[str, Any]
    batches: Iterator[Batch]
    experience: Callable[[TrainState, Batch], tuple[Batch, dict[str, Any]]]
    pending: Callable[[], Any]
    update: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]
    writer: checkpoint.Writer
    sink: metrics.Sink
    sample: OnStep
    keep: Callable[[int, Batch], None]
    show: Callable[[int, metrics.Row | None], None]
    on_step: OnStep
    wish: Wish


def _steps(experiment: Experiment, run: Run, state: TrainState, log: Log) -> TrainState:
    """The iterations that are left, or those until somebody wants to stop."""
    clock, pending = _clock(log.seconds), list(log.pending)
    running: collections.deque[Any] = collections.deque(maxlen=AHEAD)

    for step, batch in enumerate(run.batches, int(state.step) + 1):
        batch, seen = run.experience(state, batch)
        run.keep(step, batch)
        state, learned = run.update(state, batch)
        pending.append({**seen, **_counted(batch), **learned})
        if len(running) == AHEAD:
            jax.block_until_ready(running[0])
        running.append(pending[-1])
        run.on_step(step, state, pending[-1])

        log_now, last = step % experiment.log_every == 0, step == experiment.steps
        if step % experiment.sample_every == 0 or last:
            run.sample(step, state, batch)
        stop = run.wish.granted(agree=log_now or last)
        save = step % experiment.checkpoint_every == 0 or last or stop
        row = None
        if log_now or save:
            pending = _fetched(pending, step, run.writer)
        if log_now or last:
            checkpoint.check(run.writer)
            row = _row(pending, batch, clock(), log.written)
            run.sink.write(step, row)
            pending, log = [], Log(written=clock())
        run.show(step, row)
        if save:
            _refuse_broken(state, experiment.algorithm, step, run.writer)
            kept = dataclasses.asdict(Log(tuple(pending), clock(), log.written))
            saved = dataclasses.replace(state, pending=run.pending())
            extra = {**run.record, "iterator": {"next_step": step}, "log": kept}
            checkpoint.save(run.writer, step, saved, extra, once=unchanging(experiment.algorithm.roles))
        if stop:
            break
    return state


def _made(
    experiment: Experiment, algorithm: Algorithm, state: TrainState, workspace: Workspace, stack: contextlib.ExitStack,
    source: Any, mesh: jax.sharding.Mesh,
) -> dict[str, Any]:  # fmt: skip
    """A `Run`'s batches, what makes experience of them, and what of it a checkpoint has to hold."""
    experience = make_experience(algorithm, workspace.folder / "answers")
    first, last = int(state.step), experiment.steps
    if not experiment.overlap:
        batches = _batches(source, first, last, mesh)
        return {"batches": batches, "experience": experience, "pending": lambda: None}
    batches = _batches(source, first + (state.pending is not None), last + 1, mesh)
    experience, pending = stack.enter_context(ahead(experience, algorithm, state, batches))
    return {"batches": batches, "experience": experience, "pending": pending}


def _source(experiment: Experiment, algorithm: Algorithm, workspace: Workspace) -> Any:
    source = experiment.source(workspace, experiment.seed)
    if not getattr(source, "buckets", ()):
        return source
    if experiment.overlap or not algorithm.losses:
        raise ConfigError("batches of several shapes can be neither overlapped nor recorded; leave out the buckets")
    if found := _remembered(algorithm, source.spec):
        raise ConfigError(f"a memory has room for one shape, and buckets give {found} several; leave out the buckets")
    return source


def _remembered(algorithm: Algorithm, spec: Batch) -> str:
    """The fields of memories whose length is that of a source's prompts or completions; "" if there is none."""
    memories = [name for name, role in algorithm.roles.items() if role.rule.function is remember]
    kept = abstract_state(algorithm).roles if memories else {}
    # of a source without completions they are sampled, all of one length
    long = {*PER_PROMPT_TOKEN, *((*PER_COMPLETION_TOKEN, "logps") if spec.tokens is not None else ())}
    return ", ".join(f"{name}[{field!r}]" for name in memories for field in kept[name] if field.split("/")[0] in long)


def _batches(source: Any, start: int, stop: int, mesh: jax.sharding.Mesh) -> Iterator[Batch]:
    """Batches start .. stop - 1 on the mesh, made in the background where the source can. A source that can be shared
    makes this process's rows alone, where the mesh gives it rows of its own; any other makes whole batches
    everywhere."""
    parts = 1
    if isinstance(source, Source) and source.shard == (0, 1):
        source = dataclasses.replace(source, shard=process_shard(source.spec, mesh))
        parts = source.shard[1]
    if start < stop and hasattr(source, "prefetched"):
        found = itertools.islice(source.prefetched(start), stop - start)
    else:
        found = (source[step] for step in range(start, stop))
    return (place_batch(batch, mesh, parts) for batch in found)


def _clock(seconds: float) -> Callable[[], float]:
    """Seconds of training, those before an interruption included."""
    begun = time.perf_counter() - seconds
    return lambda: time.perf_counter() - begun


# -------------------------------------------------------------------------------------------------------------- numbers


def _counted(batch: Batch) -> dict[str, jax.Array]:
    return {} if batch.valid is None else {"completion_tokens": jnp.sum(batch.valid, dtype=jnp.int32)}


def _fetched(pending: list[Any], step: int, writer: checkpoint.Writer) -> list[metrics.Row]:
    """The metrics of the steps up to `step` from the device. Raises NotFinite at the first that is broken."""
    rows = metrics.fetched(gather_to_host(pending))
    for number, row in enumerate(rows, step - len(rows) + 1):
        if wrong := metrics.not_finite(row):
            raise _broken(f"{', '.join(f'{name} = {row[name]}' for name in wrong)} at step {number}", writer)
    return rows


def _refuse_broken(state: TrainState, algorithm: Algorithm, step: int, writer: checkpoint.Writer) -> None:
    """Raises NotFinite instead of saving weights that are: a finite loss says nothing of the update after it."""
    own = {name: state.roles[name] for name in trained(algorithm.roles)}
    if wrong := not_finite(own):
        raise _broken(f"weights {', '.join(wrong[:3])} are not finite after step {step}", writer)


def _broken(what: str, writer: checkpoint.Writer) -> NotFinite:
    checkpoint.wait(writer)
    there = checkpoint.steps(Path(writer.directory).parent)
    kept = f"The checkpoint of step {there[-1]} is kept." if there else "There is no checkpoint yet."
    return NotFinite(f"training diverged: {what}. {kept} Try a lower learning rate or a lower max_grad_norm.")


def _row(rows: list[metrics.Row], batch: Batch, now: float, before: float) -> metrics.Row:
    """Means over the steps since the line written at second `before`, and the throughput since."""
    prompts = len(rows) * jax.tree.leaves(batch.replace(views={}))[0].shape[0]
    rates = {"seconds": now, "prompts_per_second": prompts / (now - before)}
    if "completion_tokens" in rows[-1]:
        rates["completion_tokens_per_second"] = sum(row["completion_tokens"] for row in rows) / (now - before)
    return metrics.averaged(rows) | {f"{metrics.CLOCK}{name}": value for name, value in rates.items()}


# -------------------------------------------------------------------------------------------------------------- outputs


@contextlib.contextmanager
def _sampler(experiment: Experiment, workspace: Workspace, start: int, console: Console) -> Iterator[OnStep]:
    """What shows samples: experiment.sample(experiment, workspace) -> (state, batch, step) -> [{name: text}], written
    to samples.jsonl, the first of them shown. Every process calls it, since it may run the model; what it is given of
    the batch is whole everywhere."""
    if experiment.sample is None:
        yield lambda step, state, batch: None
        return
    drawn = experiment.sample(experiment, workspace)
    sink = metrics.Sink(lambda step, row: None)
    if is_main_process():
        metrics.cut_back(workspace.folder / metrics.SAMPLES, start)
        sink = metrics.jsonl(workspace.folder / metrics.SAMPLES)

    def show(step: int, state: TrainState, batch: Batch) -> None:
        found = drawn(state, gather_to_host(batch) if is_multi_process() else batch, step)
        sink.write(step, {"samples": found})
        for name, text in found[0].items() if found else ():
            line = " ".join(str(text).split())
            console.print(f"  {name}: {line}", highlight=False, markup=False, no_wrap=True, overflow="ellipsis")

    try:
        yield show
    finally:
        sink.close()


def _recorder(algorithm: Algorithm, workspace: Workspace) -> Callable[[int, Batch], None]:
    """What keeps the batches of an algorithm without losses: they are its result. A resumed run comes past some that
    are written already."""
    if algorithm.losses:
        return lambda step, batch: None
    writer = BatchWriter(workspace.folder)
    complete = writer.complete

    def record(step: int, batch: Batch) -> None:
        if step > complete:
            whole = gather_to_host(batch)
            if is_main_process():
                writer.append(whole)

    return record


def _goodbye(number: int, step: int, experiment: Experiment, console: Console) -> Interrupted:
    left = experiment.steps - step
    rest = f"{left} steps are left: run the same command with --resume" if left else "all steps are done"
    console.print(f"stopped and saved after step {step}; {rest}", highlight=False, markup=False, soft_wrap=True)
    return Interrupted(number, step)
