"""Tokenizers of other people's, by the files that they are published with: ids, texts and special tokens are those of
`transformers`, for tokenizers of each family's shape and files that say odd things of their tokens."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers as hf
import transformers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from alignjax.cli.import_export import _write_tokenizer
from alignjax.config import ConfigError
from alignjax.data import load_tokenizer, train_bpe
from alignjax.data.sources.batch_layout import prompt_ids

CORPUS = [
    "The judge reads two texts, and says which one is better.",
    "naïve 語 cafés: 3.5 of 7!",
    "tabs\tand  spaces\n",
]
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|turn|>", "<|end|>", "[MASK]")
BITS = ("The judge", " reads", "語", "  ", "\n", "naïve", "<s>", "</s>", "<|turn|>", "<|end|>", "[MASK]", "<tool>",
        "<Tool>", " x", "X", "[mask]", ".", "<|en", "d|>", "é", "🙂")  # fmt: skip


def byte_level() -> hf.Tokenizer:
    backend = hf.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder, backend.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    return backend


def byte_fallback() -> hf.Tokenizer:
    """Pieces behind a mark for spaces, and bytes for what is in none: the shape of Llama 2."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *sorted(set("".join(CORPUS)) - {" "}),
    ]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, "▁T", "re", "ad", "read"]))}
    merges = [("▁", "T"), ("r", "e"), ("a", "d"), ("re", "ad")]
    backend = hf.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(" ", 1, 0)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    backend.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in ("<unk>", "<s>", "</s>")])
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return backend


def unigram() -> hf.Tokenizer:
    backend = hf.Tokenizer(models.Unigram())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return backend


def word_piece() -> hf.Tokenizer:
    backend = hf.Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    return backend


def odd(rng: random.Random, token: str) -> dict[str, Any]:
    """A token with any flags."""
    flags = {name: rng.random() < 0.4 for name in ("single_word", "lstrip", "rstrip", "normalized")}
    return {"content": token, "special": rng.random() < 0.5, **flags}


