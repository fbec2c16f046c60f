"""Files of rows of every kind: the same rows in each are the same records, and what is wrong is said."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from alignjax.config import ConfigError, DataError
from alignjax.data import Preferences, Prompts
from alignjax.data.datasets import row_files
from alignjax.data.datasets.row_files import blocks_of, kind_of, rows_of_block
from tests.support.row_files import parse_file, parsed, prompts_of

ROWS: list[dict[str, Any]] = [
    {"prompt": f'p {n}, "q"\nnext', "chosen": f"yes {n}", "rejected": "no", "weight": 0.5 + n} for n in range(7)
]
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda content: content,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


def comma_separated(delimiter: str = ",", index: bool = False) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow([""] * index + list(ROWS[0]))
    writer.writerows([n] * index + list(row.values()) for n, row in enumerate(ROWS))
    return text.getvalue().encode()


def arrow(stream: bool) -> bytes:
    file, table = io.BytesIO(), pa.Table.from_pylist(ROWS)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return file.getvalue()


def as_parquet() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=3)
    return file.getvalue()


KINDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "lines": ("lines", lambda: "\n".join(map(json.dumps, ROWS)).encode()),
    "array": ("array", lambda: json.dumps(ROWS, indent=1).encode()),
    "csv": ("csv", comma_separated),
    "tsv": ("csv", lambda: comma_separated("\t")),
    "semicolons": ("csv", lambda: comma_separated(";")),
    "csv of pandas": ("csv", lambda: comma_separated(index=True)),
    "csv of Excel": ("csv", lambda: b"\xef\xbb\xbf" + comma_separated()),
    "csv in UTF-16": ("csv", lambda: comma_separated().decode().encode("utf-16")),
    "parquet": ("parquet", as_parquet),
    "arrow": ("arrow", lambda: arrow(stream=False)),
    "arrow stream": ("arrow stream", lambda: arrow(stream=True)),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_rows_are_the_same_whatever_holds_them(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNJAX_CACHE", str(tmp_path / "cache"))
    kind, content = KINDS[name]
    for packing in PACKED:
        path = tmp_path / f"named.{packing}.pdf"
        file = parsed(path, PACKED[packing](content()))
        assert kind_of(path) == kind
        assert not file.bad
        assert prompts_of(file) == [row["prompt"] for row in ROWS]
        assert [record.completions for record in file.records] == [(row["chosen"], "no") for row in ROWS]
        assert [record.weight for record in file.records] == [row["weight"] for row in ROWS]
        if packing != "plain":
            with pytest.raises(DataError, match=f"not a whole {packing} file"):
                parsed(path, PACKED[packing](content())[:-6])


@pytest.mark.parametrize("name", ["lines", "array", "csv", "parquet", "arrow", "arrow stream"])
def test_small_blocks_hold_the_rows_of_large_ones(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, (kind, content) = tmp_path / "x", KINDS[name]
    path.write_bytes(content())

    def rows() -> list[list[tuple[int, Any]]]:
        return [list(rows_of_block(path, block)) for block in blocks_of(path, kind)]

    whole = rows()
    assert len(whole) == (3 if kind.startswith("arrow") else 1)
    monkeypatch.setattr(row_files, "BLOCK", 60)
    monkeypatch.setattr(row_files, "CHUNK", 7)
    small = rows()
    assert len(small) > 3
    assert [*itertools.chain(*small)] == [*itertools.chain(*whole)]
    done = [block.done for block in blocks_of(path, kind)]
    assert done == sorted(done)
    assert done[-1] in (0, path.stat().st_size)


BAD_ARRAYS = [
    '[{"prompt": "a"},\n{"prompt": "b" "c"}, {"prompt": "d"}]',
    '[{"prompt": "a"},\n{"prompt": "b"}},\n {"prompt": "d"}]',
    '[{"prompt": "a"},\n{"prompt": "b"}\n {"prompt": "d"}]',
    '[{"prompt": "a"},\n{"prompt": "b"},\n {"prompt": "d"}',
    '[{"prompt": "a"},\n{"prompt": "b"},\n {"prompt": "d"},]',
    '[{"prompt": "a"},\n{"prompt": "b"}] 5',
    '[{"prompt": "a"},\n{"prompt": "b\\"]"}, {"prompt": "no end}]',
    '[{"prompt": "a"},\n[{"prompt": "b"}, {"prompt": "d"}]',
]


@pytest.mark.parametrize("text", BAD_ARRAYS)
def test_an_array_in_parts_is_refused_at_the_same_place(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for size in (1 << 20, 5):
        monkeypatch.setattr(row_files, "BLOCK", size)
        with pytest.raises(DataError, match="no row can be skipped") as error:
            parsed(tmp_path / "x", text, Prompts(path="x"))
        said.append(str(error.value))
    assert said[0] == said[1]


def test_cells_that_are_no_numbers_and_rows_of_another_length_are_bad(tmp_path: Path) -> None:
    text = "prompt,chosen,rejected,weight\n1,2,3,1e-3\n4,5,6,seven\n4,5,6\n\n8,9,10, 2 \n11,\xff,12,1\n13,14,15,1_0\n"
    file = parsed(tmp_path / "x", text.encode("latin-1"))
    assert [(r.prompt, r.completions, r.weight) for r in file.records] == [
        ("1", ("2", "3"), 0.001),
        ("8", ("9", "10"), 2.0),
    ]
    assert file.bad == {
        "field 'weight' is text, must be a number": [3, 8],
        "not as many cells as columns": [4],
        "field 'chosen' is not UTF-8": [7],
    }
    assert file.wheres["not as many cells as columns"] == "3 of 4"


REFUSED = {
    "line 3: unexpected end of data; write its quotes as CSV does": b'prompt,chosen\na,b\n"c,d\n',
    "line 2: ',' expected after '\"'": b'prompt,chosen\n"a"b,c\n',
    "looks like no rows": b"Hello, world! This is prose.\nAnd more, of it.\n",
    "looks like no rows .it begins 'prompt,prompt'": b"prompt,prompt\na,b\n",
    "it is one JSON object over many lines; write its rows": b'{\n "prompt": ["a"]\n}',
    "as arrow stream: ": arrow(stream=True)[:-40],
    "as arrow: ": arrow(stream=False)[:-40],
}


@pytest.mark.parametrize("words", list(REFUSED))
def test_damaged_tables_are_refused_in_words(tmp_path: Path, words: str) -> None:
    with pytest.raises(DataError, match=f"x cannot be read.*{words}"):
        parsed(tmp_path / "x", REFUSED[words])


def test_one_column_is_csv_where_the_name_says_so(tmp_path: Path) -> None:
    text = "prompt\nhello\nwhy?\n"
    assert prompts_of(parsed(tmp_path / "x.csv", text, Prompts(path="x"))) == ["hello", "why?"]
    assert prompts_of(parsed(tmp_path / "x.csv.gz", gzip.compress(text.encode()), Prompts(path="x"))) == [
        "hello",
        "why?",
    ]
    with pytest.raises(DataError, match="looks like no rows"):
        parsed(tmp_path / "x.txt", text, Prompts(path="x"))


def test_arrow_of_any_bytes_is_read_whole_or_refused(tmp_path: Path) -> None:
    """Every byte of a small file, spoiled one at a time: rows or words."""
    for whole in (arrow(stream=True), arrow(stream=False)):
        for place in range(0, len(whole), 23):
            (tmp_path / "x").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            words = ""
            try:
                records = parse_file(tmp_path / "x", Preferences(path="x").parse, "skip").records
            except DataError as error:
                records, words = [], str(error)
            assert len(records) <= len(ROWS)
            assert not words or str(tmp_path / "x") in words


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("prompt,chosen,rejected\n", "no row follows its line of names"),
        ("prompt,chosen,chosen\np,a,b\n", "the first line of a CSV file is to hold names, different ones"),
        (
            "prompt, chosen, rejected\np, a, b\n",
            "the first line of a CSV file is to hold names, .* with nothing around",
        ),
        ("why?,a,b\np,a,b\n", "the first line of a CSV file is to hold names"),
    ],
)
def test_what_is_wrong_with_the_names_of_a_csv_file_is_said(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(DataError, match=f"x.csv cannot be read: {why}.* write its columns' names in the first line"):
        parsed(tmp_path / "x.csv", text)


@pytest.mark.parametrize("path", ["Some-One/rows_1.5", "https://hub.example/datasets/some/rows"])
def test_a_hub_s_dataset_that_is_written_as_a_path_is_told_how(path: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .* but for what a hub has: hub:OWNER/NAME"):
        row_files.existing_path(path, "path")
    with pytest.raises(ConfigError, match=r"Nothing is downloaded$"):
        row_files.existing_path(f"./{path}", "path")
