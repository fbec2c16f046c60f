from __future__ import annotations

import gzip
import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from alignjax.config import ConfigError
from alignjax.data import (
    Aeslc,
    AlpacaEval,
    DataError,
    Gsm8k,
    HelpfulHarmless,
    Instructions,
    Preferences,
    Prompts,
    Rankings,
    Thumbs,
    preferences,
    prompts,
    tokenizer_of,
)
from alignjax.data.datasets.from_files import final_number
from alignjax.data.datasets.parsing import BadRow
from alignjax.data.prepared import Dataset, rows_of
from tests.support.row_files import parse_file

QUIET = {"vocab_size": 300, "test_fraction": 0.0}


def quietly(line: str) -> None:
    pass


def texts_of(dataset: Dataset, split: str = "train") -> list[tuple[str, ...]]:
    dataset.prepare(report=quietly)
    rows, _ = rows_of(dataset, split)
    found = [rows[n] for n in range(len(rows))]
    return [(row["prompt"].decode(), *(text.decode() for text in row["completions"])) for row in found]


def written(path: Path, rows: list) -> str:
    lines = b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return str(path)


BAD = [
    {"prompt": "one", "chosen": "yes", "rejected": "no"},
    b'{"prompt": "two", "chosen": "\xff", "rejected": "no"}',
    {"prompt": "three", "chosen": "yes"},
    {"prompt": "four", "chosen": "  ", "rejected": "no"},
    b"",
    {"prompt": 6, "chosen": "yes", "rejected": "no"},
    b"{not json",
    ["eight"],
    {"prompt": "nine", "chosen": "same", "rejected": "same"},
    b'{"prompt": "ten", "chosen": "\\ud800", "rejected": "no"}',
    {"prompt": "eleven", "chosen": None, "rejected": "no"},
    {"prompt": "twelve", "chosen": "oui", "rejected": "non"},
]
EXPECTED = {
    "not UTF-8": [2],
    "missing field 'rejected'": [3],
    "empty field 'chosen'": [4],
    "field 'prompt' is not a list of messages": [6],
    "not JSON": [7],
    "not a JSON object": [8],
    "both completions are the same": [9],
    "field 'chosen' is not UTF-8": [10],
    "missing field 'chosen'": [11],
}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_bad_rows_are_counted_with_their_lines(tmp_path: Path, name: str) -> None:
    dataset = Preferences(path=written(tmp_path / name, BAD), **QUIET)
    parsed = parse_file(Path(dataset.path), dataset.parse, "skip")
    assert parsed.bad == EXPECTED
    assert [record.meta["line"] for record in parsed.records] == [1, 12]
    said: list[str] = []
    account = dataset.prepare(report=said.append)
    assert account["files"][dataset.path]["read"] == 11
    assert "9 bad rows" in said[0]
    assert "missing field 'rejected' (1; line 3)" in said[0]
    assert texts_of(dataset) == [("one", "yes", "no"), ("twelve", "oui", "non")]


def test_bad_rows_may_be_refused(tmp_path: Path) -> None:
    dataset = Preferences(path=written(tmp_path / "rows.jsonl", BAD), bad_rows="refuse", **QUIET)
    with pytest.raises(DataError, match=r"rows\.jsonl has 9 bad rows: .*not JSON \(1; line 7\).*bad_rows='skip'"):
        dataset.prepare(report=quietly)
    with pytest.raises(ConfigError, match="bad_rows is 'drop'"):
        Preferences(path="x", bad_rows="drop")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_kept_column_that_no_row_has_is_refused_with_the_columns(tmp_path: Path, suffix: str) -> None:
    """Of a column that a single row has, on the last line, nothing is said; one that only a bad row has is none."""
    rows: list[dict] = [{"prompt": f"p{k}", "chosen": "yes", "rejected": "no"} for k in range(200)]
    rows[0] |= {"answer": None, "score": None}  # nulls are not there
    rows[-1] |= {"answer": 3}
    rows.append({"prompt": "bad", "chosen": "", "rejected": "no", "score": 2})
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        written(path, rows)
    with pytest.raises(
        ConfigError, match=r"keep names 'anwser', a column that no row of .* has; .* are .*chosen, prom"
    ):
        Preferences(path=str(path), keep=("answer", "anwser"), **QUIET).prepare(report=quietly)
    with pytest.raises(ConfigError, match=r"keep names 'score', and no record of .* has it"):
        Preferences(path=str(path), keep=("score",), **QUIET).prepare(report=quietly)
    rows_, _ = rows_of(Preferences(path=str(path), keep=("answer",), **QUIET), "train")
    assert [json.loads(rows_[k]["meta"]).get("columns", {}) for k in (0, 199)] == [{}, {"answer": 3}]
    with pytest.raises(ConfigError, match=r"keep is 'answer'; it must name columns, keep=\('answer',\)"):
        Preferences(path=str(path), keep="answer", **QUIET)  # type: ignore[arg-type]


