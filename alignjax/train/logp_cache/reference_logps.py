"""Log-probs of frozen roles over the rows of a source: scored once, stored on disk (`shards.py`), read again in later
epochs and runs.

They are stored under a hash of all that they depend on: the weights, bit by bit; what made the model; the code that
runs it; the versions and the kind of device. Within that each is found by the tokens that were scored, so that a
changed tokenizer, chat template or row, which are other tokens, finds nothing, and neither padding nor batches matter.

Of several processes each looks up all rows and scores those that its devices hold; the first alone reads and writes the
folder, and the others are told what is in it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from alignjax import models, numerics, scoring, stages
from alignjax.config import ConfigError, Experiment, check_known
from alignjax.data.prepared import cache_folder
from alignjax.data.sources.batch_layout import stacked
from alignjax.data.sources.source import Source
from alignjax.parallel import processes
from alignjax.parallel.mesh import place_batch
from alignjax.train.checkpoint.checksums import digest
from alignjax.train.logp_cache.shards import content_keys, decoded, encoded, read_shards, write_shard
from alignjax.train.run_record import config_json, versions
from alignjax.train.state import TrainState
from alignjax.train.step import first_rewrite
from alignjax.train.stop_signal import Interrupted, StopRequest
from alignjax.types import Algorithm, Batch, Model, frozen
from alignjax.workspace import write_json

FORMAT = 1  # raise it when what is stored changes its meaning
SHARD_SECONDS = 20.0  # of scoring: what is lost, at most, when a run is killed
SAY_SECONDS = 10.0
LOOKED = 256  # rows that are looked up, at most, until processes hear whether one of them was asked to stop

Known = dict[bytes, np.ndarray]  # log-probs of a completion's valid tokens, by content
Keys = tuple[bytes, ...]  # of the completions of a row
Scorer = Callable[[Mapping[Keys, Batch]], Known]  # rows by their keys -> log-probs by key


# --------------------------------------------------------------------------------------------------------------- checks


def without_cached(experiment: Experiment, source: Any, state: TrainState) -> Algorithm:
    """Takes out of an algorithm the stages that `experiment.cached_logps` answers.

    Args:
        experiment: Whose algorithm it is.
        source: Its source.
        state: The shapes of its state.

    Returns:
        The algorithm without those stages.

    Raises:
        ConfigError: Before any work: one of the roles does not exist or may move, or what the losses score is not what
            the source gives.
    """
    algorithm, names = experiment.algorithm, experiment.cached_logps
    if not names:
        return algorithm
    for name in names:
        _check_frozen(algorithm, name, state)
    _check_source(experiment, source, state)

    rest = {
        name: stage
        for name, stage in algorithm.experience.items()
        if stage.function is not stages.logprobs or stage.kwargs["role"] not in names
    }
    return dataclasses.replace(algorithm, experience=rest)


def _check_frozen(algorithm: Algorithm, name: str, state: TrainState) -> None:
    roles = algorithm.roles
    check_known(name, roles, f"cached_logps names {name!r}, which is no role")
    model = roles[name].model
    if model is None or model.config is None:
        raise ConfigError(f"cached_logps: role {name!r} has no model with a config that says what it is; take it out")
    for part in _made_from(algorithm, name, state):
        if roles[part].optimizer is not None or roles[part].rule.function is not frozen:
            whose = "" if part == name else f" is built from {part!r}, which"
            raise ConfigError(f"cached_logps: role {name!r}{whose} moves during the run; only what is frozen is kept")


def _made_from(algorithm: Algorithm, name: str, state: TrainState) -> list[str]:
    """The roles whose trees say what `name` runs on."""
    seen: list[str] = []

    def built(trees: Mapping[str, Any]) -> Any:
        def params(role: str) -> Any:
            seen.append(role)
            build = algorithm.roles[role].build
            return trees[role] if build is None else build(trees[role], params)

        return params(name)

    jax.eval_shape(built, state.roles)
    return seen


def _check_source(experiment: Experiment, source: Any, state: TrainState) -> None:
    if not isinstance(source, Source):
        raise ConfigError(f"cached_logps needs a source of alignjax.data; {experiment.source.name} is none")
    if source.spec.tokens is None:
        raise ConfigError(f"cached_logps: {experiment.source.name} gives no completions to score; take it out")
    stage = first_rewrite(experiment.algorithm, state, source.spec)
    if stage is not None:
        raise ConfigError(
            f"cached_logps: the stage {stage!r} may change prompts or completions, and the log-probs of what the "
            "source gave would then be wrong; take it out"
        )


# -------------------------------------------------------------------------------------------------------------- scoring


def with_logps(
    experiment: Experiment,
    source: Source,
    state: TrainState,
    mesh: jax.sharding.Mesh,
    console: Console,
    stop: StopRequest,
) -> Source:
    """Scores what is not known yet, and gives the rows of a source their log-probs.

    The rows of all steps that are left (of bucketed batches: of all windows that have any) are looked up now.

    Args:
        experiment: Whose `cached_logps` names the roles.
        source: Its source.
        state: The state that the run begins with.
        mesh: What batches are laid out on.
        console: Where progress is printed.
        stop: Whether somebody asked the run to stop.

    Returns:
        The source, whose rows have logps[name] [N,T] in nats for each of the roles.

    Raises:
        Interrupted: Ctrl-C or SIGTERM at any process; what was scored is stored.
        ConfigError: On all processes: one of them reads other rows than the first, or the first cannot read or write
            the folder.
    """
    # Completions are scored in the order of the rows; every SHARD_SECONDS, and at the end, the first process writes
    # what is new. All processes walk through the same rows, so that they run a program, write and stop together.
    positions, rows = source.positions(int(state.step), experiment.steps), source.opened.rows
    for name in experiment.cached_logps:
        about = describe(experiment.algorithm, name, state)
        folder = folder_of(about)
        known = _stored(folder, console)
        before = len(known)
        scorer = _scorer(experiment.algorithm, name, source, state, mesh)
        progress = _scored(rows, positions, known, scorer, source.batch_size)
        fresh: Known = {}
        spoken = written = time.monotonic()
        for new, done in progress:
            fresh |= new if processes.is_main_process() else {}
            now, stopping, scored = time.monotonic(), stop.agreed(ask_all=True), f"{len(known) - before:,}"
            with processes.raise_on_all_processes():
                if fresh and (now - written > SHARD_SECONDS or done == len(positions) or stopping):
                    write_json(folder / "about.json", about)
                    write_shard(folder, fresh)
                    fresh, written = {}, now
            if now - spoken > SAY_SECONDS:
                share = f"{done:,} of {len(positions):,} rows looked up"
                _say(console, f"log-probs of {name!r}: {share}, {scored} completions scored")
                spoken = now
            if stopping:
                _say(console, f"stopped; {scored} log-probs of {name!r} are kept in {folder}")
                raise Interrupted(stop.number, int(state.step))
        total = f"{len(known) - before:,} completions scored, {before:,} found"
        _say(console, f"log-probs of {name!r}: {total} in {folder}")
        source = _answering(source, name, known)
    return source


def describe(algorithm: Algorithm, name: str, state: TrainState) -> dict[str, Any]:
    """Describes, as JSON, all that the log-probs of a role depend on but the tokens.

    Args:
        algorithm: Has the role.
        name: The name of the role.
        state: Holds its weights.

    Returns:
        The description; equal ones mean equal log-probs.
    """
    role = algorithm.roles[name]
    assert role.model is not None
    installed = versions()
    return {
        "format": FORMAT,
        "weights": digest(scoring.params_of(algorithm.roles, state.roles)(name)),
        "model": config_json(role.model.config),
        "code": _code(role.model),
        "precision": str(jax.config.values["jax_default_matmul_precision"]),
        "versions": {package: installed.get(package) for package in ("alignjax", "jax", "jaxlib")},
        "device": jax.devices()[0].device_kind,
    }


def folder_of(about: Mapping[str, Any]) -> Path:
    """The folder, beside prepared datasets, that stores the log-probs of what `describe` has described."""
    return cache_folder() / f"logps-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]}"


@functools.cache  # what was imported, not what somebody edits meanwhile
def _code(model: Model) -> str:
    """Hashes the source files that a model's numbers come from: this library's, and those of its functions."""
    ours = [Path(numerics.__file__), Path(scoring.__file__), *Path(models.__file__).parent.glob("*.py")]
    functions = [model.init, model.hidden, model.read, *(head.apply for head in model.heads.values())]
    plain = [function.func if isinstance(function, functools.partial) else function for function in functions]
    theirs = [Path(file) for function in plain if (file := inspect.getsourcefile(function))]
    texts = sorted((path.name, path.read_text()) for path in {*ours, *theirs})
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _scorer(algorithm: Algorithm, name: str, source: Source, state: TrainState, mesh: jax.sharding.Mesh) -> Scorer:
    """Makes what scores at most a batch of rows at once, in one compiled program."""
    request = scoring.request(name, None)

    @jax.jit
    def run(roles: Any, batch: Batch) -> jax.Array:
        params = scoring.params_of(algorithm.roles, roles)
        answers = scoring.one_pass(algorithm.roles, params, batch, [request], microbatches=algorithm.microbatches)
        return answers[request][name]

    def scored(waiting: Mapping[Keys, Batch]) -> Known:
        rows = [*waiting.values()]
        full = rows + rows[-1:] * (source.batch_size - len(rows))
        batch = stacked([Batch(**{field: getattr(row, field) for field in scoring.SCORED}) for row in full])
        logps = np.asarray(processes.gather_to_host(run(state.roles, place_batch(batch, mesh))))
        return {
            key: logps[number, n][np.asarray(row.valid)[n]]
            for number, (keys, row) in enumerate(waiting.items())
            for n, key in enumerate(keys)
        }

    return scored


def _scored(rows: Any, positions: range, known: Known, scorer: Scorer, size: int) -> Iterator[tuple[Known, int]]:
    """Scores what is not in `known` and adds it; yields, after the same rows on every process, what was scored since
    and how many rows have been looked up."""
    waiting: dict[Keys, Batch] = {}
    looked = hashlib.blake2b(digest_size=16)
    for done, position in enumerate(positions, 1):
        row = rows[position]
        keys = tuple(content_keys(row))
        looked.update(b"".join(keys))
        if any(key not in known for key in keys):
            waiting[keys] = row
        full = len(waiting) == size or (waiting and done == len(positions))
        if not full and done % LOOKED and done < len(positions):
            continue
        _check_same_rows(looked.hexdigest())
        fresh = scorer(waiting) if full else {}
        waiting = {} if full else waiting
        known |= fresh
        yield fresh, done


def _check_same_rows(looked_up: str) -> None:
    """Raises ConfigError, on all processes and before they run a program together, where one has looked up others."""
    hashes = processes.all_gather_text(looked_up)
    if wrong := [number for number, other in enumerate(hashes) if other != hashes[0]]:
        raise ConfigError(
            f"cached_logps: process {wrong[0]} of this run reads other rows than process 0; give all processes the "
            "same data (the files that the source reads, and what is prepared in $ALIGNJAX_CACHE)"
        )


def _stored(folder: Path, console: Console) -> Known:
    """Reads what the folder holds, as the first process sees it."""

    def warn(text: str) -> None:
        console.print(f"warning: {text}", style="bold red", highlight=False, markup=False, soft_wrap=True)

    known: Known = {}
    with processes.raise_on_all_processes():
        if processes.is_main_process():
            known = read_shards(folder, warn)
    return decoded(processes.broadcast_bytes_from_main(encoded(known))) if processes.is_multi_process() else known


def _answering(source: Source, name: str, known: Known) -> Source:
    """Gives the rows of a source logps[name] out of `known`."""
    tokens = source.spec.need("tokens", of="cached_logps")
    dtype = next((value.dtype for value in known.values()), np.dtype(np.float32))

    def filled(row: Batch) -> Batch:
        logps: Any = np.zeros(row.need("tokens", of="cached_logps").shape, dtype)
        for n, key in enumerate(content_keys(row)):
            logps[n][np.asarray(row.valid)[n]] = known[key]
        return row.with_logps(**{name: logps})

    opened = source.opened
    shape: Any = jax.ShapeDtypeStruct(tokens.shape, dtype)
    spec = source.spec.with_logps(**{name: shape})
    answered = dataclasses.replace(opened, rows=opened.rows.map(filled))
    return dataclasses.replace(source, spec=spec, open=lambda: answered)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
