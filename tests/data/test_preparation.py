"""Files that are prepared part by part: in any number of processes, killed and gone on with, the rows are the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from alignjax.config import DataError
from alignjax.data import Instructions, Preferences
from alignjax.data.datasets import preparation, row_files, row_workers
from alignjax.data.prepared import Dataset, cache_folder, rows_of


def some_rows(path: Path, count: int) -> str:
    """Pairs of texts and conversations, with bad rows between."""
    with path.open("w") as file:
        for n in range(count):
            prompt: Any = f"p {n} é" if n % 3 else [{"role": "user", "content": f"why, {n}?"}]
            row = {"prompt": prompt, "chosen": f"yes {n}", "rejected": "no" if n % 7 else f"yes {n}"}
            file.write("{bad\n" if n % 11 == 5 else json.dumps(row) + "\n")
    return str(path)


def contents(dataset: Dataset) -> dict[str, list[str]]:
    tables = {split: rows_of(dataset, split) for split in ("train", "test")}
    return {
        split: [*(str(sorted(rows[n].items())) for n in range(len(lengths))), str(lengths.tolist())]
        for split, (rows, lengths) in tables.items()
    }


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "BLOCK", 2000)
    monkeypatch.setattr(row_files, "CHUNK", 500)


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Preferences, dict[str, list[str]], dict]:
    """A dataset, its rows prepared in one block, and the account of that."""
    dataset = Preferences(path=some_rows(tmp_path / "rows", 150), vocab_size=300, test_fraction=0.3)
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "whole"))
    account = dataset.prepare(report=str)
    return dataset, contents(dataset), account


def without_place(account: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in account.items() if name not in ("seconds", "folder")}


def test_blocks_change_nothing(reference, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, rows, account = reference
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "parts"))
    assert without_place(dataset.prepare(report=str)) == without_place(account)
    shards = sorted((dataset.folder / "records" / "1.0.0").glob("records-train*"))
    assert len(shards) > 3
    assert contents(dataset) == rows
    assert sorted(each.name for each in dataset.folder.iterdir()) == [
        "account.json",
        "lengths.npz",
        "records",
        "tokenizer.json",
    ]


@pytest.mark.parametrize("at", ["spool_rows", "write_shard"])
def test_an_interrupt_is_gone_on_from(
    reference, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Interrupted at every step of the work in turn; no step that is done is done again."""
    dataset, rows, account = reference
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "parts"))
    work, done = getattr(preparation, at), []

    def interrupted(*arguments: Any) -> Any:
        if len(done) in stops:
            stops.remove(len(done))
            raise KeyboardInterrupt
        done.append(arguments[-1])
        return work(*arguments)

    stops = {2, 3, 5}
    monkeypatch.setattr(preparation, at, interrupted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            dataset.prepare(report=str)
        assert [each.name for each in cache_folder().iterdir()] == [f".preparing-{dataset.folder.name}"]
    assert without_place(dataset.prepare(report=str)) == without_place(account)
    assert len(done) == len(set(done)) > 5
    assert contents(dataset) == rows
    assert list(cache_folder().iterdir()) == [dataset.folder]


def test_a_spool_that_is_damaged_is_said_and_removed(
    reference, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, rows, _ = reference
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "parts"))

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            dataset.prepare(report=str)
    spool = cache_folder() / f".preparing-{dataset.folder.name}" / "rows-000002.spool"
    content = bytearray(spool.read_bytes())
    content[len(content) // 2] ^= 1
    spool.write_bytes(content)
    with pytest.raises(DataError, match=r"rows-000002\.spool is damaged; it has been removed: run the command again"):
        dataset.prepare(report=str)
    assert list(cache_folder().iterdir()) == []
    dataset.prepare(report=str)
    assert contents(dataset) == rows


def test_rows_that_belong_together_are_not_parted(tmp_path: Path, small_blocks: None) -> None:
    """Trees of messages, each over several blocks."""
    with (tmp_path / "trees").open("w") as file:
        for tree in range(6):
            place = {"message_tree_id": f"t{tree}", "lang": "en"}
            file.write(
                json.dumps(
                    {**place, "message_id": f"{tree}", "parent_id": None, "role": "prompter", "text": f"q{tree}"}
                )
                + "\n"
            )
            for n in range(9):
                answer = {"message_id": f"{tree}.{n}", "parent_id": f"{tree}", "role": "assistant", "rank": (n + 4) % 9}
                file.write(json.dumps({**place, **answer, "text": f"a{n} " * 60}) + "\n")
    dataset = Instructions(path=str(tmp_path / "trees"), vocab_size=300, test_fraction=0.0)
    account = dataset.prepare(report=str, workers=3)  # which are not needed: one process reads them all
    assert account["rows"] == {"train": 6, "test": 0}
    assert [rows_of(dataset, "train")[0][n]["prompt"].decode().count(f"q{n}") for n in range(6)] == [1] * 6


@pytest.mark.slow
def test_work_is_done_in_order_by_any_number_of_processes() -> None:
    for count in (1, 3):
        with row_workers.row_workers(count) as mapped:
            jobs = (row_workers.Job(random.Random(n).sample, (range(50), 9)) for n in range(40))
            assert list(mapped(jobs)) == [random.Random(n).sample(range(50), 9) for n in range(40)]
            with pytest.raises(ValueError, match="invalid literal"):
                list(mapped(row_workers.Job(int, (text,)) for text in ("1", "no", "2")))
            if count > 1:  # of one, the process is this one
                with pytest.raises(RuntimeError, match="ended with status 7"):
                    list(mapped([row_workers.Job(os._exit, (7,))]))


# --------------------------------------------------------------------------------------------------- in whole processes

PROGRAM = """
import json, resource, sys
from alignjax.data import Preferences
from alignjax.data.datasets import row_files
row_files.BLOCK = int(sys.argv[3])
account = Preferences(path=sys.argv[1], vocab_size=int(sys.argv[4])).prepare(report=str, workers=int(sys.argv[2]))
peaks = [resource.getrusage(who).ru_maxrss >> 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"rows": account["rows"], "peaks": peaks}))
"""


def started(path: str, workers: int, block: int = 20_000, vocab_size: int = 300) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, path, str(workers), str(block), str(vocab_size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_change_nothing_and_a_kill_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Preferences(path=some_rows(tmp_path / "rows", 3000), vocab_size=300)
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "one"))
    dataset.prepare(report=str)
    rows = contents(dataset)
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "two"))
    building = cache_folder() / f".preparing-{dataset.folder.name}"
    process = started(dataset.path, 2)
    until = time.monotonic() + 120
    while len(list(building.glob("rows-*.json"))) < 5 and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {each.name: each.stat().st_mtime_ns for each in building.glob("rows-*.json")}
    assert len(done) >= 5
    assert not (dataset.folder / "account.json").is_file()
    said, _ = started(dataset.path, 2).communicate(timeout=300)
    assert json.loads(said)["rows"] == {split: len(each) - 1 for split, each in rows.items()}
    assert contents(dataset) == rows


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 MB and 200 MB of rows of 200 kB, in two processes beside the first. Their words of 200 letters become few
    tokens, so that little time is spent on tokens."""
    words = ["".join(random.Random(n).choices("abcdefghijklmnop", k=200)) for n in range(20)]
    text = " ".join(words * 24)
    peaks = []
    for size in (50, 200):
        with (tmp_path / "rows").open("w") as file:
            for n in range(size * 5):
                file.write(json.dumps({"prompt": f"{n}", "chosen": f"{n} {text}", "rejected": f"{text} {n}"}) + "\n")
        monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / f"cache{size}"))
        said, _ = started(str(tmp_path / "rows"), 2, 2 << 20, 4500).communicate(timeout=800)
        peaks.append(json.loads(said)["peaks"])
    for small, large in zip(*peaks, strict=True):
        assert large < small + 40, peaks  # MiB


def test_a_template_that_changes_under_its_path_is_read_anew(tmp_path: Path) -> None:
    """What is kept of a dataset between its blocks is for one preparation: the same dataset may mean other contents."""
    path, template = some_rows(tmp_path / "rows.jsonl", 40), tmp_path / "chat.jinja"
    for said in ("OLD", "NEW"):
        template.write_text("{% for m in messages %}" + said + " {{ m.content }}{% endfor %}")
        dataset = Preferences(path=path, vocab_size=300, chat_template=str(template), bad_rows="skip")
        rows, _ = rows_of(dataset, "train")
        prompts = [rows[n]["prompt"].decode() for n in range(len(rows))]
        assert {prompt[:3] for prompt in prompts if "why" in prompt} == {said}
