"""Tokenizers: a byte-level BPE trained on the spot, or anybody's Hugging Face `tokenizer.json` or SentencePiece model.

Ids pad 0, bos 1, eos 2 and sep 3 are fixed in what we train; in a file that somebody else trained they are those that
the files beside it name (tokenizer_config.json, special_tokens_map.json, generation_config.json), or are looked up.
What belongs to a call (truncation and padding, kept by whoever saved the file last) is switched off.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from alignjax.config import ConfigError
from alignjax.data.text.gguf_tokenizer import tokenizer_folder
from alignjax.data.text.sentencepiece import read_sentencepiece
from alignjax.data.text.special_tokens import (
    MARKS,
    FileMarks,
    read_marks,
    special_ids_of,
    without_stray_spaces,
    written_before,
)
from alignjax.gguf_files import is_gguf
from alignjax.outside import Unreadable, user_path
from alignjax.workspace import DOWNLOAD_AGAIN

PAD, BOS, EOS, SEP = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<sep>")

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
        bos: The id that begins a text; None if there is none.
        eos: The id that ends a completion.
        sep: The id between two completions that are read together.
        stops: Further ids that end a completion, of models with several.
        adds_bos: Whether every prompt begins with BOS, as the tokenizer's files ask for.
        special: The ids of further tokens that `decode` leaves out; None for those that the backend marks as special.
        closing: The ids that are written behind a completion, the last of which ends it; () for EOS.
        cleans_up: Whether `decode` takes out the spaces before punctuation, as the tokenizer's files ask for.
    """

    backend: hf.Tokenizer = dataclasses.field(repr=False)
    pad: int
    bos: int | None
    eos: int
    sep: int
    stops: tuple[int, ...] = ()
    adds_bos: bool = False
    closing: tuple[int, ...] = ()
    special: tuple[int, ...] | None = None
    cleans_up: bool = False

    @property
    def ends(self) -> tuple[int, ...]:
        """All ids that end a completion, `eos` first."""
        return tuple(dict.fromkeys((self.eos, *self.stops, *self.closing[-1:])))

    @property
    def opening(self) -> int | None:
        """The id that every prompt begins with; None if the files ask for none."""
        return self.bos if self.adds_bos else None

    @property
    def settings(self) -> dict[str, Any]:
        """All but the backend, JSON-able: what an account of a prepared dataset keeps."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)[1:]}

    @cached_property
    def hidden(self) -> frozenset[int]:
        """The ids that `decode` leaves out: those with a meaning, and all that the files mark as special."""
        marked = special_ids_of(self.backend) if self.special is None else self.special
        return frozenset((*marked, self.pad, self.sep, *self.ends, *(() if self.bos is None else (self.bos,))))

    @cached_property
    def vocab_size(self) -> int:
        """Counts the ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text. A special token spelled out in the text becomes that token only in files
        whose vocabulary says so; in ours it stays text."""
        with _encoding():
            return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, encoded on all cores."""
        with _encoding():
            return [text.ids for text in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of token ids; special tokens are dropped, wherever they stand."""
        text = self.backend.decode([i for i in map(int, ids) if i not in self.hidden], skip_special_tokens=False)
        return without_stray_spaces(text) if self.cleans_up else text

    def decode_batch(self, rows: Iterable[Iterable[int]]) -> list[str]:
        """Returns the text of each row of token ids."""
        return [self.decode(row) for row in rows]

    def closed(self, ids: Iterable[int]) -> list[int]:
        """Returns the ids of a completion with its end behind them, unless one stands there already."""
        ids = list(ids)
        return ids if ids and ids[-1] in self.ends else [*ids, *(self.closing or (self.eos,))]

    def published(self) -> Tokenizer:
        """Returns the tokenizer as others use it, who go by the files: BOS is written by the backend itself."""
        if not self.adds_bos or self.bos is None or written_before(self.backend):
            return self
        backend, bos = hf.Tokenizer.from_str(self.backend.to_str()), str(self.backend.id_to_token(self.bos))
        opened = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A $B:1", [(bos, self.bos)])
        former = [backend.post_processor] if backend.post_processor else []
        backend.post_processor = processors.Sequence([*former, opened])
        return dataclasses.replace(self, backend=backend)

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
    return own_tokenizer(backend)


def own_tokenizer(backend: hf.Tokenizer) -> Tokenizer:
    """Returns a tokenizer whose first four tokens are ours, SPECIAL_TOKENS."""
    return Tokenizer(backend, PAD, BOS, EOS, SEP, adds_bos=True)


def is_own(backend: hf.Tokenizer) -> bool:
    """Says whether the first four tokens are ours."""
    return all(backend.id_to_token(i) == token for i, token in enumerate(SPECIAL_TOKENS))


def tokenizer_file(path: Path | str) -> Path:
    """Returns the file that a path means: itself, of a folder its tokenizer.json, else its SentencePiece model, of a
    GGUF file the tokenizer.json that is made of it."""
    path = user_path(path)
    if is_gguf(path):
        return tokenizer_folder(path) / "tokenizer.json"
    if not path.is_dir() or (path / "tokenizer.json").is_file():
        return path / "tokenizer.json" if path.is_dir() else path
    pieces = [path / "tokenizer.model"] if (path / "tokenizer.model").is_file() else sorted(path.glob("*.model"))
    return pieces[0] if len(pieces) == 1 else path / "tokenizer.json"


def backend_of(path: Path | str) -> hf.Tokenizer:
    """Returns the tokenizer in a tokenizer.json, a SentencePiece model, or a folder with one. Raises ConfigError for a
    missing or unreadable file."""
    return _read(tokenizer_file(path))[0]


def read_tokenizer(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """Returns the tokenizer of a folder that this package wrote.

    Args:
        folder: The folder.
        settings: The `Tokenizer.settings` of the tokenizer, as JSON gives them back.
    """
    # Files that were prepared before prompts could be without BOS say nothing of it.
    special = {"adds_bos": True, **settings}
    lists = {name: tuple(value) for name, value in special.items() if isinstance(value, list)}
    return Tokenizer(backend_of(folder), **{**special, **lists})


@contextlib.contextmanager
def _encoding() -> Iterator[None]:
    """Turns the refusal of a text by the tokenizer's own program, a bare Exception, into a ConfigError."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ConfigError(
            f"the tokenizer cannot encode a text: {error}; its tokenizer.json must have a token for every text, or an "
            "unk_token that is one"
        ) from error


