from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest

from alignjax.config import ConfigError, fn
from alignjax.data import (
    BOS,
    EOS,
    PAD,
    Docstrings,
    Gsm8k,
    Preferences,
    Rankings,
    Thumbs,
    candidates,
    instructions,
    preferences,
    prompts,
    rankings,
    thumbs,
    tokenizer_of,
)
from alignjax.data.prepared import rows_of
from alignjax.data.sources.batch_layout import prompt_ids

SIZES = {"batch_size": 8, "prompt_length": 160, "completion_length": 48}


def same(one, other) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
        jax.tree.map(np.array_equal, one, other)
    )


def matches(batch, spec) -> bool:
    return jax.tree.structure(batch) == jax.tree.structure(spec) and jax.tree.all(
        jax.tree.map(lambda leaf, want: leaf.shape == want.shape and leaf.dtype == want.dtype, batch, spec)
    )


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    rows = [{"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}", "p": n / 40} for n in range(40)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_shapes_are_known_without_data(tmp_path: Path) -> None:
    dataset = Preferences(path=str(tmp_path / "not there.jsonl"))
    source = preferences(None, 0, dataset=dataset, **SIZES)
    assert source.spec.preference.shape == (8, 2, 2)
    with pytest.raises(ConfigError, match=r"there is no file .*not there\.jsonl"):
        source[0]


def test_a_batch_is_a_function_of_seed_and_step(docstrings: Docstrings) -> None:
    def source(seed: int):
        return fn(candidates, dataset=docstrings, **SIZES)(None, seed)

    first = source(3)
    straight = [first[step] for step in range(30)]  # several epochs
    fresh = source(3)
    for step in (29, 0, 17, 17, 5):
        assert same(fresh[step], straight[step])
    assert not same(source(4)[0], straight[0])
    assert not same(straight[0], straight[1])
    assert all(matches(batch, first.spec) for batch in straight)


def test_prefetching_from_any_step_gives_the_same(docstrings: Docstrings) -> None:
    source = instructions(None, 1, dataset=docstrings, **SIZES)
    for start in (0, 7):
        ahead = itertools.islice(source.prefetched(start), 4)
        for step, batch in enumerate(ahead, start):
            assert same(batch, source[step])


def test_an_epoch_holds_every_row_once_and_the_next_in_another_order(docstrings: Docstrings) -> None:
    source = prompts(None, 0, dataset=docstrings, batch_size=3, prompt_length=160)
    assert source.size % 3 == 0  # the fixture has six functions a package
    epoch = source.size // 3
    first = np.concatenate([source[step].example_id for step in range(epoch)])
    second = np.concatenate([source[step].example_id for step in range(epoch, 2 * epoch)])
    assert len(set(first.tolist())) == source.size
    assert sorted(first) == sorted(second)
    assert first.tolist() != second.tolist()
    unshuffled = prompts(None, 0, dataset=docstrings, batch_size=3, prompt_length=160, shuffle=False)
    assert unshuffled[0].example_id.tolist() == [0, 1, 2]


def test_prompts_and_completions_lie_as_agreed(docstrings: Docstrings) -> None:
    source = instructions(None, 0, dataset=docstrings, split="test", shuffle=False, **SIZES)
    tokenizer = tokenizer_of(docstrings)
    rows, _ = rows_of(docstrings, "test")
    batch = source[0]
    for place in range(8):
        row, valid = rows[place], batch.prompt_valid[place]
        assert valid.tolist() == sorted(valid.tolist())  # left-padded
        assert batch.prompt[place][valid][0] == BOS
        assert (batch.prompt[place][~valid] == PAD).all()
        assert tokenizer.decode(batch.prompt[place]) == row["prompt"].decode() + docstrings.suffix
        tokens, there = batch.tokens[place, 0], batch.valid[place, 0]
        assert there.tolist() == sorted(there.tolist(), reverse=True)  # right-padded
        assert tokens[there][-1] == EOS
        assert batch.mask[place, 0].tolist() == there.tolist()
        assert tokenizer.decode(tokens) == row["completions"][0].decode()
        assert batch.example_id[place] == row["example_id"]


def test_shards_are_the_batch(docstrings: Docstrings) -> None:
    whole = candidates(None, 5, dataset=docstrings, **SIZES)
    shards = [candidates(None, 5, dataset=docstrings, shard=(index, 4), **SIZES) for index in range(4)]
    parts = [shard[2] for shard in shards]
    assert same(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), whole[2])
    assert shards[0].spec.prompt.shape == whole.spec.prompt.shape
    for bad in ((4, 4), (0, 3), (-1, 2)):
        with pytest.raises(ConfigError, match="shard"):
            candidates(None, 5, dataset=docstrings, shard=bad, **SIZES)


