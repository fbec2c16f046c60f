"""Tokenizers: a byte-level BPE trained on the spot, or anybody's Hugging Face `tokenizer.json` or SentencePiece model.

Ids pad 0, bos 1, eos 2 and sep 3 are fixed in what we train; in a file that somebody else trained they are those that
the files beside it name (tokenizer_config.json, special_tokens_map.json, generation_config.json), or are looked up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers, trainers

from alignjax.config import ConfigError
from alignjax.data.text.sentencepiece import read_sentencepiece
from alignjax.outside import user_path
from alignjax.workspace import DOWNLOAD_AGAIN, read_json

PAD, BOS, EOS, SEP = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<sep>")

# Files beside a tokenizer that say which of its tokens are special.
NAMING = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")

# Spellings of the special tokens in published tokenizer files, most specific first.
_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>", "</s>", "<eos>"),
    "bos": ("<bos>", "<s>", "<|begin_of_text|>", "[BOS]", "<|im_start|>", "<|endoftext|>", "[CLS]"),
    "eos": ("<eos>", "</s>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "[EOS]", "[SEP]"),
    "sep": ("<sep>", "[SEP]", "<|sep|>", "<|im_end|>", "<|eot_id|>", "</s>", "<eos>", "<|endoftext|>"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer and the ids that have a meaning. `encode` never adds special tokens; `decode` leaves them out.

    Args:
        backend: The tokenizer itself.
        pad: The id of padding.
        bos: The id in front of every prompt.
        eos: The id that ends a completion.
        sep: The id between two completions that are read together.
        stops: Further ids that end a completion, of models with several.
    """

    backend: hf.Tokenizer = dataclasses.field(repr=False)
    pad: int = PAD
    bos: int = BOS
    eos: int = EOS
    sep: int = SEP
    stops: tuple[int, ...] = ()

    @cached_property
    def vocab_size(self) -> int:
        """Counts the ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text. A special token spelled out in the text becomes that token only in files
        whose vocabulary says so; in ours it stays text."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, encoded on all cores."""
        return [text.ids for text in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of token ids; the special ids are dropped, wherever they stand."""
        special = {self.pad, self.bos, self.eos, self.sep, *self.stops}
        return self.backend.decode([int(i) for i in ids if int(i) not in special], skip_special_tokens=False)

    def decode_batch(self, rows: Iterable[Iterable[int]]) -> list[str]:
        """Returns the text of each row of token ids."""
        return [self.decode(row) for row in rows]

    def save(self, path: Path | str) -> None:
        """Writes a tokenizer.json."""
        Path(path).write_text(self.backend.to_str(pretty=True), encoding="utf-8")  # its own `save` raises no OSError


def train_bpe(texts: Iterable[str], vocab_size: int = 4096) -> Tokenizer:
    """Learns a byte-level BPE: every UTF-8 text can be written, and decode(encode(text)) == text.

    Args:
        texts: What it is learned from.
        vocab_size: Number of tokens, the four special ones and the 256 bytes included; a small corpus may end below it.

    Raises:
        ConfigError: vocab_size is too small for the bytes and the special tokens.
    """
    least = len(SPECIAL_TOKENS) + 256
    if vocab_size < least:
        raise ConfigError(f"vocab_size is {vocab_size}; a byte-level BPE needs at least {least} (256 bytes + 4 marks)")
    backend = hf.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    # A post that happens to contain "<eos>" must not turn into an end token: special tokens are ids, never spellings.
    backend.encode_special_tokens = True
    return Tokenizer(backend)


def json_object(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; {} if the file does not exist or holds something else. Raises ConfigError for
    a file that is not JSON."""
    content = read_json(path, DOWNLOAD_AGAIN)
    return content if isinstance(content, dict) else {}


def tokenizer_file(path: Path | str) -> Path:
    """Returns the file that a path means: itself, or of a folder its tokenizer.json, else its SentencePiece model."""
    path = user_path(path)
    if not path.is_dir() or (path / "tokenizer.json").is_file():
        return path / "tokenizer.json" if path.is_dir() else path
    pieces = [path / "tokenizer.model"] if (path / "tokenizer.model").is_file() else sorted(path.glob("*.model"))
    return pieces[0] if len(pieces) == 1 else path / "tokenizer.json"


def backend_of(path: Path | str) -> hf.Tokenizer:
    """Returns the tokenizer in a tokenizer.json, a SentencePiece model, or a folder with one. Raises ConfigError for a
    missing or unreadable file."""
    return _read(tokenizer_file(path))[0]


def _read(path: Path) -> tuple[hf.Tokenizer, dict[str, int]]:
    """The tokenizer of a file, and the special ids that the file itself names."""
    if not path.is_file():
        raise ConfigError(
            f"there is no tokenizer at {path}; give the path of a tokenizer.json, of a SentencePiece tokenizer.model, "
            "or of the folder of one"
        )
    if path.suffix == ".model":
        return read_sentencepiece(path)
    try:
        backend = hf.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ConfigError(f"{path} is not a Hugging Face tokenizer.json: {error}") from error
    if all(backend.id_to_token(i) == token for i, token in enumerate(SPECIAL_TOKENS)):
        backend.encode_special_tokens = True
    return backend, {}


def _named_ids(path: Path | str) -> tuple[Path, hf.Tokenizer, dict[str, int], tuple[int, ...]]:
    """(file, tokenizer, the special ids that it or the files beside it name, all ids that end a completion)."""
    # Of several files that name an id the first one in NAMING counts, and all count more than the model file.
    path = tokenizer_file(path)
    backend, in_file = _read(path)
    ids: dict[str, int] = {}
    for name in NAMING[:2]:
        for key, token in json_object(path.parent / name).items():
            mark, spelling = key.removesuffix("_token"), token.get("content") if isinstance(token, dict) else token
            if not key.endswith("_token") or mark not in _SPELLINGS or mark in ids or not isinstance(spelling, str):
                continue
            if (number := backend.token_to_id(spelling)) is None:
                raise ConfigError(f"{path.parent / name}: {key} is {spelling!r}, which the tokenizer does not have")
            ids[mark] = number
    generation = json_object(path.parent / NAMING[2])
    values = {mark: generation.get(f"{mark}_token_id") for mark in _SPELLINGS}
    lists = {mark: value if isinstance(value, list) else [value] for mark, value in values.items() if value is not None}
    in_file = {mark: number for mark, number in in_file.items() if mark in _SPELLINGS}
    named = in_file | {mark: numbers[0] for mark, numbers in lists.items()} | ids
    return path, backend, named, tuple(lists.get("eos", ()))


def _usual(backend: hf.Tokenizer, mark: str) -> int | None:
    """The id of a special token under its first usual spelling that the tokenizer has."""
    ids = (backend.token_to_id(spelling) for spelling in _SPELLINGS[mark])
    return next((number for number in ids if number is not None), None)


def special_ids(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Returns the ids that a tokenizer's files name as "pad" and "bos", and as "eos" all that end a completion, the
    tokenizer's own first.

    eos alone is looked up by its usual spellings where none is named; what nothing names is left out.

    Args:
        path: As of `load_tokenizer`.

    Raises:
        ConfigError: As of `load_tokenizer`.
    """
    _, backend, named, stops = _named_ids(path)
    ids = {mark: (named[mark],) for mark in ("pad", "bos") if mark in named}
    first = named.get("eos", _usual(backend, "eos"))
    ends = tuple(dict.fromkeys(stops if first is None else (first, *stops)))
    return {**ids, "eos": ends} if ends else ids


def load_tokenizer(path: Path | str, **special: str) -> Tokenizer:
    """Reads a `tokenizer.json` or a SentencePiece `tokenizer.model` from disk.

    Special ids are those that tokenizer_config.json, special_tokens_map.json and generation_config.json beside it name,
    in this order, then those of the model file; what they leave out is looked up by its usual spellings, and where
    anything was named pad and sep are eos for want of better. Name them to be sure:
    `load_tokenizer(path, eos="<|eot_id|>")`.

    Args:
        path: The file, or the folder that holds it (with both, the tokenizer.json counts).
        special: The spelling of eos, bos, pad or sep.

    Raises:
        ConfigError: The file is missing or unreadable, or a special token cannot be found.
    """
    # What the caller spells wins over what files name, and that over a guess by usual spellings: a wrong eos is silent
    # (no completion ever ends), so a missing mark is an error. eos comes first, for pad and sep fall back on it.
    path, backend, named, stops = _named_ids(path)
    ids: dict[str, int] = {}
    for mark in ("eos", "bos", "pad", "sep"):
        if mark in special:
            number = backend.token_to_id(special[mark])
            if number is None:
                raise ConfigError(f"{path} has no token {special[mark]!r}, given as {mark}")
        else:
            number = named[mark] if mark in named else _usual(backend, mark)
            if number is None and named and mark in ("pad", "sep"):
                number = ids["eos"]
        if number is None:
            raise ConfigError(
                f"{path} has no {mark} token under any usual name ({', '.join(_SPELLINGS[mark])}); "
                f"say which one it is: load_tokenizer(path, {mark}='...')"
            )
        ids[mark] = number
    return Tokenizer(backend, **ids, stops=tuple(stop for stop in dict.fromkeys(stops) if stop != ids["eos"]))