def _read(path: Path) -> tuple[hf.Tokenizer, dict[str, int]]:
    """The tokenizer of a file, without truncation and padding, and the special ids that a model file itself names."""
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
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = is_own(backend)
    return backend, {}


def load_tokenizer(path: Path | str, **special: str) -> Tokenizer:
    """Reads a `tokenizer.json`, a SentencePiece `tokenizer.model` or the tokenizer of a GGUF file from disk.

    Special ids are those that tokenizer_config.json, special_tokens_map.json and generation_config.json beside it name,
    the last where the others say nothing (of the first two as in `transformers`: the map counts first, unless the other
    file lists the added tokens), then those of the model file; what they leave out is looked up by its usual spellings,
    and pad and sep are eos for want of better. Name them to be sure: `load_tokenizer(path, eos="<|eot_id|>")`. A prompt
    begins with BOS where the files ask for it: add_bos_token says so, or else the post-processor of tokenizer.json
    writes one; beside a tokenizer.model it is the default, if that has one.

    Args:
        path: The file, or the folder that holds it (with both, the tokenizer.json counts).
        special: The spelling of eos, bos, pad or sep; bos="" for texts without any.

    Raises:
        ConfigError: A file is missing or unreadable, or a special token cannot be found.
    """
    # What the caller spells wins over what files name, and that over a guess by usual spellings: a wrong eos is silent
    # (no completion ever ends), so a missing one is an error. A wrong name is one too, unless the caller names another.
    if unknown := set(special) - set(MARKS):
        raise ConfigError(f"load_tokenizer names {', '.join(sorted(unknown))}; it may name {', '.join(MARKS)}")
    path = tokenizer_file(path)
    backend, in_file = _read(path)
    said = read_marks(path.parent, backend, later=path.suffix == ".model")
    ids = {mark: _number(path, backend, mark, said, in_file, special.get(mark)) for mark in MARKS}
    if ids["eos"] is None:
        raise ConfigError(
            f"{path} has no eos token under any usual name ({', '.join(_SPELLINGS['eos'])}); "
            "say which one it is: load_tokenizer(path, eos='...'), or eos_token of a dataset"
        )
    try:
        before = written_before(backend)
    except Unreadable as error:
        raise ConfigError(f"{path}: {error}; {DOWNLOAD_AGAIN}") from error
    if len(before) > 1 and said.adds_bos is None and "bos" not in special:
        tokens = " ".join(map(str, map(backend.id_to_token, before)))
        raise ConfigError(
            f"{path} writes {len(before)} tokens before every text ({tokens}), and at most one can be: say which one "
            "with load_tokenizer(path, bos='...'), or bos_token of a dataset; '' for none"
        )
    if "bos" in special:
        adds_bos = bool(special["bos"])
    elif said.adds_bos is not None:
        adds_bos = said.adds_bos
    elif before:
        ids["bos"], adds_bos = before[0], True
    else:
        adds_bos = is_own(backend) or (ids["bos"] is not None and ids["bos"] == in_file.get("bos"))
    if adds_bos and ids["bos"] is None:
        raise ConfigError(
            f"{path.parent}: add_bos_token is true, and no file says which token is BOS; say load_tokenizer(path, "
            "bos='...'), or bos_token of a dataset, '' for none"
        )
    end, numbers = ids["eos"], {"pad": ids["eos"], "sep": ids["eos"], **{k: i for k, i in ids.items() if i is not None}}
    stops = tuple(stop for stop in said.numbered.get("eos", ()) if stop != end)
    settings: dict[str, Any] = {"special": said.special, "cleans_up": said.cleans_up}
    return Tokenizer(backend, numbers["pad"], ids["bos"], end, numbers["sep"], stops, adds_bos, **settings)


