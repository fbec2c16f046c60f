"""Cached log-probs of a frozen role: the same training as without them, scored once, and never those of something
else."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from alignjax import algorithms, losses, roles, stages
from alignjax.cli.dry_run import dry_run
from alignjax.config import ConfigError, Experiment, fn
from alignjax.data import BatchWriter, recorded
from alignjax.data.sources.source import WINDOW, Buckets, OpenedSource, Source, endless
from alignjax.parallel.mesh import make_mesh
from alignjax.train.logp_cache import reference_logps
from alignjax.train.logp_cache.shards import content_keys, read_shards, write_shard
from alignjax.train.loop import train
from alignjax.train.optimizers import adamw
from alignjax.train.resolve import resolve
from alignjax.train.state import TrainState, create_state
from alignjax.train.stop_signal import Interrupted, StopRequest
from alignjax.types import Algorithm, Batch, Context, Key, Role
from alignjax.workspace import Workspace
from tests.support import tiny

ROWS, SIZE, STEPS = 10, 4, 6  # two epochs and a bit, and a last batch to be filled up


def pairs(workspace: Workspace | None, seed: int, *, first: int = 0, pad: int = 0, buckets: Buckets = ()) -> Source:
    """Ragged pairs; `first`: the number that the tokens are drawn by; pad: further empty slots."""
    batch = tiny.ragged(first, rows=ROWS, p=6, t=5).replace(logps={})
    wide = {name: np.pad(getattr(batch, name), [(0, 0), (0, 0), (0, pad)]) for name in ("tokens", "valid", "mask")}
    wide |= {name: np.pad(getattr(batch, name), [(0, 0), (pad, 0)]) for name in ("prompt", "prompt_valid")}
    batch = batch.replace(**wide)
    rows = [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in range(ROWS)]
    spec = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((SIZE, *leaf.shape), leaf.dtype), rows[0])
    places = endless(range(ROWS), seed, True)

    def lengths(position: int) -> tuple[int, int]:
        row = rows[places[position]]
        return int(row.prompt_valid.sum()), int(row.valid.sum(-1).max())

    return Source(
        spec, lambda: OpenedSource(endless(rows, seed, True), ROWS, {}, lengths=lengths), (0, 1), buckets, seed
    )


def experiment(cached: tuple[str, ...] = ("reference",), seed: int = 0, **source: Any) -> Experiment:
    network = tiny.model(layers=1)
    # The reference is another network than the policy at first, so that a wrong number shows at once.
    algorithm = algorithms.ipo(network, start=roles.fresh(), optimizer=fn(adamw, learning_rate=1e-2))
    given = {**algorithm.roles, "reference": Role(network, roles.fresh())}
    algorithm = dataclasses.replace(algorithm, roles=given)
    return Experiment(algorithm, fn(pairs, **source), steps=STEPS, seed=seed, log_every=1, cached_logps=cached)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(given: Experiment, folder: Path) -> tuple[Any, list[float]]:
    """(last state, losses)."""
    state = train(given, Workspace(folder), console=Console(quiet=True))
    return state, [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_training_is_the_same(tmp_path: Path, cache: Path) -> None:
    plain, losses_ = run(experiment(cached=()), tmp_path / "plain")
    state, found = run(experiment(), tmp_path / "cached")
    assert found == pytest.approx(losses_, rel=1e-5)
    assert tiny.difference(plain.roles["policy"], state.roles["policy"]) < 1e-4


@functools.cache
def first_state(seed: int = 0) -> TrainState:
    return create_state(experiment().algorithm, seed, Workspace(Path("nowhere")))


def prepared(given: Experiment, state: TrainState | None = None, stop: StopRequest | None = None) -> tuple[Source, str]:
    """(the source with log-probs, what was printed)."""
    text = io.StringIO()
    source = given.source(None, given.seed)
    console, mesh = Console(file=text, width=200), make_mesh(given.mesh)
    source = reference_logps.with_logps(given, source, state or first_state(), mesh, console, stop or StopRequest())
    return source, text.getvalue()


def test_rows_are_scored_once_per_content_and_reference(cache: Path) -> None:
    source, said = prepared(experiment())
    assert f"{2 * ROWS} completions scored, 0 found" in said
    assert source[0].logps["reference"].shape == source.spec.logps["reference"].shape
    network = tiny.model(layers=1)
    for step in (0, STEPS - 1):
        wanted = tiny.scorer(network)(first_state().roles["reference"], source[step].replace(logps={}))
        np.testing.assert_allclose(source[step].logps["reference"], wanted, rtol=1e-5, atol=1e-6)

    padded, said = prepared(experiment(pad=2))  # wider padding is the same content
    assert f"0 completions scored, {2 * ROWS} found" in said
    np.testing.assert_array_equal(padded[1].logps["reference"][:, :, :-2], source[1].logps["reference"])
    _, said = prepared(experiment(first=1))
    assert f"{2 * ROWS} completions scored, {2 * ROWS} found" in said

    (shard, *_) = sorted(cache.glob("*/*.npz"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    again, said = prepared(experiment())
    assert f"{shard} is damaged" in said
    assert f"{2 * ROWS} completions scored, {2 * ROWS} found" in said
    np.testing.assert_array_equal(again[1].logps["reference"], source[1].logps["reference"])


def test_rows_of_bucketed_batches() -> None:
    """They come from anywhere in their window, so one batch alone may need any row of it."""
    short = dataclasses.replace(experiment(buckets=((4, 3), (6, 5))), steps=1)
    source, said = prepared(short)
    assert f"{2 * ROWS} completions scored" in said
    found, known = by_content(source, WINDOW), by_content(prepared(experiment())[0], STEPS)
    assert found.keys() == known.keys()
    assert all(np.array_equal(known[key], value) for key, value in found.items())
    assert len({source[step].logps["reference"].shape for step in range(WINDOW)}) == 2


def by_content(source: Source, steps: int) -> dict[bytes, np.ndarray]:
    rows = [jax.tree.map(lambda leaf, i=i: leaf[i], source[step]) for step in range(steps) for i in range(SIZE)]
    return {key: row.logps["reference"][n][row.valid[n]] for row in rows for n, key in enumerate(content_keys(row))}


def test_recorded_rows(tmp_path: Path) -> None:
    given = experiment()
    writer, source = BatchWriter(tmp_path / "pairs"), given.source(None, 0)
    for step in range(5):
        writer.append(source[step])
    given = dataclasses.replace(given, source=fn(recorded, stage=str(tmp_path / "pairs"), batch_size=SIZE), steps=2)
    dry_run(given, Workspace(tmp_path / "run"), Console(quiet=True))
    _, plain = run(dataclasses.replace(given, cached_logps=()), tmp_path / "plain")
    assert run(given, tmp_path / "run")[1] == pytest.approx(plain, rel=1e-5)


def test_an_interruption_keeps_what_was_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted) as stopped:  # the request is seen after the first batch
        prepared(experiment(), stop=StopRequest(15))
    assert stopped.value.code == 143
    _, said = prepared(experiment())
    assert f"{2 * (ROWS - SIZE)} completions scored, {2 * SIZE} found" in said


def test_processes_that_read_other_rows_stop_before_they_score(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(reference_logps.processes, "all_gather_text", lambda looked: [looked, looked, "others"])
    with pytest.raises(ConfigError, match="process 2 of this run reads other rows than process 0"):
        prepared(experiment())
    assert not list(cache.glob("*/*.npz"))


def test_what_a_folder_is_named_after(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, state = experiment().algorithm, first_state()
    about = reference_logps.describe(algorithm, "reference", state)
    assert about == reference_logps.describe(algorithm, "reference", first_state())
    leaf = state.roles["reference"]["norm"]
    nudged = {**state.roles["reference"], "norm": leaf.at[0].set(np.nextafter(np.float32(leaf[0]), np.float32(9)))}
    one_bit = dataclasses.replace(state, roles={**state.roles, "reference": nudged})
    half = Role(tiny.model(layers=1, dtype="bfloat16"), None)
    others = [
        reference_logps.describe(algorithm, "reference", one_bit),
        reference_logps.describe(dataclasses.replace(algorithm, roles={"reference": half}), "reference", state),
    ]
    monkeypatch.setattr(reference_logps, "versions", lambda: {"jax": "another"})
    others.append(reference_logps.describe(algorithm, "reference", state))
    folders = {reference_logps.folder_of(one) for one in [about, *others]}
    assert len(folders) == 4


def test_shards(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    one = {draw.bytes(16): draw.normal(size=n).astype(np.float32) for n in (3, 0, 7)}
    two = {draw.bytes(16): draw.normal(size=n).astype(np.float32) for n in (0,)}
    kept, cut = write_shard(tmp_path, one), write_shard(tmp_path, two)
    (tmp_path / ".half").write_bytes(kept.read_bytes()[:100])
    said: list[str] = []
    found = read_shards(tmp_path, said.append)
    assert not said
    assert found.keys() == {**one, **two}.keys()
    assert all(np.array_equal(found[key], value) for key, value in {**one, **two}.items())
    cut.write_bytes(cut.read_bytes()[:-30])
    assert read_shards(tmp_path, said.append).keys() == one.keys()
    assert len(said) == 1
    assert not cut.exists()


def test_shards_that_other_runs_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was listed may be gone when it is looked at; what a disk refuses to read is not taken for damage."""
    said: list[str] = []
    kept = {b"k" * 16: np.ones(3, np.float32)}
    for name in (".0half", "0.npz"):  # listed, and not there
        (tmp_path / name).symlink_to(tmp_path / "gone")
    write_shard(tmp_path, kept)
    assert read_shards(tmp_path, said.append).keys() == kept.keys()
    assert not said

    def set_aside_by_another(data: bytes) -> dict[bytes, np.ndarray]:
        for path in tmp_path.glob("*-*.npz"):
            path.unlink()
        raise ValueError("damaged")

    with monkeypatch.context() as patched:
        patched.setattr("alignjax.train.logp_cache.shards.decoded", set_aside_by_another)
        assert not read_shards(tmp_path, said.append)
    (tmp_path / "1.npz").mkdir()
    with pytest.raises(IsADirectoryError):
        read_shards(tmp_path, said.append)


