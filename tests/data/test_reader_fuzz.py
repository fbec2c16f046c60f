"""Generated files: each reader takes what a second, independent parse takes, unchanged, or refuses it in words."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from alignjax import data
from alignjax.config import ConfigError, DataError
from alignjax.data.datasets.from_files import File
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.datasets.records import Record
from alignjax.outside import Huge, Unreadable, parse_json
from tests.support.row_files import ParsedFile, parse_file

FEW, MANY = 100, 1000


def fuzz(count: int, *strategies: st.SearchStrategy) -> Callable:
    quiet = settings(max_examples=count, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    return lambda test: quiet(given(*strategies)(test))


NAMES = st.sampled_from(
    ["prompt", "chosen", "rejected", "messages", "completion", "label", "weight", "a", "\u2028", ""]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**300, 10**400),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\u2028", "\x0b", "\x85", "\r", "\x00", "\ufeff", "e\u0301", "\ud800"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
ROWS = st.lists(st.dictionaries(NAMES, VALUES, max_size=4), min_size=1, max_size=5)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])
PACKINGS = {
    "": lambda content: content,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}
UNPACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    "gzip": gzip.decompress,
    "bz2": bz2.decompress,
    "xz": lzma.decompress,
    "zstd": lambda content: pa.CompressedInputStream(io.BytesIO(content), "zstd").read(),
}


MARKS = [b'"', b"{", b"}", b"[", b",", b"\n", b"\xff", b"null", b"NaN"]


@st.composite
def spoiled(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes of a file replaced, left out or doubled, or its end missing; or nothing."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 3))):
        if not content:
            break
        place = draw(st.integers(0, len(content) - 1))
        kind = draw(st.sampled_from(["replace", "drop", "double", "cut", "insert"]))
        if kind == "replace":
            content[place] = draw(st.integers(0, 255))
        elif kind == "drop":
            del content[place : place + draw(st.integers(1, 9))]
        elif kind == "double":
            content[place:place] = content[place : place + 20]
        elif kind == "insert":
            content[place:place] = draw(st.sampled_from(MARKS))
        else:
            del content[place:]
    return bytes(content)


@st.composite
def json_files(draw: st.DrawFn) -> tuple[bytes, str]:
    """(content, packing) of a file of JSON lines or a JSON array, in some encoding, mostly a little spoiled."""
    rows, ascii_only = draw(ROWS), draw(st.booleans())
    texts = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    if draw(st.booleans()):
        text = json.dumps(rows, indent=draw(st.sampled_from([None, 1])), ensure_ascii=ascii_only)
    else:
        text = draw(st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"])).join(texts) + draw(st.sampled_from(["", "\n"]))
    content = draw(spoiled(text.encode(draw(ENCODINGS), errors="replace")))
    packing = draw(st.sampled_from(list(PACKINGS)))
    return (draw(spoiled(PACKINGS[packing](content))) if packing else content), packing


def read(content: bytes) -> tuple[ParsedFile, list[Any]] | None:
    """What `parse_file` makes of a file and the rows that it hands on, or None where it refuses it in words."""
    rows: list[Any] = []

    def parse(row: Any) -> Record:
        rows.append(row)
        return Record("prompt")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        try:
            return parse_file(path, parse, "skip"), rows
        except (ConfigError, DataError) as error:
            words = str(error)
        assert str(path) in words
        return None


def row_without_nulls(row: Any) -> Any:
    """Columns and fields of messages that are null are not there; what is within tools and arguments stays."""

    def message(value: Any) -> Any:
        if isinstance(value, list):
            return [message(each) for each in value]
        drops = isinstance(value, dict) and "role" in value
        return {name: each for name, each in value.items() if each is not None} if drops else value

    return {name: message(each) for name, each in row.items() if each is not None} if isinstance(row, dict) else row


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def same(ours: Any, other: Any) -> bool:
    """Equal, types included; NaN equals NaN, and Huge what Python reads as infinity."""
    if isinstance(ours, Huge):
        return isinstance(other, float) and math.isinf(other)
    if type(ours) is not type(other):
        return False
    if isinstance(ours, dict):
        return list(ours) == list(other) and all(same(ours[name], other[name]) for name in ours)
    if isinstance(ours, list):
        return len(ours) == len(other) and all(map(same, ours, other))
    return ours == other or (ours != ours and other != other)


def second_parse(content: bytes, packing: str) -> tuple[list[tuple[int, Any]], int] | None:
    """([(number, row)] of the good rows, number of all rows) by json and the unpackers of Python; None: unreadable."""
    try:
        content = UNPACKED[packing](content)
    except Exception:
        return None
    marks = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8")
    try:
        if encoding != "utf-8":
            content = content.decode(encoding).encode()
    except UnicodeError:
        return None
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        whole = json.loads(content.decode())
        if isinstance(whole, list):
            return [(number, row) for number, row in enumerate(whole, 1) if isinstance(row, dict)], len(whole)
    except (ValueError, RecursionError):
        pass
    good, lines = [], [(n, line) for n, line in enumerate(content.split(b"\n"), 1) if line.strip(b" \t\r\n")]
    for number, line in lines:
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            good.append((number, row))
    return good, len(lines)


def repeats_a_key(content: bytes) -> bool:
    """Whether anywhere in a text one object may hold a key twice, which json takes in silence."""
    twice: list[bool] = []

    def pairs(items: list) -> dict:
        twice.append(len(dict(items)) < len(items))
        return dict(items)

    decoder = json.JSONDecoder(object_pairs_hook=pairs)
    text = content.decode(errors="replace")
    for place in (k for k, letter in enumerate(text) if letter == "{"):
        try:
            decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            continue
    return any(twice)


def check_json_file(file: tuple[bytes, str]) -> None:
    content, packing = file
    ours, other = read(content), second_parse(content, packing)
    if ours is None:
        return
    parsed, rows = ours
    if other is None:  # what is packed no longer, its first bytes being others, is a text: of bad lines, mostly
        packing = ""
        other = second_parse(content, packing)
    assert other is not None
    expected, total = other
    assert parsed.account()["read"] == total
    numbers = [record.meta["line"] for record in parsed.records]
    by_number = dict(expected)
    for number, row in zip(numbers, rows, strict=True):
        assert same(row, row_without_nulls(by_number[number]))
    if missed := set(by_number) - set(numbers):  # refused though json takes it: only for a key that stands twice
        assert "a key stands twice in one object" in parsed.bad
        assert missed <= set(parsed.bad["a key stands twice in one object"])
        assert repeats_a_key(UNPACKED[packing](content)) or content[:2] in (b"\xff\xfe", b"\xfe\xff")


test_json_files = fuzz(FEW, json_files())(check_json_file)
test_many_json_files = pytest.mark.slow(fuzz(MANY, json_files())(check_json_file))


@st.composite
def whole_files(draw: st.DrawFn) -> tuple[list[dict], bytes]:
    """Rows that UTF-8 can write, and a file of them that nobody has spoiled."""
    sane = st.text(st.characters(codec="utf-8"), max_size=8) | st.integers() | st.floats(allow_nan=False, width=32)
    rows = draw(st.lists(st.dictionaries(NAMES, sane | st.lists(sane, max_size=3), min_size=1, max_size=4), min_size=1))
    texts = [json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows]
    text = draw(st.sampled_from(["\n", "\r\n"])).join(texts)
    if draw(st.booleans()):
        text = f"[{','.join(texts)}]"
    return rows, PACKINGS[draw(st.sampled_from(list(PACKINGS)))](text.encode(draw(ENCODINGS)))


def check_whole_file(file: tuple[list[dict], bytes]) -> None:
    rows, content = file
    ours = read(content)
    assert ours is not None
    assert not ours[0].bad
    assert same(ours[1], rows)


test_whole_files_are_read_whole = fuzz(FEW, whole_files())(check_whole_file)
test_many_whole_files_are_read_whole = pytest.mark.slow(fuzz(MANY, whole_files())(check_whole_file))


def check_json_text(text: str) -> None:
    try:
        ours = parse_json(text)
    except Unreadable as error:
        if error.why == "not JSON":
            with pytest.raises((ValueError, RecursionError)):
                json.loads(text)
        return
    assert same(ours, json.loads(text))


JSON_TEXTS = st.builds(json.dumps, VALUES) | st.text(
    st.sampled_from(list('[]{}",:\\ \n\t0123456789.eE+-truefalsn\u2028\x0b')), max_size=30
)
test_json_texts = fuzz(FEW, JSON_TEXTS)(check_json_text)
test_many_json_texts = pytest.mark.slow(fuzz(MANY, JSON_TEXTS)(check_json_text))


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Tables of texts, numbers, lists and messages, with nulls."""
    turns = pa.list_(
        pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.list_(pa.string()))])
    )
    text = st.text(st.characters(codec="utf-8"), max_size=6)
    turn = st.fixed_dictionaries({"role": text, "content": text | st.none(), "tool_calls": st.none() | st.lists(text)})
    kinds: dict[str, tuple[pa.DataType, st.SearchStrategy]] = {
        "text": (pa.string(), text),
        "large": (pa.large_string(), text),
        "coded": (pa.dictionary(pa.int32(), pa.string()), text),
        "number": (pa.float64(), st.floats()),
        "whole": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
        "flag": (pa.bool_(), st.booleans()),
        "texts": (pa.list_(pa.string()), st.lists(text | st.none(), max_size=3)),
        "talk": (turns, st.lists(turn, max_size=3)),
    }
    count = draw(st.integers(0, 5))
    columns = {}
    for name in draw(st.lists(NAMES, unique=True, min_size=1, max_size=4)):
        kind, values = kinds[draw(st.sampled_from(list(kinds)))]
        columns[name] = pa.array([draw(values | st.none()) for _ in range(count)], kind)
    return pa.table(columns)