def _number(
    path: Path, backend: hf.Tokenizer, mark: str, said: FileMarks, in_file: dict[str, int], spelling: str | None
) -> int | None:
    """The id of a mark: by the caller's spelling, by what the files name, or under its usual spellings."""
    if spelling is not None or said.spelled.get(mark):
        name, place = (spelling, path) if spelling is not None else said.spelled[mark] or ("", path)
        if not name and mark == "bos":
            return None
        number = backend.token_to_id(name)
        if number is None and spelling is not None:
            raise ConfigError(f"{path} has no token {name!r}, given as {mark}")
        if number is None:
            raise ConfigError(
                f"{place}: {mark}_token is {name!r}, which the tokenizer does not have; name one that it has: "
                f"load_tokenizer(path, {mark}='...'), or {mark}_token of a dataset"
            )
        return number
    if mark in said.numbered:
        return said.numbered[mark][0]
    if mark in in_file:
        return in_file[mark]
    if mark in said.spelled and mark in ("bos", "eos"):
        return None  # a file says that there is none
    usual = (backend.token_to_id(spelling) for spelling in _SPELLINGS[mark])
    return next((number for number in usual if number is not None), None)


def special_ids(path: Path | str) -> dict[str, tuple[int, ...]]:
    """Returns the ids that a tokenizer's files name as "pad" and "bos", and as "eos" all that end a completion, the
    tokenizer's own first.

    eos alone is looked up by its usual spellings where none is named; what nothing names is left out.

    Args:
        path: As of `load_tokenizer`.

    Raises:
        ConfigError: As of `load_tokenizer`.
    """
    path = tokenizer_file(path)
    backend, in_file = _read(path)
    said = read_marks(path.parent, backend, later=path.suffix == ".model")
    named = [
        mark for mark in MARKS[:3] if mark == "eos" or {mark} & {*said.numbered, *in_file} or said.spelled.get(mark)
    ]
    ids = {mark: number for mark in named if (number := _number(path, backend, mark, said, in_file, None)) is not None}
    every = {mark: (number,) for mark, number in ids.items()} | {"eos": said.numbered.get("eos", ())}
    every["eos"] = tuple(dict.fromkeys((*([ids["eos"]] if "eos" in ids else []), *every["eos"])))
    return {mark: numbers for mark, numbers in every.items() if numbers}
