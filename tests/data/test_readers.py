"""Files as they come: what they are packed with, in which encoding and layout, and what is said of those refused."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from alignjax import data
from alignjax.config import ConfigError, DataError
from alignjax.data import Instructions, Preferences, Prompts, Rankings
from alignjax.data.datasets import layouts, preparation
from alignjax.data.datasets.row_files import existing_path
from alignjax.outside import (
    ReadError,
    Unreadable,
    WriteError,
    parse_json,
    read_json,
    read_text,
    reading,
    user_path,
    writing,
)
from tests.support.row_files import parse_file, parsed, prompts_of

ROWS = [{"prompt": f"p {n}", "chosen": "yes", "rejected": "no"} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


PACKED = {
    "plain": lambda text: text,
    "gzip": gzip.compress,
    "two members": lambda text: gzip.compress(text[:10]) + gzip.compress(text[10:]),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda text: pa.compress(text, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("packing", list(PACKED))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_packing_and_encoding_are_told_by_content(tmp_path: Path, packing: str, encoding: str) -> None:
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    for text in (LINES, LINES.removesuffix("\n"), LINES.replace("\n", "\r\n"), json.dumps(ROWS, indent=1)):
        file = parsed(tmp_path / "rows.csv.parquet", PACKED[packing](mark + text.encode(encoding)))
        assert prompts_of(file) == ["p 0", "p 1", "p 2"]
        assert not file.bad


@pytest.mark.parametrize("packing", ["gzip", "bz2", "xz", "zstd"])
def test_a_packed_file_that_is_cut_short_is_refused(tmp_path: Path, packing: str) -> None:
    whole = PACKED[packing](LINES.encode() * 50)
    for size in (len(whole) // 2, len(whole) - 3):
        with pytest.raises(DataError, match=f"x cannot be read: not a whole {packing} file"):
            parsed(tmp_path / "x", whole[:size])


def archives() -> dict[str, bytes]:
    packed, taped = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("rows.jsonl", LINES)
    with tarfile.open(fileobj=taped, mode="w") as file:
        info = tarfile.TarInfo("rows.jsonl")
        info.size = len(LINES)
        file.addfile(info, io.BytesIO(LINES.encode()))
    return {"zip": packed.getvalue(), "tar": taped.getvalue(), "tar.gz": gzip.compress(taped.getvalue())}


REFUSED = {
    "zip archive": archives()["zip"],
    "tar archive: *": archives()["tar"],
    "it is a tar archive": archives()["tar.gz"],
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 123\n",
    "it is empty": b"",
    "packed twice, with gzip around bz2": gzip.compress(bz2.compress(LINES.encode())),
    "a web page": b"<!DOCTYPE html><html>Log in</html>",
    "pickle, which is never read": b"\x80\x04\x95",
    "neither UTF-8 nor UTF-16 with a byte order mark": LINES.encode("utf-16-le"),
    "not UTF-16": b"\xff\xfe" + LINES.encode("utf-16-le")[:-1],
    r"line 2, column 1: expecting ','": b'[{"prompt": "a"}\n{"prompt": "b"}]',
    r"column 1[78]: (?:illegal trailing comma|expecting value)": b'[{"prompt": "a"},]',
    "nested more than 200 deep": b'[{"prompt": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("words", list(REFUSED))
def test_what_is_no_text_is_called_what_it_is(tmp_path: Path, words: str) -> None:
    with pytest.raises(ReadError, match=rf"file\.jsonl cannot be read: .*{words.removesuffix(': *')}"):
        parsed(tmp_path / "file.jsonl", REFUSED[words])


def test_a_pipe_is_read_where_a_shell_hands_it_over_and_nowhere_else(tmp_path: Path) -> None:
    """One that lies in a folder would be waited for without an end, a device read without one; `<(command)` is read
    once, and all of it."""
    os.mkfifo(tmp_path / "config.json")
    (tmp_path / "other.json").symlink_to("/dev/zero")
    for name in ("config.json", "other.json"):
        with pytest.raises(ReadError, match=rf"{name} cannot be read: it is a pipe, a socket or a device; name a file"):
            read_json(tmp_path / name)
    text = "".join(f"line {number}\n" for number in range(3000))
    end, start = os.pipe()
    os.write(start, text.encode())
    os.close(start)
    assert read_text(Path(f"/dev/fd/{end}")) == text
    os.close(end)


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    text = "a\u2028b\x0bc\x85d\x1ce"
    row = json.dumps({"prompt": text}, ensure_ascii=False).replace("\\u000b", "\x0b").replace("\\u001c", "\x1c")
    assert "\x0b" in row  # which JSON does not allow as it is
    file = parsed(tmp_path / "x", row + "\n", Prompts(path="x"))
    assert file.bad == {"not JSON": [1]}
    row = json.dumps({"prompt": text}, ensure_ascii=False)
    assert prompts_of(parsed(tmp_path / "x", f"{row}\n\n{row}", Prompts(path="x"))) == [text] * 2


def test_bad_lines_are_named_by_place(tmp_path: Path) -> None:
    bad = [
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a",}',
        b'{"prompt": "\xe9"}',
        b'{"prompt": "a", "chosen": "b", "rejected": "c", "weight": 1e400}',
        b'{"prompt": "a", "chosen": "b", "rejected": "c", "weight": NaN}',
        b'{"prompt": "a", "chosen": "b", "rejected": "c", "weight": 1e39}',
        b'{"prompt": "a", "chosen": "b", "rejected": "c", "weight": 1e-50}',
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": 1} {"b": 2}',
    ]
    file = parsed(tmp_path / "x", LINES.encode() + b"\n".join(bad))
    assert len(file.records) == 3
    assert file.bad == {
        "a key stands twice in one object": [4],
        "not JSON": [5, 12],
        "not UTF-8": [6],
        "field 'weight' is no number that float32 holds": [7, 8, 9],
        "field 'weight' is too near 0 for float32": [10],
        "not JSON that can be read": [11],
    }
    assert "not JSON (2; lines 5, 12): column 16: " in file.sentence()
    assert "not UTF-8 (1; line 6): byte 13 (0xe9)" in file.sentence()
    assert "no number that float32 holds (3; lines 7, 8, 9): 1e400" in file.sentence()


def test_a_null_is_a_value_within_tools_and_arguments_alone(tmp_path: Path) -> None:
    """A column or a field of a message that is null is not there; deeper, a template writes it."""
    arguments = {"x": None, "y": [None]}
    turns = [
        {"role": "user", "content": "a", "name": None},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": arguments}]},
    ]
    row = {"messages": turns, "tools": [{"default": None}], "documents": None}
    dataset = Instructions(path=str(tmp_path / "x"))
    for content in (json.dumps(row), json.dumps([row])):
        ((chat,),) = [record.chats for record in parsed(tmp_path / "x", content, dataset, "refuse").records]
        assert chat["turns"] == [{"role": "user", "content": "a"}]
        assert chat["ends"] == [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]}]
        assert chat["words"] == {"tools": [{"default": None}]}


def test_a_system_prompt_in_a_column_of_its_own_is_not_passed_over(tmp_path: Path) -> None:
    rows = [{**row, "system": system} for row, system in zip(ROWS, ("", None, "be terse"), strict=True)]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    assert len(parsed(tmp_path / "x", content[: content.rindex("{")]).records) == 2
    with pytest.raises(DataError, match="column 'system' would change the prompt and is not read"):
        parsed(tmp_path / "x", content)


def test_a_weight_of_a_message_is_not_passed_over(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    with pytest.raises(DataError, match="a message has a weight, which is not read"):
        parsed(tmp_path / "x", json.dumps({"messages": turns}), Instructions(path=str(tmp_path / "x")), "refuse")


def test_a_path_that_no_system_takes_is_worded() -> None:
    for path, words in (("a" * 5000, "cannot be read: File name too long"), ("", "the path is empty")):
        with pytest.raises((ConfigError, DataError), match=words):
            existing_path(path, "pairs")


def test_whole_numbers_stay_exact() -> None:
    text = '{"a": 123456789012345678901234567890, "b": 0.1, "c": [1e22, -0.0, 1E5]}'
    assert parse_json(text) == json.loads(text)
    assert str(parse_json("9" * 5000)) == "999999999999... (5000 characters)"
    with pytest.raises(Unreadable, match=r"a key stands twice in one object \('a'\)"):
        parse_json('{"b": {"a": 1, "a": 1}}')


def test_only_columns_that_are_used_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({**{name: [row[name] for row in ROWS] for name in ROWS[0]}, "picture": [b"\0" * 10] * 3})
    parquet.write_table(table, tmp_path / "t")
    asked: list[Any] = []
    read = parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        parquet.ParquetFile, "iter_batches", lambda self, **more: asked.append(more["columns"]) or read(self, **more)
    )
    dataset = Preferences(path=str(tmp_path / "t"))
    assert len(parse_file(tmp_path / "t", dataset.parse, "refuse", dataset.columns()).records) == 3
    assert asked == [["prompt", "chosen", "rejected"]]


def test_a_bug_while_rows_are_parsed_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(LINES)

    def parse(row: Any) -> Any:
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        parse_file(tmp_path / "x", parse, "skip")


@pytest.mark.parametrize(
    "error", [KeyError("a"), RecursionError(), MemoryError(), OSError(errno.EIO, "gone"), Exception()]
)
def test_whatever_is_raised_in_the_boundary_is_worded(error: Exception) -> None:
    with (
        pytest.raises(ReadError, match=r"^weights cannot be read: .+; ask for them again$"),
        reading("weights", "ask for them again"),
    ):
        raise error
    with pytest.raises(ConfigError, match=r"^no$"), reading("weights"):
        raise ConfigError("no")
    with pytest.raises(KeyboardInterrupt), reading("weights"):
        raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------------------- layouts


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def test_layouts_that_say_the_same_give_the_same_records(tmp_path: Path) -> None:
    talks = {"chosen": turns("hi", "good"), "rejected": turns("hi", "bad")}
    rows = [
        {"prompt": turns("hi"), "chosen": "good", "rejected": "bad"},
        {"prompt": turns("hi"), "chosen": turns("", "good")[1:], "rejected": turns("", "bad")[1]},
        talks,
        {**talks, "prompt": None, "messages": turns("hi", "good")},
        {**talks, "prompt": "hi", "prompt_id": "x", "messages": turns("hi", "good"), "score_chosen": 8.0},
        {"messages": turns("hi"), "chosen": turns("", "good")[1], "rejected": turns("", "bad")[1]},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}],
         "chosen": "good", "rejected": "bad"},
    ]  # fmt: skip
    dataset = Preferences(path="x", chosen_field="better")
    rows = [{"better" if name == "chosen" else name: value for name, value in row.items()} for row in rows]
    file = parsed(tmp_path / "x", "\n".join(map(json.dumps, rows)), dataset)
    assert not file.bad
    assert len({json.dumps([r.prompt, r.completions, r.chats]) for r in file.records}) == 1
    assert file.layouts == {
        "prompt, chosen and rejected": 3,
        "two conversations": 2,
        "ultrafeedback_binarized": 1,
        "messages, chosen and rejected": 1,
    }


def test_a_row_that_fits_two_layouts_is_refused_with_both_names(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "hi", "completion": "good", "messages": turns("hi", "other")})
    path = tmp_path / "x"
    with pytest.raises(DataError, match=r"x, line 1: columns .* fit two layouts, 'prompt and completion' and 'ul"):
        parsed(path, row, Instructions(path=str(path)))
    named = parsed(path, row, Instructions(path=str(path), layout="prompt and completion"))
    assert named.records[0].completions == ("good",)
    with pytest.raises(ConfigError, match=r"layout is 'ultrachat'.*Did you mean 'ultrachat_200k'"):
        Instructions(path="x", layout="ultrachat")
    assert "layout" not in Instructions(path="x").settings


def test_a_row_that_fits_none_names_its_columns_and_what_is_near(tmp_path: Path) -> None:
    path = tmp_path / "x"
    (said,) = parsed(path, '{"question": "a", "answer": "b"}', Preferences(path=str(path))).wheres.values()
    assert "it has answer, question" in said
    assert "Gsm8k reads it as 'question and answer'" in said
    (said,) = parsed(path, '{"prompt": "a", "chosen": "b"}', Preferences(path=str(path))).wheres.values()
    assert said == "it has chosen, prompt; 'prompt, chosen and rejected' needs prompt, chosen, rejected"
    other = {"prompt": "else", "chosen": turns("hi", "good"), "rejected": turns("hi", "bad")}
    assert list(parsed(path, json.dumps(other), Preferences(path=str(path))).bad) == [
        "field 'prompt' is not in the conversation in 'chosen'"
    ]
    picture = {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "chosen": "a", "rejected": "b"}
    file = parsed(path, json.dumps(picture), Preferences(path=str(path)))
    assert file.bad == {"a message has a part that is not text": [1]}
    assert file.wheres == {"a message has a part that is not text": "of type 'image'"}


def test_every_layout_has_a_name_of_its_own_and_serves_datasets() -> None:
    names = [layout.name for layout in layouts.LAYOUTS]
    assert len(set(names)) == len(names)
    assert all(layout.reads and hasattr(data, dataset) for layout in layouts.LAYOUTS for dataset in layout.reads)


@pytest.mark.parametrize("place", ["write_shard", "save", "account"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows").write_text(LINES)
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*arguments: Any, **named: Any) -> None:
        raise full

    target: tuple[Any, str] = {
        "write_shard": (preparation, "write_shard"),
        "save": (Path, "write_text"),
        "account": (Path, "write_text"),
    }[place]
    written = Path.write_text

    def fail_late(self: Path, *arguments: Any, **named: Any) -> Any:
        return fail() if self.name == "account.json" else written(self, *arguments, **named)

    monkeypatch.setattr(*target, fail_late if place == "account" else fail)
    with pytest.raises(WriteError, match=r"cache cannot be written: No space left on device; .*ALIGNJAX_CACHE"):
        Preferences(path=str(tmp_path / "rows"), vocab_size=300).prepare(report=str)
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("")
    (tmp_path / "rows").write_text(LINES)
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WriteError, match=r"cache cannot be written: .*; .*ALIGNJAX_CACHE"):
        Preferences(path=str(tmp_path / "rows"), vocab_size=300).prepare(report=str)


def test_a_home_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/a") == Path("/somewhere/a")
    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(ConfigError, match=r"^~/a: there is no such home folder; set HOME"):
        user_path("~/a")


def test_texts_have_one_reader(tmp_path: Path) -> None:
    reads: dict[bytes, Callable] = {b"": str, "\ufeffa\u2028b".encode(): str, "a".encode("utf-16"): str}
    assert [read_text(written(tmp_path / "x", content)) for content in reads] == ["", "a\u2028b", "a"]
    with pytest.raises(ReadError, match=r"x cannot be read: not UTF-8 \(byte 2 \(0xff\)\); fetch"):
        read_text(written(tmp_path / "x", b"a\xff"))
    with pytest.raises(ReadError, match="there is no file"):
        read_text(tmp_path / "gone")
    with pytest.raises(ZeroDivisionError), writing("x", "no"):
        raise ZeroDivisionError


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_scores_are_numbers_that_float32_holds(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "completions": ["b", "c"], "scores": [score, 1]} for score in (1, float("inf"), 10**400, -1e39)
    ]
    file = parsed(tmp_path / "x", "\n".join(map(json.dumps, rows)), Rankings(path="x"))
    assert file.bad == {"field 'scores' is no number that float32 holds": [2, 3, 4]}
    assert file.sentence().endswith(": inf")
