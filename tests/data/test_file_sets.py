"""Paths of many files: which of them are read, in which order, and what is said of the others."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from alignjax.config import ConfigError, DataError
from alignjax.data import Instructions, Prompts
from alignjax.data.datasets.file_sets import file_set
from alignjax.data.datasets.hub import HubId, read_id
from alignjax.data.prepared import rows_of


def rows(path: Path, *prompts: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(path)


def names(path: Any, default: str = "train") -> list[str]:
    return [file.name for file in file_set(path, "Prompts.path", default).files.values()]


def notes(path: Any) -> str:
    return "; ".join(file_set(path, "Prompts.path").notes)


def test_a_folder_is_its_files_of_rows_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    for name in ("part-10.jsonl", "part-2.jsonl.gz", "deep/er/x.csv", ".hidden.jsonl", ".git/x.jsonl"):
        rows(tmp_path / name, "a")
    for name in ("README.md", "dataset_infos.json", "script.py"):
        rows(tmp_path / name, "a")
    assert names(str(tmp_path)) == ["x.csv", "part-2.jsonl.gz", "part-10.jsonl"]
    assert notes(str(tmp_path)).endswith("not read are README.md, dataset_infos.json, script.py: they hold no rows")
    with pytest.raises(ConfigError, match=r"no split 'test' \(Prompts.path\); it has no splits; leave out the name"):
        names(f"{tmp_path}#test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty has no file of rows \(Prompts.path\), it is empty"):
        names(str(tmp_path / "empty"))


def test_names_that_say_a_split_keep_splits_apart(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "my_test.jsonl", "validation/a.jsonl"):
        rows(tmp_path / "data" / name, name)
    rows(tmp_path / "latest.jsonl", "its name holds the word test, and is none")
    path = str(tmp_path)
    assert names(path) == ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]
    assert names(path, "test") == names(f"{path}#test") == ["my_test.jsonl"]
    assert names(f"{path}#validation") == ["a.jsonl"]
    assert "latest.jsonl: their names say no split" in notes(path)
    assert "has more splits, which this path does not read: test, validation" in notes(path)
    with pytest.raises(ConfigError, match=r"no split 'tset' .*it has test, train, validation\. Did you mean 'test'"):
        names(f"{path}#tset")
    rows(tmp_path / "two" / "test.jsonl", "a")
    rows(tmp_path / "two" / "dev.jsonl", "a")
    with pytest.raises(ConfigError, match=r"no split 'train' .*, but test, validation: name one, as in .*two#test"):
        names(str(tmp_path / "two"))


def test_globs_and_lists(tmp_path: Path) -> None:
    files = [rows(tmp_path / f"{name}.jsonl", name) for name in ("b", "a", "c[1]")]
    (tmp_path / "d.jsonl").mkdir()
    assert names(str(tmp_path / "*.jsonl")) == ["a.jsonl", "b.jsonl", "c[1].jsonl"]
    assert "d.jsonl: they are no files" in notes(str(tmp_path / "*.jsonl"))
    assert names(files[2]) == ["c[1].jsonl"]  # which is there, and no glob
    assert names((files[1], files[0])) == ["a.jsonl", "b.jsonl"]
    with pytest.raises(ConfigError, match=r"a\.jsonl stands twice"):
        names((files[1], files[1]))
    with pytest.raises(ConfigError, match=r"no file .*\*\.txt \(Prompts.path\)"):
        names(str(tmp_path / "*.txt"))
    with pytest.raises(ConfigError, match="which names folders alone"):
        names(str(tmp_path / "d*"))
    with pytest.raises(ConfigError, match=r"a file has no splits .*; leave out #test"):
        names(f"{files[0]}#test")
    with pytest.raises(ConfigError, match="list of paths is empty"):
        names(())


def test_rows_of_many_files_are_prepared_in_order_and_say_where_they_are_from(tmp_path: Path) -> None:
    rows(tmp_path / "a" / "2.jsonl", "one", "two")
    (tmp_path / "a" / "10.json").write_text('[{"prompt": "three"}, 4, {"prompt": "five"}]')
    dataset = Prompts(path=str(tmp_path / "a"), vocab_size=300, test_fraction=0.0)
    said: list[str] = []
    account = dataset.prepare(report=said.append)
    table, _ = rows_of(dataset, "train")
    assert [row["prompt"].decode() for row in (table[n] for n in range(4))] == ["one", "two", "three", "five"]
    origins = [json.loads(table[n]["meta"]) for n in range(4)]
    assert [(each["file"], each["line"]) for each in origins] == [
        ("2.jsonl", 1),
        ("2.jsonl", 2),
        ("10.json", 1),
        ("10.json", 3),
    ]
    assert "skipped 1 bad row: not a JSON object (1; row 10.json:2)" in said[0]
    assert account["files"][dataset.path]["read"] == 5
    before = dataset.folder
    (tmp_path / "a").rename(tmp_path / "moved")
    assert Prompts(path=str(tmp_path / "moved"), vocab_size=300, test_fraction=0.0).folder == before
    rows(tmp_path / "moved" / "2.jsonl", "one", "too")
    assert Prompts(path=[str(tmp_path / "moved")], vocab_size=300, test_fraction=0.0).folder != before  # type: ignore


def test_saved_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"prompt": [f"p{n}" for n in range(25)], "completion": ["a"] * 25})
    both = datasets.DatasetDict(train=table, test=table.select(range(3)))
    both.save_to_disk(str(tmp_path / "both"), num_shards={"train": 3, "test": 1})
    path = str(tmp_path / "both")
    assert names(path) == [f"data-{n:05}-of-00003.arrow" for n in range(3)]
    assert names(path, "test") == ["data-00000-of-00001.arrow"]
    assert names(f"{path}/test") == ["data-00000-of-00001.arrow"]
    assert "more splits, which this path does not read: test" in notes(path)
    dataset = Instructions(path=path, test=path, vocab_size=300)
    assert dataset.prepare(report=str)["rows"] == {"train": 25, "test": 3}
    assert rows_of(dataset, "train")[0][24]["prompt"] == b"p24"
    (tmp_path / "both" / "train" / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(ConfigError, match=r"lacks data-00001-of-00003.arrow, which its state.json lists"):
        names(path)
    (tmp_path / "both" / "train" / "state.json").write_text('{"_data_files": 5}')
    with pytest.raises(ConfigError, match=r"state.json lists no files"):
        names(path)
    for odd in (
        {"splits": ["../train"]},
        {"splits": [".."]},
        {"splits": [str(tmp_path)]},
        {"splits": 5},
        {},
        ["train"],
    ):
        (tmp_path / "both" / "dataset_dict.json").write_text(json.dumps(odd))
        with pytest.raises(DataError, match=r"dataset_dict.json lists no splits by name"):
            names(path)
    (tmp_path / "both" / "dataset_dict.json").write_text("[")
    with pytest.raises(DataError, match="not JSON"):
        names(path)


# ----------------------------------------------------------------------------------------------------------------- hub

SPELLED = {
    "hub:a/b": HubId("a/b"),
    "hub:a-1/b.c@v1.0:main#test": HubId("a-1/b.c", "v1.0", "main", "test"),
    "hub:b#train_sft": HubId("b", "", "", "train_sft"),
    "hub:a/b:en": HubId("a/b", "", "en", ""),
}


def test_ids_of_a_hub_are_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {text: read_id(text, "path") for text in SPELLED} == SPELLED
    for text in ("hub:", "hub:a/b/c", "hub:a b/c", "hub:a/b@", "hub:a/b#x/y"):
        with pytest.raises(ConfigError, match=r"is no id of a hub's dataset \(path\); write hub:OWNER/NAME@REVISION"):
            read_id(text, "path")
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"there is a folder a/b too .*; write hub:\./a/b for it"):
        read_id("hub:a/b", "path")
    with pytest.raises(ConfigError, match="a folder has no revisions"):
        read_id("hub:./a/b@v1", "path")
    with pytest.raises(ConfigError, match="there is no folder"):
        read_id("hub:./c", "path")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of `datasets`, which has no network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hf"


SPLITS = (("train", "first"), ("test", "last"))


def repository(folder: Path) -> Path:
    """The files of a repository with two configs, one of them with two splits."""
    rows(folder / "data" / "first.jsonl", *(f"p{n}" for n in range(5)))
    rows(folder / "data" / "last.jsonl", "t")
    files = "".join(f"  - {{split: {split}, path: data/{name}.jsonl}}\n" for split, name in SPLITS)
    first = f"- config_name: main\n  data_files:\n{files}"
    second = "- config_name: other\n  data_files: data/last.jsonl\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n{first}{second}---\n")
    return folder


def test_the_folder_of_a_repository(tmp_path: Path, cache: Path) -> None:
    path = f"hub:{repository(tmp_path / 'repo')}"
    dataset = Prompts(path=f"{path}:main", test=f"{path}:main", vocab_size=300)
    said: list[str] = []
    assert dataset.prepare(report=said.append)["rows"] == {"train": 5, "test": 1}
    assert "main has more splits, which this path does not read: test" in said[0]
    assert Prompts(path=f"{path}:other", vocab_size=300).folder != dataset.folder
    with pytest.raises(ConfigError, match=r"repo:main has no split 'dev' \(Prompts.path\); it has test, train"):
        Prompts(path=f"{path}:main#dev").prepare(report=str)
    with pytest.raises(DataError, match=r"cannot be read through datasets: .*[Cc]onfig name is missing"):
        Prompts(path=path).prepare(report=str)
    with pytest.raises(DataError, match=r"cannot be read through datasets: .*BuilderConfig 'none' not found"):
        Prompts(path=f"{path}:none").prepare(report=str)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code.py").write_text("raise SystemExit('code of a repository ran')")
    with pytest.raises(DataError, match=r"cannot be read through datasets: .*scripts are no longer supported"):
        Prompts(path=f"hub:{tmp_path / 'code'}").prepare(report=str)


def test_the_cache_without_a_network(tmp_path: Path, cache: Path) -> None:
    """A repository as an earlier, connected process has left it: `datasets` would give it for any revision."""
    file_set(f"hub:{repository(tmp_path / 'repo')}:main", "path")
    commit = "c0ffee" * 6 + "1234"
    (made,) = (cache / "repo" / "main" / "0.0.0").glob("*/dataset_info.json")
    left = cache / "owner___name" / "main" / "0.0.0" / commit
    left.parent.mkdir(parents=True)
    made.parent.rename(left)
    for file in left.glob("repo-*"):
        file.rename(left / file.name.replace("repo-", "name-"))
    for path in ("hub:owner/name", f"hub:owner/name@{commit}", "hub:owner/name:main#train"):
        read = file_set(path, "Prompts.path")
        assert list(read.files.values()) == [left / "name-train.arrow"]
        assert commit in read.made_from
    with pytest.raises(ConfigError, match=f"commit {'0' * 40} is not in the cache of datasets, which has {commit}"):
        file_set(f"hub:owner/name@{'0' * 40}", "Prompts.path")
    with pytest.raises(DataError, match=r"which commit 'v2' is now only the hub can say: .*; name the commit"):
        file_set("hub:owner/name@v2", "Prompts.path")
    with pytest.raises(DataError, match=r"hub:owner/other .*cannot be read through datasets: "):
        file_set("hub:owner/other", "Prompts.path")


def test_without_the_package_or_with_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.6.0")
    with pytest.raises(ConfigError, match=r"datasets 3\.6\.0 can run code of a repository, which is never done here"):
        file_set("hub:owner/third", "path")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'alignjax\[datasets\]'"):
        file_set("hub:owner/third", "path")