def test_candidates_are_the_human_text_another_and_two_spoilt(docstrings: Docstrings) -> None:
    tokenizer = tokenizer_of(docstrings)
    rows, _ = rows_of(docstrings, "train")
    human = {rows[n]["example_id"]: rows[n]["completions"][0].decode() for n in range(len(rows))}
    source = candidates(None, 0, dataset=docstrings, **SIZES)
    for step in range(4):
        batch = source[step]
        for row in range(8):
            own, other, one, two = (tokenizer.decode(tokens) for tokens in batch.tokens[row])
            assert own == human[int(batch.example_id[row])]
            assert other in human.values()
            assert len({own, other, one, two}) == 4
            assert all(EOS in tokens for tokens in batch.tokens[row])
        assert (batch.preference[:, 0, 1:] == 1).all()
        assert (batch.preference + batch.preference.swapaxes(1, 2) == 1).all()
        assert (batch.preference[:, 1:, 1:] == 0.5).all()
        assert batch.pair_weight[0].tolist() == [[0, 1, 1, 1], [0] * 4, [0] * 4, [0] * 4]


def test_soft_labels(pairs_file: Path) -> None:
    dataset = Preferences(path=str(pairs_file), label_field="p", vocab_size=270, test_fraction=0.0)
    batch = preferences(None, 0, dataset=dataset, shuffle=False, **SIZES)[1]
    assert batch.preference[:, 0, 1] == pytest.approx(np.arange(8, 16) / 40)
    assert batch.preference[:, 0, 1] + batch.preference[:, 1, 0] == pytest.approx(1.0)
    assert batch.pair_weight[0].tolist() == [[0, 1], [0, 0]]
    tokenizer = tokenizer_of(dataset)
    assert [tokenizer.decode(tokens) for tokens in batch.tokens[0]] == ["good 8", "bad 8"]
    best = instructions(None, 0, dataset=dataset, shuffle=False, **SIZES)
    said = [tokenizer.decode(best[step].tokens[row, 0]) for step in range(5) for row in range(8)]
    assert said == [f"{'bad' if n < 20 else 'good'} {n}" for n in range(40)]


def test_rankings_thumbs_and_answers(tmp_path: Path) -> None:
    def written(name: str, rows: list[dict]) -> str:
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / name)

    common = {"vocab_size": 270, "test_fraction": 0.0}
    lists = [{"prompt": f"p{n}", "completions": ["a", "b", "c"], "scores": [1, n, 3]} for n in range(8)]
    lists += [{"prompt": "odd", "completions": ["a", "b"], "scores": [0, 1]}]
    ranked = Rankings(path=written("r.jsonl", lists), **common)
    with pytest.raises(ConfigError, match="1 rows without exactly 3 completions"):
        rankings(None, 0, dataset=ranked, completions=3, **SIZES)[0]
    source = rankings(None, 0, dataset=ranked, completions=3, uneven="skip", shuffle=False, **SIZES)
    batch = source[0]
    assert source.counts["skipped_uneven"] == 1
    assert matches(batch, source.spec)
    assert batch.reward[5].tolist() == [1, 5, 3]
    assert batch.preference[5].tolist() == [[0.5, 0, 0], [1, 0.5, 1], [1, 0, 0.5]]
    assert batch.preference[1, 0, 1] == 0.5
    assert batch.pair_weight[1].tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]  # a tie says nothing

    votes = [{"prompt": f"p{n}", "completion": "c", "label": n % 2 == 0} for n in range(8)]
    source = thumbs(None, 0, dataset=Thumbs(path=written("t.jsonl", votes), **common), shuffle=False, **SIZES)
    assert source[0].reward.tolist() == [[1.0], [0.0]] * 4
    assert matches(source[0], source.spec)

    sums = [{"question": f"what is {n} + 1000?", "answer": f"easy\n#### {1000 + n:,}"} for n in range(8)]
    dataset = Gsm8k(path=written("g.jsonl", sums), **common)
    source = prompts(None, 0, dataset=dataset, batch_size=8, prompt_length=64, answers=True, shuffle=False)
    assert source[0].prompts["answer"].tolist() == list(range(1000, 1008))
    assert matches(source[0], source.spec)


