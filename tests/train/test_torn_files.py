"""Files of a run folder, cut anywhere or with values of another type, are told in a sentence, and nothing is lost."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from alignjax import content_hashes
from alignjax.cli.config_file import Command
from alignjax.config import ConfigError, DataError, fn
from alignjax.json_shapes import misfit
from alignjax.train import metrics
from alignjax.train.begin import _Meta
from alignjax.train.checkpoint import read_steps
from alignjax.train.pipeline import Done, _finished
from alignjax.train.run_record import Record
from alignjax.workspace import MOST_JSON, read_record

RECORD = {"config": {"steps": 3}, "hash": "ab", "versions": {"jax": "1"}, "git": None, "files": {"a": "b"}}
FILES: dict[str, tuple[Any, Any]] = {
    "command.json": ({"config": "c.py", "mode": None, "overrides": ["--a", "1"], "sha256": "ab"}, Command),
    "config.json": (RECORD, Record),
    "done.json": ({"config": {}, "hash": "ab", "seconds": 1.5, "summary": {"loss": 2}}, Done),
    "datasets.json": ({"key": "/folder"}, dict[str, str]),
}
LEAVES = {"roles/policy/embed": ["float32", [3, 2]], "step": ["int32", []]}
META = {
    "format": read_steps.FORMAT,
    "leaves": LEAVES,
    "checksums": dict.fromkeys(LEAVES, 7),
    "frozen": {"frozen/0123456789abcdef": ["step"]},
    "log": {"pending": [{"loss": 0.5}], "seconds": 1.0, "written": 0.5},
    **RECORD,
}
META[read_steps.DIGEST] = read_steps.digest_of(META)
OTHER = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside one, its own included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = changed(value[path[0]], path[1:], new)
    return value


def torn(draw: Any, value: Any) -> bytes:
    """A JSON file with one value of another kind, or with a byte changed, or cut."""
    place = draw(st.sampled_from(places(value)))
    text = json.dumps(draw(st.just(value) | OTHER.map(lambda new: changed(value, place, new)))).encode()
    kind = draw(st.sampled_from(["whole", "cut", "byte"]))
    at = draw(st.integers(0, max(0, len(text) - 1)))
    return {"whole": text, "cut": text[:at], "byte": text[:at] + bytes([draw(st.integers(0, 255))]) + text[at + 1 :]}[
        kind
    ]


def check_files(examples: int, folder: Path) -> None:
    quiet = settings(max_examples=examples, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

    @quiet
    @given(st.data())
    def run(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(FILES)))
        value, kind = FILES[name]
        text = torn(data.draw, value)
        (folder / name).write_bytes(text)
        try:
            read = read_record(folder / name, kind)
        except (ConfigError, DataError) as error:
            read, said = None, str(error)
        else:
            said = ""
        if said:
            assert said.startswith(str(folder / name))
            assert "; put a copy of it back" in said or "; save it as UTF-8" in said
            assert said.isprintable()
        else:
            assert read == json.loads(text)
            assert misfit(read, kind) is None
        assert (folder / name).read_bytes() == text

    run()


def check_meta(examples: int) -> None:
    quiet = settings(max_examples=examples, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

    @quiet
    @given(st.data())
    def run(data: st.DataObject) -> None:
        text = torn(data.draw, META)
        try:
            meta = json.loads(text)
        except (ValueError, RecursionError):
            return  # what reads the file says that it is not JSON
        words = read_steps._misfit(meta)
        if meta != META and words is None:
            # Only a checkpoint of an older version has no digest, and then every part must still fit.
            assert read_steps.DIGEST not in meta
            assert meta["leaves"].keys() == meta["checksums"].keys()
        if meta == META:
            assert words is None
            assert misfit(meta, _Meta) is None

    run()


def test_files_of_a_run(tmp_path: Path) -> None:
    check_files(50, tmp_path)


def test_the_json_of_a_checkpoint() -> None:
    check_meta(50)


@pytest.mark.slow
def test_files_and_checkpoints_at_length(tmp_path: Path) -> None:
    check_files(1000, tmp_path)
    check_meta(1000)


@pytest.mark.parametrize(
    ("path", "new", "said"),
    [
        (("leaves", "step"), ["float99", []], "dtype \"float99\""),
        (("leaves", "step"), ["int32", [-1]], "must be a whole number from 0"),
        (("leaves", "step"), ["int32"], "a dtype and a shape"),
        (("checksums",), {"step": 7}, "a checksum for each leaf"),
        (("frozen",), {"../../elsewhere": ["step"]}, "names a folder"),
        (("frozen",), {"frozen/0123456789abcdef": ["other"]}, "leaves that it has not"),
        (("checksums", "step"), 8, "is not what was written"),
        (("log", "seconds"), 2.0, "is not what was written"),
    ],
)  # fmt: skip
def test_what_a_checkpoint_cannot_have_written(path: tuple[str, ...], new: Any, said: str) -> None:
    assert said in (read_steps._misfit(changed(META, path, new)) or "")


def test_a_damaged_line_between_others_is_told_and_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    content = '{"step": 1, "loss": 2.0}\n{"step": 2, "lo\n{"step": 3, "loss": 1.0}\n'
    path.write_text(content)
    for read in (lambda: metrics.cut_back(path, 3), lambda: list(metrics.read_rows(path))):
        with pytest.raises(DataError, match=r"metrics\.jsonl:2 cannot be read: not JSON .* take the line out"):
            read()
    path.write_text(content.replace('"lo\n', '"loss": 1}\n'))
    assert metrics.cut_back(path, 2) == 1
    path.write_text('{"step": -2}\n{"step": 3}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:1: step is -2; it must be a whole number from 0"):
        metrics.cut_back(path, 3)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/tmp/x"])
def test_a_step_stays_in_the_run_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a name that a folder can have"):
        _finished(name, fn(places), tmp_path)


def test_a_file_too_large_is_told(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(MOST_JSON + 1)
    with pytest.raises(ConfigError, match="has 256 MB, and at most 256 MB of JSON are read"):
        read_record(tmp_path / "config.json", Record)


def test_a_hash_is_of_the_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed file at the same path is seen, also where its size and time are as before; one that was moved has its
    hash still; and what is kept saves reading, until it is asked for anew."""
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content_hashes, "SMALL", 4)
    monkeypatch.setattr(content_hashes, "SETTLED", -(10**18))
    path = tmp_path / "weights"
    path.write_bytes(b"first contents")
    first, stat = content_hashes.content_hash(path), path.stat()
    path.write_bytes(b"other contents")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other = content_hashes.content_hash(path)
    assert other != first
    path.rename(tmp_path / "moved")
    assert content_hashes.content_hash(tmp_path / "moved") == other
    kept = tmp_path / "cache" / content_hashes.KEPT
    entries = json.loads(kept.read_text())
    entries[str((tmp_path / "moved").resolve())]["sha256"] = "as it was kept"
    kept.write_text(json.dumps(entries))
    assert content_hashes.content_hash(tmp_path / "moved") == "as it was kept"
    content_hashes.forget_hashes()
    assert content_hashes.content_hash(tmp_path / "moved") == other
    kept.write_text('{"torn')
    assert content_hashes.content_hash(tmp_path / "moved") == other
