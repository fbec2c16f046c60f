"""Length bucketing: other batches of the same rows, with less padding."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from alignjax.config import ConfigError
from alignjax.data import BatchWriter, Instructions, instructions, prompts, recorded
from alignjax.data.sources.source import WINDOW
from alignjax.workspace import Workspace

ROWS, SIZE = 50, 4
FULL = {"batch_size": SIZE, "prompt_length": 64, "completion_length": 40}
BUCKETS = ((8, 8), (16, 40))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Instructions:
    draw = np.random.default_rng(0)
    said = [" ".join("abcdefgh"[i] for i in draw.integers(0, 8, draw.integers(1, 25))) for _ in range(2 * ROWS)]
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [{"prompt": f"{n} {said[n]}", "completion": said[ROWS + n][:30]} for n in range(ROWS)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return Instructions(path=str(path), vocab_size=300)


def shape(batch) -> tuple[int, int]:
    return batch.prompt.shape[1], batch.tokens.shape[2]


def contents(batch) -> list[tuple[int, list[int], list[int]]]:
    """What the rows of a batch say, without their padding."""
    prompts_ = zip(batch.prompt, batch.prompt_valid, strict=True)
    texts = [
        [ids[valid].tolist() for ids, valid in part] for part in (prompts_, zip(batch.tokens, batch.valid, strict=True))
    ]
    return list(zip(batch.example_id.tolist(), *texts, strict=True))


def test_every_window_holds_the_rows_it_held(dataset: Instructions) -> None:
    plain = instructions(None, 3, dataset=dataset, **FULL)
    source = instructions(None, 3, dataset=dataset, buckets=BUCKETS, **FULL)
    shapes = Counter()
    for window in range(3):  # several epochs, none of which ends where a window does
        steps = range(window * WINDOW, (window + 1) * WINDOW)
        rows = [row for step in steps for row in contents(source[step])]
        assert sorted(rows) == sorted(row for step in steps for row in contents(plain[step]))
        for step in steps:
            batch = source[step]
            shapes[shape(batch)] += 1
            smallest = next(
                (p, t)
                for p, t in (*BUCKETS, (64, 40))
                if np.sum(batch.prompt_valid, 1).max() <= p and np.sum(batch.valid, 2).max() <= t
            )
            assert shape(batch) == smallest
            assert batch.mask.shape == batch.valid.shape == batch.tokens.shape
    assert set(shapes) == {*BUCKETS, (64, 40)}
    slots = sum(count * (p + t) for (p, t), count in shapes.items())
    assert slots < 0.8 * 3 * WINDOW * (64 + 40)


def test_a_batch_is_a_function_of_seed_and_step(dataset: Instructions) -> None:
    source = instructions(None, 3, dataset=dataset, buckets=BUCKETS, **FULL)
    straight = [contents(source[step]) for step in range(2 * WINDOW)]
    fresh = instructions(None, 3, dataset=dataset, buckets=BUCKETS, **FULL)
    for step in (63, 0, 40, 7):
        assert contents(fresh[step]) == straight[step]
    assert [contents(batch) for batch, _ in zip(fresh.prefetched(30), range(4), strict=False)] == straight[30:34]
    other = instructions(None, 4, dataset=dataset, buckets=BUCKETS, **FULL)
    assert contents(other[0]) != straight[0]
    halves = [instructions(None, 3, dataset=dataset, buckets=BUCKETS, shard=(i, 2), **FULL)[9] for i in range(2)]
    assert [row for half in halves for row in contents(half)] == straight[9]
    assert shape(halves[0]) == shape(halves[1])  # processes compile the same program


def test_prompts_and_recorded_batches(dataset: Instructions, tmp_path: Path) -> None:
    source = prompts(None, 0, dataset=dataset, batch_size=SIZE, prompt_length=64, buckets=(8, 16))
    assert {source[step].prompt.shape[1] for step in range(WINDOW)} == {8, 16, 64}

    plain = instructions(None, 0, dataset=dataset, **FULL)
    writer = BatchWriter(tmp_path / "pairs")
    for step in range(10):
        writer.append(plain[step].with_logps(policy=np.where(plain[step].valid, -1.0, 0).astype(np.float32)))
    whole = recorded(Workspace(tmp_path), 1, stage="pairs", batch_size=SIZE)
    source = recorded(Workspace(tmp_path), 1, stage="pairs", batch_size=SIZE, buckets=BUCKETS)
    found = [source[step] for step in range(WINDOW)]
    assert {shape(batch) for batch in found} == {*BUCKETS, (64, 40)}
    rows = sorted(row for batch in found for row in contents(batch))
    assert rows == sorted(row for step in range(WINDOW) for row in contents(whole[step]))
    assert all(np.array_equal(batch.logps["policy"], -1.0 * batch.valid) for batch in found)


@pytest.mark.parametrize("buckets", [((32, 10), (16, 40)), ((80, 40),), ((64, 40),)])
def test_buckets_grow(dataset: Instructions, buckets: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ConfigError, match="shapes grow up to"):
        instructions(None, 0, dataset=dataset, buckets=buckets, **FULL)