def test_every_damaged_byte_is_found(tmp_path: Path) -> None:
    shard = write_shard(tmp_path, {b"k" * 16: np.ones(3, np.float32)})
    data = shard.read_bytes()
    for place in range(len(data)):
        shard.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        found = read_shards(tmp_path, lambda text: None)
        assert all(np.array_equal(value, np.ones(3)) for value in found.values())


def test_keys_are_of_content() -> None:
    batch = tiny.ragged(0, rows=3, n=2, gaps=True)
    rows = [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for i in range(3)]
    keys = [key for row in rows for key in content_keys(row)]
    assert len(set(keys)) == 6
    noisy = rows[0].replace(tokens=np.where(rows[0].valid, rows[0].tokens, 0), logps={}, mask=None)
    assert content_keys(noisy) == keys[:2]
    slot = int(np.argmax(rows[0].valid[1]))
    other = noisy.tokens.copy()
    other[1, slot] += 1
    changed = content_keys(noisy.replace(tokens=other))
    assert (changed[0] == keys[0], changed[1] == keys[1]) == (True, False)
    # A token moved from the prompt's end to the completion's start is other content, though the tokens are the same.
    flat = Batch(prompt=np.array([5, 6]), prompt_valid=np.array([True, True]), tokens=np.array([[7]]))
    flat = flat.replace(valid=np.array([[True]]))
    moved = Batch(prompt=np.array([5]), prompt_valid=np.array([True]), tokens=np.array([[6, 7]]))
    assert content_keys(flat) != content_keys(moved.replace(valid=np.array([[True, True]])))
    told = [content_keys(flat.replace(prompts={"user": np.int32(user)})) for user in (0, 1)]
    assert told[0] != told[1]


