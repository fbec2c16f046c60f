"""The tokenizer of a GGUF file as the files that a published tokenizer has, in a folder of the cache.

Everything that reads or copies a published tokenizer then reads this one: its tokens and merges, how text is cut into
words before it is merged, its special tokens, what ends a text, and the chat template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from alignjax.config import ConfigError
from alignjax.content_hashes import content_hash
from alignjax.data.text.sentencepiece import BPE, BYTE, CONTROL, NORMAL, UNUSED, USER, backend_of_model
from alignjax.gguf_files import Header, read_header
from alignjax.json_shapes import check_shape
from alignjax.outside import cache_root, reading
from alignjax.workspace import whole_file, write_json

FORMAT = 1  # raise it when what is written changes
_SPECIAL = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}  # the names there and in our files
_ENDS = ("eos", "eot", "eom")  # of a text, a turn, a message with a tool call


class Words(NamedTuple):
    """How a text is cut into words before it is merged: a pattern (None for GPT-2's), whether digits stand alone,
    whether a word that is a token stays one whatever the merges say, and whether text is put into form NFC."""

    pattern: str | None = None
    digits: bool = False
    whole: bool = False
    composed: bool = False


# The patterns that the tokenizer.json files of these models have.
_THREE_DIGITS, _ONE_DIGIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}{1,3}", r"\p{N}")
)
WORDS: Mapping[str, Words] = {
    "gpt-2": Words(),
    "olmo": Words(),
    "smollm": Words(digits=True),
    "starcoder": Words(digits=True),
    "refact": Words(digits=True),
    "dbrx": Words(_THREE_DIGITS),
    "llama-bpe": Words(_THREE_DIGITS, whole=True),
    "llama3": Words(_THREE_DIGITS, whole=True),
    "llama-v3": Words(_THREE_DIGITS, whole=True),
    "qwen2": Words(_ONE_DIGIT, composed=True),
    "deepseek-r1-qwen": Words(_ONE_DIGIT, composed=True),
}
_WRITES_BOS = ("llama-bpe", "llama3", "llama-v3")  # where the file does not say


class _Vocabulary(NamedTuple):
    """Tokens with a type each, the merges or scores that join them, and the kind of tokenizer."""

    kind: str
    words: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]


def tokenizer_folder(path: Path | str) -> Path:
    """Returns the folder with the tokenizer's files of a GGUF file, known by its contents; made if it is not there.

    Args:
        path: The GGUF file.

    Raises:
        ConfigError: It has no tokenizer, or one of a kind that is not read; the message names it.
        ReadError: The file is not whole.
    """
    # tokenizer.json is written last: a folder that has it has all.
    header = read_header(path)
    folder = cache_root() / "gguf" / f"{content_hash(header.path)[:16]}-{FORMAT}"
    if (folder / "tokenizer.json").is_file():
        return folder
    vocabulary = _vocabulary(header)
    backend = (_merging if vocabulary.kind == "gpt2" else _scored)(header, vocabulary)
    marks = _marks(header, vocabulary)
    adds_bos = _adds_bos(header, vocabulary, marks)
    if adds_bos:
        bos = vocabulary.tokens[marks["bos"]]
        backend.post_processor = processors.TemplateProcessing(
            f"{bos} $A", f"{bos} $A {bos}:1 $B:1", [(bos, marks["bos"])]
        )
    named = {f"{ours}_token": vocabulary.tokens[marks[theirs]] for theirs, ours in _SPECIAL.items() if theirs in marks}
    settings = {"add_bos_token": adds_bos, "clean_up_tokenization_spaces": False, **named}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **settings})
    ends = list(dict.fromkeys(marks[mark] for mark in _ENDS if mark in marks))
    generation = {f"{ours}_token_id": marks[theirs] for theirs, ours in _SPECIAL.items() if theirs in marks}
    generation.pop("unk_token_id", None)
    write_json(folder / "generation_config.json", {**generation, **({"eos_token_id": ends} if ends else {})})
    template = header.metadata.get("tokenizer.chat_template")
    if template is not None:
        with whole_file(folder / "chat_template.jinja") as file:
            file.write(
                check_shape(template, str, f"{header.path}: tokenizer.chat_template", "download it again").encode()
            )
    with whole_file(folder / "tokenizer.json") as file:
        file.write(backend.to_str(pretty=True).encode())
    return folder


def _vocabulary(header: Header) -> _Vocabulary:
    """The lists of a tokenizer, of one length and each of its type; tokens at the end that only fill up the embedding
    are left out."""
    form = _entry(header, "model", str, "")
    if form not in ("gpt2", "llama"):
        which = f"a tokenizer of kind {form!r}" if form else "no tokenizer"
        raise ConfigError(
            f"{header.path} has {which}; those of kind 'gpt2' (byte-level BPE) and 'llama' (SentencePiece) are read. "
            "Name another tokenizer with tokenizer="
        )
    tokens = _entry(header, "tokens", list[str], [])
    types = _entry(header, "token_type", list[int], [NORMAL] * len(tokens))
    scores = _entry(header, "scores", list[float], [0.0] * len(tokens))
    if not tokens or not len(tokens) == len(types) == len(scores):
        raise ConfigError(
            f"{header.path}: its tokenizer has {len(tokens)} tokens, {len(types)} types and {len(scores)} scores; "
            "download it again"
        )
    last = max((number for number, kind in enumerate(types, start=1) if kind != UNUSED), default=0)
    tokens, types, scores = tokens[:last], types[:last], scores[:last]
    twice, times = Counter(tokens).most_common(1)[0] if tokens else ("", 1)
    if times > 1:
        raise ConfigError(f"{header.path}: its tokenizer has the token {twice!r} twice; download it again")
    return _Vocabulary(
        form, _entry(header, "pre", str, ""), tokens, types, scores, _entry(header, "merges", list[str], [])
    )


def _entry(header: Header, key: str, kind: Any, default: Any) -> Any:
    """A setting of the tokenizer, of its type."""
    value = header.metadata.get(f"tokenizer.ggml.{key}", default)
    return check_shape(value, kind, f"{header.path}: tokenizer.ggml.{key}", "download it again")


def _merging(header: Header, vocabulary: _Vocabulary) -> hf.Tokenizer:
    """A byte-level BPE with its merges."""
    name = vocabulary.words
    if name not in WORDS:
        said = f"tokenizer.ggml.pre is {name!r}" if name else "it does not say tokenizer.ggml.pre"
        raise ConfigError(
            f"{header.path}: {said}, so how its tokenizer cuts text into words is not known here; there are "
            f"{', '.join(WORDS)}. Name another tokenizer with tokenizer="
        )
    words = WORDS[name]
    numbered = {token: number for number, token in enumerate(vocabulary.tokens)}
    merges = [tuple(merge.split(" ")) for merge in vocabulary.merges]
    with reading(header.path, "download it again", kind=" as a tokenizer"):
        backend = hf.Tokenizer(models.BPE(numbered, merges, ignore_merges=words.whole))  # type: ignore[arg-type]
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Digits(individual_digits=True)] * words.digits
    if words.pattern is not None:
        steps.append(pre_tokenizers.Split(hf.Regex(words.pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words.pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if words.composed:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if kind in (CONTROL, USER):
            backend.add_tokens([hf.AddedToken(token, normalized=False, special=kind == CONTROL)])
    return backend


def _scored(header: Header, vocabulary: _Vocabulary) -> hf.Tokenizer:
    """A SentencePiece BPE: the same model as in a tokenizer.model, whose other settings are those of every Llama."""
    prefix = _entry(header, "add_space_prefix", bool, True)
    extra = _entry(header, "remove_extra_whitespaces", bool, False)
    pieces = zip(vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True)
    model = SimpleNamespace(
        pieces=[SimpleNamespace(piece=piece, score=score, type=kind) for piece, score, kind in pieces],
        trainer_spec=SimpleNamespace(
            model_type=BPE,
            treat_whitespace_as_suffix=False,
            byte_fallback=BYTE in vocabulary.types,
            unk_surface=" ⁇ ",
        ),
        normalizer_spec=SimpleNamespace(
            add_dummy_prefix=prefix, remove_extra_whitespaces=extra, escape_whitespaces=True, precompiled_charsmap=b""
        ),
        denormalizer_spec=SimpleNamespace(precompiled_charsmap=b""),
    )
    return backend_of_model(header.path, model)


def _marks(header: Header, vocabulary: _Vocabulary) -> dict[str, int]:
    """The ids that the file gives a meaning, by its name there."""
    marks: dict[str, int] = {}
    for mark in (*_SPECIAL, *_ENDS[1:]):
        number = header.metadata.get(key := f"tokenizer.ggml.{mark}_token_id")
        if number is None or (mark in ("padding", "unknown") and number in (-1, 2**32 - 1)):
            continue
        if not isinstance(number, int) or not 0 <= number < len(vocabulary.tokens):
            raise ConfigError(
                f"{header.path}: {key} is {number!r}, and its tokenizer has {len(vocabulary.tokens):,} tokens; "
                "download it again"
            )
        marks[mark] = number
    return marks


def _adds_bos(header: Header, vocabulary: _Vocabulary, marks: Mapping[str, int]) -> bool:
    """Whether a text begins with BOS; where the file does not say, as llama.cpp does it."""
    usual = "bos" in marks and (vocabulary.kind == "llama" or vocabulary.words in _WRITES_BOS)
    said = _entry(header, "add_bos_token", bool, usual)
    if said and "bos" not in marks:
        raise ConfigError(f"{header.path}: add_bos_token is true, and it does not say bos_token_id; download it again")
    return said
