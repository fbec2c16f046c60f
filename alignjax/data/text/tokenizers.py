"""Tokenizers: a byte-level BPE trained on the spot, or anybody's Hugging Face `tokenizer.json` or SentencePiece model.

Ids pad 0, bos 1, eos 2 and sep 3 are fixed in what we train; in a file that somebody else trained they are those that
the files beside it name (tokenizer_config.json, special_tokens_map.json, generation_config.json), or are looked up.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers, trainers

from alignjax.config import ConfigError
from alignjax.data.text.sentencepiece import read_sentencepiece

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
    """A tokenizer and the ids that have a meaning. `encode` never adds special tokens; `decode` leaves them out. stops:
    further ids that end a completion, of models with several."""

    backend: hf.Tokenizer = dataclasses.field(repr=False)
    pad: int = PAD
    bos: int = BOS
    eos: int = EOS
    sep: int = SEP
    stops: tuple[int, ...] = ()

    @cached_property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. A special token spelt out in the text becomes that token only in files whose vocabulary
        says so; in ours it stays text."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; the special ids are dropped, wherever they stand."""
        special = {self.pad, self.bos, self.eos, self.sep, *self.stops}
        return self.backend.decode([int(i) for i in ids if int(i) not in special], skip_special_tokens=False)

    def decode_batch(self, rows: Iterable[Iterable[int]]) -> list[str]:
        return [self.decode(row) for row in rows]

    def save(self, path: Path | str) -> None:
        self.backend.save(str(path))


def train_bpe(texts: Iterable[str], vocab_size: int = 4096, min_frequency: int = 2) -> Tokenizer:
    """A byte-level BPE learned from `texts`: every UTF-8 text can be written, and decode(encode(text)) == text.

    vocab_size counts the four special tokens and the 256 bytes; a small corpus may end below it. Raises ConfigError
    where it is too small to hold these.
    """
    least = len(SPECIAL_TOKENS) + 256
    if vocab_size < least:
        raise ConfigError(f"vocab_size is {vocab_size}; a byte-level BPE needs at least {least} (256 bytes + 4 marks)")
    backend = hf.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    # A post that happens to contain "<eos>" must not turn into an end token: special tokens are ids, never spellings.
    backend.encode_special_tokens = True
    return Tokenizer(backend)


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file beside a tokenizer says; nothing if it is not there or holds no object. Raises ConfigError for a
    file that is no JSON."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); it may be cut short: download it again") from None
    return found if isinstance(found, dict) else {}


def _named(folder: Path, backend: hf.Tokenizer) -> tuple[dict[str, int], tuple[int, ...]]:
    """Special ids that the files beside a tokenizer name, and all ids that end a completion."""
    ids: dict[str, int] = {}
    for name in NAMING[:2]:
        for key, token in read_json(folder / name).items():
            wanted, spelling = key.removesuffix("_token"), token.get("content") if isinstance(token, dict) else token
            if not key.endswith("_token") or wanted not in _SPELLINGS or wanted in ids or not isinstance(spelling, str):
                continue
            found = backend.token_to_id(spelling)
            if found is None:
                raise ConfigError(f"{folder / name}: {key} is {spelling!r}, which the tokenizer does not have")
            ids[wanted] = found
    generation = read_json(folder / NAMING[2])
    lists = {
        wanted: value if isinstance(value, list) else [value]
        for wanted in _SPELLINGS
        if (value := generation.get(f"{wanted}_token_id")) is not None
    }
    return {wanted: value[0] for wanted, value in lists.items()} | ids, tuple(lists.get("eos", ()))


def _look_up(backend: hf.Tokenizer, wanted: str, path: Path, default: int | None = None) -> int:
    for spelling in _SPELLINGS[wanted]:
        found = backend.token_to_id(spelling)
        if found is not None:
            return found
    if default is not None:
        return default
    raise ConfigError(
        f"{path} has no {wanted} token under any usual name ({', '.join(_SPELLINGS[wanted])}); "
        f"say which one it is: load_tokenizer(path, {wanted}='...')"
    )


def tokenizer_file(path: Path | str) -> Path:
    """The file that a path means: itself, or of a folder its tokenizer.json, else its SentencePiece model."""
    path = Path(path).expanduser()
    if not path.is_dir() or (path / "tokenizer.json").is_file():
        return path / "tokenizer.json" if path.is_dir() else path
    pieces = [path / "tokenizer.model"] if (path / "tokenizer.model").is_file() else sorted(path.glob("*.model"))
    return pieces[0] if len(pieces) == 1 else path / "tokenizer.json"


def backend_of(path: Path | str) -> hf.Tokenizer:
    """What a tokenizer.json or a SentencePiece model holds, or that of a folder. Raises ConfigError for a missing or
    unreadable file."""
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


def special_ids(path: Path | str) -> dict[str, tuple[int, ...]]:
    """The ids that a tokenizer's files name as "pad" and "bos", and as "eos" all that end a completion, the tokenizer's
    own first; eos alone is looked up by its usual spellings where none is named. What is not there is left out.

    path: as of `load_tokenizer`, which see, also for what is raised.
    """
    path = tokenizer_file(path)
    backend, own = _read(path)
    named, stops = _named(path.parent, backend)
    ids = {wanted: (i,) for wanted, i in {**own, **named}.items() if wanted in ("pad", "bos", "eos")}
    usual = (backend.token_to_id(spelling) for spelling in _SPELLINGS["eos"])
    first = ids["eos"] if "eos" in ids else tuple(i for i in usual if i is not None)[:1]
    ends = tuple(dict.fromkeys((*first, *stops)))
    return {**ids, "eos": ends} if ends else ids


def load_tokenizer(path: Path | str, **special: str) -> Tokenizer:
    """A `tokenizer.json` or a SentencePiece `tokenizer.model` from disk, or the folder that holds one (with both, the
    first). Special ids are those that tokenizer_config.json, special_tokens_map.json and generation_config.json beside
    it name, in this order, then those of the model file; what they leave out is looked up by its usual spellings, and
    where anything was named pad and sep are eos for want of better. Name them to be sure:
    `load_tokenizer(path, eos="<|eot_id|>")`.

    Raises ConfigError for a missing or unreadable file, or a special token that cannot be found.
    """
    path = tokenizer_file(path)
    backend, own = _read(path)
    named, stops = _named(path.parent, backend)
    named = {wanted: i for wanted, i in own.items() if wanted in _SPELLINGS} | named
    ids: dict[str, int] = {}
    for wanted in ("eos", "bos", "pad", "sep"):
        if wanted in special:
            found = backend.token_to_id(special[wanted])
            if found is None:
                raise ConfigError(f"{path} has no token {special[wanted]!r}, given as {wanted}")
            ids[wanted] = found
        elif wanted in named:
            ids[wanted] = named[wanted]
        else:
            ids[wanted] = _look_up(backend, wanted, path, ids["eos"] if named and wanted in ("pad", "sep") else None)
    return Tokenizer(backend, **ids, stops=tuple(stop for stop in dict.fromkeys(stops) if stop != ids["eos"]))
