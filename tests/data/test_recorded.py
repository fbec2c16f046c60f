from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.config import ConfigError, fn
from alignjax.data import BatchWriter, recorded
from alignjax.data.sources.recorded import assembled
from alignjax.tree_names import leaves_by_name
from alignjax.types import Batch
from alignjax.workspace import Workspace


def made(number: int, rows: int = 4) -> Batch:
    """A batch whose every entry says which row it belongs to."""
    ids = np.arange(rows, dtype=np.int32) + rows * number
    block = np.broadcast_to(ids[:, None, None], (rows, 2, 3))
    return Batch(
        prompt=np.broadcast_to(ids[:, None], (rows, 5)),
        tokens=block,
        logps={"reference": block.astype(np.float32), "sampler/odd name": block.astype(np.float32)},
        preference=np.broadcast_to(ids[:, None, None] / 100, (rows, 2, 2)),
        example_id=ids,
        views={
            "judged": Batch(prompt=np.broadcast_to(ids[:, None], (rows, 7))),
            "pretrain": Batch(prompt=np.broadcast_to(-1 - ids[:3, None], (3, 6)), example_id=-1 - ids[:3]),
        },
    )


def same(one: Batch, other: Batch) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
        jax.tree.map(np.array_equal, one, other)
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    writer = BatchWriter(tmp_path / "pairs")
    for number in range(3):
        assert writer.append(made(number)) == number
    return Workspace(tmp_path, "offline")


def test_a_batch_is_assembled_from_its_leaves() -> None:
    assert same(assembled(leaves_by_name(made(1))), made(1))


def test_what_is_written_is_read(workspace: Workspace) -> None:
    source = recorded(workspace, 0, stage="pairs", batch_size=4, shuffle=False)
    for step in range(3):
        assert same(source[step], made(step))
    assert same(source[3], made(0))
    assert source.counts == {"rows": 12, "batches": 3}


def test_rows_are_shuffled_over_all_batches_and_stay_whole(workspace: Workspace) -> None:
    source = recorded(workspace, 0, stage="pairs", batch_size=6)
    epoch = [source[step] for step in range(2)]
    ids = np.concatenate([batch.example_id for batch in epoch])
    assert sorted(ids) == list(range(12))
    assert ids.tolist() != list(range(12))
    for batch in epoch:
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), source.spec
        )
        for leaf in (batch.prompt, batch.tokens, batch.logps["sampler/odd name"], batch.views["judged"].prompt):
            assert (leaf.reshape(6, -1) == batch.example_id[:, None]).all()
        stream = batch.views["pretrain"]  # a stream of its own, with its own number of rows
        assert (stream.prompt == stream.example_id[:, None]).all()
        assert (stream.example_id < 0).all()
    assert same(recorded(workspace, 0, stage="pairs", batch_size=6)[1], epoch[1])
    assert not same(recorded(workspace, 1, stage="pairs", batch_size=6)[1], epoch[1])


def test_a_writer_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    BatchWriter(tmp_path).append(made(0))
    (tmp_path / "batches" / ".000001.123").write_bytes(b"half a file")
    writer = BatchWriter(tmp_path)
    assert writer.complete == 1
    writer.append(made(1))
    source = recorded(Workspace(tmp_path), 0, stage=str(tmp_path), batch_size=8, shuffle=False)
    assert source[0].example_id.tolist() == list(range(8))


def test_jax_arrays_and_bfloat16(tmp_path: Path) -> None:
    values = jnp.asarray([[[0.5, -1.25]]], jnp.bfloat16)
    batch = Batch(prompt=jnp.ones((1, 2), jnp.int32), logps={"sampler": values})
    BatchWriter(tmp_path).append(batch)
    found = recorded(Workspace(tmp_path), 0, stage=str(tmp_path), batch_size=1)[0]
    assert found.logps["sampler"].dtype == np.float32
    assert found.logps["sampler"].tolist() == [[[0.5, -1.25]]]


def shapes() -> Batch:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), made(0))


def test_shapes_before_there_is_data(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(ConfigError, match=r"'pairs' has written no batches yet .*run it first, or say"):
        recorded(workspace, 0, stage="pairs", batch_size=2)
    said = recorded(workspace, 0, stage="pairs", batch_size=2, like=fn(shapes))
    BatchWriter(tmp_path / "pairs").append(made(0))
    there = recorded(workspace, 0, stage="pairs", batch_size=2)
    assert jax.tree.leaves(said.spec) == jax.tree.leaves(there.spec)
    assert there.spec.tokens.shape == (2, 2, 3)
    assert there.spec.views["pretrain"].prompt.shape == (3, 6)
    with pytest.raises(ConfigError, match="has written no batches"):
        recorded(Workspace(tmp_path), 0, stage="nothing", batch_size=2, like=fn(shapes))[0]


def test_a_field_of_some_batches_only_is_named(tmp_path: Path) -> None:
    writer = BatchWriter(tmp_path)
    for batch in (made(0), made(1).replace(preference=None), made(2)):
        writer.append(batch)
    with pytest.raises(ConfigError, match="recorded: preference stand in some batches of"):
        recorded(Workspace(tmp_path), 0, stage=str(tmp_path), batch_size=2)[0]