def test_what_does_not_fit_is_refused_skipped_or_cut_and_said(docstrings: Docstrings, caplog) -> None:
    _, lengths = rows_of(docstrings, "train")
    tokenizer = tokenizer_of(docstrings)
    frame = 1 + len(tokenizer.encode(docstrings.suffix))
    middle = int(np.median(lengths[:, 0]))
    long = int((lengths[:, 0] > middle).sum())
    sizes = {"batch_size": 4, "prompt_length": middle + frame}
    with pytest.raises(ConfigError, match=rf"has {long} prompts of more than {middle} tokens.*long_prompts='skip'"):
        prompts(None, 0, dataset=docstrings, **sizes)[0]
    with caplog.at_level(logging.WARNING, "alignjax.data"):
        skipped = prompts(None, 0, dataset=docstrings, long_prompts="skip", **sizes)
        assert skipped.size == len(lengths) - long
    assert f"{long} skipped long prompts" in caplog.text
    suffix = tokenizer.encode(docstrings.suffix)
    for policy in ("truncate_left", "truncate_right"):
        source = prompts(None, 0, dataset=docstrings, long_prompts=policy, **sizes)
        assert source.counts["cut_long_prompts"] == long
        rows, _ = rows_of(docstrings, "train")
        by_id = {rows[n]["example_id"]: rows[n]["prompt_tokens"].tolist() for n in range(len(rows))}
        for step in range(source.size // 4):
            batch = source[step]
            for number, ids, valid in zip(batch.example_id, batch.prompt, batch.prompt_valid, strict=True):
                whole = by_id[int(number)]
                body = whole[-middle:] if policy == "truncate_left" else whole[:middle]
                assert ids[valid].tolist() == [BOS, *body, *suffix]


def test_a_cut_completion_has_no_end(docstrings: Docstrings) -> None:
    sizes = {"batch_size": 8, "prompt_length": 160, "completion_length": 5}
    with pytest.raises(ConfigError, match="completions of more than 4 tokens"):
        instructions(None, 0, dataset=docstrings, **sizes)[0]
    source = instructions(None, 0, dataset=docstrings, long_completions="truncate", **sizes)
    batch = source[0]
    assert source.counts["cut_long_completions"] == source.size
    assert EOS not in batch.tokens
    assert batch.valid.all()


def test_settings_are_checked_before_any_work(docstrings: Docstrings, pairs_file: Path) -> None:
    with pytest.raises(ConfigError, match="long_prompts is 'cut'"):
        prompts(None, 0, dataset=docstrings, long_prompts="cut", batch_size=8, prompt_length=16)
    with pytest.raises(ConfigError, match="split of docstrings is 'tests'"):
        prompts(None, 0, dataset=docstrings, split="tests", batch_size=8, prompt_length=16)
    with pytest.raises(ConfigError, match="docstrings holds instructions"):
        preferences(None, 0, dataset=docstrings, **SIZES)
    with pytest.raises(ConfigError, match="no answers"):
        prompts(None, 0, dataset=docstrings, answers=True, batch_size=8, prompt_length=16)
    with pytest.raises(ConfigError, match="leaves no room"):
        prompts(None, 0, dataset=docstrings, batch_size=8, prompt_length=3)[0]
    with pytest.raises(ConfigError, match="no hyper-parameter 'batchsize'"):
        fn(prompts, dataset=docstrings, batchsize=8, prompt_length=16)


def test_the_frame_is_never_cut() -> None:
    assert prompt_ids([5, 6, 7], [8], [9], BOS, 6) == [BOS, 8, 5, 6, 7, 9]
    assert prompt_ids([5, 6, 7], [8], [9], BOS, 4) == [BOS, 8, 5, 9]
    assert prompt_ids([5, 6, 7], [8], [9], BOS, 4, keep="end") == [BOS, 8, 7, 9]
    assert prompt_ids([5, 6, 7], [8], [9], BOS, 3, keep="end") == [BOS, 8, 9]
    with pytest.raises(ValueError, match="frame alone"):
        prompt_ids([5], [8], [9], BOS, 2)


def test_two_datasets_may_share_a_tokenizer(docstrings: Docstrings, pairs_file: Path) -> None:
    dataset = Preferences(path=str(pairs_file), tokenizer=docstrings)
    assert tokenizer_of(dataset).encode("open the file") == tokenizer_of(docstrings).encode("open the file")
    other = dataclasses.replace(dataset, tokenizer=str(docstrings.folder))
    assert tokenizer_of(other).encode("open the file") == tokenizer_of(docstrings).encode("open the file")


def test_numbers_of_kept_columns_go_beside_the_prompts(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}", "margin": n / 8} for n in range(8)
    ]
    rows[3]["margin"] = None
    path = tmp_path / "margins.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    dataset = Preferences(path=str(path), test_fraction=0, vocab_size=300, keep=("margin", "prompt"))
    sizes = {"batch_size": 8, "prompt_length": 32, "completion_length": 16}
    source = preferences(None, 0, dataset=dataset, numbers=("margin",), shuffle=False, **sizes)
    batch = source[0]
    assert matches(batch, source.spec)
    np.testing.assert_array_equal(batch.prompts["margin"], [0, 0.125, 0.25, np.nan, 0.5, 0.625, 0.75, 0.875])
    for names, words in (
        (
            ("margin", "other"),
            r"numbers names 'other', of which preferences/train has no number: it keeps margin, prompt",
        ),
        (("prompt",), r"preferences/train, line 1: its 'prompt' is 'question 0', which is no finite number"),
    ):
        with pytest.raises(ConfigError, match=words):
            preferences(None, 0, dataset=dataset, numbers=names, **sizes)[0]
