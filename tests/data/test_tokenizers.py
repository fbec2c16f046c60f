from __future__ import annotations

import pytest
import tokenizers as hf
from hypothesis import given, settings, strategies as st
from tokenizers import models, pre_tokenizers, trainers

from alignjax.config import ConfigError
from alignjax.data import BOS, EOS, PAD, SEP, load_tokenizer, train_bpe

CORPUS = ["the sampler reads the policy and the reference", "the judge compares two samples of the policy"] * 20
OURS = train_bpe(CORPUS, 300)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_every_text_survives(text: str) -> None:
    assert OURS.decode(OURS.encode(text)) == text


@pytest.mark.parametrize("text", ["<eos>", "a <pad> b", "<bos><sep>", "tabs\tand\r\nnewlines  ", "naïve 語 🙂"])
def test_spelt_out_marks_stay_text(text: str) -> None:
    ids = OURS.encode(text)
    assert not {PAD, BOS, EOS, SEP} & set(ids)
    assert OURS.decode([BOS, *ids, EOS, PAD, PAD]) == text


def test_marks_have_fixed_ids_and_the_vocabulary_its_size() -> None:
    assert [OURS.backend.token_to_id(mark) for mark in ("<pad>", "<bos>", "<eos>", "<sep>")] == [0, 1, 2, 3]
    assert OURS.vocab_size == 300
    assert len(OURS.encode("the policy")) < len("the policy")  # it learned to merge


def test_a_batch_is_its_texts(tmp_path) -> None:
    texts = ["the policy", "", "<eos> the judge"]
    ids = OURS.encode_batch(texts)
    assert ids == [OURS.encode(text) for text in texts]
    assert OURS.decode_batch(ids) == texts


def test_save_and_load(tmp_path) -> None:
    OURS.save(tmp_path / "tokenizer.json")
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        again = load_tokenizer(place)
        assert again.encode("<eos> the reference") == OURS.encode("<eos> the reference")
        assert (again.pad, again.bos, again.eos, again.sep) == (PAD, BOS, EOS, SEP)


def _foreign(path, marks: list[str]) -> None:
    backend = hf.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["filler", *marks], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.save(str(path))


def test_marks_of_somebody_elses_file_are_looked_up(tmp_path) -> None:
    _foreign(tmp_path / "t.json", ["</s>", "<s>", "[PAD]", "<turn>"])
    found = load_tokenizer(tmp_path / "t.json")
    assert (found.eos, found.bos, found.pad) == (1, 2, 3)
    assert load_tokenizer(tmp_path / "t.json", sep="<turn>").sep == 4


def test_errors_name_the_file_and_the_way_out(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"there is no tokenizer at .*nowhere"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"bad\.json is not a Hugging Face"):
        load_tokenizer(tmp_path / "bad.json")
    _foreign(tmp_path / "t.json", ["<s>"])
    with pytest.raises(ConfigError, match="no eos token"):
        load_tokenizer(tmp_path / "t.json")
    with pytest.raises(ConfigError, match=r"names bso; it may name eos, bos, pad, sep"):
        load_tokenizer(tmp_path / "t.json", bso="<s>")
    _foreign(tmp_path / "t.json", ["</s>"])
    assert load_tokenizer(tmp_path / "t.json").bos is None
    with pytest.raises(ConfigError, match="no token '<nope>'"):
        load_tokenizer(tmp_path / "t.json", bos="<nope>")
    with pytest.raises(ConfigError, match="at least 260"):
        train_bpe(CORPUS, 100)