def write(folder: Path, backend: hf.Tokenizer, rng: random.Random) -> dict[str, Any]:
    """A folder whose files name special tokens in one of the ways in use; returns the settings."""
    later = [token for token in (*SPECIAL, "<tool>") if backend.token_to_id(token) is None]
    backend.add_tokens([AddedToken(**odd(rng, token)) for token in later])
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    config |= rng.choice([{}, {"pad_token": "<pad>"}, {"pad_token": None, "unk_token": "<unk>"}])
    backend.enable_truncation(4)
    if config.get("pad_token"):  # `transformers` takes the pad token from here, too
        backend.enable_padding(length=9, pad_token="<pad>", pad_id=backend.token_to_id("<pad>"))
    backend.save(str(folder / "tokenizer.json"))
    more = rng.sample(["<|turn|>", "<|end|>", "[MASK]"], k=rng.randint(0, 3))
    if more:
        as_list = {rng.choice(["additional_special_tokens", "extra_special_tokens"]): more}
        as_mapping = {"extra_special_tokens": {f"mark_{i}": token for i, token in enumerate(more)}}
        config |= rng.choice([as_list, as_mapping])
    if rng.random() < 0.6:
        known = backend.get_added_tokens_decoder()
        listed = {i: odd(rng, token.content) if rng.random() < 0.5 else spelled(token) for i, token in known.items()}
        config["added_tokens_decoder"] = {str(i): token for i, token in listed.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return config


def spelled(token: AddedToken) -> dict[str, Any]:
    flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
    return {"content": token.content, **flags}


@pytest.mark.parametrize("family", [byte_level, byte_fallback, unigram, word_piece])
def test_ids_texts_and_special_tokens_are_those_of_transformers(family: Any, tmp_path: Path) -> None:
    rng = random.Random(family.__name__)
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        said = json.dumps(write(folder, family(), rng))
        ours, theirs = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
        assert {theirs.bos_token_id, theirs.eos_token_id} <= ours.hidden, said
        # `tokenizers` does not know a special token again that its normalizer rewrites.
        first = hf.Tokenizer.from_file(str(folder / "tokenizer.json")).get_added_tokens_decoder()
        added = [*theirs.added_tokens_decoder.items(), *first.items()]
        lost = {i for i, token in added if token.normalized and i in ours.hidden}
        for _ in range(25):
            text = "".join(rng.choices(BITS, k=rng.randint(1, 9)))
            ids = theirs(text, add_special_tokens=False, truncation=False, padding=False)["input_ids"]
            assert ours.encode(text) == ids, (text, said)
            assert ours.encode_batch([text, "The judge"])[0] == ids
            several = [*ids, *rng.choices(range(ours.vocab_size), k=5)]
            shown = [i for i in several if i not in lost and i not in (ours.pad, ours.bos, ours.sep, *ours.ends)]
            assert ours.decode(shown) == theirs.decode(shown, skip_special_tokens=True), (text, said)
        begins = theirs("The judge")["input_ids"][:1] == [theirs.bos_token_id]
        assert (ours.opening is not None) == begins == (family in (byte_fallback, word_piece)), said


def published(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    backend = byte_level()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", **config}))
    return folder


def test_bos_stands_where_the_files_ask_for_it_and_once(tmp_path: Path) -> None:
    for settings, begins in (
        ({}, False),
        ({"add_bos_token": True}, True),
        ({"add_bos_token": False}, False),
        ({"bos_token": None}, False),
    ):
        found = load_tokenizer(published(tmp_path, **settings))
        assert (found.opening is not None) == begins, settings
    assert found.bos is None
    named = load_tokenizer(tmp_path, bos="<|turn|>")
    bos = named.opening
    assert bos == named.backend.token_to_id("<|turn|>")
    assert load_tokenizer(published(tmp_path, add_bos_token=True), bos="").opening is None
    with pytest.raises(ConfigError, match="add_bos_token is true, and no file says which token is BOS"):
        load_tokenizer(published(tmp_path, bos_token=None, add_bos_token=True))
    # One, never two, wherever a text or its frame has it already; and a cut takes others.
    for frame, body in (([], [bos, 5, 6, 7]), ([bos, 8], [5, 6, 7]), ([bos, 8], [bos, 5, 6, 7]), ([8], [bos, 5, 6, 7])):
        whole = prompt_ids(body, frame, [9], bos, 20)
        assert whole == [bos, *([8] if frame else []), 5, 6, 7, 9]
        assert prompt_ids(body, frame, [9], bos, len(whole) - 2, keep="end") == [bos, *([8] if frame else []), 7, 9]
    assert prompt_ids([5, 6], [], [], None, 4) == [5, 6]
    assert named.closed([5]) == [5, named.eos]
    assert named.closed([5, named.eos]) == [5, named.eos]


def test_what_cannot_be_meant_is_refused_by_name(tmp_path: Path) -> None:
    for settings, words in (
        ({"pad_token": "[PAD]"}, r"pad_token is '\[PAD\]', which the tokenizer does not have.*pad_token of a dataset"),
        ({"eos_token": 7}, "eos_token is 7; it must be the text of a token"),
        ({"eos_token": {"content": "</s>", "weight": 2}}, "eos_token is .*weight.* flags single_word, lstrip"),
        ({"additional_special_tokens": "<|end|>"}, "additional_special_tokens is '<|end|>'; it must be a list"),
        ({"added_tokens_decoder": {"x": {"content": "<|end|>"}}}, "cannot be read"),
        ({"added_tokens_decoder": {"9": {"content": "<|end|>"}}}, "'<|end|>' is to have id 9, but it has"),
        ({"split_special_tokens": True}, "split_special_tokens is True"),
        ({"add_bos_token": "yes"}, "add_bos_token is 'yes'; it must be true or false"),
    ):
        folder = published(tmp_path, **settings)
        with pytest.raises(ConfigError, match=words):
            load_tokenizer(folder)
    folder = published(tmp_path, pad_token="[PAD]")
    assert load_tokenizer(folder, pad="<pad>").pad == load_tokenizer(published(tmp_path, pad_token="<pad>")).pad
    size = load_tokenizer(folder).vocab_size
    for ids, words in (
        (-1, "is -1"),
        ("2", "is '2'"),
        (True, "is True"),
        ([2, size], rf"{size}\], and the tokenizer has"),
    ):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
        with pytest.raises(ConfigError, match=rf"generation_config.json: eos_token_id .*{words}"):
            load_tokenizer(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8, 7]}))
    found = load_tokenizer(folder)
    assert found.ends == (found.backend.token_to_id("</s>"), 7, 8)