@st.composite
def parquet_files(draw: st.DrawFn) -> bytes:
    file = io.BytesIO()
    compression = draw(st.sampled_from(["snappy", "zstd", "none"]))
    parquet.write_table(draw(tables()), file, compression=compression, write_page_checksum=draw(st.booleans()))
    return draw(spoiled(file.getvalue()))


def check_parquet(content: bytes) -> None:
    if not content.startswith(b"PAR1"):
        read(content)
        return
    ours = read(content)
    if ours is None:
        return
    rows = parquet.read_table(io.BytesIO(content)).to_pylist()
    assert same(ours[1], [without_nulls(row) for row in rows])


test_parquet_files = fuzz(FEW, parquet_files())(check_parquet)
test_many_parquet_files = pytest.mark.slow(fuzz(MANY, parquet_files())(check_parquet))


def check_bytes(content: bytes) -> None:
    read(content)


BYTES = st.binary(max_size=60) | st.builds(
    lambda head, tail: head + tail,
    st.sampled_from([b"PAR1", b"\x1f\x8b", b"BZh91AY&SY", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"{", b"["]),
    st.binary(max_size=60),
)
test_any_bytes = fuzz(FEW, BYTES)(check_bytes)
test_many_any_bytes = pytest.mark.slow(fuzz(MANY, BYTES)(check_bytes))

