"""Of several processes the first alone asks functions in plain Python, and all of them learn from its answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multihost.test_multihost import Start, free_port, lines
from tests.support.programs import programs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    shared = tmp_path_factory.mktemp("cache")
    with programs(tmp_path_factory.mktemp("processes"), PJRT_NPROC="16", ALIGNJAX_CACHE=str(shared)) as forks:

        def start(folder: Path, count: int, *words: str):
            place = f"127.0.0.1:{free_port()}"
            own = [[str(folder), "--mesh", "1", "2", "2", *words] for _ in range(count)]
            for number, each in enumerate(own):
                each += ["--place", place, str(count), str(number)] if count > 1 else []
            return forks("texts", own, 4 // count)

        yield start


def answers(folder: Path) -> dict[str, list[str]]:
    return {file.name: file.read_text().splitlines() for file in sorted((folder / "answers").iterdir())}


def test_two_processes_train_on_the_answers_that_the_first_gets(started: Start, tmp_path: Path) -> None:
    """As one process does on the same mesh; a function that fails stops both, and what was answered is not asked
    again, by whoever goes on."""
    words = ("fig", "nut", "pear", "plum", "lime", "kiwi", "date", "apple")
    rows = [json.dumps({"prompt": f"the word {word}", "word": word}) for word in words]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    (alone,) = started(tmp_path / "alone", 1)
    whole = alone.last["digest"]
    assert alone.out.count("letters of step") == 4 * 2
    first, second = started(tmp_path / "two", 2, "--fails", "3")
    assert first.out.count("letters of step") == 3 * 2, first.out[-3000:]
    assert second.out.count("letters of step") == 0
    assert first.status == second.status == 2
    assert "sizes at step 3" in first.out
    assert "no credit" in first.out
    assert "no credit" in second.out
    assert list(answers(tmp_path / "two"))[-1] == "reward-00000003.jsonl.part"
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    for folder, count in (("two", 2), ("one", 1)):
        ended = started(tmp_path / folder, count, "--resume")
        assert [each.last["digest"] for each in ended] == [whole] * count
        assert [each.out.count("letters of step") for each in ended] == [2, 0][:count]  # those of step 4
        assert answers(tmp_path / folder) == answers(tmp_path / "alone")
        assert lines(tmp_path / folder / "metrics.jsonl") == lines(tmp_path / "alone" / "metrics.jsonl")