def test_over_long_rows_are_named_by_line(tmp_path: Path) -> None:
    rows = [{"prompt": "word " * (200 if n in (3, 5) else 1)} for n in range(1, 9)]
    dataset = Prompts(path=written(tmp_path / "p.jsonl", rows), **QUIET)
    with pytest.raises(ConfigError, match=r"has 2 prompts of more than 29 tokens \(of 8; lines 3, 5\)"):
        prompts(None, 0, dataset=dataset, batch_size=2, prompt_length=30)[0]


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*gone\.jsonl \(Aeslc\.path\); give the path of your own copy"):
        Aeslc(path=str(tmp_path / "gone.jsonl")).prepare()
    with pytest.raises(ConfigError, match=r"Aeslc\.test"):
        Aeslc(path=written(tmp_path / "a.jsonl", [{}]), test="gone").prepare()
    whole = Path(written(tmp_path / "whole.jsonl.gz", BAD)).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(DataError, match="not a whole gzip file"):
        Preferences(path=str(tmp_path / "cut.jsonl.gz")).prepare()
    with pytest.raises(ConfigError, match="no usable rows"):
        Aeslc(path=written(tmp_path / "none.jsonl", [{"prompt": "x"}])).prepare(report=quietly)


def test_parquet_is_the_same_as_json_lines(tmp_path: Path, monkeypatch) -> None:
    rows = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b" if n != 2 else None} for n in range(5)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    table = Preferences(path=str(tmp_path / "rows.parquet"), **QUIET)
    lines = Preferences(path=written(tmp_path / "rows.jsonl", rows), **QUIET)
    assert texts_of(table) == texts_of(lines)
    parsed = parse_file(Path(table.path), table.parse, "skip")
    assert parsed.sentence() == (
        "1 bad row: missing field 'rejected' (1; row 3): it has chosen, prompt; "
        "'prompt, chosen and rejected' needs prompt, chosen, rejected"
    )
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        Preferences(path=str(tmp_path / "bad.parquet")).prepare()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow: pip install 'alignjax\[parquet\]'"):
        parse_file(Path(table.path), table.parse, "skip")


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_chat_rows(tmp_path: Path) -> None:
    ask, answer, other = message("user", "why?"), message("assistant", "because"), message("assistant", "no idea")
    explicit = {"prompt": [ask], "chosen": [answer], "rejected": [other]}
    shared_start = {"chosen": [ask, answer], "rejected": [ask, other]}
    dataset = Preferences(path=written(tmp_path / "c.jsonl", [explicit, shared_start]), **QUIET)
    assert texts_of(dataset) == [("User: why?\nAssistant:", "because", "no idea")] * 2
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    rows = [{"messages": [message("system", "be brief"), ask, answer]}, {"messages": [ask]}, {"prompt": [ask]}]
    chat = Instructions(path=written(tmp_path / "i.jsonl", rows), chat_template=template, **QUIET)
    assert texts_of(chat) == [("[system]be brief[user]why?[assistant]", "because")]
    lines = chat.prepare(report=quietly)["files"][chat.path]["bad_rows"]
    assert sorted(found["first"] for found in lines.values()) == [[2], [3]]


def test_other_conventions(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "c", "label": label} for label in (True, False, 0.5, 2, "up", None)]
    thumbs = Thumbs(path=written(tmp_path / "t.jsonl", rows), **QUIET)
    found = parse_file(Path(thumbs.path), thumbs.parse, "skip")
    assert [record.scores for record in found.records] == [(1.0,), (0.0,), (0.5,)]
    assert sorted(itertools.chain(*found.bad.values())) == [4, 5, 6]
    lists = [
        {"prompt": "p", "completions": ["a", "b"], "scores": scores} for scores in ([1, 2], [1], [1, "2"], [1, None])
    ]
    ranked = Rankings(path=written(tmp_path / "r.jsonl", lists), **QUIET)
    found = parse_file(Path(ranked.path), ranked.parse, "skip")
    assert [record.scores for record in found.records] == [(1.0, 2.0)]
    assert sorted(itertools.chain(*found.bad.values())) == [2, 3, 4]
    lists = [["a", "b", "a"], ["caf\u00e9", "b", "cafe\u0301"], ["a", "b", "c"]]
    rows = [
        {"prompt": "p", "completions": each, "scores": scores} for each in lists for scores in ([1, 2, 3], [1, 2, 1])
    ]
    found = parse_file(Path(written(tmp_path / "r.jsonl", rows)), ranked.parse, "skip")
    assert found.bad == {"two completions are the same and have different scores": [1, 3]}


