"""tokenizer.model files against the `sentencepiece` package itself, on models that are trained here."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import sys
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from alignjax.config import ConfigError, DataError
from alignjax.data import load_tokenizer

WORDS = [
    *("the", "judge", "compares", "two", "samples", "of", "policy", "aaa", "aa", "banana", "ababa"),
    *("naïve", "語学", "über", "e\u0301", "<div>", "0x41", "x"),
]
UNUSED = 5
WIDE_A, WIDE_LESS = "\uff21", "\uff1c"
TEXTS = [
    *("", " ", "   ", "the judge", "  the  judge  ", "the\njudge\t of\r\nsamples\n", "the judge compares " * 9),
    *("naïve 語学 🙂", "👩‍👩‍👧 <div>", "▁", "a▁b ▁", "é e\u0301", f"①②ﬁ {WIDE_A}{WIDE_LESS}\u3000b"),
    *("<0x41>", "x<0x0A>y", "<u>", " <u> <u>the[x]", "ab<u>abab"),
]
BITS = [
    *"abehjnotpu  <>/0x41A▁",
    *("  ", "\n", "\t", "\u3000", "é", "語", "🙂", "①", "ﬁ", WIDE_A, "<u>", "[x]", "banana", "the", "ab"),
]
RAW = ["e\u0301", "\u1112\u1161\u11ab", "\u0338", "\u200b", "\u0001", "\uff76\uff9e", WIDE_LESS]


@lru_cache(maxsize=100)
def trained(**options: Any) -> bytes:
    rng = random.Random(0)
    corpus = [" ".join(rng.choices(WORDS, k=6)) for _ in range(200)]
    options = {
        "model_type": "bpe",
        "normalization_rule_name": "identity",
        "vocab_size": 340 if options.get("byte_fallback") else 90,
        **options,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    return model.getvalue()


def written(folder: Path, model: bytes) -> Path:
    (folder / "tokenizer.model").write_bytes(model)
    return folder


def parsed(**options: Any) -> Any:
    model = proto.ModelProto()
    model.ParseFromString(trained(**options))
    return model


def texts(nfkc: bool) -> list[str]:
    rng = random.Random(1)
    found = ["".join(rng.choices(BITS if nfkc else BITS + RAW, k=rng.randint(1, 10))) for _ in range(120)]
    # What a map of characters does to marks on letters is said to differ, except in texts of this form.
    found += [unicodedata.normalize("NFKC", "".join(rng.choices(BITS + RAW, k=8))) for _ in range(60)]
    return TEXTS + found


@pytest.mark.filterwarnings("ignore:.*rewrites characters")
@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_ids_and_texts_are_those_of_sentencepiece(tmp_path: Path, kind: str, rule: str, fallback: bool) -> None:
    rng = random.Random(2)
    for prefix, extra, user in itertools.product((True, False), (True, False), ((), ("<u>", "<u>x", "[x]", "ab"))):
        model = trained(
            model_type=kind,
            normalization_rule_name=rule,
            byte_fallback=fallback,
            add_dummy_prefix=prefix,
            remove_extra_whitespaces=extra,
            user_defined_symbols=",".join(user),
        )
        oracle = sentencepiece.SentencePieceProcessor(model_proto=model)
        ours = load_tokenizer(written(tmp_path, model)).backend
        ours.save(str(tmp_path / "tokenizer.json"))
        again = load_tokenizer(tmp_path).backend  # as a prepared data set keeps it
        (tmp_path / "tokenizer.json").unlink()
        size = oracle.get_piece_size()
        assert ours.get_vocab_size() == size
        for i in range(size):
            assert ours.id_to_token(i) == oracle.id_to_piece(i)
            assert ours.token_to_id(oracle.id_to_piece(i)) == i
            assert ours.decode([i], skip_special_tokens=False) == oracle.decode([i])
        for text in texts(nfkc=rule != "identity"):
            ids = oracle.encode(text)
            assert ours.encode(text, add_special_tokens=False).ids == ids, (text, prefix, extra, user)
            assert again.encode(text, add_special_tokens=False).ids == ids
            assert ours.decode(ids, skip_special_tokens=False) == oracle.decode(ids), (text, prefix, extra, user)
        sampled = [i for i in range(size) if not oracle.is_byte(i)]
        for _ in range(50):
            ids = rng.choices(sampled, k=6)
            assert ours.decode(ids, skip_special_tokens=False) == oracle.decode(ids), oracle.id_to_piece(ids)


def test_special_ids_are_the_models_unless_a_file_beside_it_says_so(tmp_path: Path) -> None:
    found = load_tokenizer(written(tmp_path, trained(pad_id=3, pad_piece="<filler>", byte_fallback=True)))
    assert (found.bos, found.eos, found.pad, found.sep) == (1, 2, 3, 2)
    assert found.decode([1, *found.encode("the judge"), 2, 3]) == "the judge"
    assert load_tokenizer(tmp_path / "tokenizer.model", eos="<unk>").eos == 0
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<s>"}))
    assert load_tokenizer(tmp_path).eos == 1
    assert load_tokenizer(written(tmp_path, trained())).pad == 2  # it has none: looked up


def test_bos_and_the_dummy_prefix_are_what_the_settings_say(tmp_path: Path) -> None:
    """A model that has BOS begins with it, unless the file beside it says otherwise, as it may of the prefix."""
    found = load_tokenizer(written(tmp_path, trained(byte_fallback=True)))
    assert found.opening == 1
    assert found.backend.id_to_token(found.encode("judge")[0]).startswith("▁")
    assert load_tokenizer(written(tmp_path, trained(byte_fallback=True, bos_id=-1))).opening is None
    model = parsed(byte_fallback=True)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False, "add_prefix_space": False}))
    found = load_tokenizer(written(tmp_path, model.SerializeToString()))
    model.normalizer_spec.add_dummy_prefix = False
    plain = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    assert found.opening is None
    assert found.encode("judge the") == plain.encode("judge the")
    assert found.decode(found.encode("judge the")) == "judge the"


def test_control_pieces_that_a_text_spells_out_become_their_ids(tmp_path: Path) -> None:
    found = load_tokenizer(written(tmp_path, trained(byte_fallback=True)))
    assert found.encode("<s>the judge</s>") == [1, *found.encode("the judge"), 2]


def test_tokens_that_were_added_later(tmp_path: Path) -> None:
    written(tmp_path, trained())
    size = load_tokenizer(tmp_path).vocab_size
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_start|>": size, "<|im_end|>": size + 1}))
    listed = {"2": {"content": "</s>", "special": True}, str(size + 2): {"content": "<tool>", "special": False}}
    config = {"eos_token": "<|im_end|>", "added_tokens_decoder": listed}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = load_tokenizer(tmp_path)
    assert (found.vocab_size, found.eos, found.bos) == (size + 3, size + 1, 1)
    assert [one.special for i, one in sorted(found.backend.get_added_tokens_decoder().items())][-3:] == [
        True,
        True,
        False,
    ]
    ids = found.encode("<|im_start|>the judge<tool>")
    assert (ids[0], ids[-1], ids[1:-1]) == (size, size + 2, found.encode("the judge"))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_start|>": size + 7}))
    with pytest.raises(ConfigError, match=f"'<tool>' is to have id {size + 2}, but it has None of {size}"):
        load_tokenizer(tmp_path)


def test_a_map_of_characters_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"rewrites characters \(nmt_nfkc\)"):
        load_tokenizer(written(tmp_path, trained(normalization_rule_name="nmt_nfkc")))


def _drop_letter(model: Any) -> None:
    next(piece for piece in model.pieces if piece.piece == "j").piece = "≠"


def _tie(model: Any) -> None:
    model.pieces[4].score = model.pieces[3].score


def _unused(model: Any) -> None:
    model.pieces[-1].type = UNUSED


def _like_a_byte(model: Any) -> None:
    model.pieces.add(piece="<0", score=-1.0)


def _unreachable(model: Any) -> None:
    model.pieces.add(piece="jxj", score=-1.0)


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"model_type": "word", "vocab_size": 15}, None, "a word or char model"),
        ({"model_type": "char"}, None, "a word or char model"),
        ({"treat_whitespace_as_suffix": True}, None, "treat_whitespace_as_suffix is set"),
        ({}, lambda model: setattr(model.normalizer_spec, "escape_whitespaces", False), "escape_whitespaces is off"),
        ({}, lambda model: setattr(model.denormalizer_spec, "precompiled_charsmap", b"x"), "rewrites decoded text"),
        ({}, _unused, "type UNUSED"),
        ({}, _drop_letter, "the character 'j', which is no piece"),
        ({}, _tie, "have the same score"),
        ({"model_type": "unigram", "byte_fallback": True}, _like_a_byte, "'<0' looks like the start of a byte"),
        ({"user_defined_symbols": "<u>"}, _unreachable, "merging never makes its piece 'jxj'"),
        (
            {"user_defined_symbols": "①", "normalization_rule_name": "nmt_nfkc"},
            None,
            "change the user-defined piece '①'",
        ),
    ],
)
def test_what_cannot_be_said_exactly_is_refused(tmp_path: Path, options: Any, change: Any, message: str) -> None:
    model = parsed(**options)
    if change:
        change(model)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_tokenizer(written(tmp_path, model.SerializeToString()))


def test_errors_name_the_file_and_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (b"", b"no protobuf", trained()[:-3]):
        with pytest.raises(ConfigError, match=r"tokenizer\.model is not a SentencePiece model"):
            load_tokenizer(written(tmp_path, broken))
    written(tmp_path, trained())
    (tmp_path / "added_tokens.json").write_text("[")
    with pytest.raises(DataError, match=r"added_tokens\.json cannot be read: not JSON"):
        load_tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ConfigError, match=r"pip install 'alignjax\[sentencepiece\]'"):
        load_tokenizer(tmp_path)
