"""Log-probs of frozen roles over the rows of a source: scored once, kept on disk, read again in later epochs and runs.

They are kept under a hash of all that they depend on: the weights, bit by bit; what made the model; the code that runs
it; the versions and the kind of device. Within that each is found by the tokens that were scored, so that a changed
tokenizer, chat template or row, which are other tokens, finds nothing, and neither padding nor batches matter.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from alignjax import models, numerics, scoring, stages
from alignjax.config import ConfigError, Experiment, nearest
from alignjax.data.prepared import cache_folder
from alignjax.data.sources.batch_layout import stacked
from alignjax.data.sources.source import Source
from alignjax.parallel.mesh import place_batch
from alignjax.parallel.processes import (
    all_gather_text,
    broadcast_bytes_from_main,
    gather_to_host,
    is_main_process,
    is_multi_process,
    raise_on_all_processes,
)
from alignjax.train.checkpoint.leaves import digest
from alignjax.train.logp_cache.shards import content_keys, decoded, encoded, read_shards, write_shard
from alignjax.train.run_record import config_json, versions
from alignjax.train.state import TrainState
from alignjax.train.step import first_rewrite
from alignjax.train.stop_signal import Interrupted, StopRequest
from alignjax.types import Algorithm, Batch, Model, frozen

FORMAT = 1  # raise it when what is kept changes its meaning
SHARD_SECONDS = 20.0  # of scoring: what is lost, at most, when a run is killed
SAY_SECONDS = 10.0
LOOKED = 256  # rows that are looked up, at most, until processes hear whether one of them was asked to stop

Known = dict[bytes, np.ndarray]  # log-probs of a completion's valid tokens, by content


# --------------------------------------------------------------------------------------------------------------- checks


def without_cached(experiment: Experiment, source: Any, state: TrainState) -> Algorithm:
    """The algorithm without the stages that `experiment.cached_logps` answers; `state`: shapes of its state.

    Raises ConfigError, before any work, if one of those roles does not exist or may move, or if what the losses score
    is not what the source gives.
    """
    algorithm, names = experiment.algorithm, experiment.cached_logps
    if not names:
        return algorithm
    for name in names:
        _check_frozen(algorithm, name, state)
    _check_source(experiment, source, state)

    def answered(stage: Any) -> bool:
        return stage.function is stages.logprobs and stage.kwargs["role"] in names

    kept = {name: stage for name, stage in algorithm.experience.items() if not answered(stage)}
    return dataclasses.replace(algorithm, experience=kept)


def _check_frozen(algorithm: Algorithm, name: str, state: TrainState) -> None:
    roles = algorithm.roles
    if name not in roles:
        raise ConfigError(f"cached_logps names {name!r}, which is no role.{nearest(name, roles)}")
    model = roles[name].model
    if model is None or model.config is None:
        raise ConfigError(f"cached_logps: role {name!r} has no model with a config that says what it is; take it out")
    for part in _made_from(algorithm, name, state):
        if roles[part].optimizer is not None or roles[part].rule.function is not frozen:
            whose = "" if part == name else f" is built from {part!r}, which"
            raise ConfigError(f"cached_logps: role {name!r}{whose} moves during the run; only what is frozen is kept")


def _made_from(algorithm: Algorithm, name: str, state: TrainState) -> list[str]:
    """The roles whose own trees say what `name` runs on."""
    seen: list[str] = []

    def built(own: Mapping[str, Any]) -> Any:
        def params(role: str) -> Any:
            seen.append(role)
            build = algorithm.roles[role].build
            return own[role] if build is None else build(own[role], params)

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
    """The source with logps[name] for every role in `experiment.cached_logps`. The rows of all steps that are left (of
    bucketed batches: of all windows that have any) are looked up now, and those that are not known scored and kept.

    Raises Interrupted on Ctrl-C or SIGTERM, at any process, with what was scored kept; ConfigError on all processes if
    one of them reads other rows than the first, or if the first cannot read or write the folder.
    """
    positions = source.positions(int(state.step), experiment.steps)
    rows = source.opened.rows
    for name in experiment.cached_logps:
        about = describe(experiment.algorithm, name, state)
        folder = folder_of(about)
        known = _kept(folder, console)
        before = len(known)
        scorer = _scorer(experiment.algorithm, name, source, state, mesh)
        fresh: Known = {}
        said = written = time.monotonic()
        for new, done in _scored(rows, positions, known, scorer, source.batch_size):
            fresh |= new if is_main_process() else {}
            now, stopping = time.monotonic(), stop.agreed(ask_all=True)
            with raise_on_all_processes():
                if fresh and (now - written > SHARD_SECONDS or done == len(positions) or stopping):
                    _write(folder, about, fresh)
                    fresh, written = {}, now
            if now - said > SAY_SECONDS:
                share = f"{done:,} of {len(positions):,} rows looked up"
                _say(console, f"log-probs of {name!r}: {share}, {len(known) - before:,} completions scored")
                said = now
            if stopping:
                _say(console, f"stopped; {len(known) - before:,} log-probs of {name!r} are kept in {folder}")
                raise Interrupted(stop.number, int(state.step))
        _say(
            console, f"log-probs of {name!r}: {len(known) - before:,} completions scored, {before:,} found in {folder}"
        )
        source = _answering(source, name, known)
    return source


def describe(algorithm: Algorithm, name: str, state: TrainState) -> dict[str, Any]:
    """All but the tokens that the log-probs of a role depend on, as JSON."""
    role = algorithm.roles[name]
    assert role.model is not None
    found = versions()
    return {
        "format": FORMAT,
        "weights": digest(scoring.params_of(algorithm.roles, state.roles)(name)),
        "model": config_json(role.model.config),
        "code": _code(role.model),
        "precision": str(jax.config.values["jax_default_matmul_precision"]),
        "versions": {package: found.get(package) for package in ("alignjax", "jax", "jaxlib")},
        "device": jax.devices()[0].device_kind,
    }


def folder_of(about: Mapping[str, Any]) -> Path:
    """Where the log-probs of what `describe` has described are kept: beside prepared datasets."""
    return cache_folder() / f"logps-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]}"


@functools.cache  # what was imported, not what somebody edits meanwhile
def _code(model: Model) -> str:
    """A hash of the source files that a model's numbers come from: this library's, and those of its own functions."""
    ours = [Path(numerics.__file__), Path(scoring.__file__), *Path(models.__file__).parent.glob("*.py")]
    functions = [model.init, model.hidden, model.read, *(head.apply for head in model.heads.values())]
    while any(isinstance(function, functools.partial) for function in functions):
        functions = [getattr(function, "func", function) for function in functions]
    theirs = [Path(file) for function in functions if (file := inspect.getsourcefile(function))]
    texts = sorted((path.name, path.read_text()) for path in {*ours, *theirs})
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _scorer(
    algorithm: Algorithm, name: str, source: Source, state: TrainState, mesh: jax.sharding.Mesh
) -> Callable[[Sequence[Batch]], np.ndarray]:
    """rows -> their log-probs [B,N,T]; at most a batch of rows at once, in one compiled program."""
    asked = scoring.request(name, None)

    @jax.jit
    def run(roles: Any, batch: Batch) -> jax.Array:
        params = scoring.params_of(algorithm.roles, roles)
        found = scoring.one_pass(algorithm.roles, params, batch, [asked], microbatches=algorithm.microbatches)
        return found[asked][name]

    def scored(rows: Sequence[Batch]) -> np.ndarray:
        full = [*rows, *[rows[-1]] * (source.batch_size - len(rows))]
        return np.asarray(
            gather_to_host(run(state.roles, place_batch(stacked([_only_scored(row) for row in full]), mesh)))
        )

    return scored


def _only_scored(row: Batch) -> Batch:
    return Batch(**{name: getattr(row, name) for name in scoring.SCORED})


def _scored(
    rows: Any, positions: range, known: Known, scorer: Callable[[Sequence[Batch]], np.ndarray], size: int
) -> Iterator[tuple[Known, int]]:
    """Scores what is not in `known` and adds it there; yields, after the same rows on every process, what was scored
    since and how many rows have been looked at."""
    waiting: dict[tuple[bytes, ...], Batch] = {}
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
        fresh = _values(waiting, scorer(list(waiting.values()))) if full else {}
        waiting = {} if full else waiting
        known |= fresh
        yield fresh, done


def _check_same_rows(looked: str) -> None:
    """Raises ConfigError, on all processes and before they run a program together, where one has looked up others."""
    said = all_gather_text(looked)
    if wrong := [number for number, other in enumerate(said) if other != said[0]]:
        raise ConfigError(
            f"cached_logps: process {wrong[0]} of this run reads other rows than process 0; give all processes the "
            "same data (the files that the source reads, and what is prepared in $ALIGNJAX_CACHE)"
        )


def _values(rows: Mapping[tuple[bytes, ...], Batch], logps: np.ndarray) -> Known:
    return {
        key: logps[number, n][np.asarray(row.valid)[n]]
        for number, (keys, row) in enumerate(rows.items())
        for n, key in enumerate(keys)
    }


def _kept(folder: Path, console: Console) -> Known:
    """What the folder holds, as the leader sees it."""
    known: Known = {}
    with raise_on_all_processes():
        if is_main_process():
            known = read_shards(folder, functools.partial(_warn, console))
    return decoded(broadcast_bytes_from_main(encoded(known))) if is_multi_process() else known


def _write(folder: Path, about: Mapping[str, Any], fresh: Known) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "about.json").write_text(json.dumps(about, indent=1))
    write_shard(folder, fresh)


def _answering(source: Source, name: str, known: Known) -> Source:
    """The source, whose rows have logps[name] out of `known`."""
    tokens = source.spec.tokens
    assert tokens is not None
    dtype = next((value.dtype for value in known.values()), np.dtype(np.float32))

    def filled(row: Batch) -> Batch:
        assert row.tokens is not None
        logps: Any = np.zeros(row.tokens.shape, dtype)
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


def _warn(console: Console, text: str) -> None:
    console.print(f"warning: {text}", style="bold red", highlight=False, markup=False, soft_wrap=True)