def shuffled(context: Context, batch: Batch, key: Key) -> Batch:
    return batch.replace(tokens=batch.tokens[:, ::-1])


def moving(state: Any, context: Context, batch: Batch, key: Key) -> Any:
    return state


def refused(change: str) -> Experiment:
    given = experiment()
    algorithm: Algorithm = given.algorithm
    if change == "policy moves":
        return dataclasses.replace(given, cached_logps=("policy",))
    if change == "no role 'refrence'":
        return dataclasses.replace(given, cached_logps=("refrence",))
    if change == "'shuffled' may change":
        stages_ = {"shuffled": fn(shuffled), **algorithm.experience}
        return dataclasses.replace(given, algorithm=dataclasses.replace(algorithm, experience=stages_))
    own = algorithm.roles["reference"]
    role = (
        dataclasses.replace(own, rule=fn(moving))
        if change == "rule moves"
        else dataclasses.replace(own, build=fn(from_policy))
    )
    given_roles = {**algorithm.roles, "reference": role}
    return dataclasses.replace(given, algorithm=dataclasses.replace(algorithm, roles=given_roles))


def from_policy(own: Any, params: Any) -> Any:
    return params("policy")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("policy moves", "role 'policy' moves"),
        ("no role 'refrence'", "Did you mean 'reference'"),
        ("'shuffled' may change", "stage 'shuffled' may change"),
        ("rule moves", "role 'reference' moves"),
        ("built from policy", "built from 'policy', which moves"),
    ],
)
def test_what_moves_is_refused(change: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        run(refused(change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_the_asked_stage_is_left_out() -> None:
    given = experiment()
    more = {**given.algorithm.experience, "policy": fn(stages.logprobs, role="policy")}
    algorithm = dataclasses.replace(given.algorithm, experience=more, losses={"pair": fn(losses.dpo, beta=0.1)})
    kept = resolve(dataclasses.replace(given, algorithm=algorithm), None).algorithm
    assert list(kept.experience) == ["policy"]