@pytest.mark.parametrize("family", [byte_level, byte_fallback, unigram, word_piece])
@pytest.mark.parametrize("forced", [False, True])
def test_spaces_before_punctuation_go_as_in_transformers(family: Any, forced: bool, tmp_path: Path) -> None:
    backend, rng = family(), random.Random(family.__name__)
    if family is word_piece:
        backend.add_tokens(["do", "n't", "'", "'s", "?"])
    backend.add_tokens([AddedToken(token) for token in ("<s>", "</s>") if backend.token_to_id(token) is None])
    backend.save(str(tmp_path / "tokenizer.json"))
    flags = {"clean_up_tokenization_spaces": True}
    flags |= {"clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True} if forced else {}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **flags}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.cleans_up == (forced or family in (unigram, word_piece))
    parts = ("re ad", " .", " ?", " ' ", " n't", " 's", " 've", "do", " , ", " !", "'m")
    for _ in range(40):
        ids = ours.encode("The judge" + "".join(rng.choices(parts, k=6)))
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    plain = dataclasses.replace(ours, cleans_up=False)
    assert (ours.decode(ids := ours.encode("of 7 . x")) != plain.decode(ids)) == ours.cleans_up


@pytest.mark.parametrize(
    "settings",
    [
        {"extra_special_tokens": ["<new>", "<|end|>", {"content": "<other>", "__type": "AddedToken", "lstrip": True}]},
        {"extra_special_tokens": {"image_token": "<image>", "audio_token": "<audio>"}},
        {"additional_special_tokens": ["<late>"], "unk_token": "<none>", "mask_token": "<blank>"},
        {"additional_special_tokens": ["<old>"], "extra_special_tokens": ["<young>"], "image_token": "<image>"},
        {"added_tokens_decoder": {"260": {"content": "<260>", "special": True}}, "cls_token": "<class>"},
    ],
)
def test_tokens_that_only_the_settings_name_are_added_with_the_ids_of_transformers(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    backend = byte_level()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    if "added_tokens_decoder" in settings:
        size = backend.get_vocab_size()
        settings = settings | {"added_tokens_decoder": {str(size): {"content": "<added>", "special": True}}}
        (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": "<passed over>"}))
    else:
        more = {"content": "<blank>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
        (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": more}))
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **settings}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.vocab_size == len(theirs) > backend.get_vocab_size()
    names = sorted(theirs.get_vocab().items(), key=lambda each: each[1])[-6:]
    assert {ours.backend.id_to_token(number): number for _, number in names} == dict(names)
    text = "reads " + " x ".join(name for name, _ in names) + "<passed over>"
    ids = ours.encode(text)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


_END = {"content": "<|end|>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False}
_TURN = {"content": "<|turn|>", "__type": "AddedToken", "special": False, "lstrip": False, "rstrip": True}
_LISTED = {"added_tokens_decoder": {str(260 + i): {"content": t, "special": True} for i, t in enumerate(SPECIAL)}}


@pytest.mark.parametrize(
    ("config", "spellings", "added"),
    [
        ({}, {"eos_token": "<|end|>"}, {}),
        ({}, {"eos_token": _END}, {}),
        ({"eos_token": {**_END, "__type": "AddedToken"}}, {"eos_token": "<|turn|>"}, {}),
        (
            {"eos_token": "<|turn|>"},
            {"eos_token": _END, "pad_token": "<pad>", "bos_token": {**_END, "rstrip": True}},
            {},
        ),
        (_LISTED, {"eos_token": "<|end|>", "mask_token": "reads", "additional_special_tokens": ["ju", _END]}, {}),
        ({**_LISTED, "pad_token": "<pad>"}, {"pad_token": _END}, {}),
        ({"pad_token": "<pad>"}, {"pad_token": None}, {}),
        ({"mask_token": "<blank>"}, {"mask_token": {**_END, "content": "<hole>"}}, {}),
        ({"extra_special_tokens": ["<new>", "<|end|>"]}, {"extra_special_tokens": ["<|end|>", "<late>", _END]}, {}),
        ({"extra_special_tokens": ["<new>"]}, {"extra_special_tokens": [{**_END, "content": "<late>"}, "<new>"]}, {}),
        ({"additional_special_tokens": ["<new>"]}, {"additional_special_tokens": ["<late>"]}, {}),
        ({"extra_special_tokens": {"a_token": "<new>"}}, {"extra_special_tokens": {"b_token": "<late>"}}, {}),
        ({}, {"mask_token": "<hole>"}, {"<more>": 0, "<hole>": 1, "<last>": 2}),
        ({"cls_token": "<hole>"}, {}, {"<hole>": 0, "judge": 1}),
        (_LISTED, {}, {"<more>": 0}),
    ],
)
def test_files_that_disagree_are_read_as_transformers_does(
    config: dict[str, Any], spellings: dict[str, Any], added: dict[str, int], tmp_path: Path
) -> None:
    folder = published(tmp_path, tokenizer_class="PreTrainedTokenizerFast", **{"eos_token": "</s>", **config})
    before = hf.Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = before.get_vocab_size()
    if "added_tokens_decoder" in config:
        listed = {str(i): spelled(token) for i, token in before.get_added_tokens_decoder().items()}
        published(tmp_path, **{"eos_token": "</s>", "pad_token": None, **config, "added_tokens_decoder": listed})
    (folder / "special_tokens_map.json").write_text(json.dumps(spellings))
    (folder / "added_tokens.json").write_text(json.dumps({token: size + place for token, place in added.items()}))
    ours, theirs = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert (ours.eos, ours.bos) == (theirs.eos_token_id, theirs.bos_token_id)
    assert theirs.pad_token_id in (None, ours.pad)  # ours looks for one that no file names
    assert ours.vocab_size == len(theirs)
    assert ours.backend.get_vocab() == theirs.get_vocab()
    names = [name for name, _ in sorted(theirs.get_vocab().items(), key=lambda each: -each[1])[:9]]
    text = "The judge reads " + " x ".join(names) + " <|end|> <|turn|> judge"
    ids = ours.encode(text)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_files_of_two_tokenizers_are_refused_with_both_values(tmp_path: Path) -> None:
    folder = published(tmp_path, extra_special_tokens=["<new>"])
    (folder / "special_tokens_map.json").write_text('{"extra_special_tokens": {"a_token": "<late>"}}')
    with pytest.raises(ConfigError, match=r"is \['<new>'\] in .*config.json and .* {'a_token': '<late>'} in special"):
        load_tokenizer(folder)
    (folder / "special_tokens_map.json").unlink()
    for token, number, words in (
        ("<|end|>", 9, r"'<\|end\|>' is to have id 9, but it has \d+ of"),
        ("<more>", 999, "'<more>' is to have id 999, but it has None of"),
        ("<more>", "x", "cannot be read"),
    ):
        (folder / "added_tokens.json").write_text(json.dumps({token: number}))
        with pytest.raises(ConfigError, match=words):
            load_tokenizer(folder)


def test_a_pad_of_minus_one_means_none(tmp_path: Path) -> None:
    folder = published(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"pad_token_id": -1, "bos_token_id": -1}))
    found = load_tokenizer(folder)
    (folder / "generation_config.json").unlink()
    assert found.settings == load_tokenizer(folder).settings


def test_ours_is_written_so_that_others_read_a_prompt_as_it_was_trained(tmp_path: Path) -> None:
    ours = train_bpe(CORPUS, 300)
    _write_tokenizer(ours, tmp_path)
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = [ours.bos, *ours.encode("The judge reads")]
    assert theirs("The judge reads")["input_ids"] == ids
    talk = [{"role": "user", "content": "The judge reads"}]
    assert theirs.apply_chat_template(talk, return_dict=False) == ids
    assert load_tokenizer(tmp_path).opening == ours.opening
    assert ours.published().published().backend.to_str() == ours.published().backend.to_str()


@pytest.mark.parametrize(
    ("named", "message"),
    [({}, "writes '<s>', which its special_tokens do not have"), ({"<s>": 99999}, "writes the id 99999, which")],
)
def test_a_post_processor_that_writes_what_the_tokenizer_does_not_have_is_refused(tmp_path, named, message):
    content = json.loads(byte_fallback().to_str())
    content["post_processor"]["special_tokens"] = {
        name: {"id": name, "ids": [number], "tokens": [name]} for name, number in named.items()
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(tmp_path)


def test_a_text_that_a_tokenizer_has_no_token_for_is_refused_in_words(tmp_path):
    backend = hf.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="<none>"))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("a") == [0]
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(ConfigError, match=r"cannot encode a text: .*UNK.*; its tokenizer.json must have"):
            encode("b")