# ------------------------------------------------------------------------------------------ rows to records

TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", ""]) | SCALARS},
    optional={
        "content": st.sampled_from(["yes", "no", " ", "e\u0301", "\ud800"])
        | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.just("yes")}) | VALUES, max_size=2)
        | VALUES,
        "tool_calls": VALUES,
    },
)
FIELD = st.sampled_from(["yes", "no", "", "\ud800", "e\u0301", "\u00e9"]) | st.lists(TURN, max_size=3) | TURN | VALUES
FIELDS = (
    "prompt chosen rejected messages completion completions scores label weight response judgement email_body "
    "subject_line question answer instruction output_1 output_2 preference prompt_chosen prompt_rejected"
)
KINDS = [kind(path="x") for kind in vars(data).values() if isinstance(kind, type) and issubclass(kind, File)]


def check_row(row: dict[str, Any]) -> None:
    row = row_without_nulls(row)
    for dataset in KINDS:
        try:
            record = dataset.parse(row)
        except BadRow:
            continue
        texts = (
            record.completions if record.chats else (record.prompt, *record.completions)
        )  # chats are yet to be written
        assert all(text.encode() and text.strip() for text in texts)
        assert all(math.isfinite(number) for number in (*record.scores, record.weight))
        json.dumps(dict(record.meta))
        if dataset.name in PLAIN and record.layout in ("", *PLAIN_LAYOUTS):  # what is text already is not changed
            asked, *answers = PLAIN[dataset.name]
            if isinstance(row.get(asked), str) and "messages" not in row:
                assert record.prompt == row[asked]
            for name, text in zip(answers, record.completions, strict=True):
                assert text == row.get(name) or not isinstance(row.get(name), str)


PLAIN_LAYOUTS = (
    "prompt and completion",
    "prompt, chosen and rejected",
    "prompt, completion and label",
    "prompt and response",
)
PLAIN = {
    "instructions": ("prompt", "completion"),
    "preferences": ("prompt", "chosen", "rejected"),
    "thumbs": ("prompt", "completion"),
    "judgements": ("prompt", "response"),
    "gsm8k": ("question", "answer"),
    "alpaca_eval": ("instruction", "output_1", "output_2"),
}
ONE_ROW = st.dictionaries(st.sampled_from(FIELDS.split()), FIELD, max_size=8)
test_rows = fuzz(FEW, ONE_ROW)(check_row)
test_many_rows = pytest.mark.slow(fuzz(MANY, ONE_ROW)(check_row))