def test_the_split_is_by_prompt(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n % 50}", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(200)]
    dataset = Preferences(path=written(tmp_path / "rows.jsonl", rows), vocab_size=300, test_fraction=0.3)
    sides = [{row[0] for row in texts_of(dataset, split)} for split in ("train", "test")]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 50


@pytest.mark.parametrize(
    ("text", "number"),
    [("so\n#### 72", 72), ("#### 1,234", 1234), ("#### -3.5 ", -3.5), ("#### $20", 20), ("#### 5\n#### 7", 7),
     ("#### 0.1", 0.1), ("#### 16777216", 2**24), ("#### 33554436", 2**25 + 4), ("#### 10,000,000,000", 10**10),
     ("#### 7.0", 7)],
)  # fmt: skip
def test_final_numbers(text: str, number: float) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize("text", ["72", "#### many", "#### 3 apples", "#### ٧٢", "#### 1e5"])
def test_no_final_number(text: str) -> None:
    with pytest.raises(BadRow):
        final_number(text)


@pytest.mark.parametrize("text", ["16777217", "33554433", "99999999999", "0.1000000001", "1234567.89", "100000000000"])
def test_a_number_that_float32_does_not_tell_apart_is_refused(text: str) -> None:
    with pytest.raises(BadRow, match=f"more digits than float32 tells apart: {text}"):
        final_number(f"#### {text}")


def read(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_real_emails(shared: Path, tmp_path: Path) -> None:
    rows = read(shared / "aeslc_dev.jsonl.gz")[:300]
    dataset = Aeslc(path=written(tmp_path / "a.jsonl", rows), **QUIET)
    found = texts_of(dataset)
    assert found == [(row["email_body"], row["subject_line"].strip()) for row in rows]
    tokenizer = tokenizer_of(dataset)
    assert tokenizer.decode_batch(tokenizer.encode_batch([row[0] for row in found])) == [row[0] for row in found]


def test_real_transcripts(shared: Path) -> None:
    """Prompt and completion, put together, are the transcripts they were cut from; the prompt is their common start."""
    path = shared / "hh_harmless_base_test.jsonl.gz"
    dataset = HelpfulHarmless(path=str(path), **QUIET)
    parsed = parse_file(path, dataset.parse, "skip")
    rows = read(path)
    assert len(parsed.records) + sum(map(len, parsed.bad.values())) == len(rows)
    assert len(parsed.records) > 0.99 * len(rows)
    for record in parsed.records:
        row = rows[record.meta["line"] - 1]
        for side, text in zip(("chosen", "rejected"), record.completions, strict=True):
            assert f"{record.prompt} {text}".split() == row[side].replace("\n\nAssistant:", "\n\nAssistant: ").split()
        assert record.prompt.endswith("\n\nAssistant:")
        assert "\n\nAssistant:" not in record.completions[0]


def test_real_annotations_keep_their_soft_labels(shared: Path, tmp_path: Path) -> None:
    rows = read(shared / "alpaca_eval_annotations.jsonl.gz")[:200]
    dataset = AlpacaEval(path=written(tmp_path / "a.jsonl", rows), **QUIET)
    source = preferences(
        None,
        0,
        dataset=dataset,
        batch_size=8,
        prompt_length=64,
        completion_length=512,
        long_prompts="truncate_left",
        long_completions="truncate",
        shuffle=False,
    )
    good = [row for row in rows if row["output_1"] != row["output_2"] and row["output_2"].strip()]
    for step in range(3):
        for place, row in enumerate(good[8 * step : 8 * step + 8]):
            assert source[step].preference[place, 1, 0] == pytest.approx(row["preference"] - 1, abs=1e-6)
    assert Counter(0 < row["preference"] - 1 < 1 for row in good)[True] > 0


def test_real_mathematics(shared: Path, tmp_path: Path) -> None:
    rows = read(shared / "gsm8k_train.jsonl.gz")
    dataset = Gsm8k(path=str(shared / "gsm8k_train.jsonl.gz"), **QUIET)
    parsed = parse_file(Path(dataset.path), dataset.parse, "refuse")
    assert len(parsed.records) == len(rows)
    for record, row in zip(parsed.records, rows, strict=True):
        assert record.answer == float(row["answer"].split("#### ")[-1].replace(",", ""))
